package sessions_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sessions"
)

// TestDNSDenied: with ACLs on, DNS asks with a token that is not the member's. Where that
// one may not read the service, DNS finds nothing, and the view names the rules; once it
// may, nothing is said any more.
func TestDNSDenied(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", `acl { enabled = true  default_policy = "deny"  tokens { MANAGEMENT = "`+root+`"  agent = "`+root+`" } }`)
	server.authorize(root)
	eventually(t, 20*time.Second, "the agent registers its node", func() error {
		nodes, _, err := server.api.Catalog().Nodes(nil)
		if err == nil && len(nodes) == 0 {
			err = errors.New("no node yet")
		}
		return err
	})
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte(server.policy("member", strings.Join(rules(t, sessions.Policy("pgsidecar", "main", "pg")), "\n"))), 0o600))
	o := options("n1", server.http)
	o.TokenFile, o.DNS = file, server.DNS
	n := run(t, o)
	defer n.stop()
	r := registration("n1", "replica", 5001)
	r.Checks[1].Status = api.HealthPassing
	must(t, n.Register(background(t), r))
	v := n.await(t, 2*time.Minute, "what DNS does not find", func(v sessions.View) bool { return v.Err != nil })
	for _, words := range []string{"DNS does not find the service", `service "pg" { policy = "read" }`, `node_prefix "" { policy = "read" }`} {
		if !strings.Contains(v.Err.Error(), words) {
			t.Errorf("%q does not say %q", v.Err, words)
		}
	}
	reader, _, err := server.api.ACL().PolicyCreate(&api.ACLPolicy{Name: "dns", Rules: `service "pg" { policy = "read" } node_prefix "" { policy = "read" }`}, nil)
	must(t, err)
	_, _, err = server.api.ACL().TokenUpdate(&api.ACLToken{AccessorID: "00000000-0000-0000-0000-000000000002", Policies: []*api.ACLTokenPolicyLink{{ID: reader.ID}}}, nil)
	must(t, err)
	n.await(t, 2*time.Minute, "that DNS finds it", func(v sessions.View) bool { return v.Err == nil })
}
