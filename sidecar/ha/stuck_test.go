package ha_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestHungStop: a primary that does not stop, as its disk hangs, extends no lease and is not
// heard any more, so that another can be elected.
func TestHungStop(t *testing.T) {
	o := leading()
	o.Server.FailingSince, o.Server.SeenAt, o.Server.LeaseUntil = now.Add(-time.Hour), now.Add(-time.Hour-1), now.Add(time.Second)
	for _, c := range []struct {
		since     time.Duration
		immediate bool
		hangs     bool
	}{{10 * time.Second, false, false}, {time.Minute, false, true}, {time.Second, true, false}, {3 * time.Second, true, true}} {
		o.Busy.Server, o.Busy.Since, o.Busy.Immediate = ha.Stop, now.Add(-c.since), c.immediate
		lease, s := asked(o, ha.Lease)
		r := ha.MakeReport(s, o)
		if (lease == nil) != c.hangs || r.Serving == c.hangs || r.Stopping != c.hangs {
			t.Errorf("stopping for %s (at once: %t): lease %+v, report %+v", c.since, c.immediate, lease, r)
		}
		if c.hangs && (len(s.Blocks) == 0 || !strings.Contains(s.Blocks[0].Missing, "disk")) {
			t.Errorf("nothing says so: %+v", s.Blocks)
		}
	}
	// The guard has killed it, and nobody else decides anything, as Consul has no record.
	o = leading()
	o.Consul.Record, o.Consul.Broken = ha.Record{}, "it is not JSON"
	o.Server.StartedAt = now.Add(-time.Hour)
	for _, c := range []struct {
		over  time.Duration
		hangs bool
	}{{0, false}, {3 * time.Second, true}} {
		o.Server.LeaseUntil = now.Add(-c.over)
		if r := ha.MakeReport(ha.State{}, o); r.Serving == c.hangs || r.Stopping != c.hangs {
			t.Errorf("%s after its lease: report %+v", c.over, r)
		}
	}
	// Its lease had ended before the server was started, as a standby: nobody has killed it.
	o.Server.StartedAt = now.Add(-time.Second)
	if r := ha.MakeReport(ha.State{}, o); r.Stopping {
		t.Errorf("started after the lease's end: report %+v", r)
	}
	f := following()
	f.Peers[0].Report.Serving, f.Peers[0].Report.Stopping = false, true
	if s, _ := ha.Decide(ha.State{}, f); s.Hears {
		t.Error("it is heard, as its walsender still streams")
	}
}

// TestPromotionFailsAndNobodyElse: a promotion is tried again for ever where nobody else can
// lead, and it is said why it fails.
func TestPromotionFailsAndNobodyElse(t *testing.T) {
	o := promoting()
	silent(&o, 1)
	o.Server.Armed, o.Server.LeaseUntil, o.Server.Problem = true, now.Add(5*time.Second), "no space left on device"
	o.Busy.FailedKind, o.Busy.Failures, o.Busy.FailedAt = ha.Promote, 2, now.Add(-30*time.Second)
	s, actions := settled(ha.State{}, o)
	promotes := false
	for _, a := range actions {
		promotes = promotes || a.Kind == ha.Promote
	}
	if !promotes || len(s.Blocks) == 0 || !strings.Contains(s.Blocks[0].Missing, "no space left") {
		t.Errorf("asked for %+v, blocked by %+v", actions, s.Blocks)
	}
}

// TestAsyncBesideAClone: in async mode a member whose server is being cloned keeps nobody
// from leading, as its sidecar says that it hears no primary.
func TestAsyncBesideAClone(t *testing.T) {
	o := lonely()
	o.Self, o.Consul.Session = "n3", "session of n3"
	o.Consul.Record.Durability = ha.Durability{Mode: ha.ModeAsync, Voters: []string{}}
	o.Policy.Mode, o.Server.Sync = ha.ModeAsync, ha.SyncSetting{}
	o.Peers[1].Member, o.Peers[1].Report.Member = "n2", "n2"
	p := &o.Peers[1].Report
	p.Role, p.Down, p.Hears, p.Streaming, p.Eligible, p.Position = ha.RoleStopped, true, false, false, false, ha.Position{}
	if _, actions := settled(ha.State{}, o); committed(actions) != "ballot" {
		t.Errorf("beside a clone it commits %s", committed(actions))
	}
	p.Hears = true
	if _, actions := settled(ha.State{}, o); committed(actions) != "nothing" {
		t.Errorf("while n2 hears the primary it commits %s", committed(actions))
	}
}

// TestMaxLag: in async mode a member leads only if it lacks no more than failover.max_lag of
// what the primary was last heard to have, or by a person's decision.
func TestMaxLag(t *testing.T) {
	for _, c := range []struct {
		limit int64
		force bool
		want  string
	}{{0, false, "ballot"}, {50, false, "nothing"}, {100, false, "ballot"}, {50, true, "ballot"}} {
		o := lonely()
		o.Consul.Record.Durability = ha.Durability{Mode: ha.ModeAsync, Voters: []string{}}
		o.Policy.Mode, o.Policy.MaxLag, o.Server.Sync, o.Intent.Force = ha.ModeAsync, c.limit, ha.SyncSetting{}, c.force
		o.Peers[1].Report.Hears, o.Peers[1].Report.Streaming = false, false
		o.Peers[0].Report.Position = at(3, o.Server.Position.LSN+100)
		s, actions := settled(ha.State{}, o)
		if got := committed(actions); got != c.want || got == "nothing" && (len(s.Blocks) == 0 || !strings.Contains(s.Blocks[0].Cost, "100")) {
			t.Errorf("limit %d, force %v: commits %s, want %s; blocked by %+v", c.limit, c.force, got, c.want, s.Blocks)
		}
	}
}

// TestReplayTakesLong: a candidate that gets on with its replay keeps the lead for as long as
// that takes.
func TestReplayTakesLong(t *testing.T) {
	o := lonely()
	r := &o.Consul.Record
	r.Term, r.Leader, r.Phase, r.Timeline, r.Origin = 4, "n1", ha.PhasePromoting, 4, ha.Origin{Term: 3, Leader: "n9"}
	r.Durability = ha.Durability{Mode: ha.ModeQuorum, K: 1, Voters: []string{"n1", "n2"}}
	o.Server.Promise, o.Server.Fenced, o.Server.Settled, o.Server.Upstream = 4, true, true, ""
	p := &o.Peers[0]
	p.Link, p.ReceivedAt = ha.LinkUp, now
	p.Report = ha.Report{Member: "n1", Term: 4, Role: ha.RoleCandidate, Position: at(3, 100), Replay: 60, Eligible: true,
		Record: ha.RecordSeen{Term: 4, Leader: "n1", Phase: ha.PhasePromoting, Index: 7}, ServerID: "1"}
	for _, c := range []struct {
		stands time.Duration
		want   string
	}{{5 * time.Second, "nothing"}, {2 * time.Minute, "ballot"}} {
		s := ha.State{PhaseAt: now.Add(-time.Hour), PhaseTerm: 4, Phase: ha.PhasePromoting, LostAt: now.Add(-time.Hour), LostTerm: 4,
			Replayed: 60, ReplayAt: now.Add(-c.stands)}
		if _, actions := ha.Decide(s, o); committed(actions) != c.want {
			t.Errorf("it has stood still for %s: commits %s, want %s", c.stands, committed(actions), c.want)
		}
	}
	// When it has replayed all, it is still to record that it leads.
	r.Durability.Voters = []string{"n2"}
	p.Report.Role, p.Report.Serving, p.Report.Replay, p.Report.Position.TLI = ha.RolePrimary, true, 0, 4
	s := ha.State{PhaseAt: now.Add(-time.Hour), PhaseTerm: 4, Phase: ha.PhasePromoting, LostAt: now.Add(-time.Hour), LostTerm: 4, Replayed: 60, ReplayAt: now.Add(-20 * time.Second)}
	s, actions := ha.Decide(s, o)
	if committed(actions) != "nothing" {
		t.Errorf("as soon as it has replayed all: commits %s", committed(actions))
	}
	o.Now = now.Add(o.Policy.HandoverTimeout)
	p.ReceivedAt = o.Now
	if _, actions = ha.Decide(s, o); committed(actions) != "ballot" {
		t.Errorf("it never records that it leads: commits %s", committed(actions))
	}
}

// TestPromotionReplays: a candidate whose promotion replays for long, and comes further, does
// not pass the lock to one that would have to replay as well; one that stands still does.
func TestPromotionReplays(t *testing.T) {
	o := promoting()
	o.Server.Armed, o.Server.LeaseUntil, o.Server.Replayed = true, now.Add(5*time.Second), 60
	o.Busy.FailedKind, o.Busy.Failures, o.Busy.FailedAt = ha.Promote, 2, now.Add(-30*time.Second)
	for _, c := range []struct {
		before ha.LSN // what it had replayed half a minute ago, and before
		want   string
	}{{50, "nothing"}, {60, "pass"}} {
		then := o
		then.Now, then.Server.Replayed = now.Add(-5*time.Minute), c.before
		s, _ := ha.Decide(ha.State{}, then)
		then.Now, then.Server.Replayed = now.Add(-30*time.Second), o.Server.Replayed
		s, _ = ha.Decide(s, then)
		if _, actions := ha.Decide(s, o); committed(actions) != c.want {
			t.Errorf("from %d: commits %s, want %s", c.before, committed(actions), c.want)
		}
	}
}

// TestLeaseInTheRecord: what a successor waits for is the longest lease that the primary may
// hold, whatever its own setting is.
func TestLeaseInTheRecord(t *testing.T) {
	for _, c := range []struct {
		name           string
		record, own    time.Duration
		guard          time.Duration // until the guard's lease ends
		want           string
		until, record2 time.Duration
	}{
		{"equal", 5 * time.Second, 5 * time.Second, 5 * time.Second, "nothing", 5 * time.Second, 0},
		{"raised: recorded before it is used", 5 * time.Second, 10 * time.Second, 5 * time.Second, "lease", 5 * time.Second, 10 * time.Second},
		{"lowered: used at once, recorded when the longer one has ended", 10 * time.Second, 5 * time.Second, 9 * time.Second, "nothing", 5 * time.Second, 0},
		{"and then", 10 * time.Second, 5 * time.Second, 5 * time.Second, "lease", 5 * time.Second, 5 * time.Second},
	} {
		o := leading()
		o.Consul.Record.Lease, o.Policy.Lease, o.Server.LeaseUntil = c.record, c.own, now.Add(c.guard)
		s, actions := ha.Decide(ha.State{}, o)
		if got := committed(actions); got != c.want || s.LeaseUntil != now.Add(c.until) {
			t.Errorf("%s: commits %s, want %s; lease for %s", c.name, got, c.want, time.Duration(s.LeaseUntil-now))
		}
		for _, a := range actions {
			if a.Kind == ha.Commit && a.Change.Record.Lease != c.record2 {
				t.Errorf("%s: records %s", c.name, a.Change.Record.Lease)
			}
		}
	}
}

// TestStray: a server on the data directory that pgsidecar did not start is stopped, and is
// not down before; in a pause it is left alone, and named.
func TestStray(t *testing.T) {
	o := leading()
	o.Server.Process, o.Server.Stray, o.Server.ExitedAt, o.Server.InRecovery = ha.ProcessStopped, 4711, now.Add(-time.Second), ha.Unknown
	stop, s := asked(o, ha.Stop)
	if stop == nil || len(s.Blocks) == 0 || !strings.Contains(s.Blocks[0].Missing, "4711") {
		t.Errorf("asked for %+v, blocked by %+v", stop, s.Blocks)
	}
	if ha.MakeReport(s, o).Down {
		t.Error("it is reported as down")
	}
	if _, actions := ha.Decide(ha.State{}, o); committed(actions) != "nothing" {
		t.Errorf("beside it, %s is committed", committed(actions))
	}
	o.Policy.Paused = true
	if stop, s = asked(o, ha.Stop); stop != nil || len(s.Blocks) == 0 || s.Blocks[0].Override != "pgsidecar resume" {
		t.Errorf("paused: asked for %+v, blocked by %+v", stop, s.Blocks)
	}
}
