package ha_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestHandedOver: a primary that was asked to stop, and has passed the lock on,
// ends when its successor serves; or soon, if that does not come to it.
func TestHandedOver(t *testing.T) {
	passed := func(phase ha.Phase) ha.Observation {
		o := leading()
		o.Intent = ha.Intent{Shutdown: true, Since: now - 1}
		r := &o.Consul.Record
		r.Term, r.Leader, r.Phase, r.Index, r.Origin = 4, "n2", phase, 9, ha.Origin{Term: 3, Leader: "n1"}
		o.Consul.Lock = ha.Lock{Session: "session of n2", Holder: "n2"}
		o.Server.Process, o.Server.InRecovery, o.Server.Writable, o.Server.CleanStop, o.Server.ExitedAt = ha.ProcessStopped, ha.Unknown, ha.Unknown, true, now-1
		return o
	}
	for name, c := range map[string]struct {
		phase ha.Phase
		after time.Duration
		but   func(o *ha.Observation)
		ends  bool
	}{
		"just passed":                {phase: ha.PhaseElecting},
		"the successor is promoting": {phase: ha.PhasePromoting, after: 500 * time.Millisecond},
		"it serves since now":        {phase: ha.PhaseLeading},
		"it serves for a while":      {phase: ha.PhaseLeading, after: 300 * time.Millisecond, ends: true},
		"it does not come to it":     {phase: ha.PhasePromoting, after: time.Second, ends: true},
		"a stop that was not clean": {phase: ha.PhaseElecting, ends: true,
			but: func(o *ha.Observation) { o.Server.CleanStop = false }},
		"another led before": {phase: ha.PhaseElecting, ends: true,
			but: func(o *ha.Observation) { o.Consul.Record.Origin.Leader = "n3" }},
	} {
		o := passed(c.phase)
		if c.but != nil {
			c.but(&o)
		}
		s, actions := ha.Decide(ha.State{}, o)
		o.Now = now.Add(c.after)
		o.Consul.SeenAt = o.Now
		if c.after > 0 {
			_, actions = ha.Decide(s, o)
		}
		ends := false
		for _, a := range actions {
			ends = ends || a.Kind == ha.Exit
		}
		if ends != c.ends {
			t.Errorf("%s: ends: %t, want %t (%v)", name, ends, c.ends, actions)
		}
	}
}

// TestSwitchoverWithConsulGone: Consul has gone since the switchover was asked for. The
// lock could not be passed on, so clients are not held, and the server is not stopped.
func TestSwitchoverWithConsulGone(t *testing.T) {
	for name, withdrawn := range map[string]bool{"before it is withdrawn": false, "after it": true} {
		o := leading()
		o.Intent = ha.Intent{Switchover: true, Since: now.Add(-5 * time.Second)}
		o.Server.CheckpointAt = now.Add(-4 * time.Second)
		if withdrawn {
			o.Announced.Tag = ""
		}
		if stop, s := asked(o, ha.Stop); stop == nil || s.Refused != "" {
			t.Errorf("%s, Consul there: stop %v, refused %q", name, stop, s.Refused)
		}
		o.Consul.Reachable, o.Consul.HeldAt = ha.No, now.Add(-time.Second)
		stop, s := asked(o, ha.Stop)
		if stop != nil || s.Refused == "" {
			t.Errorf("%s: stop %v, refused %q", name, stop, s.Refused)
		}
		o.Server.CheckpointAt = now
		if stop, s := asked(o, ha.Stop); stop != nil || s.Refused != "" {
			t.Errorf("%s, since a moment ago: stop %v, refused %q", name, stop, s.Refused)
		}
		o.Server.CheckpointAt, o.Busy.Server = now.Add(-4*time.Second), ha.Stop
		if _, s := asked(o, ha.Stop); s.Refused != "" {
			t.Errorf("%s, while the server is being stopped: refused %q", name, s.Refused)
		}
		o.Busy.Server = ha.NoAction
		if back, _ := asked(o, ha.Announce); withdrawn && (back == nil || back.Tag != "primary") {
			t.Errorf("%s: announce %v", name, back)
		}
	}
}

// TestLateRest: the transaction by which a primary went to rest was done after its server
// had been started again. Clients are let in when the final position is out of the
// record: it would stand for all votes, without what they commit.
func TestLateRest(t *testing.T) {
	o := leading()
	o.Server.Hidden, o.Server.RecoveryEnd = true, 90
	if open, _ := asked(o, ha.Unhide); open == nil {
		t.Error("clients are not let in")
	}
	o.Consul.Record.Final = &ha.Final{Member: "n1", Position: ha.Position{TLI: 3, LSN: 90}}
	if open, _ := asked(o, ha.Unhide); open != nil {
		t.Error("clients are let in beside a final position")
	}
	if change, _ := asked(o, ha.Commit); change == nil || change.Change.What != "resume" || change.Change.Record.Final != nil {
		t.Errorf("the record is not corrected: %+v", change)
	}
}

// TestReleaseIsNoLoss: while a site gives up the writes, its own members elect nobody in
// the moment between the end of the server and its final position.
func TestReleaseIsNoLoss(t *testing.T) {
	o := leading()
	stopped(&o)
	o.Intent = ha.Intent{ReleaseSite: true, Since: now.Add(-time.Second)}
	o.Busy.Server, o.Busy.Since = ha.Stop, now.Add(-time.Second)
	s, _ := ha.Decide(ha.State{}, o)
	rep := ha.MakeReport(s, o)
	standby := func(restarting bool) string {
		o := following()
		o.Server.Receiving = ha.No
		o.Peers[0].Report.Serving, o.Peers[0].Report.Down, o.Peers[0].Report.Restarting, o.Peers[0].Report.Role = false, true, restarting, ha.RoleStopped
		o.Peers[1].Report.Hears = false
		return step(o)
	}
	if got := standby(false); got != "ballot to n2" {
		t.Fatalf("a primary that is down: %s", got)
	}
	if got := standby(rep.Restarting); got == "ballot to n2" {
		t.Errorf("a primary that gives the writes to the other site is taken for lost")
	}
}

// A primary that hands over as planned goes by the members' priority among those
// that are nearly there, and not by a few bytes of log.
func TestPlannedHeir(t *testing.T) {
	o := leading()
	o.Intent, o.Announced.Tag = ha.Intent{Shutdown: true, Since: now.Add(-time.Second)}, ""
	o.Server.Process, o.Server.CleanStop, o.Server.ExitedAt, o.Server.InRecovery = ha.ProcessStopped, true, now, ha.Unknown
	o.Peers[0].Report.Position.LSN, o.Peers[1].Report.Priority = 101, 5
	if pass, _ := asked(o, ha.Commit); pass == nil || pass.Change.Record.Leader != "n3" {
		t.Errorf("handed over by %+v", pass)
	}
	o.Server.Position.LSN += 1 << 30
	o.Peers[0].Report.Position.LSN += 1 << 30
	if pass, _ := asked(o, ha.Commit); pass == nil || pass.Change.Record.Leader != "n2" {
		t.Errorf("handed over to one that is far behind: %+v", pass)
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

// TestDrain: a switchover is given up for open transactions, unless it was asked to end
// them after a while.
func TestDrain(t *testing.T) {
	for drain, yields := range map[time.Duration]bool{0: true, 5 * time.Second: false} {
		o := leading()
		o.Intent.Switchover, o.Intent.Since, o.Intent.Drain = true, now-1, drain
		o.Server.CheckpointAt = now
		o.Announced.Tag = "replica" // it has withdrawn
		a, s := asked(o, ha.Stop)
		if a == nil || a.Yield != yields || a.Drain != drain || s.Refused != "" {
			t.Errorf("drain %s: %+v", drain, a)
		}
	}
}

// TestCannotLead: a switchover that is refused says why its target cannot lead.
func TestCannotLead(t *testing.T) {
	for says, change := range map[string]func(o *ha.Observation, p *ha.Peer){
		"it is not heard":      func(_ *ha.Observation, p *ha.Peer) { p.Link = ha.LinkSilent },
		"the cluster's record": func(o *ha.Observation, _ *ha.Peer) { o.Consul.Record.Members = []string{"n1", "n3"} },
		"the end of process 123": func(_ *ha.Observation, p *ha.Peer) {
			p.Report.Blocked, p.Report.Eligible = "it waits: the end of process 123", false
		},
		"its server does not run": func(_ *ha.Observation, p *ha.Peer) { p.Report.Role, p.Report.Eligible = ha.RoleStopped, false },
		"no session in Consul":    func(_ *ha.Observation, p *ha.Peer) { p.Report.Session = "" },
		"none of this cluster's":  func(_ *ha.Observation, p *ha.Peer) { p.Report.Strayed, p.Report.Eligible = "promoted by hand", false },
		"has the tag nofailover": func(_ *ha.Observation, p *ha.Peer) {
			p.Report.Tags, p.Report.Eligible = []ha.Tag{{Name: "nofailover", Value: "true"}}, false
		},
		"its data are made anew":       func(_ *ha.Observation, p *ha.Peer) { p.Report.Eligible = false },
		"has more than 16 MiB to repl": func(_ *ha.Observation, p *ha.Peer) { p.Report.Replay, p.Report.Position.LSN = 1, 32<<20 },
	} {
		o := leading()
		o.Intent = ha.Intent{Switchover: true, Target: "n2", Since: now.Add(-5 * time.Second)}
		for i := range o.Peers {
			if p := &o.Peers[i]; p.Member == "n2" {
				change(&o, p)
			}
		}
		stop, s := asked(o, ha.Stop)
		if stop != nil || !strings.Contains(s.Refused, says) || !strings.HasPrefix(s.Refused, "n2 ") {
			t.Errorf("want %q: stop %v, refused %q", says, stop, s.Refused)
		}
	}
}

// TestSlowHandover: a primary that was stopped for a handover is slow to pass the lock on. The
// others leave it the time of a handover, so that the member leads that was asked for; they do
// not wait for one that cannot pass it, or has gone meanwhile.
func TestSlowHandover(t *testing.T) {
	for name, c := range map[string]struct {
		but  func(o *ha.Observation) // the primary
		lost time.Duration           // since when the others do not hear it
		seen func(p *ha.Peer)
		wait bool
	}{
		"the stop is not over":      {but: func(o *ha.Observation) { o.Busy.Server, o.Busy.Since = ha.Stop, now.Add(-time.Second) }, wait: true},
		"the transaction is slow":   {wait: true},
		"asked to stop":             {but: func(o *ha.Observation) { o.Intent.Switchover, o.Intent.Shutdown = false, true }, wait: true},
		"its agent is gone":         {but: func(o *ha.Observation) { o.Intent.Switchover, o.Consul.AgentLostAt = false, now.Add(-time.Minute) }, wait: true},
		"too slow":                  {lost: time.Minute},
		"nobody asked":              {but: func(o *ha.Observation) { o.Intent = ha.Intent{} }},
		"it ended by itself":        {but: func(o *ha.Observation) { o.Server.Asked = false }},
		"Consul is away from it":    {but: func(o *ha.Observation) { o.Consul.Reachable = ha.No }},
		"it has lost the lock":      {but: func(o *ha.Observation) { o.Consul.Lock = ha.Lock{} }},
		"a server runs beside it":   {but: func(o *ha.Observation) { o.Server.Stray = 4711 }, wait: true}, // it is not down
		"its sidecar has gone":      {seen: func(p *ha.Peer) { p.Link = ha.LinkRefused }},
		"its sidecar is not heard":  {seen: func(p *ha.Peer) { p.Link, p.ReceivedAt = ha.LinkSilent, now.Add(-time.Minute) }},
		"a version that says less":  {seen: func(p *ha.Peer) { p.Report.Passing = false }},
		"its stop hangs altogether": {but: func(o *ha.Observation) { o.Busy.Server, o.Busy.Since = ha.Stop, now.Add(-time.Hour) }},
	} {
		o := leading()
		o.Intent = ha.Intent{Switchover: true, Target: "n3", Since: now.Add(-2 * time.Second)}
		o.Server.Process, o.Server.InRecovery, o.Server.Writable, o.Server.Asked, o.Server.ExitedAt = ha.ProcessStopped, ha.Unknown, ha.Unknown, true, now.Add(-time.Second)
		if c.but != nil {
			c.but(&o)
		}
		r := ha.MakeReport(ha.State{Role: ha.RoleStopped}, o)
		f := following()
		f.Server.Receiving = ha.No
		p := &f.Peers[0].Report
		p.Serving, p.Writable, p.Role, p.Down, p.Passing, p.Stopping = false, false, ha.RoleStopped, r.Down, r.Passing, r.Stopping
		f.Peers[1].Report.Hears = false
		if c.seen != nil {
			c.seen(&f.Peers[0])
		}
		lost := now.Add(-max(c.lost, time.Second))
		_, actions := ha.Decide(ha.State{LostAt: lost, LostTerm: f.Consul.Record.Term, PhaseAt: now.Add(-time.Minute), PhaseTerm: f.Consul.Record.Term, Phase: f.Consul.Record.Phase}, f)
		if got := committed(actions); (got == "nothing") != c.wait {
			t.Errorf("%s: %s is committed (down %t, passing %t)", name, got, r.Down, r.Passing)
		}
	}
}

// TestShutdownInPause: a pause does not keep a primary that is asked to stop from handing over: a
// primary without its sidecar has no lease, and what supervises it would kill its server.
func TestShutdownInPause(t *testing.T) {
	o := leading()
	o.Policy.Paused, o.Intent.Shutdown, o.Intent.Since = true, true, now-1
	o.Server.CheckpointAt, o.Announced.Tag = now, "replica" // it has withdrawn
	if a, s := asked(o, ha.Stop); a == nil || !a.Planned {
		t.Errorf("the primary: %+v, blocks %+v", a, s.Blocks)
	}
	o.Server.Process, o.Server.CleanStop, o.Server.Asked, o.Server.InRecovery, o.Server.Writable, o.Server.ExitedAt = ha.ProcessStopped, true, true, ha.Unknown, ha.Unknown, now
	if pass, s := asked(o, ha.Commit); pass == nil || pass.Change.What != "pass" {
		t.Errorf("its lock: %+v, rules %v", pass, s.Rules)
	}
}
