package member

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// TestMain is also the guard that a member starts: it starts its own executable.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "guard" {
		if err := ServeGuard(context.Background(), os.Args[3], "test", os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// alone is a cluster of one member, which runs in the test's own process.
type alone struct {
	t      *testing.T
	path   string // of its configuration
	api    string
	bin    string // of PostgreSQL's programs
	data   string // its data directory
	port   int
	client *client.Client
}

func newAlone(t *testing.T) *alone {
	t.Helper()
	labtest.NeedPrograms(t)
	bin := labtest.Program(t, programs.PostgresBin)
	dir := labtest.Dir(t)
	a := &alone{t: t, path: filepath.Join(dir, "pg.hcl"), api: fmt.Sprintf("127.0.0.1:%d", labtest.FreePort(t)),
		bin: bin, data: filepath.Join(dir, "pg", "data"), port: labtest.FreePort(t)}
	a.client = client.New(client.Options{Addresses: []string{a.api}, Token: "token of the test"})
	text := fmt.Sprintf(`
cluster = "pg"
member  = "n1"
consul { address = [%q] }
postgres {
  bin_dir  = %q
  data_dir = %q
  listen   = "127.0.0.1:%d"
  superuser   { password = env("TEST_PASSWORD") }
  replication { password = env("TEST_PASSWORD") }
}
api {
  listen = %q
  token  = env("TEST_TOKEN")
}
`, labtest.StartConsul(t, labtest.ConsulOptions{}).Address, bin, a.data, a.port, a.api)
	t.Setenv("TEST_PASSWORD", "password of the test")
	t.Setenv("TEST_TOKEN", "token of the test")
	if err := os.WriteFile(a.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// addHook gives the member a hook, and returns what it was told so far, a line each.
func (a *alone) addHook() (told func() string) {
	a.t.Helper()
	out := filepath.Join(filepath.Dir(a.path), "hook")
	if err := os.WriteFile(out, nil, 0o666); err != nil {
		a.t.Fatal(err)
	}
	if err := os.Chmod(out, 0o666); err != nil { // PostgreSQL's user runs the command
		a.t.Fatal(err)
	}
	f, err := os.OpenFile(a.path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		a.t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintf(f, `
hook "all" {
  on      = ["primary", "replica", "stopped", "before_promote", "before_stop"]
  command = ["/bin/sh", "-c", "echo $PGSIDECAR_EVENT >> %s"]
}
`, out)
	return func() string {
		text, err := os.ReadFile(out)
		if err != nil {
			a.t.Fatal(err)
		}
		return string(text)
	}
}

// run runs the member until the function that it returns is called, which sees that
// all of it has ended well.
func (a *alone) run() (stop func()) {
	a.t.Helper()
	stop = a.begin()
	a.until("a primary that takes writes", func() bool {
		st, err := a.client.StatusOf(a.t.Context(), a.api)
		return err == nil && st.Leader == "n1" && len(st.Members) == 1 && st.Members[0].Writable
	})
	return stop
}

// begin is run, of a member that need not lead.
func (a *alone) begin() (stop func()) {
	a.t.Helper()
	m, err := New(a.path, "test", a.t.Output())
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(a.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				a.t.Errorf("the member ended with %v", err)
			}
		case <-time.After(time.Minute):
			a.t.Fatal("the member does not end")
		}
	}
	a.t.Cleanup(stop)
	return stop
}

func (a *alone) until(what string, ok func() bool) {
	a.t.Helper()
	labtest.Until(a.t, time.Minute, what, ok)
}

// server is what Patroni's clients read of the server.
type server struct {
	Started string `json:"postmaster_start_time"`
	Planned *struct {
		At time.Time `json:"schedule"`
	} `json:"scheduled_restart"`
}

func (a *alone) server() (s server) {
	a.t.Helper()
	text, err := a.client.Ask(a.t.Context(), http.MethodGet, a.api, "/patroni", nil)
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return s
}

// TestPlannedRestart: a member starts and ends inside a process, and a restart that
// was planned outlives it.
func TestPlannedRestart(t *testing.T) {
	a := newAlone(t)
	stop := a.run()
	at := time.Now().Add(20 * time.Second).Truncate(time.Second)
	plan := func(at time.Time) {
		t.Helper()
		body := fmt.Appendf(nil, `{"schedule":%q,"role":"primary"}`, at.UTC().Format(time.RFC3339))
		if _, err := a.client.Ask(t.Context(), http.MethodPost, a.api, "/restart", body); err != nil {
			t.Fatal(err)
		}
		a.until("the plan", func() bool { return a.server().Planned != nil })
	}
	plan(time.Now().Add(time.Hour))
	if _, err := a.client.Ask(t.Context(), http.MethodDelete, a.api, "/restart", nil); err != nil {
		t.Fatal(err)
	}
	a.until("the end of the plan", func() bool { return a.server().Planned == nil })
	if _, err := a.client.Ask(t.Context(), http.MethodDelete, a.api, "/restart", nil); err == nil {
		t.Error("a plan that is gone was forgotten again")
	}
	plan(at)
	stop()

	a.run()
	before := a.server()
	if before.Planned == nil || !before.Planned.At.Equal(at) {
		t.Fatalf("the plan for %s is gone with the sidecar: %+v", at, before)
	}
	a.until("the planned restart", func() bool {
		now := a.server()
		return now.Planned == nil && now.Started != "" && now.Started != before.Started
	})
	if time.Now().Before(at) {
		t.Error("it was restarted before its time")
	}
}
