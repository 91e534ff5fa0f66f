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

// A member of another cluster that has the name of one of this cluster's is not taken
// for it, whichever was changed last.
func TestBelievedOfOwnCluster(t *testing.T) {
	entry := func(node, address, cluster string, index uint64) *api.ServiceEntry {
		return &api.ServiceEntry{Node: &api.Node{Node: node, Address: address}, Service: &api.AgentService{ID: "pg-n2", Port: 5432, ModifyIndex: index,
			Meta: map[string]string{"member": "n2", "cluster": cluster, "api": address + ":8008"}}}
	}
	c, err := New(Options{Addresses: []string{"127.0.0.1:8500"}, Cluster: "orders", Member: "n1", Service: "pg"})
	if err != nil {
		t.Fatal(err)
	}
	c.setMembers([]*api.ServiceEntry{entry("a2", "10.0.1.2", "orders", 10), entry("b2", "10.0.2.2", "billing", 20)})
	if got := c.View().Believed(); len(got) != 1 || got[0].API != "10.0.1.2:8008" {
		t.Errorf("orders' own n2 is taken to be %+v", got)
	}
}

// A member whose agent left Consul is found where it was, as long as the record names
// it, and where it is when it comes back.
func TestBelievedWithoutItsAgent(t *testing.T) {
	entry := func(name, address string) *api.ServiceEntry {
		return &api.ServiceEntry{Node: &api.Node{Node: "h-" + name, Address: address}, Service: &api.AgentService{ID: "pg-" + name, Port: 5432,
			Tags: []string{"replica"}, Meta: map[string]string{"member": name, "cluster": "pg", "api": address + ":8008"}}}
	}
	c, err := New(Options{Addresses: []string{"127.0.0.1:8500"}, Cluster: "pg", Member: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	c.view.Consul.Record.Members = []string{"n1", "n2"}
	n1, n2, n3 := entry("n1", "10.0.0.1"), entry("n2", "10.0.0.2"), entry("n3", "10.0.0.3")
	for _, step := range []struct {
		what    string
		catalog []*api.ServiceEntry
		want    string
	}{
		{"all are there", []*api.ServiceEntry{n1, n2, n3}, "n1 10.0.0.1:8008, n2 10.0.0.2:8008, n3 10.0.0.3:8008, "},
		{"two agents leave", []*api.ServiceEntry{n1}, "n1 10.0.0.1:8008, n2 10.0.0.2:8008, "},
		{"all leave", nil, "n1 10.0.0.1:8008, n2 10.0.0.2:8008, "},
		{"one comes back elsewhere", []*api.ServiceEntry{entry("n2", "10.0.0.9")}, "n1 10.0.0.1:8008, n2 10.0.0.9:8008, "},
	} {
		c.setMembers(step.catalog)
		got := ""
		for _, m := range c.View().Believed() {
			got += m.Name + " " + m.API + ", "
		}
		if got != step.want {
			t.Errorf("%s: %s, want %s", step.what, got, step.want)
		}
		if len(c.View().Members) != len(step.catalog) {
			t.Errorf("%s: the catalog's members are %+v", step.what, c.View().Members)
		}
	}
	c.setMembers(nil)
	c.view.Consul.Record.Members = []string{"n1"}
	if got := c.View().Believed(); len(got) != 1 {
		t.Errorf("a member that was removed is believed to be there: %+v", got)
	}
}

// TestSettingsRead: that there are no settings is known when Consul has said so, and not
// before.
func TestSettingsRead(t *testing.T) {
	c := &Client{}
	if c.View().SettingsRead {
		t.Error("known before anything was read")
	}
	c.setSettings(nil, 0, true)
	if v := c.View(); !v.SettingsRead || v.Settings != nil {
		t.Errorf("after an answer that there are none: %+v", v)
	}
}

// Who is registered as the primary is known also where its checks fail: it, or its data, may
// live. This member's own earlier registration says nothing.
func TestRegisteredPrimary(t *testing.T) {
	entry := func(name, tag, status string) *api.ServiceEntry {
		return &api.ServiceEntry{Node: &api.Node{Node: "h-" + name, Address: "10.0.0.1"}, Checks: api.HealthChecks{{Status: status}},
			Service: &api.AgentService{ID: "pg-" + name, Port: 5432, Tags: []string{tag, "own"}, Meta: map[string]string{"member": name, "cluster": "pg"}}}
	}
	c, err := New(Options{Addresses: []string{"127.0.0.1:8500"}, Cluster: "pg", Member: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		want    string
		entries []*api.ServiceEntry
	}{
		{"", []*api.ServiceEntry{entry("n1", primaryTag, api.HealthPassing), entry("n2", "replica", api.HealthPassing)}},
		{"n3", []*api.ServiceEntry{entry("n2", "replica", api.HealthPassing), entry("n3", primaryTag, api.HealthCritical)}},
		{"", []*api.ServiceEntry{entry("n3", "replica", api.HealthPassing)}},
	} {
		c.setMembers(step.entries)
		if got := c.View().Consul.Registered; got != step.want {
			t.Errorf("the primary that is registered is %q, want %q", got, step.want)
		}
	}
}
