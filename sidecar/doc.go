// Package sidecar is the shell around the core: it owns goroutines, time and
// order, and knows no vendor's API.
//
// One loop observes, decides and acts:
//
//	events ──> observe() ──> ha.Decide ──> act() ──> operations ──┐
//	   ^                        │                                 │
//	   └────────────────────────┴── results are observed again <──┘
//
// The loop never waits for anything but an event. Whatever takes time runs in a
// goroutine of its own, with a deadline, and its result is a fact in the next
// observation. An operation on the server is exclusive; a stop cancels the one
// under way and waits for its end.
//
// Safety does not depend on the loop being alive: the guard, a process of its
// own, stops the server when its lease is not renewed (package guard).
//
// # Goroutines
//
//	name         owner  ends when              does
//	loop         Run    ctx, or an Exit        owns ha.State: observe, decide, act, report
//	look         Run    ctx                    SQL looks and write probes of the server
//	upkeep       Run    ctx                    roles and replication slots
//	cluster      Run    ctx                    Cluster.Run: session, watches, registration
//	peers        Run    ctx                    Peers.Run: streams to the other members
//	operation    loop   done or cancelled      at most one on the server
//	transaction  loop   done or deadline       at most one Consul transaction
//	lease        loop   done or deadline       at most one request to the guard
//	announce     loop   done or deadline       at most one change of the registration
//
// Run waits for all of them.
//
// # A calm member
//
// What an idle process costs is how often it wakes, and what else wakes with it.
// So what is due soon (the look, the confirmation of the lock, the comparison with
// the agent) is done with a decision that is made anyway, the lease is extended by
// seconds and not by every answer, and Options.Calm tells who runs this package
// when nothing has happened for a while. Each begins again with the first event.
//
// # Facts
//
// ha.Server is put together from three sources: the guard (is there a process,
// since when; at once by its notification), the files (what the data directory
// holds, the promise; after each operation on them) and SQL (roles, positions,
// walsenders; by looks). An operation that succeeds writes down what is known
// by its success, so that the failover path never waits for a look.
package sidecar
