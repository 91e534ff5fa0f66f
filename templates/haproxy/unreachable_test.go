package haproxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/templates/haproxy"
)

// listenDeaf makes the server at index i one that is cut off as soon as it has
// said its name: what it is sent stays in the kernel, an end included, and it
// ends nothing itself.
func (l *lab) listenDeaf(i int) {
	l.t.Helper()
	s := l.servers[i]
	s.stop()
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		l.t.Fatal(err)
	}
	var kept []net.Conn
	ended := make(chan struct{})
	l.t.Cleanup(func() {
		listener.Close()
		<-ended
		for _, c := range kept {
			c.Close()
		}
	})
	go func() {
		defer close(ended)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			kept = append(kept, c)
			fmt.Fprintln(c, s.name)
		}
	}()
}

// sessionsOf is how many sessions HAProxy has with a server of the primary port.
func (l *lab) sessionsOf(name string) int {
	l.t.Helper()
	out, err := l.cli("show stat pg_primary 4 -1")
	if err != nil {
		return -1 // asked again
	}
	for line := range strings.Lines(out) {
		if f := strings.Split(line, ","); len(f) > 4 && f[1] == name {
			n, err := strconv.Atoi(f[4])
			if err != nil {
				l.t.Fatalf("%s has %q sessions", name, f[4])
			}
			return n
		}
	}
	return -1
}

// A deposed primary that cannot be reached any more answers no end of a
// connection. Its clients see the end all the same, and HAProxy keeps no session
// of a client that waits, nor for long one whose client has gone before. HAProxy
// 2.6 has no means against one with data that the server does not take: it stays
// until the kernel gives up, without a client. HAProxy 3.0 and later end that too.
// Whatever stays is told once.
func TestHAProxyDeposedUnreachable(t *testing.T) {
	for name, test := range map[string]struct {
		client func(net.Conn) error
		ended  bool // its session ends while the server is away
	}{
		"waits":  {func(net.Conn) error { return nil }, true},
		"gone":   {net.Conn.Close, true},
		"writes": {fillBuffers, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 2)
			l.listenDeaf(0)
			l.start()
			var log lockedBuffer
			h, err := haproxy.New(haproxy.Options{
				Socket: l.settings.Socket, AgentSocket: filepath.Join(l.dir, "pg-agent.sock"),
				PrimaryBackend: "pg_primary", ReplicaBackend: "pg_replicas",
				Reassert: 50 * time.Millisecond, Logger: hclog.New(&hclog.LoggerOptions{Output: &log}),
			})
			if err != nil {
				t.Fatal(err)
			}
			l.run(h)
			l.apply(h, l.topology(1, "pg1", ha.PhaseLeading))
			l.connected(h)
			c, _, err := dial(l.settings.PrimaryPort, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			if err := test.client(c); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			l.apply(h, l.topology(2, "pg2", ha.PhaseLeading))
			l.answers(l.settings.PrimaryPort, "pg2")
			if name != "gone" {
				c.SetReadDeadline(time.Now().Add(5 * time.Second)) //nolint:errcheck // a TCP connection has deadlines
				if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("the client was not told: %v", err)
				}
				t.Logf("the client was told after %v", time.Since(start))
			}
			if test.ended || !strings.HasPrefix(l.version(), "2.") {
				l.eventually(10*time.Second, "the end of the deposed primary's sessions", func() bool { return l.sessionsOf("pg1") == 0 })
				t.Logf("the session ended after %v", time.Since(start))
			} else {
				<-time.After(500 * time.Millisecond) // it is looked at many times
				if l.sessionsOf("pg1") == 0 {
					t.Error("this HAProxy ends such a session: then this test and the comment on it can say so")
				}
			}
			if n := strings.Count(log.String(), "state wrong"); n > 1 || n != h.Status().Mended {
				t.Errorf("told %d times, counted %d:\n%s", n, h.Status().Mended, log.String())
			}
		})
	}
}

// fillBuffers sends until nobody takes more.
func fillBuffers(c net.Conn) error {
	if err := c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		return err
	}
	for {
		_, err := c.Write(make([]byte, 1<<20))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lockedBuffer is what a logger writes to and a test reads.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// TestHAProxyNotThere: that HAProxy is not reached is logged, once, and when it has
// come it is told all.
func TestHAProxyNotThere(t *testing.T) {
	l := newLab(t, 2)
	var log lockedBuffer
	h, err := haproxy.New(haproxy.Options{
		Socket: l.settings.Socket, AgentSocket: filepath.Join(l.dir, "pg-agent.sock"),
		PrimaryBackend: "pg_primary", ReplicaBackend: "pg_replicas", Logger: hclog.New(&hclog.LoggerOptions{Output: &log}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Apply(t.Context(), l.topology(1, "pg1", ha.PhaseLeading)); err == nil {
		t.Error("told to nobody, without an error")
	}
	l.run(h)
	l.eventually(10*time.Second, "word of it", func() bool { return strings.Contains(log.String(), "haproxy not reached") })
	l.start()
	l.connected(h)
	l.answers(l.settings.PrimaryPort, "pg1")
	if n := strings.Count(log.String(), "stats socket: dial unix "+l.settings.Socket+": connect: no such file"); n != 1 {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
}
