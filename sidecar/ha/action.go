package ha

import "time"

// ActionKind names what an Action asks for.
type ActionKind uint8

// The closed set of actions. Those on the server are exclusive: the shell does
// one at a time, and a stop cancels what is under way.
const (
	NoAction ActionKind = iota

	// On the server.
	Init    // make a new data directory (initdb), as the marker allows
	Clone   // replace the data directory by a copy of From's
	Rewind  // pg_rewind to From's history, keeping aside what diverged
	Start   // start the server; Primary says as what, Hidden whether clients stay out; From is what a rewound standby receives from at once, with Term promised
	Stop    // stop it: fast, or Immediate
	Fence   // promise Term on disk, clear the upstream, see the walreceiver gone (S2)
	Follow  // promise Term on disk, receive from From, whose history is that of Position
	SetSync // synchronous_standby_names = Sync, and see it in effect
	Promote // leave recovery, on Timeline
	Unhide  // let clients in (S9)
	Restore // put the data of a backup in the place of the data directory, which is kept aside; they are to begin Timeline
	Discard // remove the half-made data directory that the marker names (S10), or put back what a restore replaced

	// Beside whatever else is under way.
	Checkpoint // a checkpoint now, so that pg_rewind from this server is right, or a Planned stop is short

	// On the rest of the world.
	Commit   // one Consul transaction
	Lease    // tell the guard to stop the server at Until
	Disarm   // tell the guard that the server needs no lease (it is a standby)
	Announce // register the service with Tag; take the primary tag from Evict first
	Exit     // end the sidecar: Why says what a person must do
)

// Action is one thing to do now. Decide repeats an action until the
// observation shows that it was done; the shell skips what is already under
// way. Actions come out in the order in which they are to be begun.
type Action struct {
	Kind ActionKind
	Rule string // the row that asks for it (rules.go)
	Why  string // in an operator's words

	Term      uint64
	Leader    string // whom the term is promised to; empty: not known
	Timeline  TLI
	From      string // a member
	Address   string // From's server, host:port
	Position  Position
	Primary   bool
	Hidden    bool
	Immediate bool
	Planned   bool          // Stop: clients are held; Checkpoint: such a stop follows
	Yield     bool          // Stop: not while transactions are open that began before clients were held
	Drain     time.Duration // Stop: how long transactions may go on; zero: a moment
	Sync      SyncSetting
	Change    Change // Restore: its record says what
	Until     Instant
	Register
	Code int // Exit
}

// Register is what an Announce is to make of the service registration.
type Register struct {
	Tag   string   // "primary", "replica", "standby-leader", or empty for none
	Evict []string // members whose primary tag must be gone first
}

var kindNames = [...]string{"none", "init", "clone", "rewind", "start", "stop", "fence", "follow", "set-sync",
	"promote", "unhide", "restore", "discard", "checkpoint", "commit", "lease", "disarm", "announce", "exit"}

// String returns the kind's name, as in logs and metrics.
func (k ActionKind) String() string { return kindNames[k] }

// OnServer reports whether the action is an exclusive operation on the server.
func (k ActionKind) OnServer() bool { return k >= Init && k <= Discard }

// Block says why safety forbids to go on (S11).
type Block struct {
	What     string // what is not done
	Missing  string // what is missing, and of whom
	Override string // the one command that would go on without
	Cost     string // what that may lose
	Rule     string // the row that says so (rules.go)
	Since    Instant
}

// failoverTo is the command by which a person lets a member lead, whatever it lacks.
func failoverTo(m string) string { return "pgsidecar failover --to " + m + " --accept-data-loss" }
