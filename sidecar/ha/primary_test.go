package ha_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestUnhide: a primary that was restarted in place lets clients in when its
// voters have flushed what it recovered, and not while its setting lets it
// acknowledge commits that fewer of the recorded voters hold (S4, S9).
func TestUnhide(t *testing.T) {
	for name, c := range map[string]struct {
		sync   ha.SyncSetting
		unsure bool
		flush  ha.LSN
		opens  bool
	}{
		"the recorded voters":                       {sync: ha.SyncSetting{K: 1, Names: []string{"n2", "n3"}}, flush: 100, opens: true},
		"they lack what was recovered":              {sync: ha.SyncSetting{K: 1, Names: []string{"n2", "n3"}}, flush: 99},
		"one more, who is not on record (narrowed)": {sync: ha.SyncSetting{K: 1, Names: []string{"n2", "n3", "n4"}}, flush: 100},
		"nobody":                 {flush: 100},
		"a setting nobody knows": {sync: ha.SyncSetting{K: 1, Names: []string{"n2", "n3"}}, unsure: true, flush: 100},
	} {
		o := leading()
		o.Consul.Record.Durability = ha.Durability{Mode: ha.ModeQuorum, K: 1, Voters: []string{"n2", "n3"}}
		v := &o.Server
		v.Hidden, v.RecoveryEnd, v.Sync, v.SyncUnsure = true, 100, c.sync, c.unsure
		v.Walsenders = []ha.Walsender{{Member: "n2", Streaming: true, Sync: true, Flush: c.flush}, {Member: "n3", Streaming: true, Sync: true, Flush: c.flush}}
		_, actions := ha.Decide(ha.State{}, o)
		opens := false
		for _, a := range actions {
			opens = opens || a.Kind == ha.Unhide
		}
		if opens != c.opens {
			t.Errorf("%s: lets clients in: %t, want %t (%v)", name, opens, c.opens, actions)
		}
	}
}

func TestWellIsLeftAlone(t *testing.T) {
	for name, o := range map[string]ha.Observation{"leader": leading(), "follower": following()} {
		if s, actions := ha.Decide(ha.State{}, o); len(actions) != 0 || len(s.Blocks) != 0 {
			t.Errorf("%s: asked for %v, blocked by %v", name, actions, s.Blocks)
		}
	}
}

// A primary whose disk is full hands over after the failure time-out, if
// somebody can take over; one that is read only by its settings does not, as the
// next would be too. Both say so (S11).
func TestPrimaryTakesNoWrites(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*ha.Observation)
		stops  bool
	}{
		{"disk full", func(*ha.Observation) {}, true},
		{"disk full just now", func(o *ha.Observation) { o.Server.FaultyAt = now.Add(-time.Second) }, false},
		{"disk hangs just now", func(o *ha.Observation) { o.Server.FaultyAt, o.Server.WritesHang = 0, true }, true},
		{"disk hangs just now, async", func(o *ha.Observation) {
			o.Server.FaultyAt, o.Server.WritesHang = 0, true
			o.Consul.Record.Durability = ha.Durability{Mode: ha.ModeAsync}
		}, false},
		{"read only", func(o *ha.Observation) { o.Server.FaultyAt = 0 }, false},
		{"paused", func(o *ha.Observation) { o.Policy.Paused = true }, false},
		{"nobody else", func(o *ha.Observation) { o.Peers = nil }, false},
	} {
		o := leading()
		o.Server.Writable, o.Server.FaultyAt, o.Server.WriteProblem = ha.No, now.Add(-3*time.Second), "no space left"
		o.Announced.Tag = ""
		c.change(&o)
		stop, s := asked(o, ha.Stop)
		if (stop != nil) != c.stops {
			t.Errorf("%s: asked for %v", c.name, stop)
		}
		// A stop that makes a checkpoint would hang.
		if stop != nil && stop.Immediate != o.Server.WritesHang {
			t.Errorf("%s: immediate: %v", c.name, stop.Immediate)
		}
		if len(s.Blocks) == 0 || s.Blocks[0].Missing != "no space left" {
			t.Errorf("%s: nothing says why no writes are taken: %v", c.name, s.Blocks)
		}
	}
}

// A primary whose own agent is gone hands over after a while, to a member whose
// agent is there; it does not wait for a withdrawal that the agent cannot make.
func TestAgentGone(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*ha.Observation)
		stops  bool
	}{
		{"for a minute", func(*ha.Observation) {}, true},
		{"for a second", func(o *ha.Observation) { o.Consul.AgentLostAt = now.Add(-time.Second) }, false},
		{"for ever, if asked so", func(o *ha.Observation) { o.Policy.AgentTimeout = 0 }, false},
		{"for all", func(o *ha.Observation) { o.Peers[0].Report.Agentless, o.Peers[1].Report.Agentless = true, true }, false},
		{"and nobody streams", func(o *ha.Observation) { o.Server.Walsenders = nil }, false},
		{"with all of Consul", func(o *ha.Observation) { o.Consul.Reachable = ha.No }, false},
	} {
		o := leading()
		o.Consul.AgentLostAt, o.Server.CheckpointAt = now.Add(-time.Minute), now.Add(-time.Second)
		c.change(&o)
		stop, _ := asked(o, ha.Stop)
		if (stop != nil) != c.stops {
			t.Errorf("agent gone %s: asked for %v", c.name, stop)
		}
		if stop != nil && (!stop.Planned || !strings.Contains(stop.Why, "agent")) {
			t.Errorf("agent gone %s: asked for %+v", c.name, *stop)
		}
	}
}

// TestHidden: a primary that DNS hides although its agent is there (maintenance mode, a
// node's check) hands over after a while as one does whose agent is gone: after a checkpoint,
// and when its tag is withdrawn, which this agent can do. It says by what it is hidden.
func TestHidden(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*ha.Observation)
		want   ha.ActionKind
	}{
		{"for a minute", func(*ha.Observation) {}, ha.Stop},
		{"and no checkpoint was made since", func(o *ha.Observation) { o.Server.CheckpointAt = now.Add(-50 * time.Second) }, ha.Checkpoint},
		{"and the tag stands", func(o *ha.Observation) { o.Announced.Tag = "primary" }, ha.Announce},
		{"for a second", func(o *ha.Observation) { o.Consul.HiddenAt = now.Add(-time.Second) }, ha.NoAction},
		{"for ever, if asked so", func(o *ha.Observation) { o.Policy.AgentTimeout = 0 }, ha.NoAction},
		{"with the best of the others", func(o *ha.Observation) { o.Peers[0].Report.Agentless = true }, ha.Stop},
		{"with all others", func(o *ha.Observation) { o.Peers[0].Report.Agentless, o.Peers[1].Report.Agentless = true, true }, ha.NoAction},
		{"and nobody streams", func(o *ha.Observation) { o.Server.Walsenders = nil }, ha.NoAction},
		{"with all of Consul", func(o *ha.Observation) { o.Consul.Reachable = ha.No }, ha.NoAction},
		{"in a pause", func(o *ha.Observation) { o.Policy.Paused = true }, ha.NoAction},
		{"with automatic = false", func(o *ha.Observation) { o.Policy.Automatic = false }, ha.NoAction},
		{"no more", func(o *ha.Observation) { o.Consul.HiddenAt = 0 }, ha.NoAction},
	} {
		o := leading()
		o.Consul.HiddenAt, o.Consul.HiddenBy = now.Add(-40*time.Second), "maintenance mode of node h1"
		o.Server.CheckpointAt, o.Announced.Tag = now.Add(-time.Second), ""
		c.change(&o)
		for _, kind := range []ha.ActionKind{ha.Stop, ha.Checkpoint, ha.Announce} {
			got, _ := asked(o, kind)
			wanted := kind == c.want
			if kind == ha.Announce { // it announces itself as the primary wherever it stays one
				wanted = wanted || c.want == ha.NoAction
			}
			if c.want == ha.Checkpoint && kind == ha.Announce {
				continue // the tag is withdrawn after it
			}
			if (got != nil) != wanted {
				t.Errorf("hidden %s: asked for %v", c.name, got)
			}
			if got != nil && kind == ha.Announce && (got.Tag == "primary") != (c.want == ha.NoAction) {
				t.Errorf("hidden %s: announces %q", c.name, got.Tag)
			}
			if got != nil && kind == ha.Stop && (!got.Planned || !strings.Contains(got.Why, "maintenance mode of node h1")) {
				t.Errorf("hidden %s: asked for %+v", c.name, *got)
			}
		}
	}
	o := leading()
	o.Consul.HiddenAt, o.Consul.HiddenBy = now.Add(-40*time.Second), "maintenance mode of node h1"
	if r := ha.MakeReport(ha.State{}, o); !r.Agentless || r.Hidden != o.Consul.HiddenBy {
		t.Errorf("the others are told %t, %q", r.Agentless, r.Hidden)
	}
	// Its server is down: the lock goes to the one that DNS does not hide.
	o.Server.Process, o.Server.InRecovery, o.Server.Writable, o.Server.Asked, o.Server.ExitedAt = ha.ProcessStopped, ha.Unknown, ha.Unknown, true, now
	o.Server.CleanStop = true
	o.Peers[0].Report.Agentless = true
	pass, _ := asked(o, ha.Commit)
	if pass == nil || pass.Change.Record.Leader != "n3" || !strings.Contains(pass.Change.Record.Reason, "maintenance mode of node h1") {
		t.Errorf("it is passed on by %+v", pass)
	}
}

// A standby that starts with damaged log is cloned anew, but not while its copy
// of the last commits counts.
func TestStarved(t *testing.T) {
	o := following()
	o.Server.InRecovery, o.Server.Receiving, o.Server.SeenAt, o.Server.Starved = ha.Unknown, ha.Unknown, 0, true
	if clone, s := asked(o, ha.Clone); clone != nil || len(s.Blocks) == 0 || s.Blocks[0].Override == "" {
		t.Errorf("a voter: asked for %v, blocked by %v", clone, s.Blocks)
	}
	o.Consul.Record.Durability.Voters = []string{"n3"}
	if clone, _ := asked(o, ha.Clone); clone == nil || clone.From != "n1" {
		t.Errorf("no voter: asked for %v", clone)
	}
	o.Server.Starved = false
	if clone, _ := asked(o, ha.Clone); clone != nil {
		t.Errorf("one that only starts: asked for %v", clone)
	}
}

// TestLeadNarrows: what the claim could not, the transaction by which the new primary
// leads does, if votes have come since, and if the server was not restarted: one that
// was may have recovered commits that nobody else has (S9).
func TestLeadNarrows(t *testing.T) {
	for name, c := range map[string]struct {
		started ha.Instant
		voted   bool
		want    []string
	}{
		"the vote has come":        {now - 1, true, []string{"n3"}},
		"it has not":               {now - 1, false, []string{"n2", "n3"}},
		"the server was restarted": {now.Add(2 * time.Millisecond), true, []string{"n2", "n3"}},
	} {
		o := promoting()
		s, _ := ha.Decide(ha.State{}, electing()) // its own vote stands
		v := &o.Server
		v.InRecovery, v.Writable, v.WasPrimary, v.StartedAt = ha.No, ha.Yes, true, c.started
		v.Position = ha.Position{TLI: 4, LSN: 120, History: []ha.Fork{{TLI: 3, End: 100}}}
		o.Peers[1].Report.Voted = c.voted
		o.Now = now.Add(10 * time.Millisecond)
		_, actions := ha.Decide(s, o)
		i := slices.IndexFunc(actions, func(a ha.Action) bool { return a.Kind == ha.Commit && a.Change.What == "lead" })
		if i < 0 {
			t.Errorf("%s: %+v", name, actions)
			continue
		}
		if d := actions[i].Change.Record.Durability; !slices.Equal(d.Voters, c.want) {
			t.Errorf("%s: %d of %v, want %v", name, d.K, d.Voters, c.want)
		}
	}
}

// Commits do not wait where the only standby has the tag nosync, and streams.
func TestNoSyncStreams(t *testing.T) {
	o := leading()
	o.Consul.Record.Members = []string{"n1", "n2"}
	o.Consul.Record.Durability.Voters = []string{"n2"}
	o.Server.Sync.Names = []string{"n2"}
	o.Server.Walsenders, o.Peers = o.Server.Walsenders[:1], o.Peers[:1]
	o.Peers[0].Report.NoSync = true
	if s, _ := longAgo(o); len(s.Blocks) > 0 {
		t.Errorf("commits do not wait: %v", s.Blocks)
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
