package haproxy_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/templates"
)

// signalled runs an agent whose haproxy.cfg is told of by a signal, by the shell's command.
func (l *lab) signalled(command string) *templates.Agent {
	l.t.Helper()
	h := l.proxy()
	file := l.builtinFile("haproxy.cfg", l.config(), "")
	file.Command = []string{"sh", "-c", command}
	a, err := templates.NewAgent(templates.AgentOptions{Settings: templates.Settings{HAProxy: l.settings}, Files: []templates.File{l.builtinFile("haproxy.state", filepath.Join(l.dir, "pg.state"), ""), file},
		Proxies: []templates.Proxy{h}, Retry: 100 * time.Millisecond})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }() //nolint:errcheck // ends with ctx
	l.t.Cleanup(func() { cancel(); <-done })
	a.Update(l.topology(1, "pg1", ha.PhaseLeading))
	l.connected(h)
	return a
}

// A reload that HAProxy missed, whatever the reason, shows, and is made good.
func TestHAProxyReloadMissed(t *testing.T) {
	l := newLab(t, 2)
	l.start()
	heard := filepath.Join(l.dir, "heard")
	a := l.signalled("test -e " + heard + " && kill -USR2 " + strconv.Itoa(l.process.Cmd.Process.Pid) + " || true")
	l.servers = append(l.servers, newServer(t, "pg3"))
	a.Update(l.topology(2, "pg3", ha.PhaseLeading))
	l.eventually(20*time.Second, "the error", func() bool { return a.Status().Files[1].Error != "" })
	if err := os.WriteFile(heard, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.eventually(20*time.Second, "the reload", func() bool { s := a.Status(); return s.Files[1].Error == "" && s.Proxies[0].Error == "" })
	l.answers(l.settings.PrimaryPort, "pg3")
	// A member that has moved: HAProxy knows its name, and not where it is.
	before := a.Status().Files[1].Commands
	if err := os.Remove(heard); err != nil {
		t.Fatal(err)
	}
	l.servers[2] = newServer(t, "pg3")
	a.Update(l.topology(3, "pg3", ha.PhaseLeading))
	l.eventually(20*time.Second, "the error", func() bool { return a.Status().Files[1].Error != "" })
	if err := os.WriteFile(heard, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.eventually(20*time.Second, "the reload", func() bool { return a.Status().Files[1].Error == "" })
	l.answers(l.settings.PrimaryPort, "pg3")
	if n := a.Status().Files[1].Commands; n < before+2 {
		t.Errorf("the command ran %d times after %d", n, before)
	}
}

// Members that come one soon after the other: HAProxy, which misses a signal during its
// reload, has all of them.
func TestHAProxySignalsInARow(t *testing.T) {
	l := newLab(t, 2)
	l.start()
	l.servers[0].primary.Store(true)
	a := l.signalled("kill -USR2 " + strconv.Itoa(l.process.Cmd.Process.Pid))
	for i := range 8 {
		l.servers = append(l.servers, newServer(t, "pg"+strconv.Itoa(i+3)))
		writes := a.Status().Files[1].Writes
		a.Update(l.topology(uint64(i+2), "pg1", ha.PhaseLeading))
		l.eventually(5*time.Second, "the file", func() bool { return a.Status().Files[1].Writes > writes })
		// HAProxy 3.2 may end with an error that takes its listeners for a moment, and reset a
		// client: "Failed to get the sockets from the old process".
		l.eventually(5*time.Second, "an answer of pg1", func() bool {
			c, got, err := dial(l.settings.PrimaryPort, 5*time.Second)
			if err != nil {
				return false
			}
			c.Close()
			return got == "pg1"
		})
	}
	l.eventually(20*time.Second, "HAProxy to have the last of them", func() bool {
		state, err := l.cli("show servers state pg_primary")
		return err == nil && strings.Contains(state, " pg10 ")
	})
	l.eventually(20*time.Second, "all to be right", func() bool {
		s := a.Status()
		return s.Files[1].Error == "" && s.Proxies[0].Error == "" && len(s.Proxies[0].Missing) == 0
	})
	l.answers(l.settings.PrimaryPort, "pg1")
}
