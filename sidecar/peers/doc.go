// Package peers is the mesh of streams over which the members of a cluster tell
// each other their ha.Report (DESIGN: signals, rules S5, S6 and S8).
//
// There are no requests. Votes, pre-votes, promises and confirmations of a
// lease are facts in a report, and every member sends its newest report to
// everyone who asked for it: at each change at once, and at every heartbeat.
//
// # Streams
//
// To hear a member one dials it: one TCP connection for each
// direction, so that everything known of a member comes from one connection
// that this process owns, dials and judges by itself:
//
//	subscriber                                publisher
//	GET /peer, Upgrade: pgsidecar-peer/1  ->            cluster, name, process, nonce
//	                                      <-  101       name, process, nonce
//	proof                                 ->
//	                                      <-  frames    length, JSON, HMAC-SHA256
//
// End of file or a reset breaks a stream at once, silence after
// Options.Timeout. A peer whose host is gone is known sooner: by a silence that its
// link has not shown of late, in which neither of its ports answers (silence.go). The address is dialled again at once, then every 20 to 500
// ms. Refused means that nobody listens there any more: the process is gone
// (ha.LinkRefused). Then its server's port is tried too, because both together
// prove that the old primary is dead (S6). An accepted stream proves nothing
// about its subscriber; it only makes this process dial that member at once.
//
// # Who may speak
//
// All members share a secret. Each stream has a key of its own, an HMAC of both
// nonces, names and processes under the secret; the subscriber proves first
// that it has it, the publisher by its first frame. Every frame's HMAC covers
// its number, so that a replayed, reordered, reflected or changed frame ends
// the stream. There are no timestamps on the wire. The secret is read again for
// every new stream. What is refused is counted, and logged once per cause and
// minute.
//
// A firewall that answers with a reset in place of a host makes it look dead.
// Firewalls between members must drop, not reject.
//
// # Echoes
//
// A primary's lease may rest on the others' echoes (S5). An echo must not be
// newer than what its report promises. So a report echoes only what Peers had
// returned for the decision that the report comes from: a loop that calls Peers,
// then reads its promise, decides, and publishes what has changed, never
// confirms a lease by what it received after it saw its promise of a later term.
// A report's sequence numbers begin at random, so that an echo meant for an
// earlier process of the same name means nothing to the next.
//
// Where nothing has changed for a while, here and there, a heartbeat that comes
// waits for the next of our own: Run then wakes the loop, and what it publishes is
// the heartbeat, with echoes of all that came. One that comes when ours is due
// within half a heartbeat brings ours forward, so that the members beat together,
// the processes wake once for all of it, and an echo comes back at once.
//
// Heartbeats stop when that loop has called neither for Options.Timeout: they
// are a sign of its life, not of this package's.
//
// # Goroutines
//
//	Run            the caller's; heartbeats; starts and joins the others
//	follow         one for each other member; owned by Run; ends with its address or Run
//	watchPort      one; owned by Run: tries the port of a leader's server that nothing comes from
//	ServeHTTP      net/http's, one for each accepted stream; joined by Run
//	watchGone      one for each accepted stream; joined by its ServeHTTP
//	try            six at most, while a silent peer's ports are tried; joined by its follow;
//	               three more, of watchPort
package peers
