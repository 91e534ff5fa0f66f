package sessions_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// of is options of a member of some cluster, under the service pg.
func of(cluster, name, address string) sessions.Options {
	o := options(name, address)
	o.Cluster = cluster
	return o
}

// entry is what the catalog has of an instance.
func (a *agent) entry(id string) *api.ServiceEntry {
	a.t.Helper()
	entries, _, err := a.api.Health().Service("pg", "", false, &api.QueryOptions{RequireConsistent: true})
	must(a.t, err)
	for _, e := range entries {
		if e.Service.ID == id {
			return e
		}
	}
	return nil
}

// founding is the change by which a member founds its cluster.
func founding(m *member, name string) ha.Change {
	c := ballot(m, name)
	c.What, c.Record.Phase, c.Record.SystemID = "found", ha.PhaseBootstrap, ""
	return c
}

// Two clusters under one service: neither touches, lists or finds the other's members,
// although they have the same names; both say it.
func TestTwoClustersOfOneService(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	host := newAgent(t, "host1", server.serf, "")
	ctx := background(t)
	orders, billing := run(t, of("orders", "n1", server.http)), run(t, of("billing", "n1", host.http))
	orders.session(t)
	billing.session(t)
	for i, m := range []*member{orders, billing} {
		must(t, m.Commit(ctx, ballot(m, "n1")))
		must(t, m.Register(ctx, registration("n1", "primary", 5001+i)))
	}
	for _, c := range []struct {
		m        *member
		own, not string
	}{{orders, "127.0.0.1:5001", "billing"}, {billing, "127.0.0.1:5002", "orders"}} {
		v := c.m.await(t, 10*time.Second, "the word about the other cluster", func(v sessions.View) bool { return errors.Is(v.Err, sessions.ErrOtherCluster) })
		wantErr(t, v.Err, sessions.ErrOtherCluster, c.not, "service { name =", "pg-n1 on node")
		if v.Consul.OtherCluster != v.Err.Error() {
			t.Errorf("the core is told %q", v.Consul.OtherCluster)
		}
		c.m.await(t, 10*time.Second, "itself in the view", func(v sessions.View) bool { return member1(v, "n1").Name != "" })
		for what, list := range map[string][]sessions.Member{"members": c.m.View().Members, "believed": c.m.View().Believed()} {
			if len(list) != 1 || list[0].Postgres != c.own {
				t.Errorf("%s: %+v", what, list)
			}
		}
		if list, err := c.m.Members(ctx); err != nil || len(list) != 1 || list[0].Postgres != c.own {
			t.Errorf("the catalog's members: %+v, %v", list, err)
		}
		must(t, c.m.Evict(ctx, []string{"n1"}))
	}

	// Neither tag is taken, now or at the next comparisons.
	index := func() [2]uint64 {
		entries, _, err := server.api.Health().Service("pg", "primary", false, &api.QueryOptions{RequireConsistent: true})
		must(t, err)
		if len(entries) != 2 {
			t.Fatalf("%d instances have the tag primary", len(entries))
		}
		return [2]uint64{entries[0].Service.ModifyIndex, entries[1].Service.ModifyIndex}
	}
	before, until := index(), time.Now().Add(5*time.Second)
	eventually(t, 20*time.Second, "five seconds", func() error {
		if now := index(); now != before {
			t.Fatalf("an instance was changed: %v became %v", before, now)
		}
		if time.Now().Before(until) {
			return errors.New("not yet")
		}
		return nil
	})

	// The word goes when the other cluster does.
	must(t, billing.Deregister(ctx))
	orders.await(t, 10*time.Second, "the other cluster's end", func(v sessions.View) bool { return v.Err == nil && v.Consul.OtherCluster == "" })
	if server.entry("pg-n1") == nil {
		t.Error("the wrong instance was deregistered")
	}
}

// Two members of two clusters have one id at one agent: the second neither takes the
// first's place nor takes it away.
func TestOneIDOfTwoClusters(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	orders, billing := run(t, of("orders", "n1", server.http)), run(t, of("billing", "n1", server.http))
	orders.session(t)
	billing.session(t)
	must(t, orders.Register(ctx, registration("n1", "replica", 5001)))
	wantErr(t, billing.Register(ctx, registration("n1", "replica", 5002)), sessions.ErrOtherCluster, "pg-n1", "orders", "service { name }")
	billing.await(t, 10*time.Second, "the error of the registration", func(v sessions.View) bool { return errors.Is(v.Err, sessions.ErrOtherCluster) })
	must(t, billing.Deregister(ctx))
	if e := server.entry("pg-n1"); e == nil || e.Service.Port != 5001 || e.Service.Meta["cluster"] != "orders" {
		t.Fatalf("the catalog has %+v", e)
	}

	// One name, and the keys elsewhere, is another cluster too.
	o := of("orders", "n1", server.http)
	o.Prefix = "staging"
	staging := run(t, o)
	wantErr(t, staging.Register(ctx, registration("n1", "replica", 5003)), sessions.ErrOtherCluster, "pgsidecar/", "service { name }")
	must(t, staging.Deregister(ctx)) // which would else take the free place below

	// When the first is gone, its place is free.
	must(t, orders.Deregister(ctx))
	must(t, billing.Register(ctx, registration("n1", "replica", 5002)))
}

// Who may start under a service that another cluster uses, and who may found one.
func TestSecondClusterIsRefused(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	orders := run(t, of("orders", "n1", server.http))
	orders.session(t)
	must(t, orders.CheckService(ctx))
	must(t, orders.Commit(ctx, founding(orders, "n1"))) // its own instance is in nobody's way
	must(t, orders.Register(ctx, registration("n1", "primary", 5001)))
	eventually(t, 10*time.Second, "the first in the catalog", func() error {
		if server.entry("pg-n1") == nil {
			return errors.New("not there")
		}
		return nil
	})

	billing := run(t, of("billing", "n1", server.http))
	billing.session(t)
	must(t, orders.CheckService(ctx))
	wantErr(t, billing.CheckService(ctx), sessions.ErrOtherCluster, `"orders"`, "node server", "127.0.0.1:5001", `service { name = "billing" }`, "consul services deregister -id=pg-n1")
	wantErr(t, billing.Commit(ctx, founding(billing, "n1")), sessions.ErrOtherCluster)
	if pair, _, err := server.api.KV().Get("pgsidecar/billing/state", nil); err != nil || pair != nil {
		t.Fatalf("a cluster was founded: %+v, %v", pair, err)
	}
	if billing.View().Consul.OtherCluster == "" {
		t.Error("the core is not told why nothing can be founded")
	}

	// A member that the record names was there before: its cluster is not ended by the other.
	must(t, billing.Commit(ctx, ballot(billing, "n1")))
	must(t, billing.CheckService(ctx))
	late := run(t, of("billing", "n9", server.http))
	wantErr(t, late.CheckService(ctx), sessions.ErrOtherCluster)
}

// Who comes from a version whose default service was pg is told how to keep it.
func TestFormerDefaultService(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	former := run(t, of("orders", "n1", server.http))
	former.session(t)
	must(t, former.Register(ctx, registration("n1", "replica", 5001)))
	eventually(t, 10*time.Second, "the former name in the catalog", func() error {
		if server.entry("pg-n1") == nil {
			return errors.New("not there")
		}
		return nil
	})
	o := of("orders", "n2", server.http)
	o.Service = ""
	wantErr(t, run(t, o).CheckService(ctx), sessions.ErrOtherCluster, `service { name = "pg" }`, "pg-n1 on node server", "stop all members first")
	o.Service = "chosen" // who names one has chosen
	must(t, run(t, o).CheckService(ctx))
	o.Cluster, o.Service = "billing", ""
	must(t, run(t, o).CheckService(ctx))
	must(t, former.Deregister(ctx))
	o.Cluster = "orders"
	must(t, run(t, o).CheckService(ctx))
}

// lines is a log that a test reads while it is written.
type lines struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.String(), text)
}

// What somebody takes from this member's entry in the catalog is put back, and said.
func TestTakenTagIsPutBack(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	log := new(lines)
	o := options("n1", server.http)
	o.Logger = hclog.New(&hclog.LoggerOptions{Output: log})
	n1 := run(t, o)
	n1.session(t)
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	n1.SetHolding(true, false)
	must(t, n1.Register(ctx, registration("n1", "primary", 5001)))
	server.answers(2*time.Second, 5001)

	const said = "another program took a part of this member's entry"
	untag := func(tags ...string) {
		e := server.entry("pg-n1")
		s := *e.Service
		s.Tags = tags
		ok, resp, _, err := server.api.Txn().Txn(api.TxnOps{{Service: &api.ServiceTxnOp{Verb: api.ServiceCAS, Node: e.Node.Node, Service: s}}}, nil)
		if err != nil || !ok {
			t.Fatalf("untag: %v, %+v", err, resp)
		}
	}
	for i, take := range []func(){
		func() { untag("blue") },
		func() { untag("primary") },
		func() {
			_, err := server.api.Catalog().Deregister(&api.CatalogDeregistration{Node: "server", ServiceID: "pg-n1"}, nil)
			must(t, err)
		},
	} {
		take()
		eventually(t, 15*time.Second, fmt.Sprintf("the return of what was taken, time %d", i+1), func() error {
			e := server.entry("pg-n1")
			if e == nil || !slices.Contains(e.Service.Tags, "primary") || !slices.Contains(e.Service.Tags, "blue") {
				return fmt.Errorf("the catalog has %+v", e)
			}
			return nil
		})
		eventually(t, 5*time.Second, "the word about it", func() error {
			if n := log.count(said); n < i+1 {
				return fmt.Errorf("it was said %d times", n)
			}
			return nil
		})
	}
	server.answers(2*time.Second, 5001)
	n1.await(t, 10*time.Second, "the word in status", func(v sessions.View) bool {
		return v.Err != nil && strings.Contains(v.Err.Error(), "again and again")
	})

	// A deposed primary's tag is not put back: it was taken by right.
	n2 := run(t, options("n2", server.http))
	n2.session(t)
	must(t, n2.Commit(ctx, ballot(n2, "n2")))
	must(t, n2.Evict(ctx, []string{"n1"}))
	until := time.Now().Add(3 * time.Second)
	eventually(t, 20*time.Second, "three seconds", func() error {
		if e := server.entry("pg-n1"); slices.Contains(e.Service.Tags, "primary") {
			t.Fatalf("the catalog has %+v", e.Service)
		}
		if time.Now().Before(until) {
			return errors.New("not yet")
		}
		return nil
	})
}
