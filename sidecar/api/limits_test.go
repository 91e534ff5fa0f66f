package api_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

func TestHTTP10AndOthers(t *testing.T) {
	address := newBench(t, viewOf("n1"), nil).run(t)
	for request, want := range map[string]string{
		"OPTIONS / HTTP/1.0\r\n\r\n":                                          "HTTP/1.0 200 OK",
		"HEAD /primary HTTP/1.0\r\n\r\n":                                      "HTTP/1.0 200 OK",
		"GET /replica?lag=5 HTTP/1.0\r\n\r\n":                                 "HTTP/1.0 503 Service Unavailable",
		"HEAD /primary HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":      "HTTP/1.1 200 OK",
		"BREW /primary HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":      "HTTP/1.1 405 Method Not Allowed",
		"POST /primary HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n":      "HTTP/1.1 405 Method Not Allowed",
		"GET /peer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":          "HTTP/1.1 404 Not Found",
		"GET /" + strings.Repeat("x", 40000) + " HTTP/1.1\r\nHost: x\r\n\r\n": "HTTP/1.1 431 Request Header Fields Too Large",
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, request)
		line, _ := bufio.NewReader(conn).ReadString('\n')
		conn.Close()
		if got := strings.TrimSpace(line); got != want {
			t.Errorf("%.40q: %q, want %q", request, got, want)
		}
	}
}

func TestSlowLorisIsCutOff(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the header's 3 s")
	}
	address := newBench(t, viewOf("n1"), nil).run(t)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "POST /switchover HTTP/1.1\r\nHost: x\r\n")
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		io.Copy(io.Discard, conn)
	}()
	began := time.Now()
	for {
		select {
		case <-tick.C:
			io.WriteString(conn, "X-A: b\r\n")
			if time.Since(began) > 10*time.Second {
				t.Fatal("still open")
			}
		case <-gone:
			if took := time.Since(began); took < 2*time.Second {
				t.Errorf("closed after %s", took)
			}
			return
		}
	}
}

// One address must not take all connections: health checks come from others.
func TestConnectionsOfOneAddressAreBounded(t *testing.T) {
	address := newBench(t, viewOf("n1"), nil).run(t)
	dial := func(from string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := d.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		return conn
	}
	healthy := func(conn net.Conn) bool {
		io.WriteString(conn, "HEAD /primary HTTP/1.1\r\nHost: x\r\n\r\n")
		line, _ := bufio.NewReader(conn).ReadString('\n')
		return strings.HasPrefix(line, "HTTP/1.1 200")
	}
	var held []net.Conn
	for range 256 {
		conn := dial("127.0.0.1")
		if !healthy(conn) {
			t.Fatal("refused within the limit")
		}
		held = append(held, conn)
	}
	if healthy(dial("127.0.0.1")) {
		t.Error("one more was accepted")
	}
	if !healthy(dial("127.0.0.2")) {
		t.Error("another address was refused")
	}
	held[0].Close()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for !healthy(dial("127.0.0.1")) {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("a closed connection keeps its place")
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	b := newBench(t, viewOf("n1"), nil)
	addr, err := b.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- b.Run(ctx) }()
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", addr.String()); err == nil {
		conn.Close()
		t.Error("still listening")
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]api.Options{
		"nothing":   {},
		"no view":   {Member: "n1", Cluster: "pg", Now: func() ha.Instant { return 1 }},
		"no clock":  {Member: "n1", Cluster: "pg", View: func() *api.View { return nil }},
		"no key":    {Member: "n1", Cluster: "pg", Now: func() ha.Instant { return 1 }, View: func() *api.View { return nil }, TLS: api.TLS{CertFile: "x"}},
		"no server": {Member: "n1", Cluster: "pg", Now: func() ha.Instant { return 1 }, View: func() *api.View { return nil }, TLS: api.TLS{CAFile: "x"}},
	} {
		if _, err := api.New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func BenchmarkHeadPrimary(b *testing.B) {
	address := newBench(b, viewOf("n1"), nil).run(b)
	took := make([]time.Duration, 0, b.N)
	buf := make([]byte, 512)
	for b.Loop() {
		began := time.Now()
		conn, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		io.WriteString(conn, "HEAD /primary HTTP/1.0\r\n\r\n")
		if n, err := conn.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.0 200") {
			b.Fatal(err, string(buf[:n]))
		}
		conn.Close()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

func BenchmarkHandlerHeadPrimary(b *testing.B) {
	h := newBench(b, viewOf("n1"), nil).Handler()
	r := httptest.NewRequest(http.MethodHead, "/primary", nil)
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
}

func BenchmarkHandlerGetReplica(b *testing.B) {
	h := newBench(b, viewOf("n2"), nil).Handler()
	r := httptest.NewRequest(http.MethodGet, "/replica?lag=10MB", nil)
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
}
