package lab_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
)

// TestTwoSites: three datacenters hear each other over a long way; sites that are cut off
// from each other reach the witness, and a site without a way out reaches nobody.
func TestTwoSites(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	l := newLab(t, lab.Options{Members: 3, Isolated: true, Sites: 2})
	ctx := up(t, l)
	opened, err := lab.Open(l.Plan().Dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []*lab.Lab{l, opened} {
		if sites := of.Sites(); len(sites) != 2 || sites[0].Name() != "dc1" || sites[1].Name() != "dc2" || sites[1].Other() != of {
			t.Fatalf("the sites are %v", sites)
		}
	}
	second := l.Other()
	for _, m := range second.Plan().Members() {
		if _, err := config.Load(m.ConfigFile(), config.OSEnvironment()); err != nil {
			t.Error(err)
		}
	}
	if n := len(second.Plan().Members()); n != 2 || second.Plan().Members()[0].Name != "n4" {
		t.Errorf("the second site has %+v", second.Plan().Members())
	}
	for _, site := range l.Sites() {
		federated(t, ctx, site)
	}
	preparedQuery(t, l)
	witness, _ := l.Plan().Witness()
	servers := map[string]string{"dc1": l.Plan().Servers()[0].HTTPAddress(), "dc2": second.Plan().Servers()[0].HTTPAddress(), "dc3": witness.HTTPAddress()}
	reach := func(from *lab.Lab, host, to string, want bool) time.Duration {
		t.Helper()
		dial, err := from.Dialer(host)
		if err != nil {
			t.Fatal(err)
		}
		patience := 500 * time.Millisecond
		if want {
			patience = 10 * time.Second // a lost frame is sent again after a second
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		watch := labtest.StartStopwatch(t)
		conn, err := dial(ctx, "tcp", servers[to])
		if got := err == nil; got != want {
			t.Errorf("%s reaches %s: %t (%v), want %t", host, to, got, err, want)
		}
		if err != nil {
			return 0
		}
		took := watch.Within(patience, "to connect")
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		return took
	}
	if took := reach(l, "app", "dc2", true); took < 2*lab.WANDelay {
		t.Errorf("to the other site and back took %v", took)
	}
	steps := []struct {
		name                  string
		do                    func() error
		other, first, witness bool // dc1 reaches dc2, dc1 reaches dc3, dc2 reaches dc3
	}{
		{"cut off", func() error { return opened.CutSites(ctx) }, false, true, true},
		{"healed", func() error { return l.HealAll(ctx) }, true, true, true},
		{"the first is alone", func() error { return l.SiteDown(ctx) }, false, false, true},
		{"healed by the other", func() error { return second.HealAll(ctx) }, true, true, true},
		{"the witness is away", func() error { return l.LinkDown(ctx, witness.Name) }, true, false, false},
		{"mended", func() error { return l.Mend(ctx) }, true, true, true},
		{"the second is lost", func() error { return second.LoseSite(ctx) }, false, true, false},
		{"it is back", func() error { return second.StartSite(ctx) }, true, true, true},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		t.Log(s.name)
		if s.name == "it is back" {
			federated(t, ctx, second)
		}
		reach(l, "app", "dc2", s.other)
		reach(l, "app", "dc3", s.first)
		reach(second, "app2", "dc3", s.witness)
	}
	down(t, l)
	nothingLeft(t, second.Plan())
}

// federated waits until the Consul of a site answers for all three datacenters.
func federated(t *testing.T, ctx context.Context, site *lab.Lab) {
	t.Helper()
	client, err := site.ConsulClient(site.Plan().App().Name)
	if err != nil {
		t.Fatal(err)
	}
	for _, dc := range []string{"dc1", "dc2", "dc3"} {
		labtest.Until(t, 30*time.Second, site.Name()+" to hear "+dc, func() bool {
			nodes, _, err := client.Catalog().Nodes((&api.QueryOptions{Datacenter: dc}).WithContext(ctx))
			return err == nil && slices.ContainsFunc(nodes, func(n *api.Node) bool { return n.Datacenter == dc })
		})
	}
}

// preparedQuery makes the query of `pgsidecar help sites` at the first site: its DNS finds
// the primary of the other site while this one has none, and this one's as soon as it has.
func preparedQuery(t *testing.T, l *lab.Lab) {
	t.Helper()
	client := func(site *lab.Lab, host string) *api.Client {
		c, err := site.ConsulClient(host)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	app, second := l.Plan().App(), l.Other()
	dial, err := l.Dialer(app.Name)
	if err != nil {
		t.Fatal(err)
	}
	query := `{"Name": "pg-primary", "Service":
        {"Service": "pg", "Tags": ["primary"], "OnlyPassing": true,
         "Failover": {"Datacenters": ["dc1", "dc2"]}}}`
	post := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	answer, err := post.Post("http://"+app.HTTPAddress()+"/v1/query", "application/json", strings.NewReader(query))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("the query was answered by %s", answer.Status)
	}
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, app.DNSAddress())
	}}
	names := func(name, want string) {
		t.Helper()
		labtest.Eventually(t, 30*time.Second, name+" to be "+want, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			got, err := resolver.LookupHost(ctx, name)
			if err != nil || len(got) != 1 || got[0] != want {
				return fmt.Errorf("%v %w", got, err)
			}
			return nil
		})
	}
	here, there := l.Plan().Members()[0], second.Plan().Members()[0]
	register := func(site *lab.Lab, m lab.Host) {
		t.Helper()
		err := client(site, m.Name).Agent().ServiceRegister(&api.AgentServiceRegistration{ID: "pg-" + m.Name, Name: "pg", Tags: []string{"primary"}, Port: m.Ports.Postgres, Address: m.Address})
		if err != nil {
			t.Fatal(err)
		}
	}
	register(second, there)
	names("pg-primary.query.consul.", there.Address)
	names("primary.pg.service.dc2.consul.", there.Address)
	register(l, here)
	names("pg-primary.query.consul.", here.Address)
	for _, err := range []error{client(l, here.Name).Agent().ServiceDeregister("pg-" + here.Name), client(second, there.Name).Agent().ServiceDeregister("pg-" + there.Name)} {
		if err != nil {
			t.Error(err)
		}
	}
}
