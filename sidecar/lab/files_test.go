package lab

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// TestFiles: what a lab writes for its programs is valid, with and without pgsidecar's own,
// and the proxy is registered at its host's agent; nothing is started.
func TestFiles(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		options  Options
		endpoint string
	}{
		"members":             {Options{Binary: program, PgBouncer: true, Backup: true}, ""},
		"with a collector":    {Options{Binary: program}, "http://127.0.0.1:4318"},
		"without the program": {Options{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.endpoint)
			c.options.Dir = filepath.Join(t.TempDir(), "lab")
			l, err := New(c.options)
			if err != nil {
				t.Skip(err) // a program is not here
			}
			if err := l.claim(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, m := range l.plan.Members() {
				member, err := config.Load(filepath.Join(m.Dir, "pg.hcl"), config.OSEnvironment())
				if err != nil || member.Trace.Endpoint != c.endpoint {
					t.Errorf("%v: %+v", err, member)
				}
			}
			app := l.plan.App()
			proxy, err := config.LoadProxy(filepath.Join(app.Dir, "proxy.hcl"), config.OSEnvironment())
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join(app.Dir, "consul.json"))
			if err != nil {
				t.Fatal(err)
			}
			var agent struct {
				Services []struct {
					Name string
					Meta map[string]string
				}
			}
			if err := json.Unmarshal(text, &agent); err != nil {
				t.Fatal(err)
			}
			switch {
			case c.options.Binary == "":
				if len(agent.Services) > 0 || proxy.API.Listen != "" {
					t.Errorf("%+v, %q", agent, proxy.API.Listen)
				}
			case len(agent.Services) != 1 || agent.Services[0].Name != "pg-proxy" || agent.Services[0].Meta["api"] != proxy.API.Listen ||
				(agent.Services[0].Meta["pgbouncer"] != "") != c.options.PgBouncer:
				t.Errorf("%+v; its status is at %q", agent, proxy.API.Listen)
			}
		})
	}
}
