package sidecar

import (
	"context"
	"errors"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Errors that the interfaces below may return and that the shell tells apart.
var (
	// ErrConflict: a transaction found something else than it expected; record
	// and lock have been read again.
	ErrConflict = errors.New("conflict")
	// ErrNotReady: the server is starting up or shutting down, and said so.
	ErrNotReady = errors.New("server is not ready")
	// ErrMachine: a write failed by the fault of this machine, so another might do
	// better: its disk is full, or fails.
	ErrMachine = errors.New("machine is at fault")
	// ErrOccupied: nothing was asked of the server, as another operation on it was
	// under way until the deadline.
	ErrOccupied = errors.New("another operation on the server is under way")
	// ErrTransactions: the server was not stopped, as transactions did not end in
	// time; it goes on.
	ErrTransactions = errors.New("the server goes on")
)

// Cluster is the members' shared memory: the record, the lock and the service
// registration in Consul.
type Cluster interface {
	// Run keeps session, watches and registration until ctx is done, and calls
	// notify after each change of the view. It returns when all it began has ended.
	Run(ctx context.Context, notify func()) error
	// View is the newest that is known; it costs no request.
	View() ClusterView
	// Commit does one transaction. The view has its result when it returns. It
	// returns ErrConflict if something else was found than the change expects.
	Commit(ctx context.Context, change ha.Change) error
	// SetHolding says whether this member believes that it holds the lock: while
	// it does, Run confirms it about once a second.
	SetHolding(holding bool)
	// Register makes the service registration say this, now and after the agent
	// forgot it.
	Register(ctx context.Context, r Registration) error
	// Deregister removes the registration.
	Deregister(ctx context.Context) error
	// Evict takes the primary tag from these members in the catalog, and returns
	// when nobody but this member has it.
	Evict(ctx context.Context, members []string) error
	// PutHistory stores the account of one term.
	PutHistory(ctx context.Context, term uint64, account []byte) error
	// ReleaseSession ends the session at a clean stop.
	ReleaseSession(ctx context.Context) error
}

// ClusterView is what is known of the cluster in Consul.
type ClusterView struct {
	Consul   ha.Consul
	Settings []byte // the config key, JSON; nil: there is none
	Members  []Instance
	Err      error // the last error, for people
}

// Instance is a member as registered in Consul.
type Instance struct {
	Member   string
	API      string // host:port
	Postgres string // host:port
}

// Registration is what the service registration says.
type Registration struct {
	Tag     string // "primary", "replica" or empty
	Meta    [][2]string
	Status  string // passing, warning or critical
	Text    string // for people; constant while the state is
	Replica Check
}

// Check is one more check of the service: replication.
type Check struct {
	Status string
	Text   string
}

// Peers is the mesh of streams to the other members.
type Peers interface {
	// Run keeps the streams until ctx is done, and calls notify after each change.
	Run(ctx context.Context, notify func()) error
	SetMembers(members []Instance)
	// Publish sends the report to all, now if it has changed, and with each
	// heartbeat.
	Publish(report ha.Report)
	Peers() []ha.Peer
}

// Guard is the process between this one and the postmaster (S5).
type Guard interface {
	// Notify names the function to call when the status has changed.
	Notify(changed func())
	Status() GuardStatus
	Lease(ctx context.Context, until ha.Instant) error
	Disarm(ctx context.Context) error
}

// GuardStatus is what the guard knows of the postmaster.
type GuardStatus struct {
	Process    ha.Process
	StartedAt  ha.Instant
	ExitedAt   ha.Instant
	Exit       string // how it ended, for people
	Armed      bool
	LeaseUntil ha.Instant
}

// Recorder counts and times what happens, for metrics. Its methods return at
// once.
type Recorder interface {
	// Action is one operation or transaction, by its kind's name.
	Action(kind string, took time.Duration, err error)
	// Check is a look at the server ("look") or a write probe ("write").
	Check(check string, err error)
	// LeaderChange: this member began to lead by a failover, switchover or bootstrap.
	LeaderChange(kind string)
	// FailoverPhase is when a phase of that ended, counted from the loss of the
	// leader before.
	FailoverPhase(phase string, took time.Duration)
}

// Source is another member's server.
type Source struct {
	Member  string
	Address string // host:port
}

// Start says how the server is to be started.
type Start struct {
	Primary bool
	Hidden  bool // clients are kept out (S9)
	Sync    ha.SyncSetting
	From    Source // what a rewound standby receives from at once
	Term    uint64 // with a source: promised on disk first
	// Settings are the cluster-wide ones, which the server starts with unless
	// PostgreSQL refuses them; nil: it has those that it last took up.
	Settings *Settings
}

// Stop says how the server is to be stopped.
type Stop struct {
	Immediate bool
	Planned   bool // first wait, a while, for transactions that began before clients were held
	Yield     bool // do not stop if they do not end: ErrTransactions
}

// Follow says whom a standby is to receive from.
type Follow struct {
	Term   uint64
	From   Source
	Own    ha.TLI      // the timeline of the standby's log
	Leader ha.Position // a later timeline is the leader's if this passed it
}

// Server is the local PostgreSQL server. Each method but the looks is an
// exclusive operation; all keep their deadline from ctx.
type Server interface {
	// Inspect fills in what the files say, without SQL.
	Inspect(ctx context.Context, v *ha.Server) error
	// Look fills in what SQL says, in one round trip, on a connection of its
	// own. It returns ErrNotReady if the server answers that it is starting.
	Look(ctx context.Context, v *ha.Server) error
	// Probe writes, and so finds a full (ErrMachine) or hung disk. It waits for an
	// operation that is under way, at most until its deadline (ErrOccupied).
	Probe(ctx context.Context) error
	// Starved reports whether a server that takes no connections yet waits for
	// log that it has not got.
	Starved() bool
	// SyncInEffect returns the primary's flush position read after every
	// walsender was seen to use the last setting (S4); zero while one does not.
	SyncInEffect(ctx context.Context) (ha.LSN, error)

	Init(ctx context.Context) error
	Clone(ctx context.Context, from Source) error
	Rewind(ctx context.Context, from Source) error
	Discard(ctx context.Context) error
	Start(ctx context.Context, how Start) error
	Stop(ctx context.Context, how Stop) error
	// Fence promises the term on disk, then stops receiving, and returns the
	// final position (S2). A setting with names is made at the same time.
	Fence(ctx context.Context, term uint64, sync ha.SyncSetting) (ha.Position, error)
	// Follow promises the term on disk and receives from the source.
	Follow(ctx context.Context, how Follow) error
	// SetSync makes the setting, and returns what SyncInEffect would if it is
	// in effect already.
	SetSync(ctx context.Context, set ha.SyncSetting) (ha.LSN, error)
	Promote(ctx context.Context, timeline ha.TLI) (ha.Position, error)
	Unhide(ctx context.Context) error
	// Checkpoint makes one; if a planned stop is to follow, it returns when the load
	// that this makes for clients is over.
	Checkpoint(ctx context.Context, planned bool) error
	// Configure takes up the cluster-wide parameters, access lines and slots, over
	// those of the configuration file, and reloads the server. On an error nothing
	// has changed.
	Configure(ctx context.Context, set Settings) error
	// Outgrown reports whether the server was configured for what has changed by
	// now, so that Configure is to be called again: a standby must have what its
	// primary has, until that has less.
	Outgrown(ctx context.Context) bool
	// Diagnose says why the server ended before it was ready: its last severe
	// words, and whether its data is damaged, so that only a new clone can help.
	Diagnose() (words string, damaged bool)
	// Upkeep makes roles and replication slots for the members. Founded: the
	// record of the cluster names this server.
	Upkeep(ctx context.Context, members []string, founded bool) error
	Close()
}
