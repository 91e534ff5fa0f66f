// Package templates brings the cluster's topology to what is not part of the cluster:
// configuration files, proxies and poolers.
//
//	record and registrations ──Build──> Topology ──> Agent ─┬─> File    rendered, checked, replaced
//	                                                        ├─> Proxy   package haproxy: switched by its Runtime API
//	                                                        └─> Pooler  package pgbouncer: clients held while the primary changes
//
// Build and Render are pure. A Topology names a primary only when the record says that
// its leader's server has proved writable; tags in the catalog never make one. Text
// from Consul is checked where it enters (names, addresses) and again where a template
// prints it (no line breaks), so that it cannot add lines to a file.
//
// The Agent knows its proxies and poolers by two interfaces of four methods each; their
// packages import this one, never the other way round. What their files need to know
// is here (HAProxySettings, PgBouncerSettings), as it is the templates that read it.
//
// # A planned switchover
//
// The primary makes its checkpoint, withdraws its tag in the catalog, and waits for the
// transactions that began before that, or within 50 ms after it: the time in which
// proxies hold their clients. PgBouncer's wait in PAUSE, which comes when its own logins
// have ended (40 ms at most), and then HAProxy's new connections in its queue. After
// the 50 ms the primary looks, for 50 ms more at most, for a moment in which nothing is
// open and nobody logs in, for a proxy that is late. Those that it saw logging in by then it
// waits for, 300 ms in all at most. Then it is stopped,
// and the new record lets all of them go on. If a transaction does not end within
// 500 ms the tag comes back, which lets them go on too. Each pause has an expiry of its
// own (15 s); in HAProxy a client waits no longer than the queue's time-out besides.
//
// # Files
//
// A file is replaced by rename, after its checker has accepted the new one
// beside it; until then, and after any error, the last good one stands. That its
// command is still to be run, or HAProxy to be reloaded, is noted on disk, so that
// a killed process's successor does it. What the last topology was made of is kept
// on disk too, by the caller of Build: while Consul is away at the start, files
// that are missing are written of it (Agent.Recall), and nothing else.
//
// A program may miss that it was told: HAProxy misses a signal that comes during its
// reload, and nothing says so. So a command that runs within a second after itself runs
// once more a second later; and a file whose servers HAProxy still lacks after two
// seconds is in error, and its command runs again, after 5 seconds, then 10, up to 5
// minutes (takenup.go).
//
// Every file is rendered anew for each change of what it reads: 5,000 lines of 1,000
// services take 50 ms.
//
// # Goroutines
//
//	Agent.Run      writes files; waits for those below
//	Agent.notify   one: runs commands, and reloads proxies
//	Proxy.Run      one for each proxy (see its package for those that it starts)
//	Pooler.Run     one for each pooler
//
// Update and Release only wake these (and Update waits, 45 ms at most, for
// PgBouncer at the beginning of a planned switchover).
package templates
