// Package api is a member's HTTP server: health for load balancers, status for
// people, metrics for Prometheus, and changes for operators.
//
// Everything that is only read is answered from View, a snapshot of the last
// decision, without SQL and without Consul (but for /drill and /backup). What ages is computed against the
// clock at the time of the request: /primary answers 200 only while the server
// was last seen writable and the lease has not run out, even if the loop that
// decides hangs.
//
// Paths, bodies, statuses and the patroni_* metrics are Patroni's 4.1, so that
// HAProxy's published configuration, check_patroni and vip-manager work
// unchanged. Differences, all on purpose: /primary and /leader say that the
// server is writable, not only that the lock is held; HEAD and OPTIONS work on
// every path; an unknown path is 404, not 503; a query or body that cannot be
// read is 400, not ignored; without a token nothing may be changed.
//
// /drill has what the last drill showed, which is read from Consul, every two
// seconds at most; and takes faults for a drill of the live cluster.
//
// /backup has what the repositories of backups have: their programs list it, every
// five seconds at most.
//
// /ui is the cluster's page (package page), if it is turned on.
//
// /peer is not ours: it is mounted for the mesh of streams between members.
//
// # Changes
//
// A change needs the token (Authorization: Bearer, or the password of Basic
// with any user name) or a client certificate that the configured authority
// signed. What is refused is logged. A request from another site's page, which
// a browser sends with its credentials, is refused. Control does the change;
// its context bounds only how long the client waits.
//
// # Limits
//
// Headers 16 KiB and bodies 64 KiB; header 3 s, body 10 s; 1024 connections,
// 256 of them from one address; 32 changes at once. What is more is closed or
// refused at once, so that it cannot keep a health check waiting.
//
// # Goroutines
//
//	Run        the caller's; serves until its context ends, and joins the next
//	serve      net/http's Serve, and its goroutine for each connection
package api
