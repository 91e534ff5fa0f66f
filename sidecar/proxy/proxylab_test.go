package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
)

// proxyLab is a Consul agent with a cluster's data in it, HAProxy, and servers
// that say their names.
type proxyLab struct {
	t       testing.TB
	agent   *labtest.Consul
	dir     string
	consul  string // URL
	primary int    // HAProxy's port
	global  string // more for haproxy.global, as HCL
	servers map[string]net.Listener
	apiOf   map[string]string // host:port; a member without one gets its server's
}

func newProxyLab(t testing.TB, consul ...string) *proxyLab {
	t.Helper()
	l := &proxyLab{t: t, dir: labtest.Dir(t), servers: map[string]net.Listener{}, apiOf: map[string]string{}}
	for _, name := range []string{"n1", "n2", "n3"} {
		l.servers[name] = nameServer(t, name)
	}
	l.agent = labtest.StartConsul(t, labtest.ConsulOptions{Config: strings.Join(consul, "\n")})
	l.consul = l.agent.URL()
	return l
}

func nameServer(t testing.TB, name string) net.Listener {
	t.Helper()
	s, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, name)
				io.Copy(io.Discard, c) //nolint:errcheck // until closed
			}()
		}
	}()
	return s
}

func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		port := labtest.FreePort(t)
		ports[i] = port
	}
	return ports
}

// startProgram runs a program until the test ends, and shows what it said if
// the test fails.
func (l *proxyLab) startProgram(path string, args ...string) *labtest.Process {
	l.t.Helper()
	return labtest.Start(l.t, exec.Command(path, args...))
}

// signal is sent to Consul.
func (l *proxyLab) signal(sig syscall.Signal) {
	l.t.Helper()
	l.agent.Signal(sig)
}

func (l *proxyLab) put(path string, body any) error { return l.agent.Put(l.t, path, body) }

func (l *proxyLab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *proxyLab) register(name, tag string, term uint64) {
	l.t.Helper()
	api := l.apiOf[name]
	if api == "" {
		api = l.servers[name].Addr().String()
	}
	l.registerAPI(name, tag, term, api)
}

func (l *proxyLab) registerAPI(name, tag string, term uint64, api string) {
	l.t.Helper()
	host, port, err := net.SplitHostPort(l.servers[name].Addr().String())
	l.must(err)
	number, err := strconv.Atoi(port)
	l.must(err)
	l.must(l.put("/v1/agent/service/register", map[string]any{
		"ID": "pg-" + name, "Name": "pg", "Tags": []string{tag}, "Address": host, "Port": number,
		"Meta": map[string]string{"member": name, "api": api, "term": strconv.FormatUint(term, 10)},
	}))
}

func (l *proxyLab) record(term uint64, leader string, phase ha.Phase) {
	l.t.Helper()
	l.must(l.put("/v1/kv/pgsidecar/pg/state", ha.Record{
		Version: ha.RecordVersion, SystemID: "7", Term: term, Leader: leader, Timeline: ha.TLI(term), Phase: phase,
		Durability: ha.Durability{Mode: ha.ModeAsync, Voters: []string{}}, Members: []string{"n1", "n2", "n3"},
	}))
}

// configure writes proxy.hcl and loads it.
func (l *proxyLab) configure(reload string) *config.Config {
	l.t.Helper()
	p := freePorts(l.t, 2)
	l.primary = p[0]
	haproxy := labtest.Program(l.t, programs.HAProxy)
	path := filepath.Join(l.dir, "proxy.hcl")
	l.must(os.WriteFile(path, fmt.Appendf(nil, `
cluster = "pg"
member  = "app"
consul {
  address = [%q]
}
haproxy {
  socket       = %q
  primary_port = %d
  replica_port = %d
  global       = [%s]
}
template "haproxy" {
  builtin     = "haproxy.cfg"
  destination = %q
  check       = [%q, "-c", "-f", "{}"]
  command     = ["/bin/sh", "-c", %q]
}
template "pgbouncer" {
  builtin     = "pgbouncer.ini"
  destination = %q
}
`, strings.TrimPrefix(l.consul, "http://"), filepath.Join(l.dir, "s"), p[0], p[1], l.global, filepath.Join(l.dir, "haproxy.cfg"), haproxy, reload,
		filepath.Join(l.dir, "pgbouncer.ini")), 0o600))
	cfg, err := config.LoadProxy(path, config.OSEnvironment())
	l.must(err)
	return cfg
}

// cli asks HAProxy.
func (l *proxyLab) cli(command string) string {
	c, err := net.DialTimeout("unix", filepath.Join(l.dir, "s"), time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	fmt.Fprintln(c, command)
	b, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (l *proxyLab) until(d time.Duration, what string, ok func() bool) {
	l.t.Helper()
	labtest.Until(l.t, d, what, ok)
}

// connect goes through HAProxy, and returns the connection and who answered.
func (l *proxyLab) connect() (net.Conn, string, error) {
	c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(l.primary)), time.Second)
	if err != nil {
		return nil, "", err
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // a TCP connection has deadlines
	name, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		c.Close()
		return nil, "", err
	}
	return c, strings.TrimSpace(name), nil
}

// followed runs `pgsidecar proxy` in this process and HAProxy beside it, with n1
// the primary of term 1. It returns the configuration.
func (l *proxyLab) followed() *config.Config {
	l.t.Helper()
	cfg := l.configure(fmt.Sprintf("test -e %s/pid && kill -USR2 $(cat %s/pid) || true", l.dir, l.dir))
	l.register("n1", "primary", 1)
	l.register("n2", "replica", 1)
	l.register("n3", "replica", 1)
	l.record(1, "n1", ha.PhaseLeading)
	l.runProxy(cfg)
	l.until(30*time.Second, "haproxy.cfg", func() bool {
		_, err := os.Stat(filepath.Join(l.dir, "haproxy.cfg"))
		return err == nil
	})
	l.startHAProxy()
	l.reaches("n1")
	return cfg
}

// runProxy runs it until the test ends, or the function that it returns is called.
func (l *proxyLab) runProxy(cfg *config.Config) (stop func()) {
	log := l.t.Output()
	if _, bench := l.t.(*testing.B); bench {
		log = io.Discard // go test cuts long output, and the figures with it
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, process.Logger(cfg.Log, log)) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			l.t.Error(err)
		}
	})
	l.t.Cleanup(stop)
	return stop
}

// startHAProxy starts it with the file that the proxy wrote. It returns the
// function that kills it, workers and all.
func (l *proxyLab) startHAProxy() (kill func()) {
	l.t.Helper()
	haproxy := labtest.Program(l.t, programs.HAProxy)
	return l.startProgram(haproxy, "-W", "-f", filepath.Join(l.dir, "haproxy.cfg"), "-p", filepath.Join(l.dir, "pid")).Kill
}

// reaches waits until new connections are answered by the server.
func (l *proxyLab) reaches(name string) {
	l.t.Helper()
	l.reachesWithin(20*time.Second, name)
}

func (l *proxyLab) reachesWithin(d time.Duration, name string) {
	l.t.Helper()
	l.until(d, "a connection to "+name, func() bool {
		c, got, err := l.connect()
		if err != nil {
			return false
		}
		c.Close()
		return got == name
	})
}

func (l *proxyLab) haproxyGone() {
	l.t.Helper()
	l.until(10*time.Second, "HAProxy's end", func() bool { return !strings.Contains(l.cli("show info"), "Pid") })
}
