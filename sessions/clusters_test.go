package sessions_test

import (
	"testing"

	"github.com/hashicorp/consul/api"
)

// TestClusters: the clusters of one Consul are listed, two under one service as two, and
// what only has a tag like ours is none.
func TestClusters(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	other := of("billing", "n1", server.http)
	other.Service = "billing"
	orders, billing := run(t, of("orders", "n1", server.http)), run(t, other)
	for i, m := range []*member{orders, billing} {
		m.session(t)
		must(t, m.Commit(ctx, ballot(m, "n1")))
		must(t, m.Register(ctx, registration("n1", "primary", 5001+i)))
	}
	must(t, server.api.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "redis", Tags: []string{"primary"}}))
	found, err := orders.Clusters(ctx)
	must(t, err)
	if len(found) != 2 || found[0].Name != "billing" || found[0].Service != "billing" || found[1].Name != "orders" || found[1].Service != "pg" {
		t.Fatalf("%+v", found)
	}
	for _, c := range found {
		if len(c.Members) != 1 || c.Members[0].Name != "n1" {
			t.Errorf("%+v", c)
		}
	}
}
