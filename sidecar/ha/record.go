package ha

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// RecordVersion is the newest layout of Record that this program reads. It writes the
// oldest that does: SiteVersion is of a cluster that follows another site's, in which a
// program that does not know of such clusters would promote a server.
const (
	RecordVersion = SiteVersion
	SiteVersion   = 2
)

// ErrRecord is returned by Record.Validate: the state key was damaged, or
// written by a newer program. It is never guessed at.
var ErrRecord = errors.New("cluster record cannot be used")

// Mode is how commits are made durable.
type Mode string

// The modes of durability.
const (
	ModeQuorum Mode = "quorum" // k voters flush a commit before its client is answered
	ModeAsync  Mode = "async"  // commits wait for nobody; leases keep writers apart
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
	PhaseRestoring Phase = "restoring" // in place of an election: the leader restores a backup
)

// order is where the phase stands in its term.
func (p Phase) order() int {
	switch p {
	case PhaseBootstrap, PhaseRestoring:
		return 1
	case PhaseElecting:
		return 2
	case PhasePromoting:
		return 3
	case PhaseLeading:
		return 4
	default:
		return 0
	}
}

// Final is the last position of a primary that stopped cleanly: nothing was
// acknowledged beyond it, so a member that contains it may lead without more votes.
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

// Standing is which of two sites' clusters this one is.
type Standing struct {
	// StandbyOf names the cluster at another site that this one follows (Policy.StandbyOf):
	// its leader's server streams from that one's primary, and nobody here takes writes.
	// Empty: the cluster takes writes itself.
	StandbyOf string `json:"standby_of,omitempty"`
	// Epoch counts how often a site began to take writes in the place of another: of two
	// clusters with the same data, who has the lower one has been superseded.
	Epoch uint64 `json:"epoch,omitempty"`
	// Half is which of two sites this one is, by its half of each epoch's timelines: 1 or 2;
	// zero: it has neither taken the writes in the place of the other nor lost them to it.
	Half TLI `json:"half,omitempty"`
	// Released is what this site's primary had when it gave up the writes as asked: a
	// cluster that has it, and follows, may take them back without losing anything while
	// the other has not taken them.
	Released *Position `json:"released,omitempty"`
	// Void is the timeline up to which this site had come when it gave way to the other, whose
	// was earlier: that this site came to it says nothing of who took the writes last.
	Void TLI `json:"void,omitempty"`
	// Given is what the other site had when it gave up the writes to this one. Until a
	// primary of this site has taken a write nobody is promoted here without it.
	Given *Position `json:"given,omitempty"`
}

// Restores are the restores in place: Restore is what one is to do, in its phase, and
// Restored names the newest whose data the cluster went on with. Since is the timeline that
// they began: log without it is what they have replaced. Zero: it is the cluster's again.
type Restores struct {
	Restore  Restoring `json:"restore,omitzero"`
	Restored string    `json:"restored,omitempty"`
	Since    TLI       `json:"since,omitempty"`
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
	Histories
	// Lease is the longest lease that the primary of this term, or of Origin's while
	// there is none, may hold: a candidate that must wait for its end waits as long (S6).
	// It is raised before a longer one is used, and lowered when the longer one has
	// ended. Zero: not known; each member takes its own setting.
	Lease time.Duration `json:"lease,omitempty"`
	// Crashes is how many terms in a row have ended soon after they began because their
	// primary's server crashed, or did not answer (damping.go).
	Crashes int `json:"crashes,omitempty"`

	Standing

	Restores

	// Changes is how often the record was changed, over all terms: of two of one term the
	// one with more is the newer, also where Consul was put back. Zero: the program that
	// wrote it does not count.
	Changes uint64 `json:"changes,omitempty"`

	// Index is Consul's ModifyIndex of the key as read: what a
	// compare-and-swap expects. Zero means that the key does not exist.
	Index uint64 `json:"-"`
}

// version is the oldest layout of which a program can act on the record.
func (r *Record) version() int {
	if r.StandbyOf != "" {
		return SiteVersion
	}
	return 1
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
	case r.Phase != PhaseBootstrap && r.Phase != PhaseElecting && r.Phase != PhasePromoting && r.Phase != PhaseLeading && r.Phase != PhaseRestoring:
		return fail("phase %q is not known", r.Phase)
	case d.Mode != ModeQuorum && d.Mode != ModeAsync:
		return fail("durability mode %q is not known", d.Mode)
	case d.K < 0 || d.K > len(d.Voters):
		return fail("durability asks for %d of %d voters", d.K, len(d.Voters))
	case !slices.IsSorted(d.Voters) || !slices.IsSorted(r.Members):
		return fail("its lists are not sorted")
	case r.Phase != PhaseBootstrap && r.SystemID == "":
		return fail("it has no system identifier")
	case (r.Phase == PhaseRestoring) != (r.Restore.ID != ""):
		return fail("phase %q and restore %q do not go together", r.Phase, r.Restore.ID)
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
