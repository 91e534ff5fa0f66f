package peers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// testNow stands still, so that what was published once stays fresh.
func testNow() ha.Instant { return 1 }

var testSecret = []byte("a shared secret")

// victim is a running mesh named "victim" that has published once.
func victim(t *testing.T) (*Mesh, string, chan struct{}) {
	t.Helper()
	m, err := New(Options{Member: "victim", Cluster: "pg", Now: testNow,
		Key: func() ([]byte, error) { return testSecret, nil }, Heartbeat: 50 * time.Millisecond, Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	changed := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error)
	running := make(chan struct{})
	m.Publish(ha.Report{Term: 1})
	m.SetAddresses([]Address{{Member: "marker", API: "127.0.0.1:1"}})
	go func() {
		ran <- m.Run(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
			select {
			case <-running:
			default:
				close(running)
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-ran })
	<-running // the marker was refused: Run runs
	m.SetAddresses(nil)
	return m, server.Listener.Addr().String(), changed
}

func count(m *Mesh, cause string) uint64 {
	for _, r := range m.Refusals() {
		if r.Cause == cause {
			return r.Count
		}
	}
	panic(cause)
}

// subscriber does the first half of a handshake with a publisher at address.
func subscriber(t *testing.T, address string, own hello) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	req, _ := http.NewRequest(http.MethodGet, "http://"+address+"/peer", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	own.setHeader(req.Header)
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		t.Fatal(err)
	}
	return conn, r, resp
}

func stranger() hello {
	return hello{cluster: "pg", member: "stranger", process: "p", nonce: newNonce()}
}

func TestSubscriberWithoutSecretHearsNothing(t *testing.T) {
	m, address, _ := victim(t)
	m.Publish(ha.Report{Term: 1})
	for name, proof := range map[string]func(keys streamKeys, nonce []byte) []byte{
		"noise":                  func(streamKeys, []byte) []byte { return make([]byte, macSize) },
		"frame key as proof":     func(k streamKeys, _ []byte) []byte { return k.frame },
		"publisher's nonce back": func(_ streamKeys, nonce []byte) []byte { return nonce },
	} {
		before := count(m, "unauthenticated")
		own := stranger()
		conn, r, resp := subscriber(t, address, own)
		other, err := readHello(resp.Header)
		if err != nil {
			t.Fatal(name, err)
		}
		conn.Write(proof(newStreamKeys(testSecret, own, other), other.nonce))
		if n, err := io.Copy(io.Discard, r); n != 0 {
			t.Errorf("%s: %d bytes read, %v", name, n, err)
		}
		if got := count(m, "unauthenticated"); got != before+1 {
			t.Errorf("%s: %d refusals, want %d", name, got, before+1)
		}
	}
}

func TestProofOfAnotherStreamIsRefused(t *testing.T) {
	m, address, _ := victim(t)
	own := stranger()
	conn, _, resp := subscriber(t, address, own)
	other, _ := readHello(resp.Header)
	proof := newStreamKeys(testSecret, own, other).proof
	conn.Write(proof)
	_, r, _ := func() (net.Conn, *bufio.Reader, *http.Response) { // same hello, recorded proof
		conn, r, resp := subscriber(t, address, own)
		conn.Write(proof)
		return conn, r, resp
	}()
	if n, _ := io.Copy(io.Discard, r); n != 0 || count(m, "unauthenticated") != 1 {
		t.Errorf("a recorded proof was accepted: %d bytes, %v", n, m.Refusals())
	}
}

func TestBadRequests(t *testing.T) {
	m, address, _ := victim(t)
	long := strings.Repeat("x", 5000)
	for name, test := range map[string]struct {
		request, cause string
		status         int
	}{
		"plain GET":      {"GET /peer HTTP/1.1\r\nHost: x\r\n\r\n", "protocol", 426},
		"HTTP/1.0":       {"GET /peer HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n", "protocol", 426},
		"POST":           {"POST /peer HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n", "protocol", 426},
		"other version":  {"GET /peer HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: pgsidecar-peer/2\r\n\r\n", "protocol", 426},
		"no hello":       {"GET /peer HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n", "protocol", 400},
		"oversized name": {"GET /peer HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n" + headerCluster + ": pg\r\n" + headerMember + ": " + long + "\r\n\r\n", "protocol", 400},
	} {
		before := count(m, test.cause)
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, test.request)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		conn.Close()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if resp.StatusCode != test.status || count(m, test.cause) != before+1 {
			t.Errorf("%s: status %d, want %d; refusals %v", name, resp.StatusCode, test.status, m.Refusals())
		}
	}
}

func TestStrangersAreToldWhy(t *testing.T) {
	m, address, _ := victim(t)
	for name, test := range map[string]struct {
		own    hello
		status int
	}{
		"cluster":   {hello{cluster: "another", member: "n1", process: "p", nonce: newNonce()}, http.StatusForbidden},
		"duplicate": {hello{cluster: "pg", member: "victim", process: "p", nonce: newNonce()}, http.StatusConflict},
	} {
		_, _, resp := subscriber(t, address, test.own)
		if resp.StatusCode != test.status || count(m, name) != 1 {
			t.Errorf("%s: %s, refusals %v", name, resp.Status, m.Refusals())
		}
	}
}

func TestHandshakesAreBounded(t *testing.T) {
	m, address, _ := victim(t)
	for range maxHandshakes {
		_, _, resp := subscriber(t, address, stranger())
		if resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(resp.Status)
		}
	}
	_, _, resp := subscriber(t, address, stranger())
	if resp.StatusCode != http.StatusServiceUnavailable || count(m, "busy") != 1 {
		t.Errorf("status %s, refusals %v", resp.Status, m.Refusals())
	}
}

// impostor answers the victim's subscriptions as the publisher "evil" and gives
// the stream to script.
func impostor(t *testing.T, script func(conn net.Conn, own, other hello, proof []byte)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(conn net.Conn) {
		defer conn.Close()
		r := bufio.NewReader(conn)
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		other, err := readHello(req.Header)
		if err != nil {
			return
		}
		own := hello{cluster: "pg", member: "evil", process: "e", nonce: newNonce()}
		resp := http.Response{StatusCode: 101, ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {protocol}}}
		own.setHeader(resp.Header)
		resp.Write(conn)
		proof := make([]byte, macSize)
		if _, err := io.ReadFull(r, proof); err != nil {
			return
		}
		script(conn, own, other, proof)
		io.Copy(io.Discard, r) // until the victim hangs up
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return l.Addr().String()
}

func frameOf(seal *frameSeal, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	b = append(b, payload...)
	return append(b, seal.next(payload)...)
}

func reportOf(member string, seq uint64) []byte {
	b, _ := json.Marshal(ha.Report{Member: member, Seq: seq, Term: 99})
	return b
}

func TestAttacksOnFrames(t *testing.T) {
	seal := func(own, other hello) *frameSeal {
		return newFrameSeal(newStreamKeys(testSecret, other, own).frame)
	}
	tests := map[string]struct {
		cause  string
		passes bool // a first good report arrives before the attack
		script func(conn net.Conn, own, other hello, proof []byte)
	}{
		"no secret": {"forged", false, func(c net.Conn, own, other hello, _ []byte) {
			c.Write(frameOf(newFrameSeal(newStreamKeys([]byte("guess"), other, own).frame), reportOf("evil", 1)))
		}},
		"proof reflected as key": {"forged", false, func(c net.Conn, _, _ hello, proof []byte) {
			c.Write(frameOf(newFrameSeal(proof), reportOf("evil", 1)))
		}},
		"changed": {"forged", false, func(c net.Conn, own, other hello, _ []byte) {
			f := frameOf(seal(own, other), reportOf("evil", 1))
			c.Write(bytes.Replace(f, []byte(`"term":99`), []byte(`"term":98`), 1))
		}},
		"frame replayed": {"forged", true, func(c net.Conn, own, other hello, _ []byte) {
			f := frameOf(seal(own, other), reportOf("evil", 1))
			c.Write(append(f, f...))
		}},
		"frames reordered": {"forged", false, func(c net.Conn, own, other hello, _ []byte) {
			s := seal(own, other)
			first, second := frameOf(s, reportOf("evil", 1)), frameOf(s, reportOf("evil", 2))
			c.Write(append(second, first...))
		}},
		"report replayed by a member": {"replayed", true, func(c net.Conn, own, other hello, _ []byte) {
			s := seal(own, other)
			c.Write(frameOf(s, reportOf("evil", 5)))
			c.Write(frameOf(s, reportOf("evil", 5)))
		}},
		"oversized": {"oversized", false, func(c net.Conn, own, other hello, _ []byte) {
			c.Write(frameOf(seal(own, other), make([]byte, MaxFrame+1)))
		}},
		"length of 4 GiB": {"oversized", false, func(c net.Conn, _, _ hello, _ []byte) {
			c.Write([]byte{0xff, 0xff, 0xff, 0xff})
		}},
		"not JSON": {"malformed", false, func(c net.Conn, own, other hello, _ []byte) {
			c.Write(frameOf(seal(own, other), []byte("{")))
		}},
		"speaks for another": {"name", false, func(c net.Conn, own, other hello, _ []byte) {
			c.Write(frameOf(seal(own, other), reportOf("friend", 1)))
		}},
		"hangs up after the proof": {"unauthenticated", false, func(c net.Conn, _, _ hello, _ []byte) {
			c.Close()
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _, changed := victim(t)
			m.SetAddresses([]Address{{Member: "evil", API: impostor(t, test.script)}})
			late := time.After(10 * time.Second)
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for count(m, test.cause) == 0 {
				select {
				case <-changed:
				case <-tick.C:
				case <-late:
					t.Fatalf("not refused: %v", m.Refusals())
				}
			}
			p := m.Peers()[0]
			if got := p.Report.Term == 99; got != test.passes {
				t.Errorf("report was taken: %t, want %t", got, test.passes)
			}
		})
	}
}

func TestTrickleIsSilence(t *testing.T) {
	m, _, changed := victim(t)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	m.SetAddresses([]Address{{Member: "evil", API: impostor(t, func(c net.Conn, own, other hello, _ []byte) {
		s := newFrameSeal(newStreamKeys(testSecret, other, own).frame)
		c.Write(frameOf(s, reportOf("evil", 1)))
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for _, b := range frameOf(s, reportOf("evil", 2)) {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
		}
	})}})
	late := time.After(10 * time.Second)
	for up := false; ; {
		select {
		case <-changed:
		case <-late:
			t.Fatal("a stream that trickles was taken for alive")
		}
		p := m.Peers()[0]
		up = up || p.Link == ha.LinkUp
		if up && p.Link == ha.LinkSilent {
			return
		}
	}
}

func TestReportLargerThanAFrameIsNotSent(t *testing.T) {
	m, _, _ := victim(t)
	m.Publish(ha.Report{Blocked: strings.Repeat("x", MaxFrame)})
	if payload, _ := m.newest(); bytes.Contains(payload, []byte("xxx")) {
		t.Errorf("%d bytes", len(payload))
	}
	m.Publish(ha.Report{Blocked: "short"})
	if payload, _ := m.newest(); !bytes.Contains(payload, []byte("short")) {
		t.Error("nothing after it either")
	}
}

// A DNS server that refuses connections says nothing about the member.
func TestProbeIsNotFooledByDNS(t *testing.T) {
	m, _, _ := victim(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	m.resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", closed.Addr().String())
	}}
	if got := m.Probe(t.Context(), "n1.example:5432"); got != ha.Unknown {
		t.Errorf("refused %s", got)
	}
}

func FuzzFrame(f *testing.F) {
	key := []byte("k")
	good := frameOf(newFrameSeal(key), reportOf("evil", 1))
	f.Add(good)
	f.Add(append(append([]byte{}, good...), good...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		// As a stream: nothing without the key gets through, except a good
		// frame that the fuzzer kept whole.
		r := frameReader{r: bufio.NewReader(bytes.NewReader(b)), seal: newFrameSeal(key)}
		for i := 0; ; i++ {
			_, err := r.read()
			if err == nil && (i > 0 || !bytes.HasPrefix(b, good)) {
				t.Fatalf("frame %d accepted", i)
			}
			if err != nil {
				break
			}
		}
		// As an authenticated payload: any bytes are decoded or refused.
		if r, err := decodeReport(b, "evil", 1); err == nil && (r.Member != "evil" || r.Seq <= 1) {
			t.Fatalf("accepted %+v", r)
		} else if err != nil && cause(err) < 0 {
			t.Fatalf("not a refusal: %v", err)
		}
	})
}

func FuzzHello(f *testing.F) {
	f.Add("pg", "n1", "p", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, cluster, member, process, nonce string) {
		h, err := readHello(http.Header{headerCluster: {cluster}, headerMember: {member}, headerProcess: {process}, headerNonce: {nonce}})
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		again := http.Header{}
		h.setHeader(again)
		if h2, err := readHello(again); err != nil || h2.member != h.member || h2.cluster != h.cluster || !bytes.Equal(h2.nonce, h.nonce) {
			t.Fatalf("%+v came back as %+v, %v", h, h2, err)
		}
	})
}

func benchmarkReport() ha.Report {
	return ha.Report{Member: "n1", Seq: 1 << 50, Term: 12, Role: ha.RolePrimary, Writable: true, Serving: true, Eligible: true,
		Position: ha.Position{TLI: 12, LSN: 0x1234567890, History: []ha.Fork{{TLI: 10, End: 1 << 30}, {TLI: 11, End: 1 << 34}}},
		Session:  "7e57ab1e-0000-4000-8000-000000000000", Record: ha.RecordSeen{Term: 12, Leader: "n1", Phase: ha.PhaseLeading, Index: 12345},
		Postgres: "10.0.0.1:5432", API: "10.0.0.1:8008", Echo: []ha.Echo{{Member: "n2", Seq: 1 << 50}, {Member: "n3", Seq: 1 << 50}},
		Version: "0.1.0", ServerID: "7412345678901234567"}
}

func BenchmarkEncodeSend(b *testing.B) {
	r := benchmarkReport()
	out := frameWriter{w: io.Discard, seal: newFrameSeal(testSecret)}
	for b.Loop() {
		payload, _ := json.Marshal(r)
		out.write(payload)
	}
}

func BenchmarkVerifyDecode(b *testing.B) {
	payload, _ := json.Marshal(benchmarkReport())
	b.SetBytes(int64(len(payload)))
	in := bytes.NewReader(nil)
	r := frameReader{r: bufio.NewReader(in), seal: newFrameSeal(testSecret)}
	w := newFrameSeal(testSecret)
	for b.Loop() {
		in.Reset(frameOf(w, payload))
		r.r.Reset(in)
		p, err := r.read()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := decodeReport(p, "n1", 0); err != nil {
			b.Fatal(err)
		}
	}
}
