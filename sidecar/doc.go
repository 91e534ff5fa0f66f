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
// # Parts
//
// Sidecar is made of parts; each owns its fields and its lock, and its file is named
// for it. None calls another while it holds its lock.
//
//	loop.go             observe, decide, act, report; what only the loop touches
//	facts.go, looks.go  what is known of the server, and the looks at it
//	operations.go       what is done to the server, the record and the guard
//	maintenance.go      settings, roles and slots of the server
//	intents.go          what people asked for, until it is done or given up
//	registration.go     what Consul's service says of this member
//	failover_record.go  the phases of the newest term (package failover)
//	configuration.go    the configuration file, with the cluster's settings over it
//	snapshot.go         the last decision, for the API and for those that wait
//
// # Goroutines
//
//	name         owner  ends when              does
//	loop         Run    ctx, or an Exit        owns ha.State: observe, decide, act, report
//	look         Run    ctx                    SQL looks and write probes of the server
//	standstill   look   the look               whether this process runs while it waits for an answer
//	maintenance  Run    ctx                    settings, roles and replication slots
//	cluster      Run    ctx                    Cluster.Run: session, watches, registration
//	peers        Run    ctx                    Peers.Run: streams to the other members
//	site         Run    ctx                    Site.Run: the primary at the other site
//	operation    loop   done or cancelled      at most one on the server
//	checkpoint   loop   done or deadline       at most one, beside an operation
//	transaction  loop   done or deadline       at most one Consul transaction
//	lease        loop   done or deadline       at most one request to the guard
//	announce     loop   done or deadline       at most one change of the registration
//	record       loop   done or deadline       stores a term's record when the catalog leads there
//
// Run waits for all of them.
//
// # An idle member
//
// What an idle process costs is how often it wakes, and what else wakes with it.
// So what is due soon (the look, the confirmation of the lock, the comparison with
// the agent) is done with a decision that is made anyway, the lease is extended by
// seconds and not by every answer, and Options.OnIdle tells who runs this package
// when nothing has happened for a while. Each begins again with the first event.
//
// # Facts
//
// ha.Server has a part for each source: the guard (Postmaster: is there a process,
// since when; at once by its notification), the files (Files: what the data directory
// holds, the promise; after each operation on them), SQL (SQL: roles, positions,
// walsenders; by looks) and what came of looks and write probes in a row (Probes). A
// part is taken over whole, and what SQL and probes said is forgotten whole when the
// process ends: a new fact of SQL is a field of ha.SQL and one scan in package checks.
// An operation that succeeds writes down what is known by its success, so that the
// failover path never waits for a look.
package sidecar
