package ha

import "time"

// Role is what a member does, as others see it.
type Role string

// The roles of a member.
const (
	RoleStandbyLeader Role = "standby-leader" // leads a cluster that follows another site's
	RoleStopped       Role = "stopped"        // its server does not run, or is not ready
	RoleReplica       Role = "replica"        // in recovery
	RoleCandidate     Role = "candidate"      // leads a term that has no primary yet
	RolePrimary       Role = "primary"        // out of recovery
)

// Report is what a member tells the others about itself, over a stream, at each
// change and at least once per heartbeat. Promises, votes and pre-votes are
// facts in it; there are no requests.
type Report struct {
	Member string `json:"member"`
	Seq    uint64 `json:"seq"` // grows with each report of this process

	// Term is the highest term this member has promised (on disk): it follows
	// no leader of a lower one, and confirms no lower one's lease.
	Term uint64 `json:"term"`
	// PromisedTo is whom it has promised that to; empty: not known.
	PromisedTo string `json:"promised_to,omitempty"`

	Role   Role   `json:"role"`
	Leader string `json:"leader,omitempty"` // whom its server follows

	// Voted: in Term its server receives nothing, nor will; Position is final
	// until it follows a leader of Term or later (S2).
	Voted    bool     `json:"voted,omitempty"`
	Position Position `json:"position"`

	// Hears: it hears a primary of Term, and so refuses to depose it (S8).
	Hears bool `json:"hears,omitempty"`

	Streaming bool `json:"streaming,omitempty"` // receives from Leader now
	// Unanswered: it does not, and the port of Leader's server answers nobody here, while
	// Leader itself is heard.
	Unanswered bool `json:"unanswered,omitempty"`
	Writable   bool `json:"writable,omitempty"` // a primary that takes writes
	Serving    bool `json:"serving,omitempty"`  // a primary that may acknowledge commits: its server runs out of recovery
	// Relay: it leads a standby cluster, and its server runs as a standby of the other site's.
	Relay bool `json:"relay,omitempty"`
	// Down: a member whose server is surely not running, reported by the guard.
	Down bool `json:"down,omitempty"`
	// Restarting: a primary whose server is down because of a requested restart, or to
	// give the writes to the other site, or a standby cluster's leader that is rewound to the
	// other site, and is coming back; it is not deposed for that.
	Restarting bool `json:"restarting,omitempty"`
	// Passing: a primary whose server was stopped for a handover, and that is to pass the
	// lock on: nobody else takes it before the time of a handover is over.
	Passing bool `json:"passing,omitempty"`

	// Checkpointed: a primary's last checkpoint is on its current timeline; a
	// pg_rewind from it is right only then.
	Checkpointed bool `json:"checkpointed,omitempty"`

	Eligible bool `json:"eligible,omitempty"` // it may lead
	Priority int  `json:"priority,omitempty"` // among equals the higher leads
	// Agentless: its own Consul agent does not answer, so DNS hides it.
	Agentless bool `json:"agentless,omitempty"`
	NoSync    bool `json:"nosync,omitempty"`
	// SyncPriority is the policy's.
	SyncPriority int    `json:"sync_priority,omitempty"`
	Session      string `json:"session,omitempty"` // its Consul session, so that the lock can be passed to it

	// First is the term of the first record that its process has read: of what came before it
	// knows nothing, as of a term that had begun by then. Zero: not known.
	First uint64 `json:"first_term,omitempty"`
	// SeenSince is RecordKept.Since: of what was decided after that term its disk has kept the word.
	SeenSince uint64 `json:"seen_since,omitempty"`

	// The newest record this member knows, so that the others learn of a
	// ballot before Consul tells them.
	Record RecordSeen `json:"record"`

	Postgres string `json:"postgres,omitempty"` // host:port of its server
	API      string `json:"api,omitempty"`

	// Echo: for each other member the Seq of its last report that was read. A
	// primary counts an echo as confirmation of its lease from when it sent
	// that report (S5).
	Echo []Echo `json:"echo,omitempty"`

	Version  string `json:"version,omitempty"`
	Blocked  string `json:"blocked,omitempty"`  // the first block, in words
	Override string `json:"override,omitempty"` // that block's, and what it costs
	Cost     string `json:"cost,omitempty"`
	Replay   LSN    `json:"replay,omitempty"`    // how far a standby has replayed
	ServerID string `json:"server_id,omitempty"` // PostgreSQL system identifier
	Pending  bool   `json:"pending_restart,omitempty"`

	// Founding: it made its data to found a cluster with, and knows of nothing that they led.
	Founding bool `json:"founding,omitempty"`
	// Stopping: a primary that is being stopped and does not end, as its disk hangs. It
	// is not heard any more, and extends no lease.
	Stopping bool `json:"stopping,omitempty"`
	// Strayed: why the member's log is no vote (Files.Strayed). Copy: which copy it is.
	Strayed string `json:"strayed,omitempty"`
	Copy    string `json:"copy,omitempty"`
	// Paused: why its server replays nothing (SQL.Paused).
	Paused string `json:"replay_paused,omitempty"`
	// Hidden: why nobody finds it in the catalog (Consul.HiddenBy). ConfigProblem is its
	// server's (SQL.ConfigProblem).
	Hidden        string `json:"hidden,omitempty"`
	ConfigProblem string `json:"config_problem,omitempty"`
	// Misled: where the others are told that its server is, something else answers.
	Misled string `json:"misled,omitempty"`
	// Apart: its data and its state are on different file systems, and which.
	Apart string `json:"apart,omitempty"`
	// Tags are the member's own and the settings', by their names; PendingWhat are the
	// parameters that wait for a restart. For people and other programs.
	Tags        []Tag          `json:"tags,omitempty"`
	PendingWhat []PendingValue `json:"pending_what,omitempty"`
	// Lease is the member's own setting: those of all members should be equal.
	Lease time.Duration `json:"lease,omitempty"`
	// Software is its server's, while it runs.
	Software Software `json:"software,omitzero"`
}

// Tag is one of a member's.
type Tag struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// PendingValue is a parameter of which a restart takes up another value.
type PendingValue struct {
	Name   string `json:"name"`
	Now    string `json:"now"`
	Wanted string `json:"wanted"`
}

// leads reports whether the member's server is the one that its term's others follow.
func (r *Report) leads() bool { return r.Serving || r.Relay }

// Echo acknowledges one report.
type Echo struct {
	Member string `json:"member"`
	Seq    uint64 `json:"seq"`
}

// RecordKept is what a disk keeps of the newest record. Since is the term of the first record of
// this cluster that it has kept; zero: none.
type RecordKept struct {
	RecordSeen
	Since uint64 `json:"since,omitempty"`
}

// RecordSeen is the part of a Record that travels between members.
type RecordSeen struct {
	Term   uint64 `json:"term"`
	Leader string `json:"leader,omitempty"`
	Phase  Phase  `json:"phase,omitempty"`
	Index  uint64 `json:"index,omitempty"`
	// Changes is Record.Changes; zero: not known.
	Changes uint64 `json:"changes,omitempty"`
	// Base is Histories.Base: nobody may follow by the numbers before it.
	Base TLI `json:"base,omitempty"`
	// System is Record.SystemID: terms of another cluster's are no later ones. Empty: not known.
	System string `json:"system,omitempty"`
	// Timeline is Record.Timeline; zero: not known.
	Timeline TLI `json:"timeline,omitempty"`
}
