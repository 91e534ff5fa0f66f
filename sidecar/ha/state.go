package ha

// State is what a member remembers from one decision to the next. None of it
// must survive the process: what must is on disk (Server.Promise) or in Consul.
type State struct {
	// WakeAt is when time alone may change the decision; zero: never.
	WakeAt Instant
	// LeaseUntil is until when this member may serve as primary (S5).
	LeaseUntil Instant
	// VouchedUntil is until when it may by what the members have echoed, whatever Consul
	// says. Zero: it may not, or does not lead.
	VouchedUntil Instant
	// Role, Blocks and Rules are for people: Rules names the rows that held in this
	// decision, in their order. Refused says why a requested switchover or removal
	// cannot begin.
	Role    Role
	Rules   []string
	Blocks  []Block
	Refused string

	// BegunAt is when this process first decided.
	BegunAt Instant
	// Hears: this member hears the primary of the newest term it knows (S8).
	Hears bool
	// LostAt is since when it hears none, in term LostTerm.
	LostAt   Instant
	LostTerm uint64
	// VotedAt is when it first saw its own fence in term VotedTerm in effect, with which it
	// votes if its copy is a vote: an old primary's lease cannot count on this member's word
	// after it.
	VotedAt   Instant
	VotedTerm uint64
	// PhaseAt is when it first saw the newest term and phase.
	PhaseAt   Instant
	PhaseTerm uint64
	Phase     Phase
	// AdvancedAt is when this standby was last seen to have come further than Advanced
	// says, or to lack nothing of what the leader has.
	AdvancedAt  Instant
	AdvancedTLI TLI
	AdvancedLSN LSN
	// Gone are the voters that do not stream, and since when.
	Gone []Gone
	// LockSession is the session that was last seen to hold the lock. Revived is the
	// member that took it while its address refused: that it was dead was seen before.
	LockSession string
	Revived     string
	// EmptySince is since when Consul has been seen without a record.
	EmptySince Instant
	// Unfounded: this process has seen Consul without a record, and none beyond a founding since.
	Unfounded bool
	// HeardSince is since when this member hears any other, while Consul has no record.
	HeardSince Instant
	// Last is the newest record that this process has read. Where Consul has an earlier
	// one, or none, it was put back or has lost it.
	Last Record
	// Dismissed are the members that this process has seen taken off the record, and not put
	// on it again since.
	Dismissed []string
	// Heard is the newest record that this process has read or heard of, of the cluster HeardOf.
	Heard   RecordSeen
	HeardOf string
	// FirstTerm is that of the first record that this process has read, or of the first since
	// it did not hear Consul, or stood still, for long: until GapAt. FollowedAt is when it last
	// heard Consul.
	FirstTerm  uint64
	GapAt      Instant
	FollowedAt Instant
	// ForgotTerm is a term in which this member's vote alone elects, by Consul's record, although it
	// has not promised that term: it has data that were there when this process began, and its state
	// was lost, with what it may have known of a later record. Copied: this process has seen the data
	// directory empty or half-made, so that what is there now was copied since.
	ForgotTerm uint64
	Copied     bool
	// PutBackAt is since when Consul's record is older than Last. Zero: it is not.
	PutBackAt Instant
	// LaterAt is since when a member is known to have seen a later record than Consul was
	// last read to have. One that was read since then shows that Consul was put back.
	LaterAt Instant
	// ReplayAt is when the candidate of the newest term was last seen to have replayed
	// further than Replayed, or all.
	ReplayAt Instant
	Replayed LSN
	// Partial is where this standby's log ended inside a record when it was last told to
	// follow a leader whose timeline begins before that. Zero: nowhere.
	Partial LSN
	// StrayedTerm is the term in which this member led, and its server was seen as a primary
	// on a timeline that nobody had claimed.
	StrayedTerm uint64
	// UnseenTerm is the term in which this leader stopped its own server as nobody could
	// log in to it: another is to lead, and a start alone would not help.
	UnseenTerm uint64
	// CrashAt is the newest exit of this leader's server in CrashTerm, CrashedSoon whether it
	// came soon, and Restarts how many in a row did. Whole: since then all members have
	// streamed. Damped: it is started again in its place.
	CrashAt     Instant
	CrashTerm   uint64
	CrashedSoon bool
	Restarts    int
	Whole       bool
	Damped      bool
	// StrayedAt is since when this member, whose log is none of the cluster's, hears a primary.
	StrayedAt Instant
	// StoodAt is since when this server's position is what it was at Stood: what another
	// site says of its own before that says nothing of where the two part.
	StoodAt Instant
	Stood   Position
	// UnreachedAt is since when this primary hears replicas that follow it, and none of them
	// receives anything. Zero: not so.
	UnreachedAt Instant
	// ReignedAt is when this site's primary was last heard, or was this member. Zero: never.
	ReignedAt Instant
	// WitnessAt is since when there is a witness. Wish is what it is to be told.
	WitnessAt Instant
	Wish      WitnessWish
	// Forced is what came of the newest decision that this member is to lead whatever is missing.
	Forced Forced
	// PassedTerm is the term that this leader last asked to begin with another, PassedTo, as its
	// leader.
	PassedTerm uint64
	PassedTo   string
	// ChosenTerm is the term that this primary has asked to begin, as a person had decided that it is
	// to lead on, although others have promised a later term. Zero: none.
	ChosenTerm uint64
	// GivenUp is the restore for which this member has sent the transaction that gives it up. Empty:
	// none.
	GivenUp string
	// RestoreTerm is the term that this process has begun with a restore whose data were not
	// started yet. Zero: none.
	RestoreTerm uint64
	// Promotion is what came of the newest request that this site take the writes.
	Promotion SitePromotion
	// Led is the newest position that a primary was heard to have, at LedAt, in LedTerm.
	Led     Position
	LedAt   Instant
	LedTerm uint64
}

// SitePromotion is what came of a request that a site take the writes. One that was refused is
// never carried out later, and one that may have been is not refused: the other site, which
// gave them up, takes them back where it hears of a refusal.
type SitePromotion struct {
	Since   Instant // when it was asked (Intent.Since)
	Begun   bool    // a transaction was sent that may have done it
	Index   uint64  // and the record's index then: it is not carried out when that has changed
	Refused string  // why; empty: it was not
}

// Forced is what came of a person's decision that a member is to lead (Intent.Force). It is
// good for one term: of two members that were both to lead, each would else end the other's
// election, and nobody's would be over.
type Forced struct {
	Since Instant // when it was made (Intent.Since)
	After uint64  // the newest term that was known then
	Led   bool    // this member has been given a later one
	Spent bool    // and it is another's turn since
}

// Gone is a voter whose walsender is missing.
type Gone struct {
	Member string
	Since  Instant
}
