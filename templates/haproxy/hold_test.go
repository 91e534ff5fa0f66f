package haproxy_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/templates/haproxy"
)

// A hold has two expiries: a client waits no longer than the queue's time-out, and a
// switchover that never ends holds clients no longer than HoldFor; then they are let
// in to the primary, which there still is. Sessions of before notice nothing of it.
func TestHAProxyHoldExpires(t *testing.T) {
	const queue, hold = 300 * time.Millisecond, 3 * time.Second
	l := newLab(t, 2)
	l.settings.QueueTimeout = queue
	l.write(l.topology(1, "pg1", ha.PhaseLeading))
	l.start()
	h, err := haproxy.New(haproxy.Options{Socket: l.settings.Socket, AgentSocket: filepath.Join(l.dir, "pg-agent.sock"),
		PrimaryBackend: "pg_primary", ReplicaBackend: "pg_replicas", HoldFor: hold})
	if err != nil {
		t.Fatal(err)
	}
	l.run(h)
	topology := l.topology(1, "pg1", ha.PhaseLeading)
	l.apply(h, topology)
	l.connected(h)
	ended := l.open(2)
	topology.Held = true
	start := time.Now()
	l.apply(h, topology)
	c, name, err := dial(l.settings.PrimaryPort, 10*time.Second)
	if err == nil {
		c.Close()
		t.Fatalf("a held client was served by %s after %v", name, time.Since(start))
	}
	if took := time.Since(start); took < queue || took > hold {
		t.Errorf("a held client was turned away after %v", took)
	}
	l.eventually(10*time.Second, "clients to be let in", func() bool {
		c, name, err := dial(l.settings.PrimaryPort, 10*time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil && name == "pg1"
	})
	if took := time.Since(start); took < hold {
		t.Errorf("clients were let in after %v", took)
	}
	l.answers(l.settings.PrimaryPort, "pg1")
	if s := h.Status(); s.Expired != 1 || s.Error != "" || len(ended) > 0 {
		t.Errorf("%d sessions ended; status %+v", len(ended), s)
	}
	// The next switchover holds again.
	topology.Held = false
	l.apply(h, topology)
	topology.Held = true
	l.apply(h, topology)
	if c, name, err := dial(l.settings.PrimaryPort, 10*time.Second); err == nil {
		c.Close()
		t.Errorf("a held client was served by %s", name)
	}
}

// TestHAProxyForgetsWhoGaveUp: clients that have gone while they waited are not sent to the
// next primary, each of which would cost it a process. The bound for a half-closed session
// is out of the way here.
func TestHAProxyForgetsWhoGaveUp(t *testing.T) {
	const gone = 20
	l := newLab(t, 2)
	topology := l.topology(1, "pg1", ha.PhaseLeading)
	l.write(topology)
	text, err := os.ReadFile(l.config())
	if err != nil {
		t.Fatal(err)
	}
	if text = bytes.Replace(text, []byte("timeout server-fin 1s"), []byte("timeout server-fin 1h"), 1); os.WriteFile(l.config(), text, 0o600) != nil {
		t.Fatal("the configuration is not written")
	}
	l.start()
	h := l.proxy()
	l.run(h)
	l.apply(h, topology)
	l.connected(h)
	topology.Held = true
	l.apply(h, topology)
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(l.settings.PrimaryPort))
	var waiting []net.Conn
	for range gone + 1 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("a startup packet")); err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, c)
	}
	queued := func(want int) func() bool {
		return func() bool {
			out, err := l.cli("show stat pg_primary 2 -1")
			row := regexp.MustCompile(`(?m)^pg_primary,BACKEND,(\d+),`).FindStringSubmatch(out)
			return err == nil && row != nil && row[1] == fmt.Sprint(want)
		}
	}
	l.eventually(10*time.Second, "all to wait", queued(gone+1))
	for _, c := range waiting[:gone] {
		c.Close()
	}
	l.eventually(10*time.Second, "those who have gone to be forgotten", queued(1))
	before := l.servers[0].accepted.Load()
	topology.Held = false
	l.apply(h, topology)
	l.eventually(10*time.Second, "who waits to be let in", func() bool { return l.servers[0].accepted.Load() > before })
	l.answers(l.settings.PrimaryPort, "pg1")
	if got := l.servers[0].accepted.Load() - before; got != 2 {
		t.Errorf("the primary got %d connections, want 2", got)
	}
}

// TestHAProxyLetsStragglersIn: a client that HAProxy leaves in its queue although the primary
// takes new sessions is seen and let in. It is brought about as an operator could: leaving drain
// does not make HAProxy look at the queue.
func TestHAProxyLetsStragglersIn(t *testing.T) {
	l := newLab(t, 2)
	l.settings.QueueTimeout = time.Minute
	topology := l.topology(1, "pg1", ha.PhaseLeading)
	l.write(topology)
	l.start()
	h, err := haproxy.New(haproxy.Options{Socket: l.settings.Socket, AgentSocket: filepath.Join(l.dir, "pg-agent.sock"),
		PrimaryBackend: "pg_primary", ReplicaBackend: "pg_replicas", Reassert: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	l.run(h)
	l.apply(h, topology)
	l.connected(h)
	l.answers(l.settings.PrimaryPort, "pg1")
	byHand := func(state string) {
		t.Helper()
		if out, err := l.cli("set server pg_primary/pg1 state " + state); err != nil || strings.TrimSpace(out) != "" {
			t.Fatalf("%s: %q, %v", state, out, err)
		}
	}
	byHand("drain")
	served := make(chan error, 1)
	go func() {
		c, name, err := dial(l.settings.PrimaryPort, 20*time.Second)
		if err == nil {
			c.Close()
		}
		if err == nil && name != "pg1" {
			err = fmt.Errorf("served by %s", name)
		}
		served <- err
	}()
	l.eventually(10*time.Second, "the client to wait", func() bool {
		out, err := l.cli("show stat pg_primary 2 -1")
		return err == nil && regexp.MustCompile(`(?m)^pg_primary,BACKEND,1,`).MatchString(out)
	})
	byHand("ready")
	if err := <-served; err != nil {
		t.Errorf("the client that waited: %v", err)
	}
	if h.Status().Mended == 0 {
		t.Error("the client that waited was not seen")
	}
}
