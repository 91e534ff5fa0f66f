package drill_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestActs: each act has a name of its own, says what it is, and can be played.
func TestActs(t *testing.T) {
	names := map[string]bool{}
	for _, a := range drill.Acts() {
		if a.Name == "" || names[a.Name] || a.Why == "" || a.Fault == nil || a.Expect == "" {
			t.Errorf("%+v", a)
		}
		names[a.Name] = true
	}
	if len(names) < 15 {
		t.Errorf("only %d acts", len(names))
	}
}

// TestDrawnTwice: one act is done twice at once. Each is undone where it was done: a sidecar
// that the first had stopped stayed so, as the second had taken its place in what the act
// remembers.
func TestDrawnTwice(t *testing.T) {
	members := []string{"n1", "n2", "n3"}
	var begun int
	var undone []string
	act := func() []drill.Scenario {
		var member string
		return []drill.Scenario{{
			Name: "stopped",
			Fault: func(context.Context, drill.Cast) error {
				member = members[begun%len(members)]
				begun++
				return nil
			},
			Undo: func(context.Context, drill.Cast) error {
				undone = append(undone, member)
				return nil
			},
		}}
	}
	pairs := 0
	for _, fault := range drill.Drawn(act, 50) {
		begun, undone = 0, nil
		for _, s := range fault {
			if err := s.Fault(t.Context(), drill.Cast{}); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range fault {
			if err := s.Undo(t.Context(), drill.Cast{}); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(undone, members[:begun]) {
			t.Fatalf("undone: %v, and not %v", undone, members[:begun])
		}
		if begun == 2 {
			pairs++
		}
	}
	if pairs == 0 {
		t.Error("no act was drawn twice")
	}
}

// TestSetRight: a sidecar that one act has killed is back before anybody looks for what the
// other act, on the same member, has broken: else nobody is there to say it.
func TestSetRight(t *testing.T) {
	killed := true
	said := errors.New("nobody says that the file is wrong")
	sidecar := drill.Scenario{Name: "sidecar", Undo: func(context.Context, drill.Cast) error {
		killed = false
		return nil
	}}
	repaired := 0
	file := drill.Scenario{
		Name: "file",
		Check: func(context.Context, drill.Cast) error {
			if killed || repaired > 0 {
				return said
			}
			return nil
		},
		Undo: func(context.Context, drill.Cast) error {
			repaired++
			return nil
		},
	}
	for _, acts := range [][]drill.Scenario{{sidecar, file}, {file, sidecar}} {
		killed, repaired = true, 0
		if err := drill.SetRight(t.Context(), acts...); err != nil || repaired != 1 {
			t.Errorf("%s, then %s: repaired %d times, %v", acts[0].Name, acts[1].Name, repaired, err)
		}
	}
}

// TestInOrder: a pause ends before what was done in it is undone.
func TestInOrder(t *testing.T) {
	for _, pair := range [][2]string{{"pause", "renamed"}, {"renamed", "pause"}, {"pause", "pause-member"}} {
		if got := drill.InOrder(pair[0], pair[1]); got[1] != "pause" {
			t.Errorf("%v: %v", pair, got)
		}
	}
	if got := drill.InOrder("renamed", "password"); got[0] != "renamed" {
		t.Errorf("%v", got)
	}
}

// TestComplaints: a cluster is healthy when no status complains, of whatever.
func TestComplaints(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*api.Status)
		want  string
	}{
		"nothing":           {func(*api.Status) {}, ""},
		"a problem":         {func(s *api.Status) { s.Problem = "the disk is full" }, "n1: the disk is full"},
		"a file":            {func(s *api.Status) { s.ConfigProblem = "pg_hba.conf line 3" }, "n1: pg_hba.conf line 3"},
		"Consul":            {func(s *api.Status) { s.Consul.Problem = "no leader" }, "n1: Consul: no leader"},
		"early commits":     {func(s *api.Status) { s.InEffect = &api.InEffect{Relaxed: "off"} }, "acknowledged too early"},
		"maintenance":       {func(s *api.Status) { s.PausedMembers = []string{"n2"} }, "n1: paused"},
		"a block":           {func(s *api.Status) { s.Members[1].Blocked = "no vote" }, "n2 is blocked: no vote"},
		"a strayed log":     {func(s *api.Status) { s.Members[1].Strayed = "by hand" }, "n2 strayed: by hand"},
		"hidden":            {func(s *api.Status) { s.Members[1].Hidden = "a check" }, "n2 is not in DNS: a check"},
		"replay":            {func(s *api.Status) { s.Members[1].Paused = "a limit" }, "n2 replays nothing: a limit"},
		"no stream":         {func(s *api.Status) { s.Members[1].Streaming = false }, "n2 does not stream"},
		"no server":         {func(s *api.Status) { s.Members[1].Role, s.Members[1].Streaming = ha.RoleStopped, false }, "n2 does not stream"},
		"a pending restart": {func(s *api.Status) { s.Members[1].Restart = true }, "n2 has a restart pending"},
		"silence":           {func(s *api.Status) { s.Members[1].Link = "silent" }, "n2 is silent"},
	} {
		s := &api.Status{Member: "n1", Members: []api.MemberStatus{{Member: "n1", Role: ha.RolePrimary, Link: "self"},
			{Member: "n2", Role: ha.RoleReplica, Streaming: true, Link: "up"}}}
		c.spoil(s)
		if got := strings.Join(drill.Complaints(s), "; "); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
