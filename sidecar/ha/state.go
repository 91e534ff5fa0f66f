package ha

// State is what a member remembers from one decision to the next. None of it
// must survive the process: what must is on disk (Server.Promise) or in Consul.
type State struct {
	// WakeAt is when time alone may change the decision; zero: never.
	WakeAt Instant
	// LeaseUntil is until when this member may serve as primary (S5).
	LeaseUntil Instant
	// Role and Blocks are for people. Refused says why a switchover or a
	// removal that was asked for cannot begin.
	Role    Role
	Blocks  []Block
	Refused string

	// Hears: this member hears the primary of the newest term it knows (S8).
	Hears bool
	// LostAt is since when it hears none, in term LostTerm.
	LostAt   Instant
	LostTerm uint64
	// VotedAt is when it first saw its own vote in term VotedTerm in effect: an
	// old primary's lease cannot count on this member's word after it.
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
}

// Gone is a voter whose walsender is missing.
type Gone struct {
	Member string
	Since  Instant
}
