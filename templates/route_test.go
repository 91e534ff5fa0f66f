package templates

import (
	"slices"
	"strings"
	"testing"
)

// While nobody is primary, one line does it all, and each server is closed before
// its sessions are ended.
func TestCommandsWithoutPrimary(t *testing.T) {
	r := routing{primaries: "p", replicas: "r", checks: "_checked", members: []string{"n1", "n2", "n3"}, reads: []string{"n3"}}
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

// Sessions are ended a second time only if none has ended since the look before.
func TestStuck(t *testing.T) {
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
	} {
		if got := strings.Join(stuck(c.before, c.now), ";"); got != c.want {
			t.Errorf("%s: %q instead of %q", c.name, got, c.want)
		}
	}
}
