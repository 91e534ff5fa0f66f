package sessions_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestRemoveCluster: nothing goes while a member is registered or holds the
// lock, or if it has changed since it was looked at; then everything of this
// cluster goes, and nothing of another.
func TestRemoveCluster(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	other, err := sessions.New(sessions.Options{Addresses: []string{server.http}, Cluster: "main-two", Member: "x", Service: "pg"})
	must(t, err)
	must(t, other.PutSettings(ctx, []byte("{}"), 0))

	n1 := run(t, options("n1", server.http))
	n1.session(t)
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	must(t, n1.PutHistory(ctx, 1, []byte("{}")))
	r := registration("n1", "primary", 5001)
	r.Meta["cluster"] = "main"
	must(t, n1.Register(ctx, r))
	n1.await(t, 5*time.Second, "the instance", func(v sessions.View) bool { return len(v.Members) == 1 })

	left, err := n1.Remains(ctx)
	must(t, err)
	if len(left.Keys) != 3 || len(left.Members) != 1 || left.Holder != "n1" {
		t.Fatalf("remains %+v", left)
	}
	wantErr(t, n1.RemoveCluster(ctx, left), sessions.ErrInUse, "member n1 is registered on node server as pg-n1", "n1 holds the leader lock")

	must(t, n1.Deregister(ctx))
	eventually(t, 5*time.Second, "the instance has gone", func() error {
		left, err = n1.Remains(ctx)
		if err == nil && len(left.Members) > 0 {
			err = sessions.ErrInUse
		}
		return err
	})
	wantErr(t, n1.RemoveCluster(ctx, left), sessions.ErrInUse, "n1 holds the leader lock")

	change := keep(n1, "n1")
	change.Lock = ha.LockRelease
	must(t, n1.Commit(ctx, change))
	left, err = n1.Remains(ctx)
	must(t, err)
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	wantErr(t, n1.RemoveCluster(ctx, left), sessions.ErrConflict)

	change = keep(n1, "n1")
	change.Lock = ha.LockRelease
	must(t, n1.Commit(ctx, change))
	n1.stop()
	left, err = n1.Remains(ctx)
	must(t, err)
	must(t, n1.RemoveCluster(ctx, left))
	keys, _, err := server.api.KV().Keys("", "", nil)
	must(t, err)
	if got := strings.Join(keys, " "); got != "pgsidecar/main-two/config" {
		t.Errorf("left in Consul: %s", got)
	}
	left, err = n1.Remains(ctx)
	must(t, err)
	if len(left.Keys) != 0 {
		t.Errorf("remains %+v", left)
	}

	// An instance of another cluster with the same service is nobody's concern.
	must(t, server.api.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "pg", ID: "pg-y", Port: 1, Meta: map[string]string{"cluster": "main-two"}}))
	eventually(t, 5*time.Second, "the other cluster's instance", func() error {
		theirs, err := other.Remains(ctx)
		if err == nil && len(theirs.Members) == 0 {
			err = errors.New("not there")
		}
		return err
	})
	left, err = n1.Remains(ctx)
	must(t, err)
	must(t, n1.RemoveCluster(ctx, left))
}

// TestForget: a member that is dead goes from the catalog, one that is not
// stays.
func TestForget(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	n1 := run(t, options("n1", server.http))
	must(t, n1.Forget(ctx, "n3")) // there is none
	// As left by an agent that has gone: only in the catalog.
	put := func(status string) {
		// The Go client's own type has fields that Consul 1.8 refuses.
		_, err := server.api.Raw().Write("/v1/catalog/register", map[string]any{"Node": "gone", "Address": "127.0.0.2",
			"Service": map[string]any{"ID": "pg-n3", "Service": "pg", "Port": 1, "Meta": map[string]string{"member": "n3", "cluster": "main"}},
			"Checks":  []map[string]any{{"Node": "gone", "CheckID": "pg-n3:server", "Name": "PostgreSQL", "ServiceID": "pg-n3", "Status": status}}}, nil, nil)
		must(t, err)
	}
	put("passing")
	wantErr(t, n1.Forget(ctx, "n3"), sessions.ErrInUse, "on node gone are passing")
	put("critical")
	must(t, n1.Forget(ctx, "n2"))
	must(t, n1.Forget(ctx, "n3"))
	found, _, err := server.api.Catalog().Service("pg", "", nil)
	must(t, err)
	if len(found) != 0 {
		t.Errorf("still there: %+v", found[0])
	}
}
