// Package templates brings the cluster's topology to those who are not part of
// it: configuration files, HAProxy, PgBouncer.
//
//	record and registrations ──Build──> Topology ──> Agent ─┬─> HAProxy    switched by its Runtime API
//	                                                        ├─> File       rendered, checked, replaced
//	                                                        └─> PgBouncer  clients held while the primary changes
//
// Build, Render and route are pure. A Topology names a primary only when the
// record says that its leader's server has proved writable; tags in the catalog
// never make one. Text from Consul is checked where it enters (names, addresses)
// and again where a template prints it (no line breaks), so that it cannot add
// lines to a file.
//
// # HAProxy
//
// haproxy.cfg.tmpl has each member four times. The backends <service>_primary
// and <service>_replicas are this package's: all their servers are disabled in
// the file, and made ready by commands. The two backends *_checked go by
// HAProxy's own checks of the members' APIs. Which of them a client gets is
// decided by one connection, which HAProxy.Run keeps to the frontend
// <service>_agent: while it is there, ours; without it (we are dead, or know
// nothing current: Release), the checks'. So the file never says who is primary,
// is never out of date about it, and a change of roles never needs a reload. All
// checked servers start down (haproxy.state.tmpl): HAProxy sends nobody to a
// server before it has asked; nor to any, while two claim to be primary.
//
// The same connection makes clients wait. It occupies the only place of the
// server _hold, a backup server in <service>_primary. While no member there is
// ready (a failover), or the primary is in drain (Topology.Held, a planned
// switchover: its sessions go on), _hold is all that is left, and full: new
// connections wait in the backend's queue, up to `timeout queue`, and HAProxy
// sends them to the new primary in the moment in which that is made ready.
//
// Measured with HAProxy 2.6.12 on two busy cores, 200 sessions open: commands
// are taken in 0.1 ms; from Apply to the first new connection on the new
// primary 1 ms after a gap, 6 ms where the old one's sessions have to be ended
// at the same time; from the record's change in Consul to that connection 5 ms;
// sessions of the deposed primary ended after 7 ms; 50 clients that waited were
// served within 6 ms. With 1,000 sessions open, on two quiet cores and with the
// write to Consul (1.1 ms): 2.2 ms to the first new connection (worst 4 to 7), and
// 20 to 21 ms until the deposed primary's last session has ended (worst 25 to 31); with
// each of HAProxy's threads on a core of its own (cpu-map) 19 to 20 ms, worst 21 to 26,
// as the kernel at times runs two threads on one core for 10 ms while the other is
// idle. That is HAProxy's own work, 17 ms of both cores: 36 µs for each session, four
// fifths of it in the kernel (shutdown and close of two sockets). Nothing is won by
// tune.runqueue-depth, tune.sched.low-latency, tune.fd.edge-triggered, buffer sizes or
// one thread (28 ms); option nolinger takes 1 ms off it and cuts what servers have not
// read.
//
// What was tried and is not so: without _hold a connection in the gap is
// accepted and closed at once; a backup server without `option allbackups` keeps
// the queue to itself, and nobody takes it over; leaving drain does not look at
// the queue, setting maxconn does (letIn); a refused connection is tried again
// only after min(1 s, timeout connect).
//
// With HAProxySettings.Resolvers, members registered by a host's name are looked up
// by HAProxy while it runs. HAProxy 2.6 takes a server that has just got its address
// for healthy until its first check has failed, and sent clients to a replica in that
// moment. So the *_checked servers then have no checks, and track servers of the
// backends *_checks, whose address is an abstract socket inside HAProxy: what is
// asked there is led on to the API by name.
//
// # Reloads
//
// With HAProxy's master socket (`haproxy -W -S`), HAProxy.Reload takes up a file that
// has changed: 2.6 says nothing, so `show proc` is asked until a new worker runs, or
// the master has read its files and there is none: then they were refused. A reload
// leaves sessions in the old worker, which no stats socket leads to, and which refuses
// `shutdown sessions server` ("Proxy is disabled"). While there are old workers, the
// sessions are therefore ended one by one through the master when their member's role
// has gone: 1,000 in 90 ms. Clients that wait in an old worker's queue are ended too:
// they cannot be let in there, and would be held for ever by the new worker's _hold.
// Without the master socket all these are left to the end of their servers, and to
// hard-stop-after.
//
// # A planned switchover
//
// The primary makes its checkpoint, withdraws its tag in the catalog, and waits for the
// transactions that began before that, or within 50 ms after it: the time in which
// proxies hold their clients. PgBouncer's wait in PAUSE, which comes when its own logins
// have ended (40 ms at most), and then HAProxy's new connections in its queue. After
// the 50 ms the primary looks, for 50 ms more at most, for a moment in which nothing is
// open and nobody logs in, for a proxy that is late. Then it is stopped,
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
// on disk too (cmd/pgsidecar, recall.go): while Consul is away at the start, files
// that are missing are written of it (Agent.Recall), and nothing else.
//
// # Goroutines
//
//	Agent.Run      writes files; waits for those below
//	Agent.tell     one: runs commands, and reloads HAProxy
//	HAProxy.Run    one for each HAProxy: keeps the connection, sends news, compares every 400 ms
//	  reader       one for each connection to a <service>_agent; ends with it
//	  old workers  one where there is a master socket: ends what they should not have; waits for a reload
//	PgBouncer.Run  one for each PgBouncer: pauses and resumes
//
// Update and Release only leave word for these (and Update waits, 45 ms at most, for
// PgBouncer at the beginning of a planned switchover); Apply does its work in the
// caller's goroutine. Outside this process, each pause of a PgBouncer is
// watched by a rescue process, which resumes if we die. It is started before it
// is needed: to start one takes longer than the pause should.
package templates
