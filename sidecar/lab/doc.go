// Package lab makes a whole cluster on one machine: Consul, the members,
// HAProxy and, if asked, PgBouncer; to try the product, to test it end to end,
// and to break it on purpose (package drill).
//
// # Hosts
//
// A lab is a set of hosts. A member's host (n1, n2, …) runs a Consul agent and
// `pgsidecar run`, which starts its guard, which starts PostgreSQL. The host
// "app" is where an application lives: a Consul agent, HAProxy in master-worker
// mode, `pgsidecar proxy` beside it, and PgBouncer. The hosts c1 (to c3) run a
// Consul server each.
//
// On loopback (any user) hosts differ by their ports on 127.0.0.1. Isolated
// (root) each host is a network namespace with an address and a link of its
// own; the links meet in a bridge, in a namespace that has no way out. Then a
// link can be cut, for all traffic or from one host to another.
//
// Breakable (root) each member's data is on a file system of its own, in memory,
// that can be full; its WAL is archived, unless that is blocked; and Consul's
// ACLs are on, with a token for the members that can be revoked. Where the machine
// has loop devices and mkfs.ext4 that file system is an image (Plan.Hangable), which
// can also hang: a frozen one takes no write, and who waits for it cannot be killed.
//
// Of two sites (Options.Sites, isolated) each is a Lab with a network and a Consul
// datacenter of its own; the second's cluster follows the first's. What is between them
// (makeWAN) is slow and loses a little, and beside it is the host of a third Consul, the
// witness. A site can be switched, lost, or cut off from the other.
//
// Another program may run the members (Agent), to be measured on the same hosts.
//
// # Nothing left behind
//
// Everything a lab makes is in its folder, or is named in the journal in that
// folder before it is made. So Down, and the next Up, clean up after a lab that
// was killed at any moment, and touch nothing else: processes are found by the
// mark that they inherited in their environment (EnvMark), by the namespace of
// their host, or, for PostgreSQL, by the data directory they work in; never by
// name. A process is signalled through a pidfd opened before it was looked at,
// so a recycled pid is never hit.
//
// # Goroutines
//
// For each process started by this Lab value one goroutine waits for its exit,
// to reap it; it ends with the process. A relay, which delays a link, has four
// (see there). All else is done by the caller's
// goroutine. To dial from inside a host's namespace the caller's goroutine is
// locked to its thread for the length of the connect.
//
// The package is for Linux: namespaces, pidfds and /proc.
package lab
