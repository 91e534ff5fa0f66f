package templates_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/templates"
)

func registered(name, role, term string) templates.Registration {
	r := templates.Registration{Name: name, Postgres: name + ".example:5432", API: name + ".example:8008", Status: "passing", Meta: map[string]string{"term": term}}
	if role != "" {
		r.Tags = []string{role}
	}
	return r
}

func leading(term uint64, leader string) ha.Record {
	return ha.Record{Version: 1, Term: term, Leader: leader, Phase: ha.PhaseLeading, SystemID: "7", Members: []string{"a", "b", "c"}, Index: 1}
}

func TestTopologyRoles(t *testing.T) {
	electing := leading(3, "b")
	electing.Phase = ha.PhasePromoting
	critical := registered("c", "replica", "2")
	critical.Status = "critical"
	for _, test := range []struct {
		name     string
		record   ha.Record
		members  []templates.Registration
		primary  string
		replicas string
	}{
		{"steady", leading(2, "a"), []templates.Registration{registered("c", "replica", "2"), registered("a", "primary", "2"), registered("b", "replica", "2")}, "a", "b c"},
		{"the record counts, not an old tag", leading(3, "b"), []templates.Registration{registered("a", "primary", "2"), registered("b", "replica", "2"), registered("c", "replica", "2")}, "b", "c"},
		{"no primary before its server is writable", electing, []templates.Registration{registered("a", "primary", "2"), registered("b", "replica", "2"), registered("c", "replica", "2")}, "", "c"},
		{"a critical replica serves nobody", leading(2, "a"), []templates.Registration{registered("a", "primary", "2"), critical}, "a", ""},
		{"a leader without an address", leading(2, "a"), []templates.Registration{registered("b", "replica", "2")}, "", "b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			top, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: test.record, Registered: test.members})
			if err != nil {
				t.Fatal(err)
			}
			primary := ""
			if top.Primary != nil {
				primary = top.Primary.Name
			}
			var replicas []string
			for _, m := range top.Replicas {
				replicas = append(replicas, m.Name)
			}
			if primary != test.primary || strings.Join(replicas, " ") != test.replicas {
				t.Errorf("primary %q, replicas %q; want %q, %q", primary, replicas, test.primary, test.replicas)
			}
		})
	}
}

// A primary that withdraws its tag holds clients; one that has not announced
// itself yet does not.
func TestTopologyHeld(t *testing.T) {
	build := func(prior templates.Topology, term uint64, a templates.Registration) templates.Topology {
		t.Helper()
		top, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: leading(term, "a"), Prior: prior, Registered: []templates.Registration{a}})
		if err != nil {
			t.Fatal(err)
		}
		return top
	}
	fresh := build(templates.Topology{}, 2, registered("a", "", "2"))
	if fresh.Held {
		t.Error("held before it was ever announced")
	}
	announced := build(fresh, 2, registered("a", "primary", "2"))
	if announced.Held || !announced.Announced {
		t.Errorf("announced: %+v", announced)
	}
	withdrawn := build(announced, 2, registered("a", "", "2"))
	if !withdrawn.Held || withdrawn.Primary == nil {
		t.Error("not held after the tag was withdrawn")
	}
	if again := build(withdrawn, 2, registered("a", "", "2")); !again.Held {
		t.Error("the hold did not last")
	}
	if back := build(withdrawn, 2, registered("a", "primary", "2")); back.Held {
		t.Error("held after the tag came back")
	}
	if next := build(withdrawn, 3, registered("a", "", "2")); next.Held {
		t.Error("held in a new term")
	}
}

func TestTopologyKeepsWhoIsAway(t *testing.T) {
	src := templates.Source{Cluster: "main", Service: "pg", Record: leading(2, "a"), Registered: []templates.Registration{
		registered("a", "primary", "2"), registered("b", "replica", "2"), registered("x", "replica", "2")}}
	before, err := templates.Build(src)
	if err != nil {
		t.Fatal(err)
	}
	src.Prior, src.Registered = before, src.Registered[:1]
	after, err := templates.Build(src)
	if err != nil {
		t.Fatal(err)
	}
	if len(after.Members) != 2 || after.Members[1].Name != "b" || after.Members[1].Port != 5432 || after.Members[1].Status != "missing" {
		t.Errorf("b should stay, x is no member: %+v", after.Members)
	}
	if len(after.Replicas) != 0 {
		t.Errorf("one that is away serves nobody: %+v", after.Replicas)
	}
}

// What is registered in Consul cannot put words or lines into a file, and a bad
// registration harms no other.
func TestTopologyRefusesInjection(t *testing.T) {
	for _, name := range []string{"", "a b", "a\nserver evil 6.6.6.6:1", "-a", "_hold", "a/b", "a;b", "a#b", `a"b`, "a$b", "a{b", "ä", strings.Repeat("a", 64)} {
		top, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: leading(2, "good"),
			Registered: []templates.Registration{{Name: name, Postgres: "h:1"}, registered("good", "primary", "2")}})
		if !errors.Is(err, templates.ErrTopology) || len(top.Members) != 1 || top.Primary == nil {
			t.Errorf("name %q: %v, %+v", name, err, top.Members)
		}
	}
	for _, address := range []string{"", "h", "h:", "h:0", "h:65536", "h:-1", "h:1 check", "h h:1", "h\n:1", "[fe80::1%eth0]:1", "[::1:1", "h\"x:1", "h,evil:1", ".:1", "-h:1", "a..b:1", "h:1x"} {
		r := registered("bad", "replica", "2")
		r.Postgres = address
		_, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: leading(2, "good"), Registered: []templates.Registration{r}})
		if !errors.Is(err, templates.ErrUnsafe) {
			t.Errorf("address %q: %v", address, err)
		}
	}
	for _, address := range []string{"10.0.0.1:5432", "[2001:db8::1]:5432", "db-1.example.com:6000", "h_1:1"} {
		r := registered("a", "primary", "2")
		r.Postgres = address
		top, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: leading(2, "a"), Registered: []templates.Registration{r}})
		if err != nil || top.Primary.Address() != address {
			t.Errorf("address %q: %v", address, err)
		}
	}
	r := registered("a", "primary", "2")
	r.Tags = append(r.Tags, "ok", "evil\nserver x")
	r.Meta["note"] = "evil\nserver x"
	top, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: leading(2, "a"), Registered: []templates.Registration{r}})
	if err != nil || len(top.Primary.Tags) != 2 || top.Primary.Meta["note"] != "" {
		t.Errorf("tags %q, meta %q, %v", top.Primary.Tags, top.Primary.Meta, err)
	}
	if _, err := templates.Build(templates.Source{Cluster: "a\nb", Service: "pg"}); !errors.Is(err, templates.ErrUnsafe) {
		t.Errorf("cluster's name: %v", err)
	}
	// The same member twice: which is right cannot be known, so the first stays.
	if _, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: leading(2, "a"),
		Registered: []templates.Registration{registered("a", "primary", "2"), registered("a", "replica", "2")}}); !errors.Is(err, templates.ErrTopology) {
		t.Errorf("twice: %v", err)
	}
}

// Lag is a number of bytes that templates compare and print; what is not known is not
// zero.
func TestTopologyLags(t *testing.T) {
	top, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: leading(2, "a"),
		Registered: []templates.Registration{registered("a", "primary", "2"), registered("b", "replica", "2"), registered("c", "replica", "2")},
		Lags:       map[string]uint64{"b": 20 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	page, err := templates.NewPage(top, templates.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	tmpl := parse(t, `{{ range .Replicas }}{{ .Name }}{{ if .LagKnown }} {{ .Lag }} {{ lt .Lag 16777216 }}{{ end }};{{ end }}`)
	out, err := tmpl.Render(t.Context(), page, templates.Env{})
	if err != nil || string(out) != "b 20971520 false;c;" {
		t.Errorf("%q, %v", out, err)
	}
	if !tmpl.Mentions("Lag") || parse(t, `{{ define "x" }}{{ range .Replicas }}{{ .LagKnown }}{{ end }}{{ end }}x`).Mentions("Nothing") {
		t.Error("Mentions")
	}
	for _, name := range templates.Builtin() {
		text, err := templates.BuiltinText(name)
		if err != nil {
			t.Fatal(err)
		}
		if parse(t, text).Mentions("Lag", "LagKnown") {
			t.Errorf("%s asks how far replicas are behind", name)
		}
	}
}

// The leader's registration has gone out of the catalog (its agent left cleanly).
func TestLeaderMissingIsNotHeld(t *testing.T) {
	t.Parallel()
	src := templates.Source{Cluster: "main", Service: "pg", Record: leading(2, "a"), Registered: []templates.Registration{
		registered("a", "primary", "2"), registered("b", "replica", "2")}}
	before, err := templates.Build(src)
	if err != nil {
		t.Fatal(err)
	}
	src.Prior, src.Registered = before, src.Registered[1:]
	after, err := templates.Build(src)
	if err != nil {
		t.Fatal(err)
	}
	if after.Held {
		t.Errorf("held, though the primary has withdrawn nothing: %+v", after.Primary)
	}
}

// A member that has moved to another node.
func TestMovedMember(t *testing.T) {
	t.Parallel()
	dead, alive := registered("a", "replica", "1"), registered("a", "primary", "2")
	dead.Status, dead.Postgres = "critical", "old-node:5432"
	top, _ := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: leading(2, "a"), Registered: []templates.Registration{dead, alive}})
	if top.Primary.Host != "a.example" {
		t.Errorf("clients are sent to %s", top.Primary.Address())
	}
}
