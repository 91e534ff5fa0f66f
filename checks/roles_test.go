package checks_test

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
)

// TestRoleIsKept: what a person, or a rule for passwords, takes from the role that replicates
// would keep replicas away from their next connection on, and so after a failover. It is seen,
// and given back.
func TestRoleIsKept(t *testing.T) {
	p := primary(t, "n1")
	role := checks.Role{Name: "replicator", Password: "secret"}
	holds := func() bool {
		t.Helper()
		is, err := p.conn.RoleHolds(within(t, 20*time.Second), role)
		must(t, err)
		return is
	}
	if holds() {
		t.Error("a role that is not there holds")
	}
	ensure := func() {
		t.Helper()
		_, err := p.conn.EnsureRoles(within(t, 20*time.Second), []checks.Role{role})
		must(t, err)
	}
	ensure()
	for _, taken := range []string{
		"alter role replicator valid until '2020-01-01'", "alter role replicator valid until '2999-01-01'",
		"alter role replicator connection limit 0", "alter role replicator connection limit 1",
		"alter role replicator nologin", "alter role replicator noreplication",
		"revoke execute on function pg_read_binary_file(text) from replicator",
		"drop owned by replicator; drop role replicator",
	} {
		if !holds() {
			t.Fatalf("before %q it does not hold", taken)
		}
		p.exec(taken)
		if holds() {
			t.Errorf("after %q it holds", taken)
		}
		ensure()
		if !holds() {
			t.Errorf("%q is not mended", taken)
		}
	}
	for _, own := range []string{"alter role replicator connection limit 1000", "alter role replicator superuser valid until 'infinity'"} {
		if p.exec(own); !holds() {
			t.Errorf("%q is taken for a fault", own)
		}
	}
	superuser := checks.Role{Name: "postgres", Superuser: true}
	p.exec("alter role postgres valid until '2999-01-01'") // by an operator's rule; the socket asks for no password
	if is, err := p.conn.RoleHolds(within(t, 20*time.Second), superuser); err != nil || !is {
		t.Errorf("the superuser's own date is taken for a fault: %v", err)
	}
}
