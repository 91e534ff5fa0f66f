package ha_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// unanswered is a server that has been up for a minute and has not answered since.
func unanswered(o ha.Observation, why string, refused bool) ha.Observation {
	o.Server.SQL = ha.SQL{}
	o.Server.Probes = ha.Probes{FailingSince: now.Add(-3 * time.Second), LoginProblem: why, LoginRefused: refused}
	o.Server.StartedAt = now.Add(-4 * time.Second)
	return o
}

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

// TestUnseenHandsOver: a server that was restarted as asked and then not seen is not
// started in place again, but handed over.
func TestUnseenHandsOver(t *testing.T) {
	o := unanswered(leading(), "no login", true)
	o.Intent.Restart, o.Intent.Since = true, now.Add(-5*time.Second)
	s, _ := ha.Decide(ha.State{}, o)
	o.Server.Process, o.Server.Probes, o.Server.ExitedAt, o.Server.Asked = ha.ProcessStopped, ha.Probes{}, now, true
	o.Server.CleanStop, o.Server.Position = true, ha.Position{TLI: 3, LSN: 100}
	_, actions := ha.Decide(s, o)
	if committed(actions) != "pass" {
		t.Errorf("it commits %s: %+v", committed(actions), actions)
	}
	if _, actions = ha.Decide(ha.State{}, o); committed(actions) == "pass" {
		t.Error("a restart that was asked for is a handover without need")
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

// TestHandoverWithoutLogin: a checkpoint that nobody can ask for is not waited for.
func TestHandoverWithoutLogin(t *testing.T) {
	o := leading()
	o.Intent.Shutdown, o.Intent.Since = true, now
	o.Announced = ha.Announced{Known: true}
	if checkpoint, s := asked(o, ha.Checkpoint); checkpoint == nil {
		t.Errorf("a server that answers stops without a checkpoint: %v", s.Rules)
	}
	o.Server.FailingSince, o.Server.LoginProblem, o.Server.LoginRefused = now.Add(-3*time.Second), "no login", true
	if checkpoint, _ := asked(o, ha.Checkpoint); checkpoint != nil {
		t.Errorf("asked for %+v", checkpoint)
	}
	if stop, s := asked(o, ha.Stop); stop == nil || stop.Immediate {
		t.Errorf("it is not stopped: %v", s.Rules)
	}
}
