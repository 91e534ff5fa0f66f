package sessions

import (
	"testing"

	"github.com/hashicorp/consul/api"
)

// A member that has moved is registered twice for a while, and found where it is.
func TestBelieved(t *testing.T) {
	at := func(name, node, status string, index uint64) Member {
		return Member{Name: name, Node: node, Status: status, index: index}
	}
	for _, c := range []struct {
		name, node string
		members    []Member
	}{
		{"the dead one first", "h9", []Member{at("n1", "h1", api.HealthCritical, 9), at("n1", "h9", api.HealthPassing, 5)}},
		{"the dead one last", "h1", []Member{at("n1", "h1", api.HealthWarning, 5), at("n1", "h9", api.HealthCritical, 9)}},
		{"both well", "h9", []Member{at("n1", "h1", api.HealthPassing, 5), at("n1", "h9", api.HealthPassing, 9)}},
		{"both dead", "h1", []Member{at("n1", "h1", api.HealthCritical, 9), at("n1", "h9", api.HealthCritical, 5)}},
	} {
		got := View{Members: append(c.members, at("n2", "h2", api.HealthPassing, 1))}.Believed()
		if len(got) != 2 || got[0].Node != c.node || got[1].Name != "n2" {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}
