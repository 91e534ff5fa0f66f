package sidecar

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// leased is a guard that notes what lease it was asked to hold.
type leased struct {
	Guard
	until ha.Instant
}

func (g *leased) Lease(_ context.Context, until ha.Instant) error {
	g.until = until
	return nil
}

func (g *leased) Status() GuardStatus {
	return GuardStatus{Postmaster: ha.Postmaster{Armed: true, LeaseUntil: g.until}}
}

// TestLeaseSuffices: the guard is not asked for a lease that is little longer than
// the long one that it holds, so that the heartbeats and Consul's answer of one
// round make one request; it is asked for every other, lest a lease runs short
// while nothing is wrong (S5).
func TestLeaseSuffices(t *testing.T) {
	const now = ha.Instant(time.Hour)
	policy := settings.Default()
	policy.Lease = 20 * time.Second
	for _, c := range []struct {
		name        string
		armed       bool
		left, grows time.Duration
		asked       bool
	}{
		{"long, grows by little", true, 15*time.Second + 1, 3*time.Second - 1, false},
		{"long, stays", true, 18 * time.Second, 0, false},
		{"long, grows by much", true, 16 * time.Second, 3 * time.Second, true},
		{"three quarters are left", true, 15 * time.Second, 2 * time.Second, true},
		{"short", true, time.Second, 2 * time.Second, true},
		{"over", true, -time.Second, 2 * time.Second, true},
		{"none", false, 18 * time.Second, time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := &leased{}
			s := &Sidecar{opts: Options{Guard: g, Recorder: unrecorded{}, Now: func() ha.Instant { return now }}}
			s.configuration.policy = policy
			s.facts.server.Armed, s.facts.server.LeaseUntil = c.armed, now.Add(c.left)
			until := now.Add(c.left + c.grows)
			s.act(t.Context(), ha.Action{Kind: ha.Lease, Until: until})
			s.operations.tasks.Wait()
			if asked := g.until == until; asked != c.asked {
				t.Errorf("the guard was asked: %v, want %v", asked, c.asked)
			}
		})
	}
}

// slowDisk is a server whose files are read slowly: what they said at the beginning is
// told when meanwhile has returned.
type slowDisk struct {
	Server
	meanwhile func()
}

func (d slowDisk) Inspect(context.Context) (ha.Files, error) {
	d.meanwhile()
	return ha.Files{DataDir: ha.DataPresent, CleanStop: true, End: ha.Position{TLI: 1, LSN: 100}}, nil
}

// told is a guard with a status.
type told struct {
	Guard
	GuardStatus
}

func (g *told) Status() GuardStatus { return g.GuardStatus }

// TestInspectIsOfThisEnd: what the files of a cleanly stopped server said is not taken
// for a later end of it, before which it has run: it would be a final position that
// lacks what was acknowledged meanwhile (S3).
func TestInspectIsOfThisEnd(t *testing.T) {
	for name, lives := range map[string]bool{"stopped all the while": false, "ran meanwhile": true} {
		t.Run(name, func(t *testing.T) {
			g := &told{GuardStatus: GuardStatus{Postmaster: ha.Postmaster{Process: ha.ProcessStopped, StartedAt: 1, ExitedAt: 2}}}
			s := &Sidecar{opts: Options{Guard: g, Now: func() ha.Instant { return ha.Instant(time.Hour) }}, log: hclog.NewNullLogger()}
			s.opts.Server = slowDisk{meanwhile: func() {
				if !lives {
					return
				}
				g.GuardStatus = GuardStatus{Postmaster: ha.Postmaster{Process: ha.ProcessRunning, StartedAt: 3}}
				s.guardChanged()
				s.facts.learn(func(v *ha.Server) { v.SeenAt = 4 })
				g.GuardStatus = GuardStatus{Postmaster: ha.Postmaster{Process: ha.ProcessStopped, StartedAt: 3, ExitedAt: 5}}
				s.guardChanged()
			}}
			s.guardChanged()
			s.inspect(t.Context())
			if v, _ := s.facts.now(); v.CleanStop == lives || v.Position.Known() == lives || v.DataDir != ha.DataPresent {
				t.Errorf("clean stop %v, position %s", v.CleanStop, v.Position)
			}
		})
	}
}

// unreadable is a server whose files cannot be read.
type unreadable struct{ Server }

func (unreadable) Inspect(context.Context) (ha.Files, error) {
	return ha.Files{}, errors.New("promise is damaged")
}

// TestUnreadableFilesAreSaid: why a member knows nothing of its own files is in what it
// decides from, and so in what it says (S11).
func TestUnreadableFilesAreSaid(t *testing.T) {
	s := &Sidecar{opts: Options{Server: unreadable{}}, log: hclog.NewNullLogger()}
	s.inspect(t.Context())
	if v, _ := s.facts.now(); v.DataDir != ha.DataUnknown || v.Problem != "promise is damaged" {
		t.Errorf("%+v", v)
	}
}

// TestReinitIsForgotten: a member that a person has had lead is not cloned anew when another
// leads later, by a request from before.
func TestReinitIsForgotten(t *testing.T) {
	o := ha.Observation{Self: "n2"}
	o.Consul.Record = ha.Record{Leader: "n1", Phase: ha.PhaseLeading}
	i := intents{intent: ha.Intent{Reinit: true}}
	if !i.fulfil(&o, hclog.NewNullLogger()).Reinit {
		t.Error("it is forgotten while another leads")
	}
	o.Consul.Record.Leader = "n2"
	if i.fulfil(&o, hclog.NewNullLogger()).Reinit {
		t.Error("it is kept though the member leads")
	}
	o.Consul.Record.Leader = "n1"
	if i.fulfil(&o, hclog.NewNullLogger()).Reinit {
		t.Error("it has come back")
	}
}
