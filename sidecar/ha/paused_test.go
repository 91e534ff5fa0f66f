package ha_test

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

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
