package sessions_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sessions"
)

// A member that Consul hides for another reason than its own check knows since when,
// and by what; not so one whose own check is critical.
func TestHiddenByConsul(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	n1, n2 := run(t, options("n1", server.http)), run(t, options("n2", server.http))
	n1.session(t)
	n2.session(t)
	must(t, n1.Register(ctx, registration("n1", "replica", 5001)))
	bad := registration("n2", "replica", 5002)
	bad.Checks[0].Status = "critical"
	must(t, n2.Register(ctx, bad))
	hidden := func(v sessions.View) bool { return v.Consul.HiddenAt != 0 }
	for _, c := range []struct {
		what       string
		begin, end func() error
		say        []string
	}{
		{"the node's maintenance", func() error { return server.api.Agent().EnableNodeMaintenance("patching") }, server.api.Agent().DisableNodeMaintenance,
			[]string{"maintenance mode of node server", "patching", "consul maint -disable"}},
		{"the service's maintenance", func() error { return server.api.Agent().EnableServiceMaintenance("pg-n1", "a move") },
			func() error { return server.api.Agent().DisableServiceMaintenance("pg-n1") },
			[]string{"maintenance mode of service pg-n1", "a move", "consul maint -disable -service=pg-n1"}},
		{"a check of the node", func() error {
			return server.api.Agent().CheckRegister(&api.AgentCheckRegistration{Name: "disk", AgentServiceCheck: api.AgentServiceCheck{TTL: "10m", Status: "critical"}})
		}, func() error { return server.api.Agent().CheckDeregister("disk") }, []string{`the check "disk" of node server`}},
		{"a check that somebody gave the service", func() error {
			return server.api.Agent().CheckRegister(&api.AgentCheckRegistration{Name: "theirs", ServiceID: "pg-n1", AgentServiceCheck: api.AgentServiceCheck{TTL: "10m", Status: "critical"}})
		}, func() error { return server.api.Agent().CheckDeregister("theirs") }, []string{`the check "theirs" of service pg-n1 on node server`}},
	} {
		n1.await(t, 10*time.Second, "a member that is found, before "+c.what, func(v sessions.View) bool { return !hidden(v) && member1(v, "n1").Name != "" })
		must(t, c.begin())
		v := n1.await(t, 10*time.Second, "word of "+c.what, hidden)
		for _, part := range c.say {
			if !strings.Contains(v.Consul.HiddenBy, part) {
				t.Errorf("%s: it says %q, not %q", c.what, v.Consul.HiddenBy, part)
			}
		}
		if n2.View().Consul.HiddenAt != 0 {
			t.Errorf("%s: n2, whose own check is critical, says %q", c.what, n2.View().Consul.HiddenBy)
		}
		must(t, c.end())
		n1.await(t, 10*time.Second, "the end of "+c.what, func(v sessions.View) bool { return !hidden(v) && v.Consul.HiddenBy == "" })
	}
}
