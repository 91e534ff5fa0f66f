package peers_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/peers"
)

func TestThreeMembersHearEachOther(t *testing.T) {
	a, b, c := newMember(t, "a", nil), newMember(t, "b", nil), newMember(t, "c", nil)
	introduce(a, b, c)
	b.say(ha.Report{Role: ha.RolePrimary, Term: 7, Postgres: "127.0.0.1:5432",
		Position: ha.Position{TLI: 3, LSN: 0x3000060, History: []ha.Fork{{TLI: 1, End: 0x2000000}}}})
	for _, m := range []*member{a, c} {
		m.await(t, "b", "as primary", func(p ha.Peer) bool {
			return up(p) && p.Report.Role == ha.RolePrimary && p.Report.Term == 7 && p.Report.Member == "b" &&
				p.Report.Position.LSN == 0x3000060 && len(p.Report.Position.History) == 1
		})
	}
	b.await(t, "a", "echo", func(p ha.Peer) bool { return p.EchoSentAt != 0 })
	b.await(t, "c", "echo", func(p ha.Peer) bool { return p.EchoSentAt != 0 })
}

func TestEchoAdvancesWithHeartbeats(t *testing.T) {
	a, b := newMember(t, "a", nil), newMember(t, "b", nil)
	introduce(a, b)
	first := ha.Instant(0)
	a.await(t, "b", "first echo", func(p ha.Peer) bool { first = p.EchoSentAt; return first != 0 })
	a.await(t, "b", "later echo", func(p ha.Peer) bool { return p.EchoSentAt.Sub(first) > 2*heartbeat })
	a.await(t, "b", "recent echo", func(p ha.Peer) bool {
		if p.EchoSentAt > p.ReceivedAt {
			t.Fatalf("echo of a report sent after it: %+v", p)
		}
		return p.EchoSentAt.Within(3*heartbeat, now())
	})
}

// A report must not confirm what its maker had not seen (S5): the promise that
// the report carries may be older.
func TestEchoIsOnlyOfWhatPeersShowed(t *testing.T) {
	a := newMember(t, "a", nil)
	var b *peers.Mesh
	b, err := peers.New(peers.Options{Member: "b", Cluster: "pg", Key: secret, Now: now, Heartbeat: heartbeat, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(b)
	defer server.Close()
	heard := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error)
	go func() {
		ran <- b.Run(ctx, func() {
			select {
			case heard <- struct{}{}:
			default:
			}
		})
	}()
	defer func() { cancel(); <-ran }()
	addresses := []peers.Address{{Member: "a", API: a.address()}, {Member: "b", API: server.Listener.Addr().String()}}
	a.SetAddresses(addresses)
	b.SetAddresses(addresses)

	b.Publish(ha.Report{Term: 1})
	a.await(t, "b", "report", up)
	for range 5 { // b reads reports, and its heartbeats go on
		<-heard
	}
	a.await(t, "b", "report without echo", func(p ha.Peer) bool {
		if p.EchoSentAt != 0 || len(p.Report.Echo) != 0 {
			t.Fatal("echo of a report that b's loop has not seen")
		}
		return true
	})
	b.Peers()
	for range 5 {
		<-heard
	}
	a.await(t, "b", "still no echo", func(p ha.Peer) bool {
		if p.EchoSentAt != 0 {
			t.Fatal("echo of a report on which b has not decided yet")
		}
		return true
	})
	b.Peers() // nothing to publish: the decision changed nothing
	var at ha.Instant
	a.await(t, "b", "echo", func(p ha.Peer) bool { at = p.EchoSentAt; return at != 0 })
	for range 5 {
		<-heard
	}
	a.await(t, "b", "the same echo", func(p ha.Peer) bool {
		if p.EchoSentAt != at {
			t.Fatal("the echo moved although b's loop did not")
		}
		return true
	})
}

func TestProcessGoneIsRefusedAtOnce(t *testing.T) {
	a, b := newMember(t, "a", nil), newMember(t, "b", nil)
	introduce(a, b)
	a.await(t, "b", "up", up)
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.say(ha.Report{Postgres: port.Addr().String()})
	a.await(t, "b", "with its server", func(p ha.Peer) bool { return p.Report.Postgres != "" })

	watch := labtest.StartStopwatch(t)
	b.stop()
	a.await(t, "b", "refused", refused)
	watch.Within(timeout/2, "notice a dead process by the end of its stream, not by silence")
	a.await(t, "b", "with its server alive", func(p ha.Peer) bool { return p.PostgresRefused == ha.No })
	port.Close()
	a.await(t, "b", "with its server gone", func(p ha.Peer) bool { return p.PostgresRefused == ha.Yes })
}

func TestRestartedProcessIsHeardAgain(t *testing.T) {
	a, b := newMember(t, "a", nil), newMember(t, "b", nil)
	introduce(a, b)
	a.await(t, "b", "up", up)
	b.stop()
	a.await(t, "b", "refused", refused)
	again := newMember(t, "b", nil)
	introduce(a, again)
	again.say(ha.Report{Term: 9})
	a.await(t, "b", "again", func(p ha.Peer) bool {
		return up(p) && p.Report.Term == 9 && p.PostgresRefused == ha.Unknown
	})
	again.await(t, "a", "up", up)
}

// relay forwards TCP until it is told to keep the connections open and silent.
func relay(t *testing.T, to string) (address string, hold func(bool)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var held atomic.Bool
	t.Cleanup(func() { l.Close() })
	pump := func(dst, src net.Conn) {
		defer dst.Close()
		defer src.Close()
		buf := make([]byte, 4096)
		for {
			n, err := src.Read(buf)
			if err != nil {
				return
			}
			if held.Load() {
				continue // swallowed
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			go pump(in, out)
			go pump(out, in)
		}
	}()
	return l.Addr().String(), held.Store
}

func TestSilentPeer(t *testing.T) {
	a, b := newMember(t, "a", nil), newMember(t, "b", nil)
	through, hold := relay(t, b.address())
	a.SetAddresses([]peers.Address{{Member: "b", API: through}})
	b.SetAddresses([]peers.Address{{Member: "a", API: a.address()}})
	a.await(t, "b", "up", up)
	watch := labtest.StartStopwatch(t)
	hold(true)
	a.await(t, "b", "silent", silent)
	if took := watch.Within(3*timeout, "notice silence"); took < timeout-2*heartbeat {
		t.Errorf("silence was noticed after %s; the failure timeout is %s", took, timeout)
	}
	hold(false)
	a.await(t, "b", "up again", up)
}

// A loop that hangs must not be kept alive by its heartbeats.
func TestHeartbeatsEndWithTheLoop(t *testing.T) {
	a := newMember(t, "a", nil)
	b, err := peers.New(peers.Options{Member: "b", Cluster: "pg", Key: secret, Now: now, Heartbeat: heartbeat, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(b)
	defer server.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error)
	go func() { ran <- b.Run(ctx, func() {}) }()
	defer func() { cancel(); <-ran }()
	a.SetAddresses([]peers.Address{{Member: "b", API: server.Listener.Addr().String()}})
	b.Publish(ha.Report{Term: 1})
	a.await(t, "b", "up", up)
	a.await(t, "b", "silent", silent)

	// Nor may a new stream bring its old report as if it were new.
	before := ha.Instant(0)
	a.await(t, "b", "its time", func(p ha.Peer) bool { before = p.ReceivedAt; return true })
	c := newMember(t, "c", nil)
	c.SetAddresses([]peers.Address{{Member: "b", API: server.Listener.Addr().String()}})
	c.await(t, "b", "silent", silent)
	a.await(t, "b", "still silent", func(p ha.Peer) bool {
		if p.ReceivedAt != before {
			t.Error("an old report was received again")
		}
		return true
	})
	b.Publish(ha.Report{Term: 1})
	a.await(t, "b", "up again", up)
}

func TestRemovedMemberIsForgotten(t *testing.T) {
	a, b := newMember(t, "a", nil), newMember(t, "b", nil)
	introduce(a, b)
	a.await(t, "b", "up", up)
	a.SetAddresses(nil)
	if all := a.Peers(); len(all) != 0 {
		t.Errorf("still known: %+v", all)
	}
	a.SetAddresses([]peers.Address{{Member: "a", API: a.address()}, {Member: "b", API: b.address()}})
	a.await(t, "b", "again", up)
}

func TestTLS(t *testing.T) {
	// Both servers have httptest's certificate; the client trusts it.
	trial := httptest.NewTLSServer(http.NotFoundHandler())
	trial.Close()
	config := trial.Client().Transport.(*http.Transport).TLSClientConfig
	withTLS := func(o *peers.Options) { o.TLS = &tls.Config{RootCAs: config.RootCAs} }
	a, b := newMember(t, "a", withTLS), newMember(t, "b", withTLS)
	introduce(a, b)
	a.await(t, "b", "up", up)
	b.await(t, "a", "up", up)
	b.stop()
	a.await(t, "b", "refused", refused)
}

func TestSecretIsReadForEachStream(t *testing.T) {
	var current atomic.Pointer[string]
	set := func(s string) { current.Store(&s) }
	set("old")
	rotating := func(o *peers.Options) {
		o.Key = func() ([]byte, error) { return []byte(*current.Load()), nil }
	}
	fixed := func(s string) func(*peers.Options) {
		return func(o *peers.Options) { o.Key = func() ([]byte, error) { return []byte(s), nil } }
	}
	a, b := newMember(t, "a", rotating), newMember(t, "b", fixed("new"))
	introduce(a, b)
	awaitRefusal(t, a.Mesh, "unauthenticated", 2) // as publisher and as subscriber
	awaitRefusal(t, b.Mesh, "unauthenticated", 2)
	set("new")
	a.await(t, "b", "up", up)
	b.await(t, "a", "up", up)
}

func TestMissingSecretRefusesAll(t *testing.T) {
	a := newMember(t, "a", func(o *peers.Options) {
		o.Key = func() ([]byte, error) { return nil, nil }
	})
	b := newMember(t, "b", nil)
	introduce(a, b)
	awaitRefusal(t, a.Mesh, "secret", 2)
	b.await(t, "a", "silent", silent)
}

func TestWrongClusterAndWrongName(t *testing.T) {
	a := newMember(t, "a", nil)
	other := newMember(t, "b", func(o *peers.Options) { o.Cluster = "another" })
	introduce(a, other)
	awaitRefusal(t, a.Mesh, "cluster", 2)
	a.await(t, "b", "silent", silent)

	c := newMember(t, "c", nil)
	a.SetAddresses([]peers.Address{{Member: "d", API: c.address()}})
	awaitRefusal(t, a.Mesh, "name", 1)
	a.await(t, "d", "silent", silent)
}

func TestDuplicateName(t *testing.T) {
	a, b := newMember(t, "a", nil), newMember(t, "b", nil)
	introduce(a, b)
	b.await(t, "a", "up", up)
	a.await(t, "b", "up", up)
	twin := newMember(t, "a", nil)

	twin.SetAddresses([]peers.Address{{Member: "b", API: b.address()}})
	awaitRefusal(t, b.Mesh, "duplicate", 1)
	twin.await(t, "b", "silent", silent)
	a.await(t, "b", "still up", up)

	// Dialled under another name, it finds itself.
	b.SetAddresses([]peers.Address{{Member: "a", API: a.address()}, {Member: "c", API: b.address()}})
	awaitRefusal(t, b.Mesh, "duplicate", 2)
}

func TestProbe(t *testing.T) {
	a := newMember(t, "a", nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if got := a.Probe(t.Context(), address); got != ha.No {
		t.Errorf("listening: refused %s", got)
	}
	l.Close()
	if got := a.Probe(t.Context(), address); got != ha.Yes {
		t.Errorf("not listening: refused %s", got)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, address := range []string{"", "127.0.0.1", "no-such-name.invalid:5432", "[::1:5432"} {
		if got := a.Probe(cancelled, address); got != ha.Unknown {
			t.Errorf("%q: refused %s", address, got)
		}
	}
}

func TestOptions(t *testing.T) {
	good := peers.Options{Member: "a", Cluster: "pg", Key: secret, Now: now}
	if _, err := peers.New(good); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for name, change := range map[string]func(*peers.Options){
		"no member":     func(o *peers.Options) { o.Member = "" },
		"no cluster":    func(o *peers.Options) { o.Cluster = "" },
		"no key":        func(o *peers.Options) { o.Key = nil },
		"no clock":      func(o *peers.Options) { o.Now = nil },
		"short timeout": func(o *peers.Options) { o.Heartbeat, o.Timeout = time.Second, 1500*time.Millisecond },
	} {
		o := good
		change(&o)
		if _, err := peers.New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// While nothing changes but the age of the reports, the loop is woken once a
// heartbeat and not for each report, and the echoes stay young.
func TestCalmMembersWakeOnceAHeartbeat(t *testing.T) {
	members := make([]*member, 5)
	for i := range members {
		members[i] = newMember(t, string(rune('a'+i)), nil)
	}
	introduce(members...)
	a := members[0]
	for _, m := range members[1:] {
		a.await(t, m.name, "up", up)
	}
	settled := now().Add(2 * timeout)
	a.await(t, "b", "after a while", func(p ha.Peer) bool { return p.ReceivedAt > settled })
	began, woken := now(), a.woken.Load()
	for now().Sub(began) < 20*heartbeat {
		a.await(t, "b", "with a young echo", func(p ha.Peer) bool { return p.EchoSentAt.Within(3*heartbeat, now()) })
	}
	beats := float64(now().Sub(began)) / float64(heartbeat)
	if n := float64(a.woken.Load() - woken); n > 2*beats {
		t.Errorf("woken %.0f times in %.1f heartbeats", n, beats)
	}
}
