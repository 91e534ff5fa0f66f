package haproxy_test

import (
	"bufio"
	"context"
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
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/templates"
	"github.com/pgsidecar/pgsidecar/templates/haproxy"
)

// server is a stand-in for a member: a port that says its name to whoever
// connects, and an API that answers like a sidecar's.
type server struct {
	name     string
	address  string
	host     string // by which it is registered; empty: its address
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
	r := templates.Registration{
		Name: s.name, Postgres: s.address, API: s.api.Listener.Addr().String(),
		Tags: []string{role}, Status: "passing",
	}
	if s.host != "" {
		_, port, _ := net.SplitHostPort(r.Postgres) //nolint:errcheck // it is a listener's
		_, apiPort, _ := net.SplitHostPort(r.API)   //nolint:errcheck // it is a listener's
		r.Postgres, r.API = net.JoinHostPort(s.host, port), net.JoinHostPort(s.host, apiPort)
	}
	return r
}

// lab is a HAProxy in front of some servers.
type lab struct {
	t        *testing.T
	dir      string
	settings templates.HAProxySettings
	servers  []*server
	process  *labtest.Process
	master   string // where HAProxy's master listens; empty: nowhere
}

func newLab(t *testing.T, members int) *lab {
	t.Helper()
	if _, err := programs.HAProxy(); err != nil {
		t.Skip(err)
	}
	dir := labtest.Dir(t)
	l := &lab{t: t, dir: dir}
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
	return labtest.FreePort(t)
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
	l.startProcess()
	l.process.Await(5*time.Second, "its stats socket answers", func() error {
		_, err := l.cli("show info")
		return err
	})
}

func (l *lab) startProcess() {
	l.t.Helper()
	path := labtest.Program(l.t, programs.HAProxy)
	cmd := exec.Command(path, "-W", "-f", l.config())
	if l.master != "" {
		cmd.Args = append(cmd.Args, "-S", l.master)
	}
	l.process = labtest.Start(l.t, cmd)
}

// kill ends master and worker at once.
func (l *lab) kill() {
	if l.process != nil {
		l.process.Kill()
	}
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

// version is the version of the HAProxy that runs.
func (l *lab) version() string {
	l.t.Helper()
	out, err := l.cli("show info")
	_, rest, found := strings.Cut(out, "\nVersion: ")
	if err != nil || !found {
		l.t.Fatalf("haproxy's version is not in %q: %v", out, err)
	}
	version, _, _ := strings.Cut(rest, "\n")
	return version
}

func (l *lab) proxy() *haproxy.Proxy {
	l.t.Helper()
	h, err := haproxy.New(haproxy.Options{
		Socket: l.settings.Socket, AgentSocket: filepath.Join(l.dir, "pg-agent.sock"),
		PrimaryBackend: "pg_primary", ReplicaBackend: "pg_replicas", Checks: l.settings.Checks(), MasterSocket: l.master,
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return h
}

// run starts h.Run and returns what stops it.
func (l *lab) run(h *haproxy.Proxy) (stop func()) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); h.Run(ctx) }() //nolint:errcheck // ends with ctx
	stop = func() { cancel(); <-done }
	l.t.Cleanup(stop)
	return stop
}

func (l *lab) connected(h *haproxy.Proxy) {
	l.t.Helper()
	l.eventually(5*time.Second, "the connection to haproxy", func() bool { return h.Status().Connected })
}

func (l *lab) eventually(d time.Duration, what string, ok func() bool) {
	l.t.Helper()
	labtest.Until(l.t, d, what, ok)
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
	return l.openOn(l.settings.PrimaryPort, n)
}

func (l *lab) openOn(port, n int) <-chan time.Time {
	l.t.Helper()
	ended := make(chan time.Time, n)
	for range n {
		c, _, err := dial(port, 5*time.Second)
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

// apply applies a topology; a HAProxy that the machine has taken the processor
// from is asked again.
func (l *lab) apply(h *haproxy.Proxy, topology templates.Topology) {
	l.t.Helper()
	for try := 1; ; try++ {
		err := h.Apply(l.t.Context(), topology)
		if err == nil {
			return
		}
		if try == 5 {
			l.t.Fatal(err)
		}
	}
}
