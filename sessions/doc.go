// Package sessions is the cluster's place in Consul: the session, the leader
// lock, the record, the settings, the history, and the registered service. It
// decides nothing: it turns Consul's data into an ha.Consul, and an ha.Change
// into one transaction.
//
// # Keys
//
//	<prefix>/<cluster>/leader            locked by the holder's session; its value is the member's name, plain
//	<prefix>/<cluster>/state             ha.Record in JSON, changed by compare-and-swap only
//	<prefix>/<cluster>/config            the cluster's settings, as PutSettings wrote them
//	<prefix>/<cluster>/history/<term>    twenty digits, so that keys sort by term
//	<prefix>/<cluster>/outages/<month>   such as 2026-11; a line of JSON for each outage (package availability)
//	<prefix>/<cluster>/backup            locked by the session of the member that makes a backup (Alone)
//	<prefix>/<cluster>/backups/<name>    the last backup of that block
//	service <service>, id <service>-<member>, its checks <service>-<member>:<check>
//
// # What of Consul is relied on
//
// A transaction applies wholly or not at all. Commit ends each with a read of
// both keys, so what it puts into the view is what the transaction left, from
// one moment. Without a write in it a transaction is answered by Consul's
// leader; with ?consistent that asks a majority first whether it still leads.
// Confirm is such a transaction, and nothing else sets SeenAt, HeldAt or a
// member's record: blocking queries only wake this program. They have the default
// consistency, which may be stale for a moment after a change of leader, so
// that a wake-up may come late but never puts old data into the view. Who only
// follows the cluster, as a proxy does, takes a newer record from them (hear). The
// settings and the list of members are read by blocking queries alone. SeenAt
// of a quiet member is at most about 11 s old, a holder's about 1 s, or 3 s while the
// members' word keeps its lease (SetHolding).
//
// The times in the view are those before the request was sent (rule S5).
// HeldAt stays when the session changes: it was true when it was asked.
//
// A failed write is one of three things: Consul refused it (ErrConflict), it
// was never sent (ErrUnreachable: no connection, or the server knew no leader),
// or nobody knows (ErrUnknownOutcome). A write is never sent twice; after a
// conflict or an unknown outcome both keys are read again, and if they are what
// the change wanted it has succeeded.
//
// # Session
//
// Its TTL is all it lives by: no check is tied to it. Consul ends it between
// one and two TTLs after the last renewal, and starts that anew when Consul's
// leader changes. Its lock delay is 1 ms, the smallest that the Go client
// sends. It releases the lock when it ends and leaves the name in the key, so
// that vip-manager and people do not see the holder go while it takes the lock
// again; the end is seen by a blocking query, and the next session stands some
// 10 ms later.
//
// A session belongs to the node of the agent that made it, and ends when that
// node is taken out of Consul (an agent that leaves cleanly; measured: 4.3 s
// after SIGINT, then a new session through the next address at once). It does
// not end when the agent only dies or is unreachable: then it is renewed
// through the next address, and the session stays where it was made.
//
// # Addresses
//
// Each call goes to the address that answered last. If that gives no answer
// within a second, or one that is not Consul's, or refuses the connection, or
// knows no leader, the next is asked at once, and all go there; every 2 s it is
// seen whether an earlier one answers again. The blocking queries follow. The
// service is registered with the first address only: what another agent
// registers belongs to that one's node, and would be a second entry when the
// first is back.
//
// # Never two answers
//
// An agent keeps its own idea of its services and puts it into the catalog: at
// every change of a check, in a full comparison about once a minute, when it
// joins a server, and on many of the requests made to it. So a tag that was
// taken from a dead member in the catalog may come back. Measured with Consul
// 1.22.5, a client agent whose comparison was set to once a second, and a
// sidecar that was dead while its TTL checks were good for another 10 s:
//
//   - EnableTagOverride false: at each comparison the old tag came back, and
//     DNS gave two primaries until it was taken again.
//   - EnableTagOverride true: never; the agent took the catalog's tags over,
//     and kept them when the check expired.
//
// So it is true. What it does not cover: an agent that is killed and restarts
// reads the old tag from its disk, and an update of any of its checks, before
// its first comparison, writes that to the catalog (measured: two answers
// within 400 ms of the restart). And where only the output of a check has changed, and not
// its status, an agent tells the catalog 2.5 to 7.5 minutes later (check_update_interval),
// with its tags of that moment: seen in chaos from an agent whose member had just been killed
// and evicted. For that reason an output changes only together with its status. What a check
// says stands in its notes, which the agent tells with the registration. Therefore, first, the
// tag primary is given to
// the agent, and a new status of a check to an agent that has it, only after a
// consistent read has shown that this member's session holds the lock, and a member that wants it while another holds the lock is
// registered without it before its checks are told; while Consul does not say who
// holds it (as when this host stood still, and its agent has not found the
// servers again) the agent is told nothing new but what hides the instance, and
// an answer that is 2 s old counts as none. Second, the announced holder takes
// the tag from anybody else that turns up with it, as soon as the catalog says so
// (measured: within 10 to 70 ms). Evict costs 4 to 6 ms, a change of the record
// 1.2 to 2 ms, and 2 to 3 ms until another member's view has it. Between
// Register and the answer of DNS lie 15 to 33 ms. (All with one server that
// syncs its disk, on a busy machine with two cores.)
//
// One more is known, and nothing prevents it: when all servers start anew they replay
// their log, and an agent that starts with them may compare itself with a catalog of
// some minutes ago, and take its tags over. The member puts its own right when it
// next looks, and DNS may name the earlier primary too until then (measured in chaos,
// servers and agents killed and started: 0.5 s).
//
// # Whose an instance is
//
// An instance says whose it is by its meta: the cluster's name, and the prefix of its
// keys. Another cluster's under the same service, or under the same id at the same
// agent, is never written, listed or dialled; that it is there is said (View.Err), and
// a cluster is neither founded nor joined beside it (CheckService, Commit). What
// somebody takes from this member's own entry in the catalog is put back (putBack):
// the agent compares itself with the catalog once a minute, and then believes the
// catalog's tags.
//
// # Steady state
//
// Nothing is written to Consul's Raft log while nothing changes: a renewal
// resets a timer in the leader's memory, a confirmation only reads, and an
// agent does not tell the catalog of a TTL check's update with the same status
// and output. A test counts the log's entries. The agent is told of an unchanged
// check about once in a third of its TTL; what SetHolding finds nearly due is done with
// it.
//
// # Permissions
//
// The ACL policy that a member needs is policy.hcl; Policy returns it for other
// names. A test takes each of its rules away, and sees the error name it.
//
// Evict writes services in a transaction, which needs no rule for nodes. Where
// Consul leaves out of an answer what a token may not read, that is reported
// as ErrPermission and not taken for absence.
//
// # Goroutines
//
// All belong to Run, which waits for them.
//
//	keepSession      makes and renews the session; owns one follow for its end
//	keepConfirming   reads record and lock: when woken, each second while the lease lives on that, after failures
//	keepRegistered   compares the registration with the agent; takes the tag from rivals, and from replicas that are gone; puts back what is taken
//	returnHome       goes back to the first address
//	watchDNS         sees that DNS finds the service, which asks with the agent's token
//	follow (four)    the blocking queries: state, leader, config, service
package sessions
