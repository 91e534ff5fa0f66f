package haproxy_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/templates/haproxy"
)

// From Apply to the first new connection on the new primary, with 200 sessions
// open; and until the last session of the deposed one has ended.
func TestHAProxySwitchLatency(t *testing.T) {
	const sessions, rounds = 200, 20
	l := newLab(t, 3)
	l.start()
	h := l.proxy()
	l.run(h)
	var toApply, toNew, toEnd []time.Duration
	for round := range rounds {
		old, next := fmt.Sprintf("pg%d", round%2+1), fmt.Sprintf("pg%d", (round+1)%2+1)
		term := uint64(2 * round)
		l.apply(h, l.topology(term+1, old, ha.PhaseLeading))
		l.connected(h)
		ended := l.open(sessions)
		topology := l.topology(term+2, next, ha.PhaseLeading)
		arrived := make(chan time.Time, 1)
		start := time.Now()
		go func() { // a client that tries again and again, but leaves HAProxy time for others
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for ; ; <-tick.C {
				c, name, err := dial(l.settings.PrimaryPort, 10*time.Second)
				if err != nil {
					continue // it had come to the old primary just before
				}
				c.Close()
				if name == next {
					break
				}
			}
			arrived <- time.Now()
		}()
		l.apply(h, topology)
		toApply = append(toApply, time.Since(start))
		toNew = append(toNew, (<-arrived).Sub(start))
		var last time.Time
		for range sessions {
			select {
			case last = <-ended:
			case <-time.After(20 * time.Second):
				t.Fatal("sessions of the deposed primary go on")
			}
		}
		toEnd = append(toEnd, last.Sub(start))
	}
	var afterGap []time.Duration
	for round := range rounds { // as in a failover: for a moment there is no primary
		term, next := uint64(2*rounds+round+1), fmt.Sprintf("pg%d", round%2+1)
		ended := l.open(sessions)
		l.apply(h, l.topology(term, next, ha.PhaseElecting))
		for range sessions {
			<-ended
		}
		start := time.Now()
		l.apply(h, l.topology(term, next, ha.PhaseLeading))
		c, name, err := dial(l.settings.PrimaryPort, 10*time.Second)
		if err != nil || name != next {
			t.Fatalf("first connection: %q, %v; want %s", name, err, next)
		}
		afterGap = append(afterGap, time.Since(start))
		c.Close()
	}
	t.Logf("after a gap, Apply to first new connection: median %v, worst %v", median(afterGap), slices.Max(afterGap))
	t.Logf("Apply: median %v, worst %v", median(toApply), slices.Max(toApply))
	t.Logf("Apply to first new connection: median %v, worst %v", median(toNew), slices.Max(toNew))
	t.Logf("Apply to last old session's end: median %v, worst %v", median(toEnd), slices.Max(toEnd))
	// Bounds for a machine that stands still at times; the log has the figures.
	if m := median(toNew); m > 2*time.Second {
		t.Errorf("median to the first new connection is %v", m)
	}
	if m := median(toEnd); m > 2*time.Second {
		t.Errorf("median to the end of old sessions is %v", m)
	}
}

// While there is no primary, new connections wait, and all go to the new one.
func TestHAProxyClientsWaitInTheGap(t *testing.T) {
	l := newLab(t, 3)
	l.start()
	h := l.proxy()
	l.run(h)
	if err := h.Apply(t.Context(), l.topology(1, "pg1", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	l.connected(h)
	l.servers[0].stop()
	if err := h.Apply(t.Context(), l.topology(2, "pg2", ha.PhaseElecting)); err != nil {
		t.Fatal(err)
	}
	const clients = 50
	type result struct {
		name string
		err  error
		at   time.Time
	}
	results := make(chan result, clients)
	for range clients {
		go func() {
			c, name, err := dial(l.settings.PrimaryPort, 5*time.Second)
			if err == nil {
				c.Close()
			}
			results <- result{name, err, time.Now()}
		}()
	}
	l.eventually(5*time.Second, "all clients in the queue", func() bool {
		out, err := l.cli("show stat pg_primary 2 -1")
		return err == nil && strings.Contains(out, fmt.Sprintf("BACKEND,%d,", clients))
	})
	start := time.Now()
	if err := h.Apply(t.Context(), l.topology(2, "pg2", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	var worst time.Duration
	for range clients {
		r := <-results
		if r.err != nil || r.name != "pg2" {
			t.Fatalf("a client that waited got %q, %v", r.name, r.err)
		}
		worst = max(worst, r.at.Sub(start))
	}
	t.Logf("%d clients that waited were served within %v", clients, worst)
}

// A switchover holds new clients without harming those connected, and a
// rollback lets them in again.
func TestHAProxyHeld(t *testing.T) {
	l := newLab(t, 2)
	l.start()
	h := l.proxy()
	l.run(h)
	topology := l.topology(1, "pg1", ha.PhaseLeading)
	if err := h.Apply(t.Context(), topology); err != nil {
		t.Fatal(err)
	}
	l.connected(h)
	ended := l.open(5)
	held := topology
	held.Held = true
	if err := h.Apply(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		c, name, err := dial(l.settings.PrimaryPort, 5*time.Second)
		if err != nil {
			name = err.Error()
		} else {
			c.Close()
		}
		got <- name
	}()
	select {
	case name := <-got:
		t.Fatalf("a held client was served by %s", name)
	case <-ended:
		t.Fatal("holding new clients ended an old one")
	case <-time.After(600 * time.Millisecond): // over more than one reconciliation
	}
	if err := h.Apply(t.Context(), topology); err != nil {
		t.Fatal(err)
	}
	if name := <-got; name != "pg1" {
		t.Fatalf("after the rollback the client got %s", name)
	}
	if len(ended) != 0 {
		t.Fatal("holding new clients ended an old one")
	}
}

// HAProxy restarted by hand while we live is right within 100 ms.
func TestHAProxyRestartedWhileWeLive(t *testing.T) {
	l := newLab(t, 3)
	l.start()
	h := l.proxy()
	l.run(h)
	if err := h.Apply(t.Context(), l.topology(3, "pg3", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	l.connected(h)
	l.answers(l.settings.PrimaryPort, "pg3")
	l.kill()
	l.eventually(time.Second, "the loss to be seen", func() bool { return !h.Status().Connected })
	l.start()
	watch := labtest.StartStopwatch(t)
	l.connected(h)
	l.answers(l.settings.PrimaryPort, "pg3")
	watch.Within(100*time.Millisecond, "clients reach pg3 after HAProxy answers")
}

// A reload makes a worker that knows nothing: it is told.
func TestHAProxyReloaded(t *testing.T) {
	l := newLab(t, 3)
	l.start()
	h := l.proxy()
	l.run(h)
	if err := h.Apply(t.Context(), l.topology(1, "pg2", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	l.connected(h)
	before := h.Status().Pid
	// A master that has just started may not listen to signals yet, though its
	// worker answers: so until it does.
	l.eventually(5*time.Second, "the reload", func() bool {
		l.process.Signal(syscall.SIGUSR2)
		select {
		case <-t.Context().Done():
		case <-time.After(300 * time.Millisecond):
		}
		out, err := l.cli("show info")
		return err == nil && !strings.Contains(out, fmt.Sprintf("Pid: %d\n", before))
	})
	failed := 0
	l.eventually(5*time.Second, "the new worker", func() bool {
		c, name, err := dial(l.settings.PrimaryPort, 5*time.Second)
		if err != nil {
			failed++
		} else {
			c.Close()
			if name != "pg2" {
				t.Fatalf("a client was sent to %s", name)
			}
		}
		return h.Status().Pid != before && h.Status().Connected
	})
	if failed > 0 {
		t.Errorf("%d connections failed during the reload", failed)
	}
}

// HAProxy restarted while we are dead, in the middle of a failover, never sends
// a client of the primary port to a replica; and finds the primary by itself.
func TestHAProxyRestartedWithoutUs(t *testing.T) {
	l := newLab(t, 3)
	l.servers[0].stop() // the primary that the last topology named is dead
	l.servers[1].replica.Store(true)
	l.servers[2].replica.Store(true)
	l.start()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var wrong, right atomic.Int64
	promoted := atomic.Bool{}
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, name, err := dial(l.settings.PrimaryPort, 4*time.Second)
				if err != nil {
					continue
				}
				c.Close()
				if name == "pg3" && promoted.Load() {
					right.Add(1)
				} else {
					wrong.Add(1)
				}
			}
		})
	}
	timer := time.NewTimer(1500 * time.Millisecond) // more than one round of checks
	<-timer.C
	promoted.Store(true)
	l.servers[2].replica.Store(false)
	l.servers[2].primary.Store(true)
	l.eventually(5*time.Second, "the first client on the new primary", func() bool { return right.Load() > 0 })
	close(stop)
	wg.Wait()
	if n := wrong.Load(); n > 0 {
		t.Fatalf("%d clients of the primary port were sent to a replica", n)
	}
	// Two that both claim to be primary: neither is believed.
	l.servers[1].primary.Store(true)
	l.eventually(5*time.Second, "both to be up", func() bool {
		out, err := l.cli("show stat pg_primary_checked 2 -1")
		return err == nil && strings.Contains(out, "pg_primary_checked,BACKEND") && countUp(out) == 1
	})
	l.eventually(5*time.Second, "the second to be up", func() bool {
		out, err := l.cli("show servers state pg_primary_checked")
		if err != nil {
			return false
		}
		up := 0
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) > 5 && strings.HasPrefix(f[3], "pg") && f[5] == "2" {
				up++
			}
		}
		return up == 2
	})
	if c, name, err := dial(l.settings.PrimaryPort, 700*time.Millisecond); err == nil {
		c.Close()
		t.Fatalf("with two claims, a client was sent to %s", name)
	}
}

func countUp(stat string) int { return strings.Count(stat, "BACKEND") }

// HAProxy sends nobody to a server that it has not checked yet.
func TestHAProxyStartsDown(t *testing.T) {
	l := newLab(t, 1) // its API says that it is no primary
	l.start()
	if c, name, err := dial(l.settings.PrimaryPort, 300*time.Millisecond); err == nil {
		c.Close()
		t.Fatalf("a client was sent to %s", name)
	}
}

// When we die, the checks take over; when a sidecar's API is away while we
// live, its server keeps its sessions.
func TestHAProxyChecksAreSecond(t *testing.T) {
	l := newLab(t, 2)
	l.start()
	h := l.proxy()
	stop := l.run(h)
	if err := h.Apply(t.Context(), l.topology(1, "pg1", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	l.connected(h)
	ended := l.open(3) // pg1's API says 503 all the time
	select {
	case <-ended:
		t.Fatal("a failing check ended sessions while we knew better")
	case <-time.After(4 * time.Second):
	}
	l.servers[1].primary.Store(true)
	stop()
	for range 3 {
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Fatal("with us dead, the checks did not end the sessions")
		}
	}
	l.answers(l.settings.PrimaryPort, "pg2")
}

// Sessions that outlived the command that was to end them are found and ended.
func TestHAProxyLeftovers(t *testing.T) {
	l := newLab(t, 2)
	b, err := os.ReadFile(l.config())
	if err != nil {
		t.Fatal(err)
	}
	without := strings.Replace(string(b), "on-marked-down shutdown-sessions disabled", "disabled", 1)
	if without == string(b) {
		t.Fatal("the file has changed")
	}
	if err := os.WriteFile(l.config(), []byte(without), 0o600); err != nil {
		t.Fatal(err)
	}
	l.start()
	h := l.proxy()
	l.run(h)
	if err := h.Apply(t.Context(), l.topology(1, "pg1", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	l.connected(h)
	ended := l.open(3)
	start := time.Now()
	if err := h.Apply(t.Context(), l.topology(2, "pg2", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Fatal("sessions of the deposed primary go on")
		}
	}
	t.Logf("ended after %v", time.Since(start))
}

func TestHAProxyReplicas(t *testing.T) {
	l := newLab(t, 3)
	for _, s := range l.servers[1:] {
		s.replica.Store(true)
	}
	l.start()
	h := l.proxy()
	l.run(h)
	if err := h.Apply(t.Context(), l.topology(1, "pg1", ha.PhaseLeading)); err != nil {
		t.Fatal(err)
	}
	l.connected(h)
	seen := map[string]bool{}
	l.eventually(5*time.Second, "both replicas to serve", func() bool {
		c, name, err := dial(l.settings.ReplicaPort, time.Second)
		if err != nil {
			return false
		}
		c.Close()
		if name == "pg1" {
			t.Fatal("the replica port led to the primary")
		}
		seen[name] = true
		return len(seen) == 2
	})
}

func TestHAProxyErrors(t *testing.T) {
	l := newLab(t, 2)
	h := l.proxy()
	topology := l.topology(2, "pg1", ha.PhaseLeading)
	if err := h.Apply(t.Context(), topology); err == nil {
		t.Fatal("Apply without haproxy succeeded")
	}
	if h.Status().Error == "" {
		t.Error("the error does not show in the status")
	}
	l.start()
	l.run(h)
	l.connected(h)
	l.answers(l.settings.PrimaryPort, "pg1")
	if e := h.Status().Error; e != "" {
		t.Errorf("after recovery the status still says %q", e)
	}
	// A member that the file does not have yet: the others are served.
	l.servers = append(l.servers, newServer(t, "pg9"))
	if err := h.Apply(t.Context(), l.topology(3, "pg2", ha.PhaseLeading)); !errors.Is(err, haproxy.ErrRuntime) {
		t.Errorf("Apply with an unknown server returned %v", err)
	}
	l.answers(l.settings.PrimaryPort, "pg2")
	// An old topology changes nothing.
	if err := h.Apply(t.Context(), topology); err != nil {
		t.Fatal(err)
	}
	l.answers(l.settings.PrimaryPort, "pg2")
}
