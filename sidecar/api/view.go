package api

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/availability"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// View is a snapshot of one decision: what it was made from, and what came of
// it. It is shared by requests and must not change after it was handed out.
type View struct {
	Cluster     string
	Observation ha.Observation
	State       ha.State
	Report      ha.Report // as published to the other members
	Problem     string    // Consul's last error, for people

	// What the core does not need to know of the server. Zero is unknown.
	PostgresVersion int       // server_version_num
	NewPrograms     bool      // the server runs others than those on disk
	PostgresStarted time.Time // pg_postmaster_start_time
	Replay          ha.LSN    // pg_last_wal_replay_lsn; zero: as received
	ReplayedAt      time.Time // pg_last_xact_replay_timestamp
	ReplayPaused    bool
	// Lagging: this member, a replica, is further behind than it may be to serve reads.
	Lagging bool
	Pending []PendingParameter // that wait for a restart
	Senders []Sender           // who receives the log from this server

	Tags        map[string]string // the member's tags; "noloadbalance": "true" takes it from the replicas
	PausedUntil time.Time         // when a pause ends by itself; zero: not known, or never
	// PausedMembers are those that a pause is of; empty: all, if there is one.
	PausedMembers []string
	PausedReason  string
	Config        json.RawMessage // the cluster-wide settings as stored; nil: there are none
	// ConfigVersion changes with each change of Config; zero: there is none.
	ConfigVersion uint64
	// ConfigCopied: Config is this member's copy, and held then; zero: it is Consul's.
	ConfigCopied time.Time
	Changes      []json.RawMessage // of Config, oldest first, each with its time and difference
	History      []failover.Record // oldest first
	Outages      []availability.Outage
	// UnreadOutages is how many lines of their journals cannot be read.
	UnreadOutages int
	Objective     availability.Objective
	Service       string         // in Consul
	Registered    []Registration // the members, as Consul's catalog has them
	// Slots is how far the consumers of the permanent physical slots are.
	Slots map[string]ha.LSN
	// Held are the slots of this server that keep log, or have lost it, those that keep most
	// first.
	Held      []HeldSlot
	Scheduled *Schedule // a planned switchover
	// PlanFailed says why the last planned switchover was not done, or is not yet; empty: it was.
	PlanFailed string
	// Restarts are planned, by the member's name.
	Restarts map[string]Restart
	// PeersRefused counts what the mesh refused, by cause.
	PeersRefused map[string]uint64
	// PeersUnreachable counts how often each was found unreachable (ha.Peer.Unreachable).
	PeersUnreachable map[string]uint64
	// Behind is since when each replica lacks log that the leader has; one that
	// lacks nothing, or is not known, is not there.
	Behind map[string]ha.Instant
	// Progress is how far the member's present work on its data directory is; nil:
	// there is none.
	Progress *Progress
	// Archive is how the archive of the log fares; nil: there is none.
	Archive *Archive
	// Backups are how each block's backups fare.
	Backups []BackupStatus
	// Templates tells, as JSON, how the files and proxies fare that this member
	// writes and switches itself; nil, or nothing: there are none.
	Templates func() json.RawMessage
	Traces    bool // spans are exported
}

// HeldSlot is a replication slot of this server, of whomever.
type HeldSlot struct {
	Name   string `json:"name"`
	Active bool   `json:"active"` // somebody reads from it
	Lost   bool   `json:"lost"`   // its log is gone: nobody can go on from it
	Bytes  int64  `json:"bytes"`  // of log that the server keeps for it
}

// PendingParameter is a parameter of which a restart takes up another value.
type PendingParameter struct {
	Name   string `json:"name"`
	Now    string `json:"now"`
	Wanted string `json:"wanted"` // as its file has it; empty: the default
}

// Sender is a connection that receives the log (pg_stat_replication).
type Sender struct {
	Name, User, Address string // of the program; Address empty: a local socket
	State, SyncState    string
	SyncPriority        int
}

// StandbyLimit reports whether a standby must have at least as much of a parameter as
// its primary (PostgreSQL documentation, section 27.4.3).
func StandbyLimit(parameter string) bool {
	return slices.Contains([]string{"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions",
		"max_locks_per_transaction"}, parameter)
}

// Progress is how far a copy has come.
type Progress struct {
	What  string `json:"what"` // such as "cloning"
	From  string `json:"from"`
	Done  int64  `json:"done_bytes"`
	Total int64  `json:"total_bytes"` // zero: not known
}

// Schedule is something planned.
type Schedule struct {
	At   time.Time `json:"at"`
	From string    `json:"from,omitempty"`
	To   string    `json:"to,omitempty"`
}

// staleAfter is how old a decision may be for its view of the world to be told
// as true. The loop decides at least once a second.
const staleAfter = 10 * time.Second

// facts is a view at one moment. Its methods are the meaning of every path,
// status field and metric.
type facts struct {
	*View
	now ha.Instant
}

// alive: the loop that decides lives.
func (f facts) alive() bool {
	return f.now.Sub(f.Observation.Now) <= staleAfter
}

func (f facts) paused() bool { return f.Observation.Policy.Paused }

func (f facts) self() string { return f.Observation.Self }

func (f facts) leader() string { return f.Observation.Consul.Record.Leader }

func (f facts) running() bool { return f.Observation.Server.Process == ha.ProcessRunning }

// answers: the last look at the server succeeded, or failed only just now: a
// slow server is not a dead one.
func (f facts) answers() bool {
	v := &f.Observation.Server
	return f.running() && v.SeenAt != 0 &&
		(v.FailingSince == 0 || v.FailingSince.Within(f.Observation.Policy.FailureTimeout, f.now))
}

// leaseUntil is when this member stops serving as primary unless its lease is
// renewed: the guard's report counts as well as ours.
func (f facts) leaseUntil() ha.Instant {
	until := f.State.LeaseUntil
	if v := &f.Observation.Server; v.Armed {
		until = min(until, v.LeaseUntil)
	}
	return until
}

// primary: this member's server takes writes, and may (S5).
func (f facts) primary() bool {
	return f.running() && f.Observation.Server.InRecovery == ha.No && f.Report.Writable &&
		f.leader() == f.self() && f.leaseUntil() > f.now
}

// replica: this member's server answers reads as a replica.
func (f facts) replica() bool {
	return f.alive() && f.answers() && f.Observation.Server.InRecovery == ha.Yes
}

// standbyLeader: this member leads a standby cluster, and its server follows the other
// site's primary.
func (f facts) standbyLeader() bool {
	return f.replica() && f.leader() == f.self() && f.follows()
}

// follows: this cluster is a standby cluster.
func (f facts) follows() bool { return f.Observation.Consul.Record.StandbyOf != "" }

func (f facts) noLoadBalance() bool { return f.Tags["noloadbalance"] == "true" }

// streaming: this member's server receives the log from another now.
func (f facts) streaming() bool {
	return f.replica() && f.Observation.Server.Receiving == ha.Yes
}

// standing is how commits depend on a replica.
type standing uint8

const (
	async  standing = iota
	quorum          // it is one of those whose flush may be waited for
	synced          // every commit waits for its flush
)

// standingOf says how commits depend on a member other than the leader, while it
// streams.
func (f facts) standingOf(member string) standing {
	d := f.Observation.Consul.Record.Durability
	if d.Mode != ha.ModeQuorum || d.K == 0 || !d.Has(member) || member == f.leader() {
		return async
	}
	standbys, k := len(d.Voters), d.K
	if d.Has(f.leader()) {
		standbys, k = standbys-1, k-1
	}
	if k >= standbys {
		return synced
	}
	return quorum
}

// standing is standingOf this member, if it streams.
func (f facts) standing() standing {
	if !f.streaming() {
		return async
	}
	return f.standingOf(f.self())
}

// replayed is where this member's replica has replayed to.
func (f facts) replayed() ha.LSN {
	switch {
	case f.Replay != 0:
		return f.Replay
	case f.Report.Replay != 0:
		return f.Report.Replay
	}
	return f.Observation.Server.Position.LSN
}

// head is the furthest known position of the cluster's log, and the timeline
// it is on; zero: unknown.
func (f facts) head() (ha.LSN, ha.TLI) {
	if f.leader() == f.self() {
		p := f.Observation.Server.Position
		return p.LSN, p.TLI
	}
	for _, p := range f.Observation.Peers {
		if p.Member == f.leader() {
			return p.Report.Position.LSN, p.Report.Position.TLI
		}
	}
	return 0, 0
}

// lagOf is how far a position is behind the cluster's log, in bytes. It is
// unknown if either is, or if they are on different timelines.
func (f facts) lagOf(received ha.Position, at ha.LSN) (bytes uint64, known bool) {
	head, tli := f.head()
	if head == 0 || at == 0 || tli != received.TLI {
		return 0, false
	}
	head = max(head, received.LSN) // streamed since the leader's last report
	if at >= head {
		return 0, true
	}
	return uint64(head - at), true
}

// lag is how far this member's replay is behind the cluster's log.
func (f facts) lag() (bytes uint64, known bool) {
	return f.lagOf(f.Observation.Server.Position, f.replayed())
}

// lagTime is since when a replica lacks log that the leader has, in seconds.
func (f facts) lagTime(member string) float64 {
	since, behind := f.Behind[member]
	if !behind {
		return 0
	}
	return max(f.now.Sub(since).Seconds(), 0)
}

// serverState is Patroni's word for the state of this member's server.
func (f facts) serverState() string {
	switch f.Observation.Busy.Server {
	case ha.Init:
		return "initializing new cluster"
	case ha.Restore:
		return "running custom bootstrap script" // Patroni's word for it
	case ha.Clone, ha.Rewind, ha.Discard:
		return "creating replica"
	case ha.Start:
		return "starting"
	case ha.Stop:
		return "stopping"
	}
	switch v := &f.Observation.Server; {
	case v.Process == ha.ProcessRunning && v.SeenAt == 0:
		return "starting"
	case v.Process == ha.ProcessRunning:
		return "running"
	case f.Observation.Busy.FailedKind == ha.Start && f.Observation.Busy.Failures > 0:
		return "start failed"
	case v.ExitedAt != 0 && !v.CleanStop && !f.paused(): // else Patroni does not look why
		return "crashed"
	}
	return "stopped"
}

// role is Patroni's word for this member's role.
func (f facts) role() string {
	switch v := &f.Observation.Server; {
	case v.DataDir != ha.DataPresent:
		return "uninitialized"
	case v.InRecovery == ha.No && f.running():
		return "primary"
	case !f.running() && v.WasPrimary && f.leader() == f.self():
		return "primary" // nobody has taken its place
	case f.standbyLeader():
		return "standby_leader"
	}
	return "replica"
}

// votes counts the other members that have voted in the newest term.
func (f facts) votes() int {
	n := 0
	for _, p := range f.Observation.Peers {
		if p.Report.Voted && p.Report.Term == f.Observation.Consul.Record.Term {
			n++
		}
	}
	return n
}

// members are the names of all that are known, sorted.
func (f facts) members() []string {
	names := append([]string{f.self()}, f.Observation.Consul.Record.Members...)
	for _, p := range f.Observation.Peers {
		names = append(names, p.Member)
	}
	slices.SortFunc(names, strings.Compare)
	return slices.Compact(names)
}

// reportOf returns a member's last report, and whether it is heard now.
func (f facts) reportOf(member string) (r ha.Report, heard bool) {
	if member == f.self() {
		return f.Report, true
	}
	for _, p := range f.Observation.Peers {
		if p.Member == member {
			return p.Report, p.Link == ha.LinkUp && p.ReceivedAt != 0
		}
	}
	return ha.Report{}, false
}
