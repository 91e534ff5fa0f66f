package peers_test

import (
	"cmp"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/peers"
)

// host stands before a member's port. It can fall silent as a process does that hangs, while
// its kernel still answers; and be gone, so that no connection attempt is answered.
type host struct {
	t        testing.TB
	listener net.Listener
	to       string

	relays sync.WaitGroup

	mu     sync.Mutex
	silent chan struct{} // nil: what comes is passed on; else until it is closed
	filled []net.Conn
	passed []net.Conn // both ends of what is passed on
	ended  bool
}

// newHost listens with the shortest queue that there is. Once that is full a Linux kernel
// does not answer a SYN (listen(2), tcp(7)).
func newHost(t testing.TB, to string) *host {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, listener: l, to: to}
	h.accept()
	t.Cleanup(func() {
		l.Close()
		h.resume()
		h.mu.Lock()
		h.ended = true
		for _, c := range slices.Concat(h.filled, h.passed) {
			c.Close()
		}
		h.mu.Unlock()
		h.relays.Wait()
	})
	return h
}

// accept passes connections on until the host vanishes.
func (h *host) accept() {
	h.relays.Go(func() {
		for {
			conn, err := h.listener.Accept()
			if err != nil {
				return
			}
			h.mu.Lock()
			gone := len(h.filled) > 0
			h.mu.Unlock()
			if gone {
				conn.Close()
				return
			}
			h.relays.Go(func() { h.relay(conn) })
		}
	})
}

func (h *host) address() string { return h.listener.Addr().String() }

func (h *host) relay(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", h.to)
	if err != nil {
		return
	}
	defer out.Close()
	h.mu.Lock()
	h.passed = append(h.passed, in, out)
	ended := h.ended
	h.mu.Unlock()
	if ended {
		return
	}
	go io.Copy(out, in)
	buf := make([]byte, 64<<10)
	for {
		n, err := out.Read(buf)
		if err != nil {
			return
		}
		h.mu.Lock()
		silent := h.silent
		h.mu.Unlock()
		if silent != nil {
			<-silent
		}
		if _, err := in.Write(buf[:n]); err != nil {
			return
		}
	}
}

// hang: nothing is passed on any more, until resume.
func (h *host) hang() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silent = make(chan struct{})
}

func (h *host) resume() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.silent != nil {
		close(h.silent)
		h.silent = nil
	}
}

// vanish: it hangs, and no attempt is answered any more.
func (h *host) vanish() {
	h.hang()
	first, err := net.Dial("tcp", h.address())
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	h.filled = append(h.filled, first)
	h.mu.Unlock()
	for range 10 { // the loop that accepts ends with the first of them; the others fill the queue
		conn, err := net.DialTimeout("tcp", h.address(), 300*time.Millisecond)
		if err != nil {
			return
		}
		h.mu.Lock()
		h.filled = append(h.filled, conn)
		h.mu.Unlock()
	}
	h.t.Fatal("the queue of a listener is never full")
}

// appear: its kernel answers again, and nothing is passed on yet.
func (h *host) appear() {
	h.mu.Lock()
	for _, c := range h.filled {
		c.Close()
	}
	h.filled = nil
	h.mu.Unlock()
	h.accept()
}

func unreachable(p ha.Peer) bool { return p.Unreachable }

func suspicious(o *peers.Options) { o.Timeout, o.SuspectAfter = 30*time.Second, 400*time.Millisecond }

// behind introduces a to b at the address of a host before b.
func behind(t *testing.T, a, b *member) *host {
	h := newHost(t, b.address())
	a.SetAddresses([]peers.Address{{Member: b.name, API: h.address()}})
	b.SetAddresses([]peers.Address{{Member: a.name, API: a.address()}})
	a.await(t, b.name, "up", up)
	return h
}

// TestLostHost: a host that answers nothing is known to be gone long before the failure
// time-out, and taken back with the next report.
func TestLostHost(t *testing.T) {
	t.Parallel()
	a, b := newMember(t, "a", suspicious), newMember(t, "b", nil)
	h := behind(t, a, b)
	h.vanish()
	took := a.await(t, "b", "unreachable", unreachable)
	t.Logf("unreachable after %s", took)
	if took > patience {
		t.Errorf("known after %s", took)
	}
	h.resume()
	a.await(t, "b", "reachable", func(p ha.Peer) bool { return !p.Unreachable && p.Link == ha.LinkUp })
}

// TestSlowProcess: a member that hangs is silent, but its host answers; and so does one whose
// API's port is cut while its server's is not. Where one of the ports was not asked, nothing
// is known.
func TestSlowProcess(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		server bool
		named  string
		fail   func(*host)
	}{
		{"the process hangs", false, "", (*host).hang},
		{"the API's port is cut", true, "", (*host).vanish},
		{"the server's name may not be resolved", true, "db.invalid:5432", (*host).vanish},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, b := newMember(t, "a", func(o *peers.Options) { o.Timeout, o.SuspectAfter = 3*time.Second, 400*time.Millisecond }), newMember(t, "b", nil)
			if test.server {
				server, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer server.Close()
				b.say(ha.Report{Role: ha.RoleReplica, Postgres: cmp.Or(test.named, server.Addr().String())})
			}
			h := behind(t, a, b)
			if test.server {
				a.await(t, "b", "with a server", func(p ha.Peer) bool { return p.Report.Postgres != "" })
			}
			test.fail(h)
			a.await(t, "b", "silent", func(p ha.Peer) bool {
				if p.Unreachable {
					t.Fatalf("taken for unreachable: %+v", p)
				}
				return p.Link == ha.LinkSilent
			})
		})
	}
}

// TestSilenceIsMeasured: what a link has shown is waited out; but not where another member
// does not hear the leader either, and not for what says nothing of the link: a silence in
// which this member heard nobody, or for which the others have elected another leader.
func TestSilenceIsMeasured(t *testing.T) {
	t.Parallel()
	const gap = 3 * time.Second
	for _, test := range []struct {
		name                         string
		doubted, deaf, deposed, away bool
		waited                       bool
	}{
		{name: "a gap of the link", waited: true},
		{name: "another member does not hear it either", doubted: true},
		{name: "nobody was heard", deaf: true},
		{name: "another was elected", deposed: true},
		{name: "its host was away", away: true, waited: true},
		{name: "its host was away, and another was elected", away: true, deposed: true},
		{name: "this host was away", away: true, deaf: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, b, c := newMember(t, "a", suspicious), newMember(t, "b", suspicious), newMember(t, "c", suspicious)
			h, hc := newHost(t, b.address()), newHost(t, c.address())
			a.SetAddresses([]peers.Address{{Member: "b", API: h.address()}, {Member: "c", API: hc.address()}})
			b.SetAddresses([]peers.Address{{Member: "a", API: a.address()}})
			c.SetAddresses([]peers.Address{{Member: "a", API: a.address()}})
			c.say(ha.Report{Role: ha.RoleReplica, Leader: "b", Hears: true, Term: 3})
			a.await(t, "b", "up", up)
			a.await(t, "c", "hearing b", func(p ha.Peer) bool { return p.Report.Hears })
			fail := (*host).hang
			if test.away {
				fail = (*host).vanish
			}
			fail(h)
			if test.deaf {
				fail(hc)
			}
			await(gap)
			if test.deposed {
				a.say(ha.Report{Role: ha.RoleReplica, Term: 4, Record: ha.RecordSeen{Term: 4}})
				c.await(t, "a", "in the later term", func(p ha.Peer) bool { return p.Report.Term == 4 })
			}
			if test.away {
				a.await(t, "b", "unreachable", unreachable)
				h.appear()
				if test.deaf {
					hc.appear()
				}
				a.await(t, "b", "answering", func(p ha.Peer) bool { return !p.Unreachable })
			}
			seq := uint64(0)
			a.await(t, "b", "as it was", func(p ha.Peer) bool { seq = p.Report.Seq; return true })
			h.resume()
			hc.resume()
			a.await(t, "b", "heard again", func(p ha.Peer) bool { return p.Report.Seq > seq && p.Link == ha.LinkUp })
			h.vanish()
			began := time.Now()
			if test.doubted {
				c.say(ha.Report{Role: ha.RoleReplica, Leader: "b", Term: 3})
			}
			a.await(t, "b", "unreachable", unreachable)
			took := time.Since(began)
			t.Logf("unreachable after %s", took)
			// A half more than the gap is waited out; to vanish may take a second.
			if waited := took > gap; waited != test.waited {
				t.Errorf("unreachable after %s", took)
			}
		})
	}
}
