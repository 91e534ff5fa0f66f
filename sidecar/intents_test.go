package sidecar_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

func TestRestart(t *testing.T) {
	for _, name := range []string{"n1", "n2"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := three(t)
				defer w.stop()
				m := w.members[name]
				var before ha.Instant
				w.look(func() { before = m.startedAt })
				m.sidecar.Restart()
				w.until("restarted", 5*time.Second, func() bool { return m.running && m.startedAt > before })
				w.settled("n1")
				w.primaryIs("n1", time.Second)
				if term := w.recorded().Term; term != 1 {
					t.Errorf("a restart began term %d", term)
				}
			})
		})
	}
}

// TestTwoOperators: what one asks for, and what is taken back of it, changes nothing of
// what another has asked for: a restart in place stays one, and is one.
func TestTwoOperators(t *testing.T) {
	for name, started := range map[string]bool{"while the server is being stopped": false, "when it has just been started": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := three(t)
				defer w.stop()
				n1 := w.members["n1"]
				w.mu.Lock()
				before := n1.startedAt
				n1.ops = nil
				w.mu.Unlock()
				n1.sidecar.Restart()
				w.until("the moment", 5*time.Second, func() bool {
					return n1.running && (n1.startedAt > before) == started && (n1.tag == "" || started)
				})
				n1.sidecar.Remove("n3")
				n1.sidecar.WithdrawRemoval()
				w.primaryIs("n1", 5*time.Second)
				time.Sleep(5 * time.Second)
				w.settled("n1")
				w.mu.Lock()
				defer w.mu.Unlock()
				starts := 0
				for _, op := range n1.ops {
					if op == "start" {
						starts++
					}
				}
				if w.record.Term != 1 || starts != 1 {
					t.Errorf("term %d, started %d times: %v", w.record.Term, starts, n1.ops)
				}
			})
		})
	}
}

func TestReinit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		n2 := w.members["n2"]
		w.look(func() { n2.ops = nil })
		n2.sidecar.Reinit()
		w.until("cloned", 10*time.Second, func() bool { return len(n2.ops) > 1 && n2.running && n2.tag == "replica" })
		w.look(func() {
			if n2.ops[0] != "stop" || n2.ops[1] != "clone n1" {
				t.Errorf("operations: %v", n2.ops)
			}
		})
		w.settled("n1")
	})
}

// TestRemove: the primary takes a member off the record that is gone for good;
// not one that is alive or may hold the last commits; one that comes back is
// admitted again.
func TestRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		n1 := w.members["n1"]
		n1.sidecar.Remove("n3")
		w.until("a refusal", 5*time.Second, func() bool { return strings.Contains(n1.sidecar.Snapshot().State.Refused, "n3 is alive") })
		n1.sidecar.WithdrawRemoval()
		w.members["n3"].kill()
		w.until("n3 is no voter", 30*time.Second, func() bool { return !w.record.Durability.Has("n3") })
		n1.sidecar.Remove("n3")
		w.until("n3 is off the record", 10*time.Second, func() bool { return !slices.Contains(w.record.Members, "n3") })
		w.members["n3"].run()
		w.until("n3 is back", 30*time.Second, func() bool { return slices.Contains(w.record.Members, "n3") })
	})
}
