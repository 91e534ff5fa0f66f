package hooks

import (
	"strconv"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Kind says what has happened.
type Kind string

// The kinds of events. The last two are asked before it happens.
const (
	Primary       Kind = "primary"   // this member's server takes writes
	Replica       Kind = "replica"   // it is in recovery
	Stopped       Kind = "stopped"   // it does not run, or is not ready
	Failover      Kind = "failover"  // a term began under this member, planned or not
	Blocked       Kind = "blocked"   // something waits for a person, or for what is missing
	Unblocked     Kind = "unblocked" // nothing does any more
	Drill         Kind = "drill"     // a drill asked for a fault here
	Backup        Kind = "backup"    // a backup ended here, well or not
	Founded       Kind = "founded"   // this member has founded the cluster: once in its life
	BeforePromote Kind = "before_promote"
	BeforeStop    Kind = "before_stop"
)

// Kinds are all, in the order in which the documentation has them.
var Kinds = []Kind{Primary, Replica, Stopped, Failover, Blocked, Unblocked, Drill, Backup, Founded, BeforePromote, BeforeStop}

// Waits reports whether the operation waits for it.
func (k Kind) Waits() bool { return k == BeforePromote || k == BeforeStop }

// role reports whether it is a state, of which only the newest counts.
func (k Kind) role() bool { return k == Primary || k == Replica || k == Stopped }

// Event is one thing that happened. Its JSON is what commands read from standard
// input and what a notice in format "json" sends.
type Event struct {
	// ID is equal for all targets that are told of it, and for each attempt.
	ID      string    `json:"id"`
	Kind    Kind      `json:"event"`
	At      time.Time `json:"at"`
	Cluster string    `json:"cluster"`
	Member  string    `json:"member"`
	Role    ha.Role   `json:"role,omitempty"`
	Term    uint64    `json:"term,omitempty"`
	Leader  string    `json:"leader,omitempty"` // of the term
	From    string    `json:"from,omitempty"`   // the leader before; failover only
	// Summary is one line for people.
	Summary string `json:"summary"`
	// Details are for people: a block's override and its cost, a backup's size.
	Details map[string]string `json:"details,omitempty"`
	// Server are variables of the environment by which libpq finds the server here, each
	// NAME=VALUE; of Founded only.
	Server []string `json:"-"`
}

// environment is what a command finds in its environment.
func (e *Event) environment() []string {
	return append([]string{
		"PGSIDECAR_EVENT=" + string(e.Kind), "PGSIDECAR_EVENT_ID=" + e.ID, "PGSIDECAR_AT=" + e.At.UTC().Format(time.RFC3339Nano),
		"PGSIDECAR_CLUSTER=" + e.Cluster, "PGSIDECAR_MEMBER=" + e.Member, "PGSIDECAR_ROLE=" + string(e.Role),
		"PGSIDECAR_TERM=" + strconv.FormatUint(e.Term, 10), "PGSIDECAR_LEADER=" + e.Leader, "PGSIDECAR_FROM=" + e.From,
		"PGSIDECAR_SUMMARY=" + e.Summary,
	}, e.Server...)
}
