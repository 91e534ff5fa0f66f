package templates_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/templates"
)

// server is a stand-in for a member: a port that says its name to whoever
// connects, and an API that answers like a sidecar's.
type server struct {
	name     string
	address  string
	api      *httptest.Server
	primary  atomic.Bool // what its API says
	replica  atomic.Bool
	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	accepted atomic.Int64
}

func newServer(t *testing.T, name string) *server {
	t.Helper()
	s := &server{name: name, conns: map[net.Conn]bool{}}
	s.api = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/primary" && s.primary.Load() || r.URL.Path == "/replica" && s.replica.Load() {
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(s.api.Close)
	s.start(t)
	t.Cleanup(s.stop)
	return s
}

// start listens, on the same port as before.
func (s *server) start(t *testing.T) {
	t.Helper()
	address := s.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.listener, s.address = l, l.Addr().String()
	s.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			go func() {
				fmt.Fprintln(c, s.name)
				io.Copy(io.Discard, c) //nolint:errcheck // until closed
				c.Close()
				s.mu.Lock()
				delete(s.conns, c)
				s.mu.Unlock()
			}()
		}
	}()
}

// stop is a crash: the port refuses, the connections end.
func (s *server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener.Close()
	for c := range s.conns {
		c.Close()
	}
}

func (s *server) registration(role string) templates.Registration {
	return templates.Registration{
		Name: s.name, Postgres: s.address, API: s.api.Listener.Addr().String(),
		Tags: []string{role}, Status: "passing",
	}
}

// lab is a HAProxy in front of some servers.
type lab struct {
	t        *testing.T
	dir      string
	settings templates.HAProxySettings
	servers  []*server
	process  *exec.Cmd
}

func newLab(t *testing.T, members int) *lab {
	t.Helper()
	if _, err := programs.HAProxy(); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "hap") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{t: t, dir: dir}
	t.Cleanup(func() {
		if b, err := os.ReadFile(filepath.Join(dir, "log")); err == nil && t.Failed() {
			t.Logf("haproxy said:\n%s", b)
		}
	})
	for i := range members {
		l.servers = append(l.servers, newServer(t, fmt.Sprintf("pg%d", i+1)))
	}
	l.settings = templates.HAProxySettings{
		Socket: filepath.Join(dir, "s"), PrimaryPort: freePort(t), ReplicaPort: freePort(t), StatsPort: freePort(t),
	}
	l.write(l.topology(1, "pg1", ha.PhaseLeading))
	return l
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// topology makes one in which leader leads, and all others are replicas.
func (l *lab) topology(term uint64, leader string, phase ha.Phase) templates.Topology {
	l.t.Helper()
	src := templates.Source{Cluster: "main", Service: "pg", Record: ha.Record{
		Version: 1, SystemID: "7", Term: term, Leader: leader, Phase: phase, Index: 1,
	}}
	for _, s := range l.servers {
		role := "replica"
		if s.name == leader {
			role = "primary"
		}
		src.Record.Members = append(src.Record.Members, s.name)
		src.Registered = append(src.Registered, s.registration(role))
	}
	topology, err := templates.Build(src)
	if err != nil {
		l.t.Fatal(err)
	}
	return topology
}

func (l *lab) write(t templates.Topology) {
	l.t.Helper()
	for name, path := range map[string]string{"haproxy.cfg": l.config(), "haproxy.state": filepath.Join(l.dir, "pg.state")} {
		if err := os.WriteFile(path, []byte(render(l.t, name, t, templates.Settings{HAProxy: l.settings})), 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
}

func render(t *testing.T, name string, topology templates.Topology, s templates.Settings) string {
	t.Helper()
	text, err := templates.BuiltinText(name)
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := templates.ParseTemplate(name, text, templates.Delimiters{})
	if err != nil {
		t.Fatal(err)
	}
	page, err := templates.NewPage(topology, s)
	if err != nil {
		t.Fatal(err)
	}
	out, err := tmpl.Render(t.Context(), page, templates.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func (l *lab) config() string { return filepath.Join(l.dir, "haproxy.cfg") }

// start runs HAProxy and returns when its stats socket answers.
func (l *lab) start() {
	l.t.Helper()
	path, err := programs.HAProxy()
	if err != nil {
		l.t.Skip(err)
	}
	l.process = exec.Command(path, "-W", "-f", l.config())
	l.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Its words are shown if the test fails.
	log, err := os.OpenFile(filepath.Join(l.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	defer log.Close()
	l.process.Stderr = log
	if err := l.process.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(l.kill)
	l.eventually(5*time.Second, "haproxy's stats socket", func() bool {
		_, err := l.cli("show info")
		return err == nil
	})
}

// kill ends master and worker at once.
func (l *lab) kill() {
	if l.process == nil || l.process.Process == nil {
		return
	}
	syscall.Kill(-l.process.Process.Pid, syscall.SIGKILL) //nolint:errcheck // may be gone
	l.process.Wait()                                      //nolint:errcheck // it was killed
	l.process = nil
}

func (l *lab) cli(command string) (string, error) {
	c, err := net.DialTimeout("unix", l.settings.Socket, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	fmt.Fprintln(c, command)
	b, err := io.ReadAll(c)
	return string(b), err
}

func (l *lab) proxy() *templates.HAProxy {
	l.t.Helper()
	h, err := templates.NewHAProxy(templates.HAProxyOptions{
		Socket: l.settings.Socket, AgentSocket: filepath.Join(l.dir, "pg-agent.sock"),
		PrimaryBackend: "pg_primary", ReplicaBackend: "pg_replicas",
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return h
}

// run starts h.Run and returns what stops it.
func (l *lab) run(h *templates.HAProxy) (stop func()) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); h.Run(ctx) }() //nolint:errcheck // ends with ctx
	stop = func() { cancel(); <-done }
	l.t.Cleanup(stop)
	return stop
}

func (l *lab) connected(h *templates.HAProxy) {
	l.t.Helper()
	l.eventually(5*time.Second, "the connection to haproxy", func() bool { return h.Status().Connected })
}

func (l *lab) eventually(d time.Duration, what string, ok func() bool) {
	l.t.Helper()
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			l.t.Fatalf("waited %v for %s", d, what)
		case <-tick.C:
		}
	}
}

// dial connects to a port of HAProxy and returns the connection and who answered.
func dial(port int, timeout time.Duration) (net.Conn, string, error) {
	c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), timeout)
	if err != nil {
		return nil, "", err
	}
	c.SetReadDeadline(time.Now().Add(timeout)) //nolint:errcheck // a TCP connection has deadlines
	name, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		c.Close()
		return nil, "", err
	}
	return c, strings.TrimSpace(name), nil
}

func (l *lab) answers(port int, want string) {
	l.t.Helper()
	c, got, err := dial(port, 5*time.Second)
	if err != nil {
		l.t.Fatalf("connect through haproxy: %v", err)
	}
	c.Close()
	if got != want {
		l.t.Fatalf("haproxy sent the client to %s, want %s", got, want)
	}
}

// open makes n connections that stay, and a channel that gets the time at which
// each ends.
func (l *lab) open(n int) <-chan time.Time {
	l.t.Helper()
	ended := make(chan time.Time, n)
	for range n {
		c, _, err := dial(l.settings.PrimaryPort, 5*time.Second)
		if err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() { c.Close() })
		c.SetReadDeadline(time.Time{}) //nolint:errcheck // a TCP connection has deadlines
		go func() {
			io.Copy(io.Discard, c) //nolint:errcheck // until closed
			ended <- time.Now()
		}()
	}
	return ended
}

func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}

func TestHAProxyFileIsAccepted(t *testing.T) {
	for _, members := range []int{0, 1, 3} {
		l := newLab(t, members)
		path, err := programs.HAProxy()
		if err != nil {
			t.Skip(err)
		}
		if out, err := exec.Command(path, "-c", "-f", l.config()).CombinedOutput(); err != nil {
			t.Errorf("%d members: %v\n%s", members, err, out)
		}
	}
}

// From Apply to the first new connection on the new primary, with 200 sessions
// open; and until the last session of the deposed one has ended.
func TestHAProxySwitchLatency(t *testing.T) {
	const sessions, rounds = 200, 12
	l := newLab(t, 3)
	l.start()
	h := l.proxy()
	l.run(h)
	var toApply, toNew, toEnd []time.Duration
	for round := range rounds {
		old, next := fmt.Sprintf("pg%d", round%2+1), fmt.Sprintf("pg%d", (round+1)%2+1)
		term := uint64(2 * round)
		if err := h.Apply(t.Context(), l.topology(term+1, old, ha.PhaseLeading)); err != nil {
			t.Fatal(err)
		}
		l.connected(h)
		ended := l.open(sessions)
		topology := l.topology(term+2, next, ha.PhaseLeading)
		arrived := make(chan time.Time, 1)
		start := time.Now()
		go func() { // a client that tries again and again, as they do
			for {
				c, name, err := dial(l.settings.PrimaryPort, time.Second)
				if err != nil {
					continue // it had come to the old primary just before
				}
				c.Close()
				if name == next {
					break
				}
			}
			arrived <- time.Now()
		}()
		if err := h.Apply(t.Context(), topology); err != nil {
			t.Fatal(err)
		}
		toApply = append(toApply, time.Since(start))
		toNew = append(toNew, (<-arrived).Sub(start))
		var last time.Time
		for range sessions {
			select {
			case last = <-ended:
			case <-time.After(time.Second):
				t.Fatal("sessions of the deposed primary go on")
			}
		}
		toEnd = append(toEnd, last.Sub(start))
	}
	t.Logf("Apply: median %v, worst %v", median(toApply), slices.Max(toApply))
	t.Logf("Apply to first new connection: median %v, worst %v", median(toNew), slices.Max(toNew))
	t.Logf("Apply to last old session's end: median %v, worst %v", median(toEnd), slices.Max(toEnd))
	// Targets with room for a busy machine; the log has the figures.
	if m := median(toNew); m > 50*time.Millisecond {
		t.Errorf("median to the first new connection is %v", m)
	}
	if m := median(toEnd); m > 50*time.Millisecond {
		t.Errorf("median to the end of old sessions is %v", m)
	}
}

// While there is no primary, new connections wait, and all go to the new one.
func TestHAProxyClientsWaitInTheGap(t *testing.T) {
	l := newLab(t, 3)
	l.start()
	h := l.proxy()
	l.run(h)
	if err := h.Apply(t.Context(), l.topology(1, "pg1", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	l.connected(h)
	l.servers[0].stop()
	if err := h.Apply(t.Context(), l.topology(2, "pg2", ha.PhaseElecting)); err != nil {
		t.Fatal(err)
	}
	const clients = 50
	type result struct {
		name string
		err  error
		at   time.Time
	}
	results := make(chan result, clients)
	for range clients {
		go func() {
			c, name, err := dial(l.settings.PrimaryPort, 5*time.Second)
			if err == nil {
				c.Close()
			}
			results <- result{name, err, time.Now()}
		}()
	}
	l.eventually(5*time.Second, "all clients in the queue", func() bool {
		out, err := l.cli("show stat pg_primary 2 -1")
		return err == nil && strings.Contains(out, fmt.Sprintf("BACKEND,%d,", clients))
	})
	start := time.Now()
	if err := h.Apply(t.Context(), l.topology(2, "pg2", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	var worst time.Duration
	for range clients {
		r := <-results
		if r.err != nil || r.name != "pg2" {
			t.Fatalf("a client that waited got %q, %v", r.name, r.err)
		}
		worst = max(worst, r.at.Sub(start))
	}
	t.Logf("%d clients that waited were served within %v", clients, worst)
}

// A switchover holds new clients without harming those connected, and a
// rollback lets them in again.
func TestHAProxyHeld(t *testing.T) {
	l := newLab(t, 2)
	l.start()
	h := l.proxy()
	l.run(h)
	topology := l.topology(1, "pg1", ha.PhaseLeading)
	if err := h.Apply(t.Context(), topology); err != nil {
		t.Fatal(err)
	}
	l.connected(h)
	ended := l.open(5)
	held := topology
	held.Held = true
	if err := h.Apply(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		c, name, err := dial(l.settings.PrimaryPort, 5*time.Second)
		if err != nil {
			name = err.Error()
		} else {
			c.Close()
		}
		got <- name
	}()
	select {
	case name := <-got:
		t.Fatalf("a held client was served by %s", name)
	case <-ended:
		t.Fatal("holding new clients ended an old one")
	case <-time.After(600 * time.Millisecond): // over more than one reconciliation
	}
	if err := h.Apply(t.Context(), topology); err != nil {
		t.Fatal(err)
	}
	if name := <-got; name != "pg1" {
		t.Fatalf("after the rollback the client got %s", name)
	}
	if len(ended) != 0 {
		t.Fatal("holding new clients ended an old one")
	}
}

// HAProxy restarted by hand while we live is right within 100 ms.
func TestHAProxyRestartedWhileWeLive(t *testing.T) {
	l := newLab(t, 3)
	l.start()
	h := l.proxy()
	l.run(h)
	if err := h.Apply(t.Context(), l.topology(3, "pg3", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	l.connected(h)
	l.answers(l.settings.PrimaryPort, "pg3")
	l.kill()
	l.eventually(time.Second, "the loss to be seen", func() bool { return !h.Status().Connected })
	l.start()
	start := time.Now()
	l.connected(h)
	l.answers(l.settings.PrimaryPort, "pg3")
	took := time.Since(start)
	t.Logf("right %v after haproxy answered", took)
	if took > 100*time.Millisecond {
		t.Errorf("right only after %v", took)
	}
}

// A reload makes a worker that knows nothing: it is told.
func TestHAProxyReloaded(t *testing.T) {
	l := newLab(t, 3)
	l.start()
	h := l.proxy()
	l.run(h)
	if err := h.Apply(t.Context(), l.topology(1, "pg2", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	l.connected(h)
	before := h.Status().Pid
	// A master that has just started may not listen to signals yet, though its
	// worker answers: so until it does.
	l.eventually(5*time.Second, "the reload", func() bool {
		if err := l.process.Process.Signal(syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(300 * time.Millisecond):
		}
		out, err := l.cli("show info")
		return err == nil && !strings.Contains(out, fmt.Sprintf("Pid: %d\n", before))
	})
	failed := 0
	l.eventually(5*time.Second, "the new worker", func() bool {
		c, name, err := dial(l.settings.PrimaryPort, 5*time.Second)
		if err != nil {
			failed++
		} else {
			c.Close()
			if name != "pg2" {
				t.Fatalf("a client was sent to %s", name)
			}
		}
		return h.Status().Pid != before && h.Status().Connected
	})
	if failed > 0 {
		t.Errorf("%d connections failed during the reload", failed)
	}
}

// HAProxy restarted while we are dead, in the middle of a failover, never sends
// a client of the primary port to a replica; and finds the primary by itself.
func TestHAProxyRestartedWithoutUs(t *testing.T) {
	l := newLab(t, 3)
	l.servers[0].stop() // the primary that the last topology named is dead
	l.servers[1].replica.Store(true)
	l.servers[2].replica.Store(true)
	l.start()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var wrong, right atomic.Int64
	promoted := atomic.Bool{}
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, name, err := dial(l.settings.PrimaryPort, 4*time.Second)
				if err != nil {
					continue
				}
				c.Close()
				if name == "pg3" && promoted.Load() {
					right.Add(1)
				} else {
					wrong.Add(1)
				}
			}
		})
	}
	timer := time.NewTimer(1500 * time.Millisecond) // more than one round of checks
	<-timer.C
	promoted.Store(true)
	l.servers[2].replica.Store(false)
	l.servers[2].primary.Store(true)
	l.eventually(5*time.Second, "the first client on the new primary", func() bool { return right.Load() > 0 })
	close(stop)
	wg.Wait()
	if n := wrong.Load(); n > 0 {
		t.Fatalf("%d clients of the primary port were sent to a replica", n)
	}
	// Two that both claim to be primary: neither is believed.
	l.servers[1].primary.Store(true)
	l.eventually(5*time.Second, "both to be up", func() bool {
		out, err := l.cli("show stat pg_primary_checked 2 -1")
		return err == nil && strings.Contains(out, "pg_primary_checked,BACKEND") && countUp(out) == 1
	})
	l.eventually(5*time.Second, "the second to be up", func() bool {
		out, err := l.cli("show servers state pg_primary_checked")
		if err != nil {
			return false
		}
		up := 0
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) > 5 && strings.HasPrefix(f[3], "pg") && f[5] == "2" {
				up++
			}
		}
		return up == 2
	})
	if c, name, err := dial(l.settings.PrimaryPort, 700*time.Millisecond); err == nil {
		c.Close()
		t.Fatalf("with two claims, a client was sent to %s", name)
	}
}

func countUp(stat string) int { return strings.Count(stat, "BACKEND") }

// When we die, the checks take over; when a sidecar's API is away while we
// live, its server keeps its sessions.
func TestHAProxyChecksAreSecond(t *testing.T) {
	l := newLab(t, 2)
	l.start()
	h := l.proxy()
	stop := l.run(h)
	if err := h.Apply(t.Context(), l.topology(1, "pg1", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	l.connected(h)
	ended := l.open(3) // pg1's API says 503 all the time
	select {
	case <-ended:
		t.Fatal("a failing check ended sessions while we knew better")
	case <-time.After(4 * time.Second):
	}
	l.servers[1].primary.Store(true)
	stop()
	for range 3 {
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Fatal("with us dead, the checks did not end the sessions")
		}
	}
	l.answers(l.settings.PrimaryPort, "pg2")
}

func TestHAProxyReplicas(t *testing.T) {
	l := newLab(t, 3)
	for _, s := range l.servers[1:] {
		s.replica.Store(true)
	}
	l.start()
	h := l.proxy()
	l.run(h)
	if err := h.Apply(t.Context(), l.topology(1, "pg1", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	l.connected(h)
	seen := map[string]bool{}
	l.eventually(5*time.Second, "both replicas to serve", func() bool {
		c, name, err := dial(l.settings.ReplicaPort, time.Second)
		if err != nil {
			return false
		}
		c.Close()
		if name == "pg1" {
			t.Fatal("the replica port led to the primary")
		}
		seen[name] = true
		return len(seen) == 2
	})
}

func TestHAProxyErrors(t *testing.T) {
	l := newLab(t, 2)
	h := l.proxy()
	topology := l.topology(2, "pg1", ha.PhaseLeading)
	if err := h.Apply(t.Context(), topology); err == nil {
		t.Fatal("Apply without haproxy succeeded")
	}
	if h.Status().Error == "" {
		t.Error("the error does not show in the status")
	}
	l.start()
	l.run(h)
	l.connected(h)
	l.answers(l.settings.PrimaryPort, "pg1")
	if e := h.Status().Error; e != "" {
		t.Errorf("after recovery the status still says %q", e)
	}
	// A member that the file does not have yet: the others are served.
	l.servers = append(l.servers, newServer(t, "pg9"))
	if err := h.Apply(t.Context(), l.topology(3, "pg2", ha.PhaseLeading)); !errors.Is(err, templates.ErrRuntime) {
		t.Errorf("Apply with an unknown server returned %v", err)
	}
	l.answers(l.settings.PrimaryPort, "pg2")
	// An old topology changes nothing.
	if err := h.Apply(t.Context(), topology); err != nil {
		t.Fatal(err)
	}
	l.answers(l.settings.PrimaryPort, "pg2")
}
