package haproxy

import (
	"slices"
	"strings"
	"testing"
)

// While nobody is primary, one line does it all, and each server is closed before
// its sessions are ended.
func TestCommandsWithoutPrimary(t *testing.T) {
	r := routing{open: true, primaries: "p", replicas: "r", checks: "_checked", members: []string{"n1", "n2", "n3"}, reads: []string{"n3"}}
	roles, ends := r.commands([]string{"n2"})
	if len(ends) != 0 {
		t.Errorf("a second line: %q", ends)
	}
	for _, want := range []string{"p/n1", "p/n2", "p/n3", "r/n1", "r/n2"} {
		if !slices.Contains(roles, "set server "+want+" state maint") {
			t.Errorf("%s is left open: %q", want, roles)
		}
	}
	for i, c := range roles {
		server, ending := strings.CutPrefix(c, "shutdown sessions server ")
		closing := slices.Index(roles, "set server "+strings.Replace(server, "_checked", "", 1)+" state maint")
		if ending && (closing < 0 || closing > i) {
			t.Errorf("%s has its sessions ended before it is closed: %q", server, roles)
		}
	}

	// With one, who was it before only takes no more until the new one is ready.
	r.primary = "n1"
	roles, ends = r.commands([]string{"n1", "n2"})
	drain, ready := slices.Index(roles, "set server p/n3 state drain"), slices.Index(roles, "set server p/n1 state ready")
	if drain < 0 || ready < drain || !slices.Contains(ends, "set server p/n3 state maint") {
		t.Errorf("not in the order of the safe switch: %q, then %q", roles, ends)
	}
}

// Until our connection occupies _hold nobody leaves maintenance, and afterwards only
// who is to be the primary: HAProxy 3.2 sends the next client that is to wait to a
// server that left it in vain.
func TestWhoLeavesMaintenance(t *testing.T) {
	seen := observed{servers: []serverState{
		{backend: "p", name: "n1", admin: 5}, // disabled in the file
		{backend: "p", name: "n2", admin: adminForcedMaint},
		{backend: "p", name: "n3", admin: adminForcedDrain},
		{backend: "p", name: "n4", admin: 4}, // disabled in the file, and ready since
	}}
	for _, c := range []struct {
		name string
		r    routing
		want []string
	}{
		{"not connected", routing{primary: "n1"}, nil},
		{"not connected, and held", routing{primary: "n2", held: true}, nil},
		{"connected", routing{open: true, primary: "n1"}, []string{"n1"}},
		{"connected, and held", routing{open: true, primary: "n2", held: true}, []string{"n2"}},
		{"no primary", routing{open: true}, nil},
	} {
		c.r.primaries, c.r.replicas, c.r.checks, c.r.members = "p", "r", "_checked", []string{"n1", "n2", "n3", "n4"}
		closed := c.r.inMaintenance(seen)
		if want := []string{"n1", "n2"}; !slices.Equal(closed, want) {
			t.Fatalf("in maintenance are %q, not %q", closed, want)
		}
		roles, ends := c.r.commands(closed)
		var left []string
		for _, line := range append(roles, ends...) {
			for _, m := range closed {
				server, state, found := strings.Cut(strings.TrimPrefix(line, "set server "), " state ")
				if found && server == "p/"+m && state != "maint" {
					left = append(left, m)
				}
			}
		}
		if !slices.Equal(left, c.want) {
			t.Errorf("%s: %q leave maintenance, not %q", c.name, left, c.want)
		}
	}
}

// Sessions are ended a second time, and clients let in, only if none has gone since the look
// before; and nobody is let in to a primary that takes no new sessions.
func TestStuck(t *testing.T) {
	r := routing{primaries: "p", primary: "n3", open: true}
	waiting := observed{waiting: map[string]int{"p": 2, "r": 1}}
	if got := r.leftovers(waiting); len(got) != 1 || got["p/BACKEND"] != 2 {
		t.Errorf("left over: %v", got)
	}
	for _, r := range []routing{{primaries: "p", open: true}, {primaries: "p", primary: "n3"}, {primaries: "p", primary: "n3", open: true, held: true}} {
		if got := r.leftovers(waiting); len(got) > 0 {
			t.Errorf("left over: %v of %+v", got, r)
		}
	}
	for _, c := range []struct {
		name        string
		before, now map[string]int
		want        string
	}{
		{"first look", nil, map[string]int{"p/n1": 400}, ""},
		{"ending", map[string]int{"p/n1": 400}, map[string]int{"p/n1": 3}, ""},
		{"ended", map[string]int{"p/n1": 3}, nil, ""},
		{"stuck", map[string]int{"p/n1": 3, "p/n2": 2}, map[string]int{"p/n1": 3, "p/n2": 1}, "shutdown sessions server p/n1"},
		{"more", map[string]int{"p/n1": 3}, map[string]int{"p/n1": 4}, "shutdown sessions server p/n1"},
		{"another", map[string]int{"p/n1": 3}, map[string]int{"p/n2": 3}, ""},
		{"let in", map[string]int{"p/BACKEND": 3}, map[string]int{"p/BACKEND": 2}, ""},
		{"not let in", map[string]int{"p/BACKEND": 2}, map[string]int{"p/BACKEND": 2}, "set maxconn server p/n3 1048576"},
	} {
		if got := strings.Join(r.stuck(c.before, c.now), ";"); got != c.want {
			t.Errorf("%s: %q instead of %q", c.name, got, c.want)
		}
	}
}
