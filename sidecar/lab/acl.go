package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// The names of the files with Consul's tokens.
const (
	managementToken = "consul-management" // may do everything; the lab's own, and the agents'
	memberToken     = "consul-member"     // has the policy that `pgsidecar files policy` prints
	readerToken     = "consul-reader"     // reads the catalog; the agents' own, for DNS and clients that show none
)

// apiToken is the name of the file with the token that the members' APIs ask
// for.
const apiToken = "api"

// APITokenFile returns the path of the file with the token with which the
// members' APIs change something.
func (p *Plan) APITokenFile() string { return p.PasswordFile(apiToken) }

// consulTokenFile returns the path of the members' token; empty: there are no
// ACLs.
func (p *Plan) consulTokenFile() string {
	if !p.Breakable {
		return ""
	}
	return p.PasswordFile(memberToken)
}

// secret reads a file that writeSecrets wrote.
func (p *Plan) secret(name string) (string, error) {
	b, err := os.ReadFile(p.PasswordFile(name))
	if err != nil {
		return "", fmt.Errorf("read a secret: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// newUUID returns a random UUID, the form of Consul's tokens.
func newUUID() (string, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// aclConfig is the part of an agent's configuration that turns ACLs on. Tokens
// are cached for a second, not for 30, so that a revoked one ends soon.
func (l *Lab) aclConfig(h Host, dialect programs.ConsulDialect) (map[string]any, error) {
	management, err := l.plan.secret(managementToken)
	if err != nil {
		return nil, err
	}
	reader, err := l.plan.secret(readerToken)
	if err != nil {
		return nil, err
	}
	// Not the anonymous token: a leader that comes up after all servers were gone
	// may make that anew, without a policy.
	tokens := map[string]any{"agent": management, "default": reader}
	if h.Kind == KindConsul {
		tokens[dialect.ManagementToken()] = management
	}
	return map[string]any{"enabled": true, "default_policy": "deny", "down_policy": "extend-cache",
		"token_ttl": "1s", "policy_ttl": "1s", "role_ttl": "1s", "tokens": tokens}, nil
}

// readerRules let everybody ask DNS.
const readerRules = `node_prefix "" { policy = "read" }
service_prefix "" { policy = "read" }`

// makeACLs makes the members' policy and token, and lets everybody read the
// catalog.
func (l *Lab) makeACLs(ctx context.Context) error {
	client, err := l.ConsulClient(l.plan.Servers()[0].Name)
	if err != nil {
		return err
	}
	rules, err := exec.CommandContext(ctx, l.plan.Binary, "files", "policy", "--cluster", l.plan.Cluster,
		"--prefix", l.plan.Prefix, "--service", l.plan.Cluster).Output()
	if err != nil {
		return fmt.Errorf("make the members' policy: %w", err)
	}
	write := new(api.WriteOptions).WithContext(ctx)
	err = untilDone(ctx, func() error {
		_, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: "member", Rules: string(rules)}, write)
		return err
	})
	if err != nil {
		return fmt.Errorf("make the members' policy: %w", err)
	}
	err = untilDone(ctx, func() error {
		_, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: "everybody", Rules: readerRules}, write)
		return err
	})
	if err != nil {
		return fmt.Errorf("make everybody's policy: %w", err)
	}
	err = untilDone(ctx, func() error { return l.makeToken(ctx, readerAccessor, readerToken, "everybody") })
	if err != nil {
		return fmt.Errorf("let everybody read Consul's catalog: %w", err)
	}
	return l.GrantToken(ctx)
}

// untilDone does something in Consul again and again until it succeeds, or was
// done by an attempt whose answer was lost: ACLs begin after the leader, and the
// leader may change while the servers come up.
func untilDone(ctx context.Context, f func() error) error {
	var last error
	err := every(ctx, 100*time.Millisecond, func() (bool, error) {
		last = f()
		return last == nil || strings.Contains(last.Error(), "already exists"), nil // Consul has no code for it
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}

// The accessors name tokens; they are no secrets.
const (
	memberAccessor = "70677369-6465-6361-7200-6d656d626572"
	readerAccessor = "70677369-6465-6361-7200-726561646572"
)

// aclPatience is how long a Consul that comes back may refuse changes of its ACLs: it
// begins in legacy mode (measured with 1.8.7, after a restart).
const aclPatience = 30 * time.Second

// GrantToken makes the members' token in Consul. One that is there stays.
func (l *Lab) GrantToken(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, aclPatience)
	defer cancel()
	err := untilDone(ctx, func() error { return l.makeToken(ctx, memberAccessor, memberToken, "member") })
	if err != nil {
		return fmt.Errorf("make the members' token: %w", err)
	}
	return nil
}

// makeToken makes a token in Consul with the secret of that name. One that is there
// stays.
func (l *Lab) makeToken(ctx context.Context, accessor, name, policy string) error {
	client, err := l.managementClient()
	if err != nil {
		return err
	}
	secret, err := l.plan.secret(name)
	if err != nil {
		return err
	}
	token := &api.ACLToken{AccessorID: accessor, SecretID: secret, Description: name, Policies: []*api.ACLTokenPolicyLink{{Name: policy}}}
	_, _, err = client.ACL().TokenCreate(token, new(api.WriteOptions).WithContext(ctx))
	if err != nil && !strings.Contains(err.Error(), "already in use") { // Consul has no code for it
		return err
	}
	return nil
}

// RevokeToken deletes the members' token in Consul: until GrantToken all that
// they ask is refused.
func (l *Lab) RevokeToken(ctx context.Context) error {
	client, err := l.managementClient()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, aclPatience)
	defer cancel()
	err = untilDone(ctx, func() error {
		_, err := client.ACL().TokenDelete(memberAccessor, new(api.WriteOptions).WithContext(ctx))
		if err != nil && strings.Contains(err.Error(), "not found") {
			return nil // by an attempt whose answer was lost
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("revoke the members' token: %w", err)
	}
	return nil
}

func (l *Lab) managementClient() (*api.Client, error) {
	if !l.plan.Breakable {
		return nil, ErrNotBreakable
	}
	return l.ConsulClient(l.plan.App().Name)
}

// ConsulLeader returns the host of the server that leads Consul.
func (l *Lab) ConsulLeader(ctx context.Context) (string, error) {
	client, err := l.ConsulClient(l.plan.App().Name)
	if err != nil {
		return "", err
	}
	address, err := client.Status().LeaderWithQueryOptions(new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("ask for Consul's leader: %w", err)
	}
	for _, s := range l.plan.Servers() {
		if s.at(s.Ports.Server) == address {
			return s.Name, nil
		}
	}
	return "", fmt.Errorf("ask for Consul's leader: %w: %q", ErrNoHost, address)
}

// WipeConsul removes what a host's agent has on disk; the agent must not run.
func (l *Lab) WipeConsul(host string) error {
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	if _, err := l.PID(host, Consul); !errors.Is(err, ErrNotRunning) {
		return errors.Join(err, fmt.Errorf("wipe Consul on %s: it runs", host))
	}
	if err := os.RemoveAll(filepath.Join(h.Dir, "consul")); err != nil {
		return fmt.Errorf("wipe Consul on %s: %w", host, err)
	}
	return nil
}
