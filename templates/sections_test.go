package templates_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/templates"
)

// movingCatalog is a Consul whose data a test changes.
type movingCatalog struct {
	keys     map[string]string
	pairs    []templates.KeyPair
	services map[string][]templates.Instance
}

func (c *movingCatalog) Key(_ context.Context, path string) (string, error) { return c.keys[path], nil }

func (c *movingCatalog) List(context.Context, string) ([]templates.KeyPair, error) {
	return slices.Clone(c.pairs), nil
}

func (c *movingCatalog) Instances(_ context.Context, name string, _ bool) ([]templates.Instance, error) {
	return c.services[name], nil
}

func (c *movingCatalog) Services(context.Context) ([]templates.ServiceName, error) {
	var all []templates.ServiceName
	for _, name := range slices.Sorted(maps.Keys(c.services)) {
		all = append(all, templates.ServiceName{Name: name})
	}
	return all, nil
}

// services are n instances of each of the named services.
func services(n int, names ...string) *movingCatalog {
	c := &movingCatalog{services: map[string][]templates.Instance{}}
	for _, name := range names {
		for i := range n {
			c.services[name] = append(c.services[name], templates.Instance{ID: name, Name: name, Node: fmt.Sprint("n", i), Address: "10.0.0.1", Port: 5432 + i,
				Status: "passing", Tags: []string{"a"}, ServiceMeta: map[string]string{"zone": "x"}})
		}
	}
	return c
}

// What a template keeps of its last rendering never shows: after each change it
// gives what a template gives that was never rendered.
func TestSectionsNeverShow(t *testing.T) {
	texts := []string{
		`{{ range service "web" }}{{ .Node }}:{{ .Port }} {{ .Status }} {{ index .ServiceMeta "zone" }} {{ join "," .Tags }};{{ end }}`,
		`{{ range service "a.web|any" }}{{ .Port }};{{ else }}none{{ end }}`,
		`{{ $x := key "k" }}{{ range service "web" }}{{ $x }}{{ .Port }};{{ end }}`,
		`{{ range service "web" }}{{ key "k" }}{{ .Port }};{{ end }}`,
		`{{ range $i, $s := service "web" }}{{ $i }}{{ $s.Port }};{{ end }}`,
		`{{ range services }}{{ range service .Name }}{{ .Name | toUpper }}{{ if eq .Port 5433 }}!{{ break }}{{ end }}{{ with .ID }}{{ . }}{{ end }};{{ end }}{{ end }}`,
		`{{ define "x" }}{{ range service . }}{{ .Port }} {{ end }}{{ end }}{{ template "x" "web" }}{{ executeTemplate "x" "db" }}{{ template "x" "web" }}`,
		`{{ range tree "app" }}{{ .Key }}={{ .Value }};{{ end }}{{ range ls "app" }}{{ .Key }};{{ end }}`,
	}
	c := services(3, "web", "db")
	c.keys = map[string]string{"k": "1"}
	c.pairs = []templates.KeyPair{{Path: "app/a", Key: "a", Value: "1"}, {Path: "app/b/c", Key: "b/c", Value: "2"}}
	var warm []*templates.Template
	for _, text := range texts {
		warm = append(warm, parse(t, text))
	}
	page, env := testPage(t), templates.Env{Catalog: c}
	last := make([]string, len(texts))
	changed := make([]int, len(texts))
	compare := func(after string) {
		t.Helper()
		for i, text := range texts {
			for range 2 {
				got, err := warm[i].Render(t.Context(), page, env)
				want, err2 := parse(t, text).Render(t.Context(), page, env)
				if string(got) != string(want) || (err == nil) != (err2 == nil) {
					t.Errorf("%s: after %s\n%q, %v; afresh\n%q, %v", text, after, got, err, want, err2)
				}
				if err == nil && string(got) != last[i] {
					changed[i]++
					last[i] = string(got)
				}
			}
		}
	}
	compare("the start")
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"a port", func() { c.services["web"][1].Port = 7 }},
		{"a tag", func() { c.services["web"][0].Tags = []string{"a", "b"} }},
		{"meta", func() { c.services["web"][2].ServiceMeta = map[string]string{"zone": "y"} }},
		{"a status", func() { c.services["web"][0].Status = "critical" }},
		{"a key", func() { c.keys["k"] = "2" }},
		{"a value", func() { c.pairs[0].Value = "9" }},
		{"an instance less", func() { c.services["web"] = c.services["web"][1:] }},
		{"a line break", func() { c.services["web"][0].Node = "n\nevil" }},
		{"its end", func() { c.services["web"][0].Node = "n" }},
		{"another service", func() { c.services["aaa"] = services(2, "aaa").services["aaa"] }},
		{"no instance", func() { c.services["web"] = nil }},
	} {
		// What was given out before must stay as it was.
		for name, list := range c.services {
			c.services[name] = slices.Clone(list)
		}
		step.do()
		compare(step.name)
	}
	for i, n := range changed {
		if n < 2 {
			t.Errorf("%s: nothing of this test changed it", texts[i])
		}
	}
}

// A rendering in which one service of many has changed costs little, and one
// that goes wrong names the line.
func TestSectionsAreKept(t *testing.T) {
	var names []string
	for i := range 200 {
		names = append(names, fmt.Sprintf("s%03d", i))
	}
	env := templates.Env{Catalog: services(5, names...)}
	page := testPage(t)
	const text = `{{ range services }}{{ range service (printf "%s|any" .Name) }}{{ .Name }} {{ .Node }} {{ .Address }}:{{ .Port }}
{{ end }}{{ end }}`
	render := func(tmpl *templates.Template) {
		if _, err := tmpl.Render(t.Context(), page, env); err != nil {
			t.Fatal(err)
		}
	}
	cold := testing.AllocsPerRun(3, func() { render(parse(t, text)) })
	warm := parse(t, text)
	if again := testing.AllocsPerRun(3, func() { render(warm) }); again > cold/3 {
		t.Errorf("%v allocations at first, %v again", cold, again)
	}
	_, err := parse(t, "line one\n{{ range service \"s001\" }}\n{{ .Nmae }}{{ end }}").Render(t.Context(), page, env)
	if err == nil || !strings.Contains(err.Error(), "test:3:") || strings.Contains(err.Error(), "_section") {
		t.Errorf("a wrong field: %v", err)
	}
}
