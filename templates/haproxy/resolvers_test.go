package haproxy_test

import (
	"encoding/pem"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// nameServer is a DNS server, as Consul's agents are one.
type nameServer struct {
	address string

	mu    sync.Mutex
	known map[string]string // IPv4 addresses by name
	asked map[string]int
}

func newNameServer(t *testing.T) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &nameServer{address: conn.LocalAddr().String(), known: map[string]string{}, asked: map[string]int{}}
	s := &dns.Server{PacketConn: conn, Handler: n}
	done := make(chan struct{})
	go func() { defer close(done); s.ActivateAndServe() }() //nolint:errcheck // ends with the test
	t.Cleanup(func() { conn.Close(); <-done })
	return n
}

func (n *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	n.mu.Lock()
	defer n.mu.Unlock()
	name := strings.TrimSuffix(strings.ToLower(q.Question[0].Name), ".")
	n.asked[name]++
	m := new(dns.Msg).SetReply(q)
	address, found := n.known[name]
	switch {
	case !found:
		m.SetRcode(q, dns.RcodeNameError)
	case q.Question[0].Qtype == dns.TypeA:
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(address)}}
	}
	w.WriteMsg(m) //nolint:errcheck // asked again
}

func (n *nameServer) set(name, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known[name] = address; address == "" {
		delete(n.known, name)
	}
}

func (n *nameServer) questions(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[name]
}

// byName makes the lab's members registered by names that only the DNS server
// knows.
func (l *lab) byName(n *nameServer) {
	l.t.Helper()
	l.settings.Resolvers = []string{n.address}
	for _, s := range l.servers {
		s.host = s.name + ".node.dc1.consul"
	}
	l.write(l.topology(1, "pg1", ha.PhaseLeading))
}

// HAProxy starts although no name resolves; who waits is served when the name is
// known, and who comes after its address has changed is served there.
func TestHAProxyFollowsNames(t *testing.T) {
	l := newLab(t, 2)
	names := newNameServer(t)
	l.byName(names)
	path := labtest.Program(t, programs.HAProxy)
	if out, err := exec.Command(path, "-c", "-f", l.config()).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l.start()
	h := l.proxy()
	l.run(h)
	topology := l.topology(1, "pg1", ha.PhaseLeading)
	l.apply(h, topology)
	l.connected(h)
	type result struct {
		name string
		err  error
	}
	waiting := make(chan result, 1)
	go func() {
		c, name, err := dial(l.settings.PrimaryPort, 20*time.Second)
		if err == nil {
			c.Close()
		}
		waiting <- result{name, err}
	}()
	l.eventually(5*time.Second, "the client in the queue", func() bool {
		out, err := l.cli("show stat pg_primary 2 -1")
		return err == nil && strings.Contains(out, "BACKEND,1,")
	})
	start := time.Now()
	names.set(l.servers[0].host, "127.0.0.1")
	names.set(l.servers[1].host, "127.0.0.1")
	if r := <-waiting; r.err != nil || r.name != "pg1" {
		t.Fatalf("the client that waited got %q, %v", r.name, r.err)
	}
	t.Logf("a client that waited for the name was served %v after it was known", time.Since(start))
	ended := l.open(1)
	l.moves(names, l.servers[0])
	if len(ended) != 0 {
		t.Error("the change of address ended a session")
	}
	// The new address is not forgotten with the name, nor with a change of roles.
	names.set(l.servers[0].host, "")
	before := names.questions(l.servers[0].host)
	l.eventually(10*time.Second, "two answers that there is no such name", func() bool { return names.questions(l.servers[0].host) >= before+2 })
	l.answers(l.settings.PrimaryPort, "pg1 moved")
	l.apply(h, l.topology(2, "pg2", ha.PhaseLeading))
	l.answers(l.settings.PrimaryPort, "pg2")
	l.apply(h, l.topology(3, "pg1", ha.PhaseLeading))
	l.answers(l.settings.PrimaryPort, "pg1 moved")
	if s := h.Status(); s.Error != "" {
		t.Errorf("status %+v", s)
	}
}

// moves gives a member another address, and waits until HAProxy sends clients there.
func (l *lab) moves(names *nameServer, s *server) {
	l.t.Helper()
	_, port, err := net.SplitHostPort(s.address)
	if err != nil {
		l.t.Fatal(err)
	}
	there := &server{name: s.name + " moved", address: net.JoinHostPort("127.0.0.2", port), conns: map[net.Conn]bool{}}
	there.start(l.t)
	l.t.Cleanup(there.stop)
	start := time.Now()
	names.set(s.host, "127.0.0.2")
	l.eventually(20*time.Second, "a client at the new address", func() bool {
		c, name, err := dial(l.settings.PrimaryPort, 5*time.Second)
		if err != nil {
			l.t.Fatalf("while the address changes: %v", err)
		}
		c.Close()
		return name == there.name
	})
	l.t.Logf("clients came to the new address after %v", time.Since(start))
}

// Without us, HAProxy's own checks find members by name too, and end the sessions of
// one that is primary no more; a restarted HAProxy knows no less.
func TestHAProxyChecksNames(t *testing.T) {
	l := newLab(t, 2)
	names := newNameServer(t)
	l.byName(names)
	l.servers[0].primary.Store(true)
	for _, s := range l.servers {
		names.set(s.host, "127.0.0.1")
	}
	l.start()
	l.answers(l.settings.PrimaryPort, "pg1")
	ended := l.open(2)
	l.servers[0].primary.Store(false)
	l.servers[1].primary.Store(true)
	for range 2 {
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("the sessions of the deposed primary go on")
		}
	}
	l.answers(l.settings.PrimaryPort, "pg2")
	l.kill()
	l.start()
	l.answers(l.settings.PrimaryPort, "pg2")
}

// The checks' TLS goes through as it is.
func TestHAProxyChecksNamesByTLS(t *testing.T) {
	l := newLab(t, 1)
	s := l.servers[0]
	s.api.Close()
	s.api = httptest.NewTLSServer(s.api.Config.Handler)
	t.Cleanup(s.api.Close)
	l.settings.CheckCAFile = filepath.Join(l.dir, "ca.crt")
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.api.Certificate().Raw})
	if err := os.WriteFile(l.settings.CheckCAFile, authority, 0o600); err != nil {
		t.Fatal(err)
	}
	names := newNameServer(t)
	names.set("pg1.node.dc1.consul", "127.0.0.1")
	l.byName(names)
	s.primary.Store(true)
	l.start()
	l.answers(l.settings.PrimaryPort, "pg1")
}

// A server that has just got its address is not used before it has been asked.
func TestHAProxyNamesStartDown(t *testing.T) {
	l := newLab(t, 2)
	names := newNameServer(t)
	l.byName(names)
	names.set(l.servers[0].host, "127.0.0.1")
	l.start()
	asked := names.questions(l.servers[1].host)
	l.eventually(10*time.Second, "a question for the second name", func() bool { return names.questions(l.servers[1].host) > asked })
	names.set(l.servers[1].host, "127.0.0.1")
	for start := time.Now(); time.Since(start) < 2*time.Second; {
		if c, name, err := dial(l.settings.PrimaryPort, 50*time.Millisecond); err == nil {
			c.Close()
			t.Fatalf("a client was sent to %s", name)
		}
	}
}
