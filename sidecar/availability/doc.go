// Package availability computes how available a cluster was, from the outages that its
// leaders wrote down.
//
//	Outage     a time in which no primary took writes: the leader that ended it wrote it
//	Journal    a month of them, as Consul keeps it: a line of JSON each
//	Compute    (total − down) / total for each period; MTBF, MTTR, nines, error budget
//
// What nobody has seen is unknown, and never up: a leader that finds that its own member
// had not seen a primary for long, and was not running meanwhile, writes the gap down as
// Unseen. It is in no figure, and is shown beside them. Nothing is written in the steady
// state.
//
// A planned outage (a switchover, a restart in place) counts as down as any other does,
// and is shown by itself, as some objectives leave it out.
//
// The package has no goroutine and no I/O.
package availability
