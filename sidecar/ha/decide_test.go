package ha_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestLoginProblem: a leader that nobody can log in to hands over unless it was seen to
// take writes and refuses this program alone; it is said why; and a standby's data is
// nobody's to give up for it.
func TestLoginProblem(t *testing.T) {
	const why = "role is not permitted to log in"
	for _, c := range []struct {
		name   string
		o      func() ha.Observation
		stops  bool
		blocks bool
	}{
		{"never seen, refused", func() ha.Observation { return unanswered(leading(), why, true) }, true, false},
		{"never seen, no socket", func() ha.Observation { return unanswered(leading(), why, false) }, true, false},
		{"never seen, nobody else", func() ha.Observation { o := unanswered(leading(), why, true); o.Peers = nil; return o }, false, true},
		{"never seen, paused", func() ha.Observation { o := unanswered(leading(), why, true); o.Policy.Paused = true; return o }, false, true},
		{"starting", func() ha.Observation { o := unanswered(leading(), "", false); o.Server.FailingSince = 0; return o }, false, false},
		{"takes writes, refused", func() ha.Observation {
			o := leading()
			o.Server.FailingSince, o.Server.LoginProblem, o.Server.LoginRefused = now.Add(-3*time.Second), why, true
			return o
		}, false, true},
		{"takes writes, no socket", func() ha.Observation {
			o := leading()
			o.Server.FailingSince, o.Server.LoginProblem = now.Add(-3*time.Second), why
			return o
		}, true, false},
		{"hidden, refused", func() ha.Observation {
			o := leading()
			o.Server.FailingSince, o.Server.LoginProblem, o.Server.LoginRefused, o.Server.Hidden = now.Add(-3*time.Second), why, true, true
			return o
		}, true, false},
		{"a standby never seen", func() ha.Observation { return unanswered(following(), why, true) }, false, true},
		{"a standby that refuses", func() ha.Observation {
			o := following()
			o.Server.FailingSince, o.Server.LoginProblem, o.Server.LoginRefused = now.Add(-3*time.Second), why, true
			return o
		}, false, true},
		{"a standby without socket", func() ha.Observation {
			o := following()
			o.Server.FailingSince, o.Server.LoginProblem = now.Add(-3*time.Second), why
			return o
		}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			stop, s := asked(c.o(), ha.Stop)
			if (stop != nil) != c.stops {
				t.Errorf("stop: %+v; blocks %+v", stop, s.Blocks)
			}
			said := false
			for _, b := range s.Blocks {
				said = said || strings.Contains(b.Missing, why)
			}
			if said != c.blocks {
				t.Errorf("blocks: %+v", s.Blocks)
			}
			if clone, _ := asked(c.o(), ha.Clone); clone != nil {
				t.Errorf("asked for %+v", clone)
			}
		})
	}
}

// TestStartsForLong: a primary that starts for long hands over, and one that a sidecar
// finds running when it begins does not, as nobody has looked at it yet.
func TestStartsForLong(t *testing.T) {
	for _, c := range []struct {
		begun, started time.Duration // ago
		stops          bool
	}{{time.Hour, time.Minute, true}, {time.Hour, time.Second, false}, {0, time.Hour, false}, {time.Second, time.Hour, false}, {time.Minute, time.Hour, true}} {
		o := unanswered(leading(), "", false)
		o.Server.FailingSince, o.Server.StartedAt = 0, now.Add(-c.started)
		s := ha.State{PhaseTerm: o.Consul.Record.Term, Phase: o.Consul.Record.Phase, PhaseAt: now.Add(-c.begun)}
		_, actions := ha.Decide(s, o)
		if stops := slices.ContainsFunc(actions, func(a ha.Action) bool { return a.Kind == ha.Stop }); stops != c.stops {
			t.Errorf("the sidecar began %s ago, the server %s: it stops it: %t", c.begun, c.started, stops)
		}
	}
}

// TestShutdownEnds: a member that is asked to stop stops its server and ends in time,
// whatever is not known of it.
func TestShutdownEnds(t *testing.T) {
	for name, o := range map[string]ha.Observation{
		"a leader that is not seen":  unanswered(leading(), "no login", true),
		"a leader that is starting":  unanswered(leading(), "", false),
		"a standby that is not seen": unanswered(following(), "no login", true),
		"a leader that takes writes": leading(),
		"a leader that promotes": func() ha.Observation {
			o := following()
			o.Self = "n2"
			o.Consul.Record.Leader, o.Consul.Record.Phase = "n2", ha.PhasePromoting
			return o
		}(),
		"without Consul": func() ha.Observation { o := leading(); o.Consul.Reachable = ha.No; return o }(),
		"with a record that is broken": func() ha.Observation {
			o := leading()
			o.Consul.Broken, o.Consul.Record = "no JSON", ha.Record{}
			return o
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			o.Intent.Shutdown, o.Intent.Since = true, now.Add(-o.Policy.StopTimeout-time.Second)
			if stop, s := asked(o, ha.Stop); stop == nil {
				t.Errorf("after stop_timeout nothing stops the server: %v", s.Rules)
			}
			o.Intent.Since, o.Busy.Server = now.Add(-time.Minute), ha.Stop
			if exit, s := asked(o, ha.Exit); exit == nil {
				t.Errorf("after a minute nothing ends the member: %v", s.Rules)
			}
		})
	}
	o := unanswered(leading(), "no login", true)
	o.Intent.Shutdown, o.Intent.Since = true, now
	if stop, s := asked(o, ha.Stop); stop == nil || stop.Immediate {
		t.Errorf("a server that nobody has seen is not stopped at once: %v, %v", stop, s.Rules)
	}
}

// TestSettingsUnread: what is not known yet is not none.
func TestSettingsUnread(t *testing.T) {
	for name, o := range map[string]ha.Observation{"primary": leading(), "standby": following()} {
		o.Server.Process, o.Server.SQL = ha.ProcessStopped, ha.SQL{}
		if start, _ := asked(o, ha.Start); start == nil {
			t.Fatalf("%s: it is not started at all", name)
		}
		o.SettingsUnread = true
		if start, s := asked(o, ha.Start); start != nil || len(s.Blocks) == 0 {
			t.Errorf("%s: %+v, %+v", name, start, s.Blocks)
		}
	}
}

// A pause keeps down what was stopped by hand, and nothing that a restart or a
// switchover has stopped.
func TestPausedStopOfOurs(t *testing.T) {
	o := following()
	stopped(&o)
	o.Policy.Paused, o.Intent.Restart, o.Server.Asked = true, true, true
	if got := step(o); got != "start" {
		t.Errorf("replica: %s", got)
	}
	// The target is gone between the stop and the passing on.
	o = leading()
	stopped(&o)
	o.Policy.Paused, o.Intent.Switchover, o.Intent.Target = true, true, "n2"
	o.Server.CleanStop, o.Server.Asked = true, true
	o.Peers[0].Report.Eligible, o.Peers[1].Report.Eligible = false, false
	if got := step(o); got != "start as primary" {
		t.Errorf("primary: %s", got)
	}
	// The switchover is done: the old primary starts as a standby.
	o = following()
	stopped(&o)
	o.Policy.Paused, o.Server.WasPrimary, o.Server.CleanStop, o.Server.Asked = true, true, true, true
	if got := step(o); got != "start" {
		t.Errorf("old primary: %s", got)
	}
}

// A restart whose start fails does not keep the others from leading.
func TestRestartThatFails(t *testing.T) {
	o := leading()
	stopped(&o)
	o.Server.ExitedAt = now.Add(-10 * time.Minute)
	o.Server.CleanStop, o.Server.WasPrimary = true, true
	o.Intent.Restart, o.Intent.Since = true, now.Add(-11*time.Minute)
	o.Busy.FailedKind, o.Busy.FailedAt, o.Busy.Failures = ha.Start, now.Add(-2*time.Second), 300
	s, _ := longAgo(o)
	if got := step(o); got != "pass to n2" {
		t.Errorf("primary: %s", got)
	}
	rep := ha.MakeReport(s, o)
	o = following()
	o.Server.Receiving = ha.No
	o.Peers[0].Report.Serving, o.Peers[0].Report.Down, o.Peers[0].Report.Restarting, o.Peers[0].Report.Role = false, true, rep.Restarting, ha.RoleStopped
	o.Peers[1].Report.Hears = false
	if got := step(o); got != "ballot to n2" {
		t.Errorf("standby: %s", got)
	}
}

// TestPausedIsLast: a standby that replays nothing is passed over while another can
// lead, even if it has received a little more; and chosen if none can.
func TestPausedIsLast(t *testing.T) {
	for _, c := range []struct {
		name           string
		paused, strong []int // of the peers: who is paused, who is ahead
		want           string
	}{
		{"nobody", nil, nil, "n2"},
		{"the first", []int{0}, nil, "n3"},
		{"the one ahead", []int{0}, []int{0}, "n3"},
		{"both", []int{0, 1}, nil, "n2"},
	} {
		o := leading()
		o.Intent.Switchover, o.Intent.Since = true, now-1
		o.Server.CheckpointAt = now
		o.Announced.Tag = "replica" // it has withdrawn
		o.Server.Process, o.Server.InRecovery, o.Server.ExitedAt, o.Server.Asked = ha.ProcessStopped, ha.Unknown, now, true
		o.Server.CleanStop, o.Server.End = true, ha.Position{TLI: 3, LSN: 100}
		for _, i := range c.paused {
			o.Peers[i].Report.Paused = "pg_wal_replay_pause() was called"
		}
		for _, i := range c.strong {
			o.Peers[i].Report.Position.LSN++
		}
		a, _ := asked(o, ha.Commit)
		if a == nil || a.Change.Record.Leader != c.want {
			t.Errorf("%s: %+v, want %s", c.name, a, c.want)
		}
	}
	// A candidate does not give way to one that is ahead and paused: it fetches from it.
	o := electing()
	o.Peers[1].Report.Position.LSN += 8
	o.Peers[1].Report.Eligible, o.Peers[1].Report.Paused = true, "max_connections is 100 here and 300 on its primary"
	if a, _ := asked(o, ha.Follow); a == nil || a.From != "n3" {
		t.Errorf("it does not fetch what the paused one has: %+v", a)
	}
}

// TestRestartInMaintenance: a server that has ended by itself is not started in maintenance,
// until somebody asks for a restart of it.
func TestRestartInMaintenance(t *testing.T) {
	for name, o := range map[string]ha.Observation{"the primary": leading(), "a standby": following()} {
		o.Policy.Paused = true
		sv := &o.Server
		sv.Process, sv.InRecovery, sv.ExitedAt, sv.WasPrimary, sv.Receiving = ha.ProcessStopped, ha.Unknown, now-1, name == "the primary", ha.Unknown
		state, _ := ha.Decide(ha.State{}, o)
		state.PhaseAt = now - ha.Instant(time.Minute) // the leader leads for a while
		starts := func() (start *ha.Action, blocks int) {
			s, actions := ha.Decide(state, o)
			for i := range actions {
				if actions[i].Kind == ha.Start {
					start = &actions[i]
				}
			}
			return start, len(s.Blocks)
		}
		if a, blocks := starts(); a != nil || blocks == 0 {
			t.Errorf("%s is started unasked: %+v", name, a)
		}
		o.Intent.Restart = true
		if a, _ := starts(); a == nil || a.Primary != (name == "the primary") {
			t.Errorf("%s is not started: %+v", name, a)
		}
	}
}

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

// TestUnknownIsSaid: a member that decides nothing, for want of what it must know first,
// says so (S11).
func TestUnknownIsSaid(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*ha.Observation)
		later  time.Duration
		want   string
	}{
		{"the guard", func(o *ha.Observation) { o.Server.Process = ha.ProcessUnknown }, 0, "the guard's report on the server"},
		{"the files", func(o *ha.Observation) { o.Server.DataDir = ha.DataUnknown }, 0, "a look at the data directory"},
		{"the files, with an error", func(o *ha.Observation) {
			o.Server.DataDir, o.Server.Problem = ha.DataUnknown, "read promise: damaged"
		}, 0, "read promise: damaged"},
		{"a newer record, for a moment", func(o *ha.Observation) { o.Peers[1].Report.Record.Term = 4 }, 0, ""},
		{"a newer record, which Consul has no more", func(o *ha.Observation) { o.Peers[1].Report.Record.Term = 4 }, 3 * time.Second, "the record of term 4"},
	} {
		o := following()
		o.Server.Settled = true
		c.change(&o)
		s, _ := ha.Decide(ha.State{}, o)
		if c.later > 0 {
			o.Now, o.Consul.SeenAt = now.Add(c.later), now.Add(c.later)
			s, _ = ha.Decide(s, o)
		}
		said := ""
		if len(s.Blocks) > 0 {
			said = s.Blocks[0].Missing
		}
		if said != c.want && (c.want == "" || !strings.HasPrefix(said, c.want)) {
			t.Errorf("%s: %q", c.name, said)
		}
	}
}
