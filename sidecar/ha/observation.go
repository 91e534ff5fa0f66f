package ha

import "time"

// Observation is all that a member knows at one moment. Each fact carries when
// it was seen, or is Unknown.
type Observation struct {
	Now    Instant
	Self   string // this member's name
	Policy Policy
	Consul Consul
	Server Server
	Peers  []Peer // the other members ever heard of, sorted by name
	Intent Intent
	// Busy is what the shell is doing now, so that it is not asked twice.
	Busy Busy
	// Announced is what Consul's service registration says of this member.
	Announced Announced
}

// Announced is the service registration as last made.
type Announced struct {
	Known bool
	Tag   string // "primary", "replica" or empty
	Term  uint64 // the term it was made for
}

// Policy is the configuration that decisions depend on: the cluster's dynamic
// settings, and this member's tags.
type Policy struct {
	Mode      Mode
	Standbys  int  // k: how many voters hold each commit, if so many exist
	Strict    bool // rather block commits than have fewer than Standbys hold them
	MaxVoters int  // 0: twice Standbys

	Automatic       bool          // fail over without being asked
	FailureTimeout  time.Duration // silence after which a member is not heard any more
	Lease           time.Duration // how long a primary may serve without a confirmation (S5)
	StopTimeout     time.Duration // fast shutdown before it becomes an immediate one
	HandoverTimeout time.Duration // switchover: deadline before the old primary takes the lock back

	NoFailover bool
	NoSync     bool
	Priority   int
	// ReplicateFrom names the member to stream from while that one streams from
	// the leader; else, and if empty, the leader itself.
	ReplicateFrom string

	// AgentTimeout is how long a primary's own Consul agent may be gone (DNS then
	// hides the node) before the primary hands over; zero: for ever.
	AgentTimeout time.Duration

	Paused bool // maintenance: decide nothing about roles, keep the lease
}

// Consul is what was read from Consul.
type Consul struct {
	// SeenAt is when the request was sent whose answer was the newest
	// successful read of record and lock; zero: never yet.
	SeenAt Instant
	Record Record
	Lock   Lock
	// Broken: the record was found but Validate refused it; Record is zero.
	Broken string

	Session string // this member's own session; empty: none (yet)
	// HeldAt is when the newest request was sent (a consistent read or a
	// transaction) whose answer showed the lock held by Session, in term
	// HeldTerm. It is what the lease is counted from (S5).
	HeldAt   Instant
	HeldTerm uint64

	Reachable Tri // did the last call succeed
	// AgentLostAt is since when this member's own agent, which alone can change
	// its registration, has not answered while another may; zero: it does.
	AgentLostAt Instant
}

// Process is what is known of the local postmaster by the guard, its parent.
type Process uint8

// The states of the local postmaster.
const (
	ProcessUnknown Process = iota // the guard has not said yet
	ProcessStopped
	ProcessRunning
)

// DataDir is what the local data directory holds.
type DataDir uint8

// The kinds of data directory.
const (
	DataUnknown  DataDir = iota // not looked at yet
	DataAbsent                  // missing or empty: may be made
	DataPresent                 // a PostgreSQL data directory
	DataHalfMade                // a marker of an unfinished clone, rewind or restore stands (S10)
	DataForeign                 // must not be touched; Server.Problem says why
)

// Server is what is known of the local PostgreSQL server.
type Server struct {
	DataDir   DataDir
	Problem   string // for people: why the directory or the last operation is bad
	SystemID  string
	Process   Process
	StartedAt Instant // when the postmaster was started
	ExitedAt  Instant // when the guard saw it exit; zero: it did not in this process's life
	Asked     bool    // it was this member that stopped it, and nobody by hand

	// SQL facts, all from one look at SeenAt, valid while Process is running.
	SeenAt       Instant // when the last answered look was sent; zero: none since the start
	FailingSince Instant // first of the unanswered looks in a row; zero: the last was answered
	InRecovery   Tri
	Writable     Tri  // the write probe (with synchronous_commit local) succeeded
	Hidden       bool // clients are kept out (S9)
	// FaultyAt is the first of the write probes in a row that failed by the fault
	// of this machine (a full or hung disk), which another would not suffer; zero:
	// the last was well. WriteProblem says, for people, why a probe failed.
	FaultyAt     Instant
	WriteProblem string
	// Starved: a starting standby waits for log that it has not got, so it will
	// not take connections by itself.
	Starved   bool
	Receiving Tri    // pg_stat_wal_receiver has a row that is streaming
	Upstream  string // member that primary_conninfo names; empty: cleared

	// Position: a standby's flushed receive (or replay) position; a primary's
	// flushed insert position; a stopped server's from its control file when
	// CleanStop, else unknown.
	Position Position
	// Replayed is how far a standby has come in replaying; people want to know.
	Replayed LSN
	// Settled: nothing is received, and all local WAL was replayed or is known
	// as received, so that Position is all there is (S2).
	Settled      bool
	CleanStop    bool    // pg_control says that the server was shut down (as primary); Position is its end
	WasPrimary   bool    // the stopped server has no standby.signal: its last life was a primary's
	Checkpointed bool    // the last checkpoint is on the current timeline
	CheckpointAt Instant // when the last that was asked for here was done; zero: never

	// Sync is the primary's synchronous_standby_names in effect in the
	// postmaster; SyncAt the primary's flush position read after every
	// walsender was seen to use it; zero while that is not so (S4).
	Sync       SyncSetting
	SyncAt     LSN
	Walsenders []Walsender // sorted by member; only a primary's

	// RecoveryEnd is where a restarted primary's own crash recovery ended (S9).
	RecoveryEnd LSN

	// Promise and Fenced are kept on disk beside the data directory: the
	// highest term promised, and whether the server was fenced for it (S2).
	Promise uint64
	Fenced  bool
	// Armed: the guard holds a lease and will stop the server at LeaseUntil.
	Armed      bool
	LeaseUntil Instant

	PendingRestart bool

	// SyncUnsure: a change of the setting was begun, and no look since says what
	// it is.
	SyncUnsure bool
	// Rewound names the member whose log this server still needs after a rewind:
	// until it has received that it takes no connections. Empty: none.
	Rewound string
	// Founding: this member made the data directory to found a cluster, and no
	// record of a founded cluster has named it yet: it never led anything.
	Founding bool
}

// SyncSetting is synchronous_standby_names = 'ANY K (Names)'; K 0 is empty.
type SyncSetting struct {
	K     int
	Names []string // sorted
}

// Walsender is one row of pg_stat_replication that belongs to a member.
type Walsender struct {
	Member    string
	Streaming bool // state is streaming (not startup, catchup or backup)
	Sync      bool // its own view of the setting counts it (sync_priority > 0)
	Flush     LSN
	// Fresh: started after the last change of K was in effect.
	Fresh bool
}

// Link is the state of the stream to another member.
type Link uint8

// The states of a stream.
const (
	LinkUnknown Link = iota // not tried yet, or trying
	LinkUp
	LinkSilent  // connected once; no answer now (time-out, unreachable)
	LinkRefused // the address answers, and nobody listens: the process is gone
)

// Peer is what is known of another member.
type Peer struct {
	Member string
	Link   Link
	// ReceivedAt is when Report came; zero: never.
	ReceivedAt Instant
	Report     Report
	// EchoSentAt is when this member sent the newest of its reports that the
	// peer has confirmed in Report.Echo.
	EchoSentAt Instant
	// PostgresRefused: its server's port refused a connection after the link
	// was lost (with LinkRefused, proof of death: S6).
	PostgresRefused Tri
}

// Intent is what people or the system asked for, until it is done or given up.
type Intent struct {
	// Shutdown: this member is to stop (SIGTERM); a primary hands over first.
	Shutdown bool
	// Switchover asks the primary to hand over to Target (empty: the best).
	Switchover bool
	Target     string
	// Since is when it was asked for.
	Since Instant
	// Force allows to lead without the votes S3 needs (accepting data loss).
	Force bool
	// Reinit asks for a new clone; Restart for a restart of the server.
	Reinit  bool
	Restart bool
	// Remove names a member that is gone for good: the primary takes it off the
	// record. Empty: none.
	Remove string
}

// Busy says which operations the shell has under way.
type Busy struct {
	Server ActionKind // the one operation on the server; zero: none
	Commit bool       // a Consul transaction is under way
	// FailedAt is when the last server operation of kind FailedKind failed;
	// zero: it did not. Failures counts those in a row.
	FailedAt   Instant
	FailedKind ActionKind
	Failures   int
	// Damaged: the last failure of kind Start came from damaged data.
	Damaged bool
	// Doubt is the index of the record that a transaction expected whose outcome
	// is not known. While the record still has it the transaction may yet be
	// applied. Zero: there is none.
	Doubt uint64
	// CommitFailedAt is when the last transaction failed without a known
	// outcome or with a conflict; record and lock are read again after it.
	CommitFailedAt Instant
}
