package ha

import (
	"errors"
	"fmt"
	"slices"
)

// RecordVersion is the layout of Record that this program reads and writes.
const RecordVersion = 1

// ErrRecord is returned by Record.Validate: the state key was damaged, or
// written by a newer program. It is never guessed at.
var ErrRecord = errors.New("cluster record cannot be used")

// Mode is how commits are made durable.
type Mode string

// The modes of durability.
const (
	ModeQuorum Mode = "quorum" // k voters flush a commit before its client is answered
	ModeAsync  Mode = "async"  // nobody is waited for; leases keep writers apart
)

// Durability is what the cluster record says about acknowledged commits.
type Durability struct {
	Mode Mode `json:"mode"`
	// K: each acknowledged commit is held by at least K of Voters, at every
	// moment (S4). K 0 in quorum mode says that only the primary has them.
	K int `json:"k"`
	// Voters is sorted. The primary itself may be one (after a failover, until
	// the others have caught up).
	Voters []string `json:"voters"`
}

// Has reports whether the member is a voter.
func (d Durability) Has(member string) bool { return slices.Contains(d.Voters, member) }

// VotesNeeded is how many voters must have voted so that every set of K voters
// has one among them (S3). With K 0 there is no such number: it is more than
// there are voters.
func (d Durability) VotesNeeded() int { return len(d.Voters) - d.K + 1 }

// Equal reports whether two durabilities say the same.
func (d Durability) Equal(e Durability) bool {
	return d.Mode == e.Mode && d.K == e.K && slices.Equal(d.Voters, e.Voters)
}

// Phase is how far the leader of a term has come.
type Phase string

// The phases of a term, in order.
const (
	PhaseBootstrap Phase = "bootstrap" // the leader makes (or adopts) the first data directory
	PhaseElecting  Phase = "electing"  // the leader gathers votes
	PhasePromoting Phase = "promoting" // it has them, has claimed a timeline, and may be primary at any moment
	PhaseLeading   Phase = "leading"   // its server has proved writable
)

// Final is the last position of a primary that stopped cleanly: nothing was
// acknowledged beyond it, so whoever contains it may lead without more votes.
type Final struct {
	Member   string   `json:"member"`
	Position Position `json:"position"`
}

// Origin names the last leader that may have acknowledged commits: the last to
// reach PhasePromoting. Its log contains all that was ever acknowledged, so its
// vote stands for all (S3).
type Origin struct {
	Term   uint64 `json:"term"`
	Leader string `json:"leader"`
}

// Record is the cluster's state key in Consul, changed only by compare-and-swap.
type Record struct {
	Version    int        `json:"version"`
	SystemID   string     `json:"system_identifier"`
	Term       uint64     `json:"term"`
	Leader     string     `json:"leader"`
	Timeline   TLI        `json:"timeline"` // highest ever claimed; no two terms claim the same
	Phase      Phase      `json:"phase"`
	Durability Durability `json:"durability"`
	// Members are all that may lead, sorted. In async mode the lease counts on
	// each of them, so a member is recorded before it may stand in an election.
	Members []string `json:"members"`
	Origin  Origin   `json:"origin"`
	Final   *Final   `json:"final,omitempty"`
	// Fenced: Origin's server was surely down when it passed the lock on, so
	// that nobody has to wait for its lease (S6).
	Fenced bool   `json:"fenced,omitempty"`
	Reason string `json:"reason,omitempty"` // why this term began, for people

	// Index is Consul's ModifyIndex of the key as read: what a
	// compare-and-swap expects. Zero means that the key does not exist.
	Index uint64 `json:"-"`
}

// Exists reports whether the record was found in Consul.
func (r Record) Exists() bool { return r.Index != 0 }

// Validate returns ErrRecord, with what is wrong, if this program must not act
// on the record.
func (r Record) Validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, ErrRecord)...)
	}
	d := r.Durability
	switch {
	case r.Version > RecordVersion:
		return fail("it has version %d and this program knows versions up to %d; upgrade pgsidecar", r.Version, RecordVersion)
	case r.Version < 1:
		return fail("it has no version")
	case r.Term == 0:
		return fail("it has no term")
	case r.Phase != PhaseBootstrap && r.Phase != PhaseElecting && r.Phase != PhasePromoting && r.Phase != PhaseLeading:
		return fail("phase %q is not known", r.Phase)
	case d.Mode != ModeQuorum && d.Mode != ModeAsync:
		return fail("durability mode %q is not known", d.Mode)
	case d.K < 0 || d.K > len(d.Voters):
		return fail("durability asks for %d of %d voters", d.K, len(d.Voters))
	case !slices.IsSorted(d.Voters) || !slices.IsSorted(r.Members):
		return fail("its lists are not sorted")
	case r.Phase != PhaseBootstrap && r.SystemID == "":
		return fail("it has no system identifier")
	}
	return nil
}

// Lock is the leader key in Consul.
type Lock struct {
	Holder  string // the value: a member's name
	Session string // empty: nobody holds it
	Index   uint64 // ModifyIndex; zero: the key does not exist
}

// LockChange is what a transaction does to the leader key.
type LockChange uint8

// The changes of the leader key.
const (
	LockKeep    LockChange = iota // the transaction requires that Session still holds it
	LockTake                      // lock it with Session for Holder; what Lock.Index names is removed first, if it exists
	LockRelease                   // release it from Session
)

// Change is one Consul transaction: all of it happens or none. It replaces the
// record that has index Record.Index and changes the lock.
type Change struct {
	What    string // ballot, claim, lead, pass, widen, …: for logs and metrics
	Record  Record
	Lock    LockChange
	Session string // the session that locks, keeps or releases
	Holder  string // the member named in the leader key
	Prior   Lock   // LockTake: the leader key as it was read
}
