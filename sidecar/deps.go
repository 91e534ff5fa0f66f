package sidecar

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// Errors that the interfaces below may return and that the shell tells apart.
var (
	// ErrConflict: a transaction found something else than it expected; record
	// and lock have been read again.
	ErrConflict = errors.New("conflict")
	// ErrNotReady: the server is starting up or shutting down, and said so.
	ErrNotReady = errors.New("server is not ready")
	// ErrStarved: the server does not answer, and waits for log that it has not got.
	ErrStarved = errors.New("server waits for log that it has not got")
	// ErrRefused: the server answers and refuses the login of the sidecar's own. ErrSocket:
	// it is ready, and its socket is not where it was told to make it. ErrFull is an ErrRefused.
	ErrRefused = errors.New("the server refuses the login")
	ErrFull    = fmt.Errorf("%w, as all its sessions are used", ErrRefused)
	ErrSocket  = errors.New("the server's socket is gone")
	// ErrMachine: a write failed by the fault of this machine, so another might do
	// better: its disk is full, or fails.
	ErrMachine = errors.New("machine is at fault")
	// ErrSource: a copy or rewind failed by the member that it was made from, or by the way
	// there; nothing is said of the own data.
	ErrSource = errors.New("the source did not serve it")
	// ErrOccupied: nothing was sent to the server, as another operation on it was
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
	// SetHolding says whether this member believes that it holds the lock, and whether
	// the members' word alone keeps its lease long enough (vouched). While it holds the
	// lock and they do not, Run confirms it about once a second.
	SetHolding(holding, vouched bool)
	// Register makes the service registration say this, now and after the agent
	// forgot it.
	Register(ctx context.Context, r Registration) error
	// Evict takes the primary tag from these members in the catalog, and returns
	// when nobody but this member has it.
	Evict(ctx context.Context, members []string) error
	// PutHistory stores the record of one term's failover.
	PutHistory(ctx context.Context, term uint64, record []byte) error
	// Leave removes the registration and ends the session, at a clean stop.
	Leave(ctx context.Context) error
}

// ClusterView is what is known of the cluster in Consul.
type ClusterView struct {
	Consul   ha.Consul
	Settings settings.Stored
	Members  []Instance
	// Named is the term in which the catalog, as it was read last, leads to this member,
	// and to nobody else, who asks for the primary; 0: it does not.
	Named uint64
	Err   error // the last error, for people
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

// Site watches the cluster at the other site, if there is one.
type Site interface {
	// Run watches until ctx is done, and calls notify after each change.
	Run(ctx context.Context, notify func()) error
	// Source is the newest that is known; it costs no request.
	Source() ha.Source
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
	ha.Postmaster
	Exit string // how it ended, for people
}

// Recorder counts and times what happens, for metrics. Its methods return at
// once.
type Recorder interface {
	// Action is one operation or transaction, by its kind's name.
	Action(kind string, took time.Duration, err error)
	// Rule is an action that was begun, by the rule of package ha that asked for it.
	Rule(rule string)
	// Check is a look at the server ("look") or a write probe ("write").
	Check(check string, err error)
	// LeaderChange: this member began to lead by a failover, switchover or bootstrap.
	LeaderChange(kind string)
	// FailoverPhase is when a phase of that ended, counted from the loss of the
	// leader before.
	FailoverPhase(phase string, took time.Duration)
}

// Learned is what the success of an operation says that its action does not.
type Learned struct {
	// Position is the final position after a Fence, and where the new timeline
	// begins after a Promote.
	Position ha.Position
	// SyncAt is, after a SetSync, what ha.SQL.SyncAt says: zero if the setting is
	// not seen in effect yet.
	SyncAt ha.LSN
}

// Server is the local PostgreSQL server. All methods keep their deadline from ctx.
type Server interface {
	// Inspect returns what the files say, without SQL.
	Inspect(ctx context.Context) (ha.Files, error)
	// Read returns what SQL says, without SyncAt, on a connection of its own. It
	// returns ErrNotReady if the server answers that it is starting, ErrStarved if it
	// says so and waits for log that it has not got, ErrRefused and ErrSocket if it is up
	// and cannot be logged in to.
	Read(ctx context.Context) (ha.SQL, error)
	// SyncInEffect returns what ha.SQL.SyncAt says, which may take a reload and a wait
	// for walsenders; zero: the setting is not seen in effect yet.
	SyncInEffect(ctx context.Context) (ha.LSN, error)
	// Probe writes, and so finds a full (ErrMachine) or hung disk. It waits for an
	// operation that is under way, at most until its deadline (ErrOccupied).
	Probe(ctx context.Context) error
	// Do does one action: those of which ha.ActionKind.OnServer is true, one at a
	// time, and ha.Checkpoint beside any other. A Stop may return ErrTransactions.
	Do(ctx context.Context, a ha.Action) (Learned, error)
	// Configure takes up the cluster-wide parameters, access lines and slots, over
	// those of the configuration file, and reloads the server; one that is stopped
	// starts with them. On an error the ones before hold.
	Configure(ctx context.Context, set settings.Settings) error
	// Maintain makes roles and replication slots for the members. Founded: the
	// record of the cluster names this server. It reports whether the server was
	// configured for what has changed since, so that Configure is to be called
	// again: a standby must have what its primary has, until that has less.
	Maintain(ctx context.Context, members []string, founded bool) (outgrown bool, err error)
	// Diagnose says why the server ended before it was ready: its last severe
	// words, and whether its data is damaged, so that only a new clone can help.
	Diagnose() (words string, damaged bool)
}
