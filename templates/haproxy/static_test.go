package haproxy_test

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/templates"
)

// haproxy-static.cfg through a failover, without a stats socket: the file stays while
// there is no primary, clients then reach the new one, and the deposed primary gets none
// even where the new file does not come.
func TestHAProxyStatic(t *testing.T) {
	l := newMasterLab(t, 2)
	l.settings.Socket = ""
	path := labtest.Program(t, programs.HAProxy)
	write := func(topology templates.Topology) {
		t.Helper()
		if err := os.WriteFile(l.config(), []byte(render(t, "haproxy-static.cfg", topology, templates.Settings{HAProxy: l.settings})), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roles := func(primary int) {
		for i, s := range l.servers {
			s.primary.Store(i == primary)
			s.replica.Store(i != primary)
		}
	}
	reaches := func(port int, name string) func() bool {
		return func() bool {
			c, got, err := dial(port, time.Second)
			if err == nil {
				c.Close()
			}
			return err == nil && got == name
		}
	}
	roles(0)
	write(l.topology(1, "pg1", ha.PhaseLeading))
	l.startProcess()
	l.eventually(10*time.Second, "haproxy's master", func() bool { return len(l.workers()) == 1 })
	file := l.builtinFile("haproxy-static.cfg", l.config(), "")
	file.Check = []string{path, "-c", "-f", "{}"}
	file.Command = []string{"kill", "-USR2", strconv.Itoa(l.process.Cmd.Process.Pid)}
	a, err := templates.NewAgent(templates.AgentOptions{Settings: templates.Settings{HAProxy: l.settings}, Files: []templates.File{file}, Retry: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }() //nolint:errcheck // ends with ctx
	t.Cleanup(func() { cancel(); <-done })
	a.Update(l.topology(1, "pg1", ha.PhaseLeading))
	l.eventually(10*time.Second, "the primary", reaches(l.settings.PrimaryPort, "pg1"))
	l.eventually(10*time.Second, "the replica", reaches(l.settings.ReplicaPort, "pg2"))
	l.servers[0].stop()
	a.Update(l.topology(1, "pg1", ha.PhaseElecting))
	l.eventually(5*time.Second, "a wait for a primary", func() bool { return a.Status().Files[0].Waits })
	if b, err := os.ReadFile(l.config()); err != nil || !strings.Contains(string(b), "server pg1 ") {
		t.Errorf("without a primary the file is %q (%v)", b, err)
	}
	roles(1)
	l.servers[0].start(t)
	start := time.Now()
	a.Update(l.topology(2, "pg2", ha.PhaseLeading))
	l.eventually(10*time.Second, "the new primary", reaches(l.settings.PrimaryPort, "pg2"))
	t.Logf("the new primary is reached %v after the change of the topology", time.Since(start))
	l.eventually(10*time.Second, "the new replica", reaches(l.settings.ReplicaPort, "pg1"))
	if s := a.Status().Files[0]; s.Writes > 1 || s.Error != "" {
		t.Errorf("%+v", s)
	}
	// Nobody writes the file now: the checks alone keep clients from the deposed primary.
	sessions := l.open(2)
	roles(0)
	l.ends(sessions, "with a member that has been deposed")
	l.ends(sessions, "with a member that has been deposed")
	if c, name, err := dial(l.settings.PrimaryPort, time.Second); err == nil {
		c.Close()
		t.Errorf("a client was sent to %s, which is not the primary", name)
	}
}
