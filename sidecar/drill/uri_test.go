package drill_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsidecar/pgsidecar/templates"
)

// TestURI: the written URI is one that a driver of libpq's kind reads: every member, in an
// order that does not change with the roles, IPv6 too, and only the primary is taken.
func TestURI(t *testing.T) {
	at := func(name, postgres string) templates.Registration {
		return templates.Registration{Name: name, Postgres: postgres, API: name + ".example:8008", Status: "passing", Tags: []string{"replica"}}
	}
	top, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Registered: []templates.Registration{
		at("a", "a.example:5432"), at("b", "b.example:5432"), at("c", "[2001:db8::3]:5433")}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := templates.BuiltinText("uri")
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := templates.ParseTemplate("uri", text, templates.Delimiters{})
	if err != nil {
		t.Fatal(err)
	}
	page, err := templates.NewPage(top, templates.Settings{HAProxy: templates.HAProxySettings{Socket: "/run/s"}})
	if err != nil {
		t.Fatal(err)
	}
	written, err := tmpl.Render(t.Context(), page, templates.Env{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := pgconn.ParseConfig(strings.TrimSpace(string(written)))
	if err != nil {
		t.Fatal(err)
	}
	type place struct {
		host string
		port uint16
	}
	got := []place{{c.Host, c.Port}}
	for _, f := range c.Fallbacks {
		if next := (place{f.Host, f.Port}); next != got[len(got)-1] { // with TLS and without it
			got = append(got, next)
		}
	}
	want := []place{{"a.example", 5432}, {"b.example", 5432}, {"2001:db8::3", 5433}}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("hosts %v, want %v", got, want)
	}
	if c.ValidateConnect == nil {
		t.Error("whatever host answers first is taken")
	}
	if c.ConnectTimeout != 2*time.Second {
		t.Errorf("a host that is gone costs %s", c.ConnectTimeout)
	}
}
