package assess

import "time"

// Fact is a part of the evidence: a value, or why it is unknown.
type Fact[T any] struct {
	value T
	why   string // it is unknown
	known bool
}

// Known is a fact that was looked up.
func Known[T any](value T) Fact[T] { return Fact[T]{value: value, known: true} }

// Unknown is one that could not be looked up, and why.
func Unknown[T any](why string) Fact[T] { return Fact[T]{why: why} }

// Evidence is what was looked up of a cluster. The zero value knows nothing.
type Evidence struct {
	Cluster string
	At      time.Time // when it was looked up

	Servers    Fact[[]Server]
	Quorum     Fact[Quorum]
	Failover   Fact[Failover]
	Archive    Fact[Archive]
	Backup     Fact[Backup]
	Continuity Fact[Continuity]
	Restore    Fact[Proof]
	Scraped    Fact[Scrape]
	Alerts     Fact[Alerts]
	Runbook    Fact[Runbook]
	Proxies    Fact[[]Proxy]
	Consul     Fact[int] // servers
	Drill      Fact[Drill]
	Objective  Fact[Objective]
	Site       Fact[Site]
	Tracing    Fact[bool] // every member exports traces
}

// Server is a member's server.
type Server struct {
	Member  string
	Host    string // Consul's node, else the host of the server's address
	Zone    string // the member's tag zone, else the node's; empty: none is set
	Leads   bool   // its cluster: the primary, or who follows the other site for it
	Primary bool   // it takes writes
	Streams bool   // it receives the log
}

// Quorum is what a commit waits for.
type Quorum struct {
	Standbys int // that each commit waits for, by the server's own setting; 0: none
	Of       int // voters besides the primary
	Relaxed  string
}

// Failover is whether a lost primary is replaced without a person.
type Failover struct {
	Candidates int    // members besides the primary that may lead, and are heard
	Paused     bool   // nobody fails over
	Blocked    string // what forbids it; empty: nothing
}

// Archive is how the archive of the log fares; the zero value: there is none.
type Archive struct {
	Engine  string
	Waiting time.Duration // of the oldest file
	Problem string
	Gaps    int
}

// Backup is the last good one of the block that is best off; the zero value: there is no
// backup.
type Backup struct {
	Engine  string
	Ended   time.Time
	Next    time.Time     // zero: none is scheduled
	Overdue time.Duration // for how long one has been due
}

// Continuity is which moments can be restored; the zero value: none.
type Continuity struct {
	From, To time.Time
	Gaps     int
}

// Proof is the last restore that was checked; the zero value: there was none.
type Proof struct {
	At     time.Time
	Passed bool
	What   string // such as "drill restore"
}

// Scrape is how long ago each member's metrics were read.
type Scrape struct {
	Oldest time.Duration // of the member that was read longest ago; negative: one never was
	By     string        // the program and its host, as the last one named itself
	Member string        // which one it was
}

// Alerts are what Prometheus says of itself.
type Alerts struct {
	Rules     int // of this program's names
	Receivers int // Alertmanagers that it reaches
}

// Runbook is the written procedure; the zero value: none is named.
type Runbook struct {
	Address string
	Problem string // why it does not answer; empty: it does
}

// Proxy is what leads applications to the primary on one host.
type Proxy struct {
	Host               string
	HAProxy, PgBouncer bool // it switches one, and that works
	Problem            string
}

// Drill is the last one; the zero value: there was none.
type Drill struct {
	Scenario string
	At       time.Time
	Passed   bool
	RTO      time.Duration
	LostRows int64
}

// Objective is what the cluster is to reach; the zero value: none is set.
type Objective struct {
	Availability float64 // such as 0.9999; zero: none
	RTO          time.Duration
	RPO          int64 // acknowledged rows; negative: none is set
	// Left is what is left of the error budget of 30 days; it has a meaning with an
	// availability alone.
	Left time.Duration
}

// Site is the other one; the zero value: there is none.
type Site struct {
	Name    string
	Heard   time.Duration // ago; negative: never
	Streams bool          // the one that follows receives the log
	Lag     int64         // bytes; negative: unknown
	// Switched: the sites have changed places at least once.
	Switched bool
}
