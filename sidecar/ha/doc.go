// Package ha is the core: what one member of a cluster decides, as a pure
// function of what it remembers and what it sees.
//
//	Decide(State, Observation) (State, []Action)
//
// It reads no clock, starts no goroutine and does no I/O; a test forbids it
// (purity_test.go). Package sidecar observes and acts; package ha/sim drives
// the same function through a simulated world and looks for a lost commit.
//
// # Words
//
// A term is the reign of one leader; the record in Consul counts them. The
// leader of a term first gathers votes (electing), then may be primary at any
// moment (promoting), then takes writes (leading). The voters are the replicas
// of which K must flush each commit before its client is answered. A vote is a
// replica's promise, on disk, to receive nothing more from any earlier leader,
// with the position at which it stopped. A fence is what makes it true.
//
// # How a term begins
//
//	leading, term 7 ──lost, resigned, or handed over──> electing, term 8
//	electing ──own fence, and enough votes, none ahead──> promoting
//	promoting ──the server has left recovery and took a write──> leading
//
// There are two ways into electing, each one Consul transaction that takes the
// lock and raises the term (S1): a ballot, by a replica that has lost the
// primary as others have; and a pass, by a leader whose server is down or that
// was asked to hand over. Members tell each other what they are (Report) over
// streams, so a vote is a fact in a report and needs no request; whoever learns
// of a new term, from Consul or from a peer, fences at once.
//
// # Why no acknowledged commit is lost (quorum mode)
//
// At every moment each acknowledged commit is held by at least K of the
// recorded voters (S4, syncset.go). A candidate promotes with the votes of
// len(voters)-K+1 of them: every set of K has one among those (S3, election.go).
// Since each of them stopped receiving before it said where it is (S2), none can
// take part in an acknowledgement afterwards. So the best of the votes has all
// that was acknowledged, and whoever is not behind it may lead. No clock is in
// the argument.
//
// Votes also say who has what: if K of those whom the new primary's setting asks for
// voted with all that it has, the record names them alone from the claim on
// (narrowedByVotes), and the cluster outlives the loss of that primary too, before
// anybody follows it.
//
// Leases (lease.go) bound how long a primary that was cut off goes on: in quorum
// mode it can acknowledge nothing, but answer reads; in async mode it could
// acknowledge writes, so there a candidate waits for the lease's end, or for
// proof that the old primary's server is down (S6).
//
// # Files
//
//	decide.go     the order of the questions; what is remembered; reports
//	bootstrap.go  the first data directory
//	follower.go   a member that does not lead: start, fence, follow, rejoin
//	election.go   pre-votes, ballots, votes, the claim, passing on
//	leader.go     the leader in each phase; handover; restart in place
//	lease.go      how long a primary may serve
//	syncset.go    who the voters are, and how that changes safely
//	position.go   timelines and who is ahead; record.go, report.go, observation.go,
//	action.go, state.go: the values
package ha
