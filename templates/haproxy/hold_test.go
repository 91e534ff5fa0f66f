package haproxy_test

import (
	"path/filepath"
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
