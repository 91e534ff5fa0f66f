package proxy

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/templates"
)

const ms = time.Millisecond

// away is a measure that a test sets.
type away struct {
	mu  sync.Mutex
	way map[string]time.Duration
	n   int
}

func (a *away) set(address string, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.way[address] = took
}

func (a *away) measure(_ context.Context, address string) (time.Duration, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n++
	took := a.way[address]
	if took == 0 {
		return 0, errors.New("no answer")
	}
	return took, nil
}

// TestDistances: the farthest member that there is decides; a measurement that is a little
// different changes nothing, and one that is missing lowers nothing.
func TestDistances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &away{way: map[string]time.Duration{"10.0.0.1:8008": ms / 10, "10.0.0.2:8008": 40 * ms}}
		d := newDistances()
		d.measure = a.measure
		d.recall(100 * ms)
		n := func(host string) templates.Member {
			return templates.Member{Host: host, Port: 5432, APIHost: host, APIPort: 8008}
		}
		near, far, farther := n("10.0.0.1"), n("10.0.0.2"), n("10.0.0.3")
		looks := 0
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { d.run(ctx, func() { looks++ }) })
		defer running.Wait()
		defer cancel()
		want := func(what string, want time.Duration, members ...templates.Member) {
			t.Helper()
			synctest.Wait()
			if got := d.farthest(members); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		want("before a measurement, what an earlier process knew", 100*ms, near, far)
		want("40 ms", 50*ms, near, far)
		if looks != 1 || a.n != 2*measurements {
			t.Errorf("%d looks, %d measurements", looks, a.n)
		}
		a.set("10.0.0.2:8008", 49*ms)
		time.Sleep(measureEvery)
		want("a little more", 50*ms, near, far)
		a.set("10.0.0.2:8008", 0)
		time.Sleep(measureEvery)
		want("a member that is away", 50*ms, near, far)
		want("a new one that was not measured", 50*ms, near, far, farther)
		a.set("10.0.0.3:8008", 90*ms)
		time.Sleep(measureAgain)
		want("it answers", 100*ms, near, far, farther)
		a.set("10.0.0.3:8008", 7*time.Second)
		time.Sleep(measureEvery)
		want("absurd", farAway, near, far, farther)
		want("they are gone", 25*ms, near)
	})
}

// TestRoundTrip: it is the kernel's measure of a connection that came up.
func TestRoundTrip(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	took, err := roundTrip(t.Context(), l.Addr().String())
	if err != nil || took <= 0 || took > 25*ms {
		t.Errorf("%s, %v", took, err)
	}
	l.Close()
	if _, err := roundTrip(t.Context(), l.Addr().String()); err == nil {
		t.Error("nobody listens, and it was measured")
	}
}

// TestRoundTripKept: the next process begins with what this one has measured, so that
// HAProxy is not reloaded at each start; a file from elsewhere sets no absurd time.
func TestRoundTripKept(t *testing.T) {
	cfg := &config.Config{Cluster: "pg", Service: config.Service{Name: "pg"},
		Templates: []config.Template{{Name: "x", Destination: filepath.Join(t.TempDir(), "x")}}}
	for saved, want := range map[time.Duration]time.Duration{100 * ms: 100 * ms, -ms: 0, time.Hour: farAway} {
		k := newTopologyCache(cfg)
		if err := k.save(ha.Record{Term: 1}, templates.Topology{Cluster: "pg", Service: "pg", RoundTrip: saved}); err != nil {
			t.Fatal(err)
		}
		if got, found, err := k.load(cfg); !found || err != nil || got.RoundTrip != want {
			t.Errorf("saved %s: %s, %t, %v", saved, got.RoundTrip, found, err)
		}
	}
}

// TestWantsDistances: nothing is measured where the time-out is given, or in no file.
func TestWantsDistances(t *testing.T) {
	for _, c := range []struct {
		builtin string
		timeout time.Duration
		want    bool
	}{{"haproxy.cfg", 0, true}, {"haproxy-static.cfg", 0, true}, {"haproxy.cfg", 70 * ms, false}, {"pgbouncer.ini", 0, false}} {
		cfg := &config.Config{Cluster: "pg", Service: config.Service{Name: "pg"}, HAProxy: config.HAProxy{Socket: "/run/s", ConnectTimeout: c.timeout},
			Templates: []config.Template{{Name: "x", Builtin: c.builtin, Destination: filepath.Join(t.TempDir(), "x")}}}
		settings, err := templateSettings(cfg)
		if err != nil {
			t.Fatal(err)
		}
		files, err := templateFiles(cfg, settings)
		if err != nil {
			t.Fatal(err)
		}
		if got := wantsDistances(files, settings); got != c.want {
			t.Errorf("%s, %s: %t", c.builtin, c.timeout, got)
		}
	}
}
