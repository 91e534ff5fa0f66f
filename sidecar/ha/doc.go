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
// streams, so a vote is a fact in a report and needs no request; a member that
// learns of a new term, from Consul or from a peer, fences at once.
//
// A restore in place is a term of its own that a person asks for. It begins with the
// phase restoring, in which nobody serves, and ends with leading, or with an election
// among the data from before: until the restored server has taken a write no member has
// given any of them up. No timeline of a restore is ever used twice. A member that does not
// know whether the cluster has gone on with what it has restored does not start it.
//
// # Why no acknowledged commit is lost (quorum mode)
//
// At every moment each acknowledged commit is held by at least K of the
// recorded voters (S4, syncset.go). A candidate promotes with the votes of
// len(voters)-K+1 of them: every set of K has one among those (S3, election.go).
// Since each of them stopped receiving before it said where it is (S2), none can
// take part in an acknowledgement afterwards. So the best of the votes has all
// that was acknowledged, and anyone who is not behind it may lead. No clock is in
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
// # Rules
//
// Decide tries tables of rules (rules.go): each row has a name, a condition that
// only looks (a function of *view) and an action that only acts (a function of
// *turn, which may be another table). The first row that holds ends its table,
// unless it says goesOn. A condition that time alone may change says when to look
// again (view.after, view.fresh); the view collects those instants. The name of a
// row is on the actions and blocks that it gives, in logs, metrics and
// `pgsidecar status --why`; the simulation leaves out one row at a time, and must
// notice. README.md beside this file shows how to add one.
//
//	decide.go      situationRules: what is known, whose data, who leads; registration
//	seen.go        which record is the newest, of those read, heard of and kept on disk
//	followed.go    what a process relies on that has not followed the record
//	bootstrap.go   who founds a cluster; founder.go: the founder, and who takes its place
//	restore.go     a restore in place of a backup
//	standby.go     a member that does not lead: start, fence, follow, rejoin, clone
//	election.go    pre-votes and ballots
//	rank.go        which member is to lead
//	candidate.go   votes, the claim, passing the candidacy on
//	primary.go     the leader in each phase; down; restart in place; serving
//	handover.go    a planned handover
//	hangs.go       a primary whose server does not answer, or whose machine is at fault
//	lease.go       how long a primary may serve
//	syncset.go     durabilityRules: who the voters are, and how that changes safely
//	standbycluster.go, witness.go, given.go: two sites
//	rules.go, view.go: the engine, and what conditions look at
//	position.go    timelines and who is ahead; record.go, report.go, observation.go,
//	action.go, state.go: the values
package ha
