package ha_test

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestPeersBugs holds the core to what other programs for this task were found
// to do wrong, in the moment in which they did it.
func TestPeersBugs(t *testing.T) {
	for _, c := range []struct {
		name   string
		from   func() ha.Observation
		change func(*ha.Observation)
		want   string
	}{
		{"the plain case, against which the others are seen", electing, func(*ha.Observation) {}, "claim timeline 4"},

		// Who is the best.
		{"stolon sorts the wrong way and elects the least advanced standby", electing,
			func(o *ha.Observation) { vote(o, 1, at(3, 180)) }, "pass to n3"},
		{"LiteFS: the first to get the lock leads, whatever it lacks", electing,
			func(o *ha.Observation) { vote(o, 1, at(3, 101)) }, "pass to n3"},
		{"Patroni without check_timeline: more bytes of an older timeline win", electing,
			func(o *ha.Observation) { o.Server.Position = at(3, 100, forked...); vote(o, 1, at(2, 5000)) }, "claim timeline 4"},
		{"Patroni #2779: the member on the older timeline stands, with more bytes", electing,
			func(o *ha.Observation) { o.Server.Position = at(2, 5000); vote(o, 1, at(3, 100, forked...)) }, "pass to n3"},
		{"Patroni #1251: two histories under one timeline number", electing,
			func(o *ha.Observation) {
				o.Peers[0].Report.Position = at(6, 70, ha.Fork{TLI: 2, End: 60})
			}, "claim timeline 7"},
		{"pg_auto_failover: a preferred member is promoted only with what the best has", electing,
			func(o *ha.Observation) {
				vote(o, 1, at(3, 180))
				o.Peers[1].Report.Eligible, o.Peers[1].Report.Session = false, ""
			}, "follow n3"},

		// What a vote is.
		{"Patroni counts positions of members that still receive", electing,
			func(o *ha.Observation) { o.Peers[1].Report.Voted = false }, "blocked: 2 votes of the voters; not yet from: n3"},
		{"Patroni's winner receives until it is promoted", electing,
			func(o *ha.Observation) { o.Server.Fenced = false }, "fence"},
		{"repmgr goes ahead although the walreceiver is still there", electing,
			func(o *ha.Observation) { o.Server.Settled = false }, "nothing"},
		{"Patroni: the vote of a voter that may not lead is not counted", electing,
			func(o *ha.Observation) { o.Peers[1].Report.Eligible = false }, "claim timeline 4"},
		{"a single vote is awaited", electing, func(o *ha.Observation) {
			o.Peers[1].Report.Voted, o.Consul.Record.Durability.Voters, o.Consul.Record.Durability.K = false, []string{"n3"}, 1
		}, "blocked: 1 vote of the voters; not yet from: n3"},
		{"a vote of an earlier term is none", electing,
			func(o *ha.Observation) { o.Peers[1].Report.Term = 3 }, "blocked: 2 votes of the voters; not yet from: n3"},

		// When it is decided.
		{"CloudNativePG does not ask for the quorum again in its second phase", electing,
			func(o *ha.Observation) { o.Peers[1].Report.Voted, o.Peers[1].Link = false, ha.LinkSilent }, "blocked: 2 votes of the voters; not yet from: n3"},
		{"the plain promotion", promoting, func(*ha.Observation) {}, "promote"},
		{"a promotion begun when the lock was already lost", promoting,
			func(o *ha.Observation) { o.Consul.Lock = ha.Lock{Holder: "n3", Session: "session of n3", Index: 9} }, "reacquire to n2"},
		{"a promotion begun when a peer knows of a later term", promoting,
			func(o *ha.Observation) {
				o.Peers[1].Report.Record = ha.RecordSeen{Term: 5, Leader: "n3", Phase: ha.PhaseElecting, Index: 10}
			}, "stop"},
		{"pgconsul: the primary came back while the others elected", lonely,
			func(o *ha.Observation) { o.Peers[0].Link, o.Peers[0].ReceivedAt = ha.LinkUp, now }, "nothing"},
		{"Patroni frozen and awake again: a candidate that slept between its last look and the promotion", promoting,
			func(o *ha.Observation) {
				o.Consul.HeldAt, o.Server.LeaseUntil = now.Add(-time.Minute), now.Add(-time.Second)
			}, "nothing"},
		{"Patroni #3306: a promotion that fails leaves a leader that is read only", promoting,
			func(o *ha.Observation) {
				o.Busy = ha.Busy{FailedAt: now.Add(-time.Second), FailedKind: ha.Promote, Failures: 2}
			}, "pass to n3"},
		{"CloudNativePG #10409: a replica that has voted goes back to the old primary", following,
			func(o *ha.Observation) { o.Server.Promise = 4 }, "blocked: Consul's record of term 4, which this member has promised"},
		{"Patroni's graceful stop outlasts its ttl: whoever leads by then is not told of an end", leading,
			func(o *ha.Observation) {
				stopped(o)
				o.Intent.Shutdown, o.Server.CleanStop, o.Consul.Lock, o.Consul.Session = true, true, ha.Lock{Index: 9}, "a new one"
			}, "exit"},

		// The way back.
		{"the plain way back", diverged, func(*ha.Observation) {}, "rewind n1"},
		{"Patroni #3367: a rewind before the new primary's checkpoint", diverged,
			func(o *ha.Observation) { o.Peers[0].Report.Checkpointed = false }, "blocked: a checkpoint of n1 after its promotion"},
		{"Patroni #99, #2581: a rewind that fails keeps the member out for good", diverged,
			func(o *ha.Observation) {
				o.Busy = ha.Busy{FailedAt: now.Add(-time.Minute), FailedKind: ha.Rewind, Failures: 2}
			}, "clone n1"},

		// Deadlocks.
		{"Patroni #3662: a member that is no voter hangs, and nobody leads", electing,
			func(o *ha.Observation) {
				o.Consul.Record.Members = []string{"n1", "n2", "n3", "n4"}
				o.Peers = append(o.Peers, ha.Peer{Member: "n4", Link: ha.LinkSilent, Report: ha.Report{Member: "n4", Term: 3, NoSync: true}})
			}, "claim timeline 4"},
		{"Patroni #3703: what the old primary wrote and nobody confirmed bars the others", electing,
			func(o *ha.Observation) { o.Peers[0].Report.Position = at(3, 900) }, "claim timeline 4"},
		{"Patroni #251: a demoted primary that is ahead leaves the cluster without a leader", electing,
			func(o *ha.Observation) {
				o.Peers[0] = o.Peers[1]
				o.Peers[0].Member, o.Peers[0].Report.Member, o.Peers[0].Report.Session = "n1", "n1", "session of n1"
				vote(o, 0, at(3, 900))
			}, "pass to n1"},
		{"Patroni #2070: the same in async mode", electing,
			func(o *ha.Observation) {
				o.Consul.Record.Durability, o.Policy.Mode, o.Server.Sync = ha.Durability{Mode: ha.ModeAsync}, ha.ModeAsync, ha.SyncSetting{}
				o.Peers[0] = o.Peers[1]
				o.Peers[0].Member, o.Peers[0].Report.Member, o.Peers[0].Report.Session = "n1", "n1", "session of n1"
				vote(o, 0, at(3, 900))
			}, "pass to n1"},

		// Who is dead.
		{"multigres suppresses it: one that is cut off deposes a primary that others hear", lonely,
			func(o *ha.Observation) { o.Peers[1].Report.Hears = true }, "blocked: 2 of the voters that have lost the primary and can be reached; not so: n3"},
		{"the plain ballot", lonely, func(*ha.Observation) {}, "ballot to n2"},
		{"Patroni: after a degradation to nobody, a standby is promoted without the last commits", electing,
			func(o *ha.Observation) {
				o.Consul.Record.Durability = ha.Durability{Mode: ha.ModeQuorum, Voters: []string{}}
			},
			"blocked: the vote of n1: no standby held each commit, so only it surely has them all"},
		{"Patroni #522: a lost session alone deposes the primary", leading,
			func(o *ha.Observation) {
				o.Consul.Lock, o.Consul.Session = ha.Lock{Index: 9}, "a new one"
			}, "reacquire to n1"},
		{"Patroni #1003: Consul away means read only, although the members are all there", leading,
			func(o *ha.Observation) { o.Consul.HeldAt, o.Consul.Reachable = now.Add(-time.Minute), ha.No }, "nothing"},
		{"Patroni #2625: and one member away as well", leading,
			func(o *ha.Observation) {
				o.Consul.HeldAt, o.Consul.Reachable, o.Server.LeaseUntil = now.Add(-time.Minute), ha.No, now
				silent(o, 1)
			}, "nothing"},
		{"and all of them: somebody else may be elected", leading,
			func(o *ha.Observation) {
				o.Consul.HeldAt, o.Consul.Reachable, o.Server.LeaseUntil = now.Add(-time.Minute), ha.No, now
				silent(o, 0)
				silent(o, 1)
			}, "stop"},
		{"CloudNativePG #10445: one look that fails makes a failover", leading,
			func(o *ha.Observation) { o.Server.FailingSince = now.Add(-time.Second) }, "nothing"},
		{"Patroni #1371: a server that hangs is left to hang", leading,
			func(o *ha.Observation) { o.Server.FailingSince = now.Add(-3 * time.Second) }, "stop"},
		{"a server that hangs by its own measure is not waited for", leading,
			func(o *ha.Observation) { o.Server.FailingSince, o.Server.Hangs = now.Add(-time.Second), true }, "stop"},
		{"but after crashes in a row it is: load follows the clients", leading,
			func(o *ha.Observation) {
				o.Server.FailingSince, o.Server.Hangs, o.Consul.Record.Crashes = now.Add(-time.Second), true, 9
			}, "steady to n1"},
		{"and in async mode it is: a commit may be lost", leading,
			func(o *ha.Observation) {
				o.Server.FailingSince, o.Server.Hangs = now.Add(-time.Second), true
				o.Policy.Mode, o.Consul.Record.Durability = ha.ModeAsync, ha.Durability{Mode: ha.ModeAsync}
			}, "widen to n1"},
		{"CloudNativePG #11348: a server that hangs is asked for a checkpoint before it is stopped", leading,
			func(o *ha.Observation) {
				o.Server.FailingSince, o.Intent = now.Add(-3*time.Second), ha.Intent{Switchover: true, Since: now.Add(-time.Second)}
			}, "stop"},

		// Maintenance.
		{"Patroni #2179: the lock is given up in a pause", leading,
			func(o *ha.Observation) {
				o.Policy.Paused, o.Consul.Lock, o.Consul.Session = true, ha.Lock{Index: 9}, "a new one"
			}, "reacquire to n1"},
		{"Patroni #2919: another is promoted in a pause", lonely,
			func(o *ha.Observation) { o.Policy.Paused = true }, "nothing"},
		{"Patroni #2919: a primary whose host was restarted in a pause comes back as a replica", leading,
			func(o *ha.Observation) {
				stopped(o)
				o.Policy.Paused, o.Server.ExitedAt = true, 0
			}, "start as primary"},
		{"Patroni #2834: a replica that was stopped by hand in a pause is started", following,
			func(o *ha.Observation) {
				stopped(o)
				o.Policy.Paused = true
			}, "blocked: the cluster is paused"},
		{"and a primary", leading,
			func(o *ha.Observation) {
				stopped(o)
				o.Policy.Paused = true
			}, "blocked: the cluster is paused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := c.from()
			c.change(&o)
			if got := step(o); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
