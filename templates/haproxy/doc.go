// Package haproxy switches a running HAProxy by its Runtime API, as a topology of
// package templates says.
//
//	Proxy ─┬─> route        pure: which state each server is to have, and the commands for it
//	       ├─> runtimeAPI   the stats socket: commands, and a look at what they did
//	       ├─> agent socket one connection, kept open: HAProxy believes us while it is there
//	       └─> masterCLI    `haproxy -W -S`: reloads, and older workers
//
// # The file
//
// haproxy.cfg.tmpl has each member four times. The backends <service>_primary
// and <service>_replicas are this package's: all their servers are disabled in
// the file, and made ready by commands. The two backends *_checked use
// HAProxy's own checks of the members' APIs. Which of them a client gets is
// decided by one connection, which Proxy.Run keeps to the frontend
// <service>_agent: while it is there, ours; without it (we are dead, or know
// nothing current: Release), the checks'. So the file never says who is primary,
// is never out of date about it, and a change of roles never needs a reload. All
// checked servers start down (haproxy.state.tmpl): HAProxy sends nobody to a
// server before it has asked; nor to any, while two claim to be primary.
//
// # Waiting
//
// The same connection makes clients wait. It occupies the only place of the
// server _hold, a backup server in <service>_primary. While no member there is
// ready (a failover), or the primary is in drain (Topology.Held, a planned
// switchover: its sessions go on), _hold is all that is left, and full: new
// connections wait in the backend's queue, up to `timeout queue`, and HAProxy
// sends them to the new primary in the moment in which that is made ready.
//
// The order at the beginning matters: the states are given but nobody is let in, the
// connection is made, a look shows that it occupies _hold, and only then is the primary
// made ready. HAProxy 3.2 remembers a server that leaves maintenance (or comes up) while
// its backend has no session at all, and sends it the next client for whom there is no
// place, in whatever state it is by then: a replica in maintenance served the first
// client of each hold. While our connection is there, the backend has a session. Besides,
// no server leaves maintenance but the one that is to be the primary.
//
// # What it costs
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
// # Names
//
// With HAProxySettings.Resolvers, members registered by a host's name are looked up
// by HAProxy while it runs. HAProxy 2.6 takes a server that has just got its address
// for healthy until its first check has failed, and sent clients to a replica in that
// moment. So the *_checked servers then have no checks, and track servers of the
// backends *_checks, whose address is an abstract socket inside HAProxy: what is
// asked there is forwarded to the API by name.
//
// # Reloads
//
// With HAProxy's master socket (`haproxy -W -S`), Proxy.Reload takes up a file that
// has changed: HAProxy answers when it has, from 2.7 on; where no answer comes, `show
// proc` is asked until a new worker runs, or the master counts one more failed reload.
// Without that socket it is told by a signal, which it misses during a reload: each look
// compares the servers it has with the topology's (ProxyStatus.Missing), and package
// templates tells it again.
// A reload leaves sessions in the old worker, which no stats socket leads to, and which
// refuses `shutdown sessions server` ("Proxy is disabled"). While there are old workers,
// the sessions are therefore ended one by one through the master when their member's
// role has gone: 1,000 in 90 ms. Without the master socket they are left to the end of
// their servers.
//
// Clients that wait in an old worker's queue can be let in nowhere, and HAProxy 3.0 must
// not be told to end them: it then keeps them for good, closed towards the server and
// open towards the client. But our connection to the old worker ends with it, and that
// frees its _hold: one after the other is sent there, and turned away by the new worker,
// where our new connection has the place.
//
// # Goroutines
//
//	Proxy.Run          keeps the connection, sends news, compares every 400 ms
//	  reader           one for each connection to a <service>_agent; ends with it
//	  drainOldWorkers  one where there is a master socket: ends what they should not have
//
// Offer and Release only wake Run; Apply does its work in the caller's goroutine.
package haproxy
