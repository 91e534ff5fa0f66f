package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// rules are the lines of the policy that are no comments.
func rules(t *testing.T, policy string) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(policy) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			found = append(found, line)
		}
	}
	if len(found) < 4 {
		t.Fatalf("only these rules: %q", found)
	}
	return found
}

// TestPolicy: with ACLs on and everything denied, the policy is enough for all
// that a member does; and without any of its rules, or with one that grants
// reading alone, the error names the very rule. Where the proxies may not be read, they are
// just not seen: only a member's page asks for them.
func TestPolicy(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", `acl { enabled = true  default_policy = "deny"  tokens { MANAGEMENT = "`+root+`"  agent = "`+root+`" } }`)
	server.authorize(root)
	// A session needs its agent's node in the catalog.
	eventually(t, 20*time.Second, "the agent registers its node", func() error {
		nodes, _, err := server.api.Catalog().Nodes(nil)
		if err == nil && len(nodes) == 0 {
			err = errors.New("no node yet")
		}
		return err
	})
	all := rules(t, sessions.Policy("pgsidecar", "main", "pg"))

	type variant struct{ name, policy, missing string }
	var variants []variant
	for i, rule := range all {
		rest := append(append([]string{}, all[:i]...), all[i+1:]...)
		variants = append(variants, variant{"without " + rule, strings.Join(rest, "\n"), rule})
		if read := strings.Replace(rule, `"write"`, `"read"`, 1); read != rule {
			variants = append(variants, variant{"with " + read, strings.Join(append(rest, read), "\n"), rule})
		}
	}
	proxyService := sessions.ProxyService("pg")
	must(t, server.api.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: proxyService, Port: 5009}))
	for i, v := range append([]variant{{"with all of it", strings.Join(all, "\n"), ""}}, variants...) {
		t.Run(v.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "token")
			must(t, os.WriteFile(file, []byte(server.policy(fmt.Sprintf("policy-%d", i), v.policy)), 0o600))
			o := options(fmt.Sprintf("n%d", i), server.http)
			o.TokenFile = file
			err := live(t, server, o)
			if proxies := v.missing != "" && strings.Contains(v.missing, proxyService); v.missing == "" || proxies {
				must(t, err)
				// Before 1.11 Consul does not say that it leaves them out.
				c, err := sessions.New(o)
				must(t, err)
				found, err := c.Proxies(background(t))
				if hidden := len(found) == 0; hidden != proxies || err != nil && !proxies {
					t.Errorf("the proxies are %+v, %v", found, err)
				}
				return
			}
			// The error may show the rule with less than the policy grants.
			named := v.missing[:strings.Index(v.missing, "{")]
			wantErr(t, err, sessions.ErrPermission, named)
		})
	}
}

// live does once all that a member does with Consul, and returns the first
// error.
func live(t *testing.T, server *agent, o sessions.Options) error {
	ctx := background(t)
	n := run(t, o)
	defer n.stop()
	// What is wrong is told by an operation or, if it lives in the background,
	// by the view.
	until := func(done func(sessions.View) bool) error {
		v := n.await(t, 20*time.Second, "an end", func(v sessions.View) bool { return v.Err != nil || done(v) })
		return v.Err
	}
	member := o.Member
	for _, step := range []func() error{
		func() error {
			return until(func(v sessions.View) bool { return v.Consul.Session != "" && v.Consul.SeenAt != 0 })
		},
		func() error { return n.Commit(ctx, ballot(n, member)) },
		func() (err error) {
			// Those of the member before may not have been seen yet.
			eventually(t, 20*time.Second, "the settings as they are", func() error {
				err = n.PutSettings(ctx, []byte(`{"by":"`+member+`"}`), n.View().SettingsIndex)
				if errors.Is(err, sessions.ErrConflict) {
					return err
				}
				return nil
			})
			return err
		},
		func() error { return n.PutHistory(ctx, 1, []byte("{}")) },
		func() error { _, err := n.History(ctx, 1); return err },
		func() error { return n.Register(ctx, registration(member, "primary", 5001)) },
		// The agent tells the catalog later. Only then can an answer lack what
		// the token may not read: Consul does not even wake a blocking query
		// whose answer is empty before and after.
		func() error {
			eventually(t, 60*time.Second, "the instance in the catalog", func() error {
				found, _, err := server.api.Catalog().Service("pg", "", nil)
				if err == nil && !slices.ContainsFunc(found, func(s *api.CatalogService) bool { return s.ServiceID == "pg-"+member }) {
					err = errors.New("not there")
				}
				return err
			})
			return n.Evict(ctx, []string{"gone"})
		},
		func() error {
			return until(func(v sessions.View) bool {
				return slices.ContainsFunc(v.Members, func(m sessions.Member) bool { return m.Name == member })
			})
		},
		func() error {
			change := keep(n, member)
			change.Lock = ha.LockRelease
			return n.Commit(ctx, change)
		},
		func() error { return n.Deregister(ctx) },
		func() error { return n.ReleaseSession(context.WithoutCancel(ctx)) },
		// The last word is the watches': they may lag behind the steps.
		func() error {
			err := n.View().Err
			if errors.Is(err, sessions.ErrNoSession) {
				return nil // it was released
			}
			return err
		},
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
