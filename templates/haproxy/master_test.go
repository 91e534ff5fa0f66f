package haproxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/templates"
	"github.com/pgsidecar/pgsidecar/templates/haproxy"
)

// newMasterLab is a HAProxy whose master listens on a socket.
func newMasterLab(t *testing.T, members int) *lab {
	t.Helper()
	l := newLab(t, members)
	l.master = filepath.Join(l.dir, "m")
	return l
}

// startWithMaster returns when the master answers too.
func (l *lab) startWithMaster() {
	l.t.Helper()
	l.start()
	l.eventually(5*time.Second, "haproxy's master", func() bool { return len(l.workers()) == 1 })
}

// workers asks the master for the process ids of its workers.
func (l *lab) workers() []string {
	c, err := net.DialTimeout("unix", l.master, time.Second)
	if err != nil {
		return nil
	}
	defer c.Close()
	fmt.Fprintln(c, "show proc")
	c.(*net.UnixConn).CloseWrite() //nolint:errcheck // reading says so
	var all []string
	for s := bufio.NewScanner(c); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) > 1 && f[1] == "worker" {
			all = append(all, f[0])
		}
	}
	return all
}

// builtinFile is a built-in template's file; extra text goes to its end.
func (l *lab) builtinFile(name, destination, extra string) templates.File {
	l.t.Helper()
	text, err := templates.BuiltinText(name)
	if err != nil {
		l.t.Fatal(err)
	}
	return templates.File{Name: name, Template: parse(l.t, text+extra), Destination: destination}
}

// agent runs an agent that writes HAProxy's files and reloads it by its master.
// Extra text goes to the end of haproxy.cfg. It returns what stops it.
func (l *lab) agent(h *haproxy.Proxy, extra string, getenv func(string) string) (*templates.Agent, func()) {
	l.t.Helper()
	config := l.builtinFile("haproxy.cfg", l.config(), extra)
	config.Reload = h
	a, err := templates.NewAgent(templates.AgentOptions{
		Settings: templates.Settings{HAProxy: l.settings},
		Files:    []templates.File{l.builtinFile("haproxy.state", filepath.Join(l.dir, "pg.state"), ""), config},
		Proxies:  []templates.Proxy{h}, Retry: 50 * time.Millisecond, Env: templates.Env{Getenv: getenv},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }() //nolint:errcheck // ends with ctx
	stop := func() { cancel(); <-done }
	l.t.Cleanup(stop)
	return a, stop
}

// A new member is one reload by the master's socket, a change of roles none; clients
// come and go meanwhile.
func TestHAProxyReloadsByItsMaster(t *testing.T) {
	l := newMasterLab(t, 2)
	l.startWithMaster()
	h := l.proxy()
	a, _ := l.agent(h, "", nil)
	a.Update(l.topology(1, "pg1", ha.PhaseLeading))
	l.connected(h)
	l.answers(l.settings.PrimaryPort, "pg1")
	a.Update(l.topology(2, "pg2", ha.PhaseLeading))
	l.eventually(5*time.Second, "the switch", func() bool { return h.Status().Primary == "pg2" })
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var failed []error
	var worst time.Duration
	clients.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			start := time.Now()
			c, name, err := dial(l.settings.PrimaryPort, 5*time.Second)
			switch {
			case err != nil:
				failed = append(failed, err)
				continue
			case name != "pg2":
				failed = append(failed, fmt.Errorf("sent to %s", name))
			}
			c.Close()
			worst = max(worst, time.Since(start))
		}
	})
	before := h.Status()
	l.servers = append(l.servers, newServer(t, "pg3"))
	a.Update(l.topology(2, "pg2", ha.PhaseLeading))
	l.eventually(10*time.Second, "the reload", func() bool { s := h.Status(); return s.Connected && s.Pid != before.Pid && s.Error == "" })
	l.eventually(5*time.Second, "the file's status", func() bool { s := a.Status().Files[1]; return s.Commands == 1 && s.Error == "" })
	close(stop)
	clients.Wait()
	if s := a.Status().Files[1]; before.Reloads != 0 || h.Status().Reloads != 1 || s.Commands != 1 || s.Writes != 1 {
		t.Errorf("%d reloads before the new member, %d after it; file %+v", before.Reloads, h.Status().Reloads, s)
	}
	if len(failed) > 0 {
		t.Errorf("%d connections failed during the reload: %v", len(failed), failed[0])
	}
	t.Logf("the longest connection during the reload took %v", worst)
	a.Update(l.topology(3, "pg3", ha.PhaseLeading))
	l.eventually(5*time.Second, "the switch to the new member", func() bool { return h.Status().Primary == "pg3" })
	l.answers(l.settings.PrimaryPort, "pg3")
}

// While clients wait for a primary HAProxy is not reloaded; all of them are served by
// the new one, and then it is.
func TestHAProxyIsNotReloadedInTheGap(t *testing.T) {
	l := newMasterLab(t, 2)
	l.startWithMaster()
	h := l.proxy()
	a, _ := l.agent(h, "", nil)
	a.Update(l.topology(1, "pg1", ha.PhaseElecting))
	l.connected(h)
	got := make(chan string, 50)
	for range cap(got) {
		go func() {
			c, name, err := dial(l.settings.PrimaryPort, 10*time.Second)
			if err != nil {
				name = err.Error()
			} else {
				c.Close()
			}
			got <- name
		}()
	}
	l.eventually(5*time.Second, "clients in the queue", func() bool {
		out, err := l.cli("show stat pg_primary 2 -1")
		return err == nil && strings.Contains(out, fmt.Sprintf("BACKEND,%d,", cap(got)))
	})
	l.servers = append(l.servers, newServer(t, "pg3"))
	a.Update(l.topology(1, "pg1", ha.PhaseElecting))
	l.eventually(5*time.Second, "the file", func() bool { return a.Status().Files[1].Writes == 1 })
	select {
	case name := <-got:
		t.Fatalf("a client that waited got %q", name)
	case <-time.After(500 * time.Millisecond):
	}
	a.Update(l.topology(1, "pg1", ha.PhaseLeading))
	for range cap(got) {
		if name := <-got; name != "pg1" {
			t.Fatalf("a client that waited got %q", name)
		}
	}
	l.eventually(5*time.Second, "the reload", func() bool { return h.Status().Reloads == 1 && a.Status().Files[1].Error == "" })
}

// A master that cannot be reached shows, and is told when it is there again, also by
// the successor of a process that was killed in between.
func TestHAProxyMasterAway(t *testing.T) {
	l := newMasterLab(t, 1)
	l.startWithMaster()
	away := l.master + "-away"
	if err := os.Rename(l.master, away); err != nil {
		t.Fatal(err)
	}
	h := l.proxy()
	a, stop := l.agent(h, "", nil)
	l.servers = append(l.servers, newServer(t, "pg2"))
	a.Update(l.topology(1, "pg1", ha.PhaseLeading))
	l.eventually(5*time.Second, "two failures", func() bool { return a.Status().Files[1].Failures >= 2 })
	s := a.Status()
	if !strings.Contains(s.Files[1].Error, "master socket") || s.Files[1].Since.IsZero() || !strings.Contains(s.Proxies[0].MasterError, "master socket") {
		t.Errorf("status %+v", s)
	}
	l.answers(l.settings.PrimaryPort, "pg1")
	stop()
	before := l.pid()
	h = l.proxy()
	a, _ = l.agent(h, "", nil)
	a.Update(l.topology(1, "pg1", ha.PhaseLeading))
	l.eventually(5*time.Second, "a failure of the successor", func() bool { return a.Status().Files[1].Failures >= 1 })
	if err := os.Rename(away, l.master); err != nil {
		t.Fatal(err)
	}
	l.eventually(10*time.Second, "the reload", func() bool {
		s := a.Status()
		return s.Files[1].Error == "" && s.Proxies[0].MasterError == "" && s.Proxies[0].Connected && s.Proxies[0].Reloads == 1
	})
	if s := a.Status().Files[1]; s.Writes != 0 {
		t.Errorf("the successor wrote the file again: %+v", s)
	}
	l.eventually(5*time.Second, "the new worker", func() bool { return l.pid() != before })
}

// pid is the newest worker's.
func (l *lab) pid() string {
	out, err := l.cli("show info")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(out, "\nPid: ")
	pid, _, _ := strings.Cut(rest, "\n")
	return pid
}

// A file that HAProxy refuses shows with its reason; the worker of before goes on,
// and a better file is taken up by itself.
func TestHAProxyReloadRefused(t *testing.T) {
	l := newMasterLab(t, 1)
	l.startWithMaster()
	var mu sync.Mutex
	line := "bogus"
	set := func(s string) { mu.Lock(); defer mu.Unlock(); line = s }
	h := l.proxy()
	a, _ := l.agent(h, "{{ env `LINE` }}\n", func(string) string { mu.Lock(); defer mu.Unlock(); return line })
	before := l.pid()
	a.Update(l.topology(1, "pg1", ha.PhaseLeading))
	l.eventually(10*time.Second, "two failures", func() bool { return a.Status().Files[1].Failures >= 2 })
	if s := a.Status().Files[1]; !strings.Contains(s.Error, "rejected the new configuration") || h.Status().Reloads != 0 {
		t.Errorf("status %+v, %d reloads", s, h.Status().Reloads)
	}
	l.answers(l.settings.PrimaryPort, "pg1")
	if now := l.pid(); now != before {
		t.Errorf("worker %s, before %s", now, before)
	}
	set("# better")
	a.Refresh()
	// A reload that was under way when the file was written is not known to have read it,
	// so there may be a second.
	l.eventually(10*time.Second, "the reload", func() bool {
		return a.Status().Files[1].Error == "" && h.Status().Reloads >= 1 && h.Status().Connected && l.pid() != before
	})
	l.answers(l.settings.PrimaryPort, "pg1")
}

// A session that a reload has left in an old worker ends with its primary's role;
// one to a replica goes on, as does one to a primary that stays.
func TestHAProxyOldWorkersSessionsEnd(t *testing.T) {
	const sessions = 1000
	l := newMasterLab(t, 3)
	for _, s := range l.servers[1:] {
		s.replica.Store(true)
	}
	l.settings.MaxConn = 3 * sessions
	l.write(l.topology(1, "pg1", ha.PhaseLeading))
	l.startWithMaster()
	h := l.proxy()
	l.run(h)
	l.apply(h, l.topology(1, "pg1", ha.PhaseLeading))
	l.connected(h)
	l.eventually(5*time.Second, "a replica", func() bool {
		c, _, err := dial(l.settings.ReplicaPort, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	written := l.open(sessions)
	read := l.openOn(l.settings.ReplicaPort, 4)
	l.reload(h)
	again := l.open(2)
	l.reload(h) // two old workers now
	l.eventually(5*time.Second, "both old workers to be known", func() bool { return h.Status().OldWorkers == 2 })
	kept := l.open(1)
	if n := len(written) + len(again) + len(read); n > 0 {
		t.Fatalf("the reload ended %d sessions", n)
	}
	start := time.Now()
	l.apply(h, l.topology(2, "pg2", ha.PhaseLeading))
	for range sessions {
		l.ends(written, "in the first old worker")
	}
	t.Logf("%d sessions in an old worker ended %v after Apply began", sessions, time.Since(start))
	l.ends(again, "in the second old worker")
	l.ends(again, "in the second old worker")
	l.ends(kept, "in the newest worker")
	l.eventually(5*time.Second, "the old worker that has nothing more to be gone", func() bool { return h.Status().OldWorkers == 1 })
	if len(read) > 0 {
		t.Error("sessions to replicas ended")
	}
	if s := h.Status(); s.OldSessions != sessions+2 || s.MasterError != "" {
		t.Errorf("status %+v", s)
	}
	// A replica that serves no longer: its half of the readers; those of the new primary
	// go on.
	stopped := l.topology(3, "pg2", ha.PhaseLeading)
	isThird := func(m templates.Member) bool { return m.Name == "pg3" }
	stopped.Replicas = slices.DeleteFunc(stopped.Replicas, isThird)
	stopped.Members[slices.IndexFunc(stopped.Members, isThird)].Role = ha.RoleStopped
	l.apply(h, stopped)
	l.ends(read, "to a replica that has stopped")
	l.ends(read, "to a replica that has stopped")
	l.eventually(5*time.Second, "the count", func() bool { return h.Status().OldSessions == sessions+4 })
	if len(read) > 0 {
		t.Error("sessions to the new primary ended")
	}
}

// Clients that waited for a primary when HAProxy was reloaded would wait in vain: an
// old worker cannot be told of the next one.
func TestHAProxyOldWorkersQueueEnds(t *testing.T) {
	l := newMasterLab(t, 2)
	l.startWithMaster()
	h := l.proxy()
	l.run(h)
	l.apply(h, l.topology(1, "pg1", ha.PhaseElecting))
	l.connected(h)
	got := make(chan error, 400)
	for range cap(got) {
		go func() {
			c, _, err := dial(l.settings.PrimaryPort, 20*time.Second)
			if err == nil {
				c.Close()
			}
			got <- err
		}()
	}
	var seen string
	defer func() {
		if t.Failed() {
			t.Logf("%d clients have ended; HAProxy said: %s", len(got), seen)
		}
	}()
	l.eventually(10*time.Second, "clients in the queue", func() bool {
		var err error
		seen, err = l.cli("show stat pg_primary 2 -1")
		return err == nil && strings.Contains(seen, fmt.Sprintf("BACKEND,%d,", cap(got)))
	})
	l.reload(h)
	for range cap(got) {
		select {
		case err := <-got:
			if err == nil {
				t.Error("a client was served while there is no primary")
			}
		case <-time.After(5 * time.Second):
			t.Fatal("a client waits in the old worker for ever")
		}
	}
	l.apply(h, l.topology(1, "pg1", ha.PhaseLeading))
	l.answers(l.settings.PrimaryPort, "pg1")
}

func (l *lab) reload(h *haproxy.Proxy) {
	l.t.Helper()
	before := h.Status().Pid
	ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
	defer cancel()
	if err := h.Reload(ctx); err != nil {
		l.t.Fatal(err)
	}
	l.eventually(5*time.Second, "the new worker", func() bool { s := h.Status(); return s.Connected && s.Pid != before })
}

func (l *lab) ends(sessions <-chan time.Time, which string) {
	l.t.Helper()
	select {
	case <-sessions:
	case <-time.After(10 * time.Second):
		l.t.Fatalf("a session of the deposed primary goes on %s", which)
	}
}

// HAProxy 2.7 and later answer a reload; 2.6 does not, and any answer may get lost. What
// is no master is not taken for one.
func TestHAProxyMasterAnswers(t *testing.T) {
	const family = "#<PID> <type> <reloads> <uptime> <version>\n1 master 0 [failed: 0] 0d00h00m04s 2.8\n# workers\n2 worker 0 0d00h00m04s 2.8\n"
	const failed = "#<PID> <type> <reloads> <uptime> <version>\n1 master 1 [failed: 1] 0d00h00m04s 2.8\n# workers\n2 worker 0 0d00h00m04s 2.8\n"
	const begun = "#<PID> <type> <reloads> <uptime> <version>\n1 master 1 [failed: 0] 0d00h00m04s 2.8\n# workers\n3 worker 0 0d00h00m00s 2.8\n# old workers\n2 worker 1 0d00h00m04s 2.8\n"
	const reading = "#<PID> <type> <reloads> <uptime> <version>\n1 master 1 [failed: 0] 0d00h00m04s 2.8\n# workers\n2 worker 1 0d00h00m04s 2.8\n"
	for _, c := range []struct {
		name, family, reload string
		after, info          string // show proc after the reload, and what the new worker says; empty: nothing
		hangs                bool   // the reload's connection stays open, without an answer
		want                 string
	}{
		{name: "taken", family: family, reload: "Success=1\n--\n[NOTICE] (1) : New worker (3) forked\n"},
		{name: "refused", family: family, reload: "Success=0\n--\n[ALERT] (1) : parsing [h.cfg:9] : unknown keyword\n\n", want: "unknown keyword"},
		{name: "no new worker", family: family, after: family, want: "no new worker in time"},
		{name: "stats socket", family: "Unknown command: 'show proc'\n", want: "not its master"},
		{name: "silent", want: "not its master"},
		{name: "refused without an answer", family: family, after: failed, want: "rejected the new configuration"},
		{name: "refused, the answer hangs", family: family, after: failed, hangs: true, want: "rejected the new configuration"},
		{name: "taken without an answer", family: family, after: begun, info: "Name: HAProxy\nPid: 3\n"},
		{name: "taken, the answer hangs", family: family, after: begun, hangs: true, info: "Name: HAProxy\nPid: 3\n"},
		{name: "the new worker still reads", family: family, after: begun, want: "no new worker in time"},
		{name: "the master still reads", family: family, after: reading, want: "no new worker in time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(t.TempDir(), "m")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			reloaded, ended := false, make(chan struct{})
			defer close(ended)
			answer := func(line string) string {
				switch {
				case line == "reload":
					reloaded = true
					return c.reload
				case line == "show proc" && reloaded:
					return c.after
				case line == "show proc":
					return c.family
				}
				return c.info
			}
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					line, _ := bufio.NewReader(conn).ReadString('\n') //nolint:errcheck // then it is none
					line = strings.TrimSpace(line)
					fmt.Fprint(conn, answer(line))
					if line == "reload" && c.hangs {
						go func() { <-ended; conn.Close() }()
						continue
					}
					conn.Close()
				}
			}()
			h, err := haproxy.New(haproxy.Options{Socket: socket, AgentSocket: socket, MasterSocket: socket,
				PrimaryBackend: "p", ReplicaBackend: "r"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			err = h.Reload(ctx)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if strings.Contains(c.name, "worker") && !errors.Is(err, haproxy.ErrReload) || strings.HasPrefix(c.name, "refused") && !errors.Is(err, haproxy.ErrReload) {
				t.Errorf("%v is not ErrReload", err)
			}
		})
	}
}
