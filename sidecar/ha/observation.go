package ha

import (
	"strings"
	"time"
)

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
	Source Source
	// Busy is what the shell is doing now, so that it is not asked twice.
	Busy Busy
	// SettingsUnread: the cluster's settings were never read, and there is no copy of them
	// on disk: a server that starts now would start without them.
	SettingsUnread bool
	// Announced is what Consul's service registration says of this member.
	Announced Announced
}

// Source is what is known of the other site's cluster (Policy.StandbyOf).
type Source struct {
	// HeardAt is when a server there last answered, as what it may; zero: never. The rest
	// is of its primary.
	HeardAt Instant
	// SeenAt is when the newest answer came that the primary gave; zero: never.
	SeenAt   Instant
	Address  string // its server, host:port; empty: no primary is known
	SystemID string
	Position Position // how far it had flushed then
	Problem  string   // for people: why no primary is known, or why it does not answer
	Witness  Witness
}

// IsSite reports whether an action's From, or an Upstream, is another site's cluster
// rather than a member.
func IsSite(name string) bool { return strings.Contains(name, "@") }

// SiteWalsender is what the walsender of a member of another site's cluster is called. No
// member has such a name.
func SiteWalsender(cluster, member string) string { return cluster + "/" + member }

// OfOtherSite reports whether a walsender is one of another site's cluster.
func OfOtherSite(walsender string) bool { return strings.Contains(walsender, "/") }

// Announced is the service registration as last made.
type Announced struct {
	Known bool
	Tag   string // "primary", "replica", "standby-leader" or empty
	Term  uint64 // the term it was made for
}

// Policy is the configuration that decisions depend on: the cluster's dynamic
// settings, and this member's tags.
type Policy struct {
	Mode      Mode
	Standbys  int  // k: how many voters hold each commit, if so many exist
	Strict    bool // rather block commits than have fewer than Standbys hold them
	MaxVoters int  // 0: twice Standbys
	Zoning

	Automatic      bool          // fail over without being asked
	FailureTimeout time.Duration // silence after which a member is not heard any more
	Lease          time.Duration // how long a primary may serve without a confirmation (S5)
	// MaxLag is how many bytes of log a candidate may lack of what it last heard that the
	// primary had, where nobody's vote is needed (async mode); zero: any number.
	MaxLag int64
	// DistrustRefusal: a refused connection does not prove that a server is down, as behind
	// address translation (S6).
	DistrustRefusal bool
	StopTimeout     time.Duration // fast shutdown before it becomes an immediate one
	HandoverTimeout time.Duration // switchover: deadline before the old primary takes the lock back

	NoFailover bool
	NoSync     bool
	// SyncPriority: where more may be voters than are needed the higher are; 0 is as 1.
	SyncPriority int
	Priority     int
	// ReplicateFrom names the member to stream from while that one streams from
	// the leader; else, and if empty, the leader itself.
	ReplicateFrom string

	// AgentTimeout is how long a primary's own Consul agent may be gone (DNS then
	// hides the node) before the primary hands over; zero: for ever.
	AgentTimeout time.Duration

	Sites

	Paused bool // maintenance: decide nothing about roles, keep the lease
}

// Zoning is what is configured of zones (zones.go).
type Zoning struct {
	// Zones is in how many zones each commit is held, the primary's among them; 0 and 1: in
	// any. Zone is this member's own.
	Zones int
	Zone  string
}

// Sites is what is configured of another site.
type Sites struct {
	// StandbyOf names the cluster at another site that this one follows, or that it will
	// when that one takes the writes; which of them does the records say. Empty: there is
	// none. It is no member's name: it has an "@".
	StandbyOf string
	// ClosedAlone: a site that cannot hear the other lets nobody in after a start, as the
	// other may take writes in its place.
	ClosedAlone bool
	// Witness names the third Consul that says which of the two sites may take writes.
	// Empty: there is none.
	Witness string
}

// Consul is what was read from Consul.
type Consul struct {
	// SeenAt is when the request was sent whose answer was the newest
	// successful read of record and lock; zero: never yet.
	SeenAt Instant
	Record Record
	Lock   Lock
	// Broken: the record was found but Validate refused it; Record is zero, and
	// BrokenIndex its ModifyIndex. Newer: it was written by a newer program.
	Broken      string
	BrokenIndex uint64
	Newer       bool

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
	// OtherCluster says, for people, that another cluster has instances under this
	// one's service name, where they are, and what to change; empty: none is known of.
	OtherCluster string
	// Registered is another member that the service registrations name as the primary,
	// whatever its checks say: there is, or was, a cluster, also where its keys are lost.
	// Empty: none, or not known.
	Registered string
	// HiddenAt is since when others cannot find this member in the catalog although
	// it is registered and its own check passes, by HiddenBy: maintenance mode, or a
	// check of the node or of another service. Zero: they find it.
	HiddenAt Instant
	HiddenBy string
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

// Server is what is known of the local PostgreSQL server, in parts by where each
// fact comes from. A part is taken over whole and forgotten whole.
type Server struct {
	Postmaster
	Files
	SQL
	Probes
	Learned
}

// Postmaster is what the guard, its parent, says of the server's process.
type Postmaster struct {
	Process   Process
	StartedAt Instant // when the postmaster was started
	ExitedAt  Instant // when the guard saw it exit; zero: it did not in this process's life
	// Stray is the process id of a postmaster that runs on the data directory and is
	// not the guard's child: somebody else started it. While it lives the server is
	// not down, whatever Process says, and may take writes. The guard finds it within a
	// tenth of a second, and ends it only at an armed lease's end; a Stop ends it, and
	// a Start, Clone, Rewind or Discard fails while it lives. Zero: there is none.
	Stray int
	// Armed: the guard holds a lease and will stop the server at LeaseUntil.
	Armed      bool
	LeaseUntil Instant
}

// Files is what the data directory and the files beside it say. It is read when
// this process starts, while the server is stopped, and after each operation that
// changes them; an operation that succeeds writes down what it made of them.
type Files struct {
	DataDir  DataDir
	Problem  string // for people: why the directory or the last operation is bad
	SystemID string

	CleanStop bool // pg_control says that the server was shut down (as primary)
	// End is the position of a clean stop; unknown without one. While the server
	// is stopped it is SQL.Position too.
	End        Position
	WasPrimary bool // the stopped server has no standby.signal: its last life was a primary's

	// Promise and Fenced are kept on disk beside the data directory: the
	// highest term promised, and whether the server was fenced for it (S2).
	Promise uint64
	Fenced  bool
	// PromisedTo is the leader of that term. A term has one (S1): where Consul's record of it
	// names another, Consul was put back to before it. Empty: not known.
	PromisedTo string
	// Seen is the newest record that a process of this member has read or heard of, kept on
	// disk (State.ToKeep): where Consul has an earlier one it was put back, also if nobody
	// has lived on who read what it has lost. Its Index is not kept.
	Seen RecordKept
	// Rewound names the member whose log this server still needs after a rewind:
	// until it has received that it takes no connections. Empty: none. RewoundTerm is the
	// term in which that one led then; zero: not known.
	Rewound     string
	RewoundTerm uint64
	// Founding: this member made the data directory to found a cluster, and no
	// record of a founded cluster has named it yet: it never led anything.
	Founding bool

	// Epoch is the newest in which this member's cluster was seen to take writes
	// (Record.Epoch). Kept on disk.
	Epoch uint64

	// Instructed is what somebody has told PostgreSQL to do with the data at its next
	// start, for people (recovery.signal: a directory restored by hand). Only the founder
	// of a cluster may carry it out, and WasPrimary is true then. Empty: nothing, or it
	// is done.
	Instructed string

	// Restored names the newest restore in place by this member. Empty: none. Undoable:
	// the cluster has not gone on with its data, and those before it are kept.
	Restored string
	Undoable bool

	// Copy identifies this copy of the data: it is drawn anew by each initdb, clone
	// and restore. Empty: made by a program that did not draw one.
	Copy string
	// Strayed says how this copy came to have log that no term claimed: its server ran
	// as a primary in a term that this member did not lead (started or promoted by
	// hand, by a recovery target, by another program). Kept on disk until a new copy is
	// made; a Rewind of such a copy fails, and nothing is claimed of it: CleanStop and
	// WasPrimary are false. Found by comparing pg_control with what this member wrote
	// down before each start and promotion. Empty: nothing of the kind is known.
	Strayed string
	// Owed is what the leader had when this copy began, where it was copied from
	// another member: until the log contains it, commits that this member acknowledged
	// with its last copy may be missing (S4). Unknown: nothing is owed.
	Owed Position
}

// SQL is what the server itself answers: all from one look, sent at SeenAt, and
// valid while the process runs. It is forgotten when the process ends.
type SQL struct {
	SeenAt     Instant // when the last answered look was sent; zero: none since the start
	InRecovery Tri
	Hidden     bool   // clients are kept out (S9)
	Receiving  Tri    // pg_stat_wal_receiver has a row that is streaming
	Upstream   string // member that primary_conninfo names, or Policy.StandbyOf; empty: cleared
	UpstreamAt string // host:port that it has for it; empty: not known

	// Position: a standby's flushed receive (or replay) position; a primary's
	// flushed insert position; a stopped server's Files.End.
	Position Position
	// Settled: nothing is received, and all local WAL was replayed or is known
	// as received, so that Position is all there is (S2).
	Settled      bool
	Checkpointed bool // the last checkpoint is on the current timeline

	// Sync is the primary's synchronous_standby_names in effect in the
	// postmaster; SyncAt the primary's flush position read after every
	// walsender was seen to use it; zero while one does not (S4).
	Sync   SyncSetting
	SyncAt LSN
	// SyncUnsure: a change of the setting was begun, and no look since says what
	// it is.
	SyncUnsure bool
	Walsenders []Walsender // sorted by member; only a primary's

	// RecoveryEnd is where a restarted primary's own crash recovery ended (S9).
	RecoveryEnd LSN
	// Relaxed says which setting of the running server acknowledges commits that no
	// standby has flushed (synchronous_commit), or that this server itself has not
	// (fsync), and where it comes from. Empty: none.
	Relaxed string

	PendingRestart bool

	Replay
	Configured
}

// Replay is what a standby does with its log.
type Replay struct {
	// Replayed is how far it has come; people want to know.
	Replayed LSN
	// ReadAll: it receives nothing, and has replayed every whole record that it has; what it
	// received beyond Replayed is the beginning of one.
	ReadAll bool
	// Delayed is recovery_min_apply_delay, where no walreceiver runs and the replay waits for
	// that: PostgreSQL asks for more log only when it has replayed its own, and where it has
	// received nothing since its start, how much it has is not known before. Zero: not so.
	Delayed time.Duration
	// Paused says why it receives and replays nothing: it was asked to pause, or has less of a
	// limit than its primary. Empty: it replays, or that is not known.
	Paused string
}

// Probes is what came of the looks and write probes in a row. It is forgotten
// with SQL.
type Probes struct {
	// FailingSince is the first of the unanswered looks in a row at a server that has answered,
	// or has a LoginProblem or SessionsUsed. It begins anew after refusals by one that
	// ServesOthers. Zero: none.
	FailingSince Instant
	// Hangs: it answers no query, for much longer than its answers have taken of late, though
	// this member was there to hear one.
	Hangs bool
	// LoginProblem says why looks at a server that is not just starting are not answered:
	// its socket is gone, or it refuses the login. Empty: not so, or not known.
	LoginProblem string
	// LoginRefused: the server answers, and refuses this program's login alone; its
	// clients may well get in, and another member with the same roles may refuse as well.
	LoginRefused bool
	// SessionsUsed: it has refused this program as all its sessions were used, so it has
	// started and clients have them. It holds until a look succeeds or the server starts anew.
	SessionsUsed bool
	Writable     Tri // the write probe (with synchronous_commit local) succeeded
	// FaultyAt is the first of the write probes in a row that failed by the fault
	// of this machine (a full or hung disk), which another would not suffer; zero:
	// the last was well. WriteProblem says, for people, why a probe failed.
	FaultyAt Instant
	// WritesHang: a write has been waited for in vain, for much longer than one has taken
	// of late, while this member ran: the disk hangs. A stop that is to make a checkpoint
	// would hang as well.
	WritesHang   bool
	WriteProblem string
	// Starved: a starting standby waits for log that it has not got, so it will
	// not take connections by itself.
	Starved bool
}

// Learned is what this member knows because it did it.
type Learned struct {
	Asked        bool    // it was this member that stopped the server, and nobody by hand
	CheckpointAt Instant // when the last checkpoint that was requested here was done; zero: never
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
	// Unreachable: it is silent for longer than its link has been of late, and no port of
	// its host has answered a connection attempt since: the host is gone, or cut off from
	// this one. A process that is only slow is not taken for that, but a host that stands
	// still is. So it counts in quorum mode only, where a mistake costs a failover and no
	// commit.
	Unreachable bool
	// PortSilent: it is heard, and several connection attempts to its server's port were not
	// answered, not even by a refusal. Only two kinds of port are tried: that of the server which
	// this member's is to follow and receives nothing from, and, by the primary's member, those
	// of the replicas.
	PortSilent bool
}

// Intent is what people or the system asked for, until it is done or given up.
type Intent struct {
	// Shutdown: this member is to stop (SIGTERM); a primary hands over first.
	Shutdown bool
	// Switchover asks the primary to hand over to Target (empty: the best).
	Switchover bool
	Target     string
	// Drain: transactions that are still open after that time end with the server. Zero:
	// a switchover is given up for them.
	Drain time.Duration
	// Since is when it was requested.
	Since Instant
	// Force allows to lead without the votes S3 needs (accepting data loss).
	Force bool
	// Restore asks the primary to restore a backup in place; GiveUp ends a restore that is
	// under way.
	Restore Restoring
	GiveUp  bool
	// Reinit asks for a new clone; Restart for a restart of the server.
	Reinit  bool
	Restart bool
	// PromoteSite asks the leader of a standby cluster to let it take writes itself, once
	// it has all up to SiteFinal: what the other site had when it gave them up. Unknown: it
	// is gone, and what it had beyond is given up.
	PromoteSite bool
	SiteFinal   *Position // nil: unknown; never changed once it is here
	// ReleaseSite asks the primary to stop, for the other site to take the writes.
	ReleaseSite bool
	// Remove names a member that is gone for good: the primary takes it off the
	// record. Empty: none.
	Remove string
}

// Busy says which operations the shell has under way.
type Busy struct {
	Server ActionKind // the one operation on the server; zero: none
	Since  Instant    // when it began
	// Immediate: it is an immediate shutdown, and was from its beginning.
	Immediate bool
	Commit    bool // a Consul transaction is under way
	// FailedAt is when the last server operation of kind FailedKind failed;
	// zero: it did not. Failures counts those in a row.
	FailedAt   Instant
	FailedKind ActionKind
	Failures   int
	// Damaged: the last failure of kind Start came from damaged data.
	Damaged bool
	// Unserved: the last failure of kind Rewind came from its source, or the way there.
	Unserved bool
	// Doubt is the index of the record that a transaction expected whose outcome
	// is not known. While the record still has it the transaction may yet be
	// applied. Zero: there is none.
	Doubt uint64
	// CommitFailedAt is when the last transaction failed without a known
	// outcome or with a conflict; record and lock are read again after it.
	CommitFailedAt Instant
}
