package pgbouncer_test

import (
	"context"
	"sync"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/templates"
)

func parse(t *testing.T, text string) *templates.Template {
	t.Helper()
	tmpl, err := templates.ParseTemplate("test", text, templates.Delimiters{})
	if err != nil {
		t.Fatal(err)
	}
	return tmpl
}

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

func top(t *testing.T, leader string) templates.Topology {
	t.Helper()
	var members []templates.Registration
	for _, name := range []string{"a", "b"} {
		role := "replica"
		if name == leader {
			role = "primary"
		}
		members = append(members, registered(name, role, "1"))
	}
	top, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: leading(1, leader), Registered: members})
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// term 2, leader b.
func top2(t *testing.T, phase ha.Phase) templates.Topology {
	t.Helper()
	r := leading(2, "b")
	r.Phase = phase
	tp, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: r, Registered: []templates.Registration{registered("a", "", "1"), registered("b", "primary", "2")}})
	if err != nil {
		t.Fatal(err)
	}
	return tp
}

func started(t *testing.T, o templates.AgentOptions) (*templates.Agent, func()) {
	t.Helper()
	a, err := templates.NewAgent(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); a.Run(ctx) }()
	end := sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(end)
	return a, end
}
