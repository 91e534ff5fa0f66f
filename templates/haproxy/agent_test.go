package haproxy_test

import (
	"bufio"
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/templates"
	"github.com/pgsidecar/pgsidecar/templates/haproxy"
)

const primaryText = "primary={{ .Primary.Name }}\n"

// The whole: a file for HAProxy, its checker, a reload when a member comes, and
// a switch while another template's command hangs.
func TestAgentWithHAProxy(t *testing.T) {
	l := newLab(t, 2)
	l.start()
	path := labtest.Program(t, programs.HAProxy)
	text := func(name string) *templates.Template {
		s, err := templates.BuiltinText(name)
		if err != nil {
			t.Fatal(err)
		}
		return parse(t, s)
	}
	h := l.proxy()
	a, err := templates.NewAgent(templates.AgentOptions{
		Settings: templates.Settings{HAProxy: l.settings},
		Files: []templates.File{
			{Name: "slow", Template: parse(t, primaryText), Destination: filepath.Join(l.dir, "slow"), Command: []string{"sleep", "100"}, Timeout: 700 * time.Millisecond},
			{Name: "state", Template: text("haproxy.state"), Destination: filepath.Join(l.dir, "pg.state")},
			{Name: "haproxy", Template: text("haproxy.cfg"), Destination: l.config(), Check: []string{path, "-c", "-f", "{}"},
				Command: []string{"kill", "-USR2", strconv.Itoa(l.process.Cmd.Process.Pid)}},
		},
		Proxies: []templates.Proxy{h},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }() //nolint:errcheck // ends with ctx
	t.Cleanup(func() { cancel(); <-done })
	a.Update(l.topology(1, "pg1", ha.PhaseLeading))
	l.connected(h)
	l.answers(l.settings.PrimaryPort, "pg1")
	start := time.Now()
	a.Update(l.topology(2, "pg2", ha.PhaseLeading))
	l.eventually(time.Second, "the switch", func() bool { return h.Status().Primary == "pg2" })
	l.answers(l.settings.PrimaryPort, "pg2")
	t.Logf("switched within %v while a command hangs", time.Since(start))
	if s := a.Status(); s.Files[2].Writes != 0 {
		t.Errorf("a change of role wrote haproxy.cfg: %+v", s.Files[2])
	}
	// A new member: file, check, reload, and the new worker is told.
	before := h.Status().Pid
	l.servers = append(l.servers, newServer(t, "pg3"))
	a.Update(l.topology(3, "pg3", ha.PhaseLeading))
	l.eventually(10*time.Second, "the reload", func() bool { s := h.Status(); return s.Connected && s.Pid != before && s.Error == "" })
	l.answers(l.settings.PrimaryPort, "pg3")
}

// HAProxy is not reloaded while clients wait for a primary.
func TestNoReloadWhileWaiting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	master := filepath.Join(dir, "master")
	l, err := net.Listen("unix", master)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var mu sync.Mutex
	var reloads int
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				line, _ := bufio.NewReader(c).ReadString('\n')
				mu.Lock()
				defer mu.Unlock()
				if strings.HasPrefix(line, "reload") {
					reloads++
					c.Write([]byte("Success=1\n--\n"))
				} else {
					c.Write([]byte("#<PID>          <type>          <reloads>       <uptime>        <version>\n1             master          0               0d00h00m07s     2.7\n2            worker          0               0d00h00m07s     2.7\n"))
				}
			}()
		}
	}()
	h, err := haproxy.New(haproxy.Options{Socket: filepath.Join(dir, "h"), AgentSocket: filepath.Join(dir, "a"), MasterSocket: master,
		PrimaryBackend: "primary", ReplicaBackend: "replicas"})
	if err != nil {
		t.Fatal(err)
	}
	first := templates.File{Name: "first", Template: parse(t, "{{ .Term }}\n"), Destination: filepath.Join(dir, "first"), Command: []string{"sleep", "1"}}
	cfg := templates.File{Name: "cfg", Template: parse(t, "{{ .Term }}\n"), Destination: filepath.Join(dir, "cfg"), Reload: h}
	if err := os.WriteFile(cfg.Destination, nil, 0o644); err != nil { // so that it counts as read
		t.Fatal(err)
	}
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{first, cfg}, Proxies: []templates.Proxy{h}})
	a.Update(top(t, "a"))
	<-time.After(500 * time.Millisecond) // first's command runs
	a.Update(top2(t, ha.PhasePromoting))
	<-time.After(1500 * time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	if reloads > 0 {
		t.Error("HAProxy was reloaded while clients wait in it for a primary")
	}
}

// A cluster founded anew under the same name.
func TestClusterFoundedAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h, err := haproxy.New(haproxy.Options{Socket: filepath.Join(dir, "h"), AgentSocket: filepath.Join(dir, "a"), PrimaryBackend: "primary", ReplicaBackend: "replicas"})
	if err != nil {
		t.Fatal(err)
	}
	old := top2(t, ha.PhaseLeading)
	h.Apply(t.Context(), old) //nolint:errcheck // nobody listens
	fresh := top(t, "a")
	fresh.SystemID = "8"
	if err := h.Apply(t.Context(), fresh); err == nil {
		t.Error("the new cluster's topology was ignored: no command was sent, no word said")
	}
}
