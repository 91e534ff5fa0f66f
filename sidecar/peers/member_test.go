package peers_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/peers"
)

const (
	heartbeat = 50 * time.Millisecond
	timeout   = 400 * time.Millisecond
	patience  = 10 * time.Second // how long a test waits for what must happen
)

var epoch = time.Now()

func now() ha.Instant { return ha.Instant(time.Since(epoch)) + 1 }

func secret() ([]byte, error) { return []byte("a shared secret"), nil }

// member is a mesh with its API on a loopback port, and a loop that does what
// the shell's does: Peers, then Publish.
type member struct {
	*peers.Mesh
	name   string
	server *httptest.Server
	wake   chan struct{}
	woken  atomic.Int64
	seen   chan []ha.Peer // newest
	report atomic.Pointer[ha.Report]
	stop   func() // like kill -9: every connection ends
}

func newMember(t testing.TB, name string, change func(*peers.Options)) *member {
	t.Helper()
	o := peers.Options{Member: name, Cluster: "pg", Key: secret, Now: now, Heartbeat: heartbeat, Timeout: timeout}
	if change != nil {
		change(&o)
	}
	mesh, err := peers.New(o)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{Mesh: mesh, name: name, wake: make(chan struct{}, 1), seen: make(chan []ha.Peer, 1)}
	m.report.Store(&ha.Report{Role: ha.RoleReplica})
	m.server = httptest.NewUnstartedServer(mesh)
	if o.TLS != nil {
		m.server.StartTLS()
	} else {
		m.server.Start()
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran, looped := make(chan error, 1), make(chan struct{})
	go func() {
		ran <- mesh.Run(ctx, func() {
			m.woken.Add(1)
			m.poke()
		})
	}()
	go m.loop(ctx, looped)
	stopped := false
	m.stop = func() {
		if stopped {
			return
		}
		stopped = true
		m.server.Listener.Close()
		cancel()
		if err := <-ran; !errors.Is(err, context.Canceled) {
			t.Errorf("Run of %s returned %v", name, err)
		}
		<-looped
		m.server.Close()
	}
	t.Cleanup(m.stop)
	return m
}

func (m *member) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *member) loop(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	tick := time.NewTicker(timeout / 2)
	defer tick.Stop()
	for {
		select {
		case <-m.seen:
		default:
		}
		m.seen <- m.Peers()
		m.Publish(*m.report.Load())
		select {
		case <-m.wake:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// say publishes a report as soon as the loop comes to it.
func (m *member) say(r ha.Report) {
	m.report.Store(&r)
	m.poke()
}

func (m *member) address() string { return m.server.Listener.Addr().String() }

func introduce(members ...*member) {
	var all []peers.Address
	for _, m := range members {
		all = append(all, peers.Address{Member: m.name, API: m.address()})
	}
	for _, m := range members {
		m.SetAddresses(all)
	}
}

// await waits until what m knows of the other satisfies the condition, and
// returns how long that took.
func (m *member) await(t testing.TB, other, what string, is func(ha.Peer) bool) time.Duration {
	t.Helper()
	began := time.Now()
	late := time.After(patience)
	var last ha.Peer
	for {
		select {
		case all := <-m.seen:
			for _, p := range all {
				if p.Member == other {
					if last = p; is(p) {
						return time.Since(began)
					}
				}
			}
		case <-late:
			t.Fatalf("%s never saw %s %s; last: %+v", m.name, other, what, last)
		}
	}
}

func up(p ha.Peer) bool      { return p.Link == ha.LinkUp && p.ReceivedAt != 0 }
func silent(p ha.Peer) bool  { return p.Link == ha.LinkSilent }
func refused(p ha.Peer) bool { return p.Link == ha.LinkRefused }

func refusals(m *peers.Mesh, cause string) uint64 {
	for _, r := range m.Refusals() {
		if r.Cause == cause {
			return r.Count
		}
	}
	panic("no cause " + cause)
}

// awaitRefusal polls: a refusal is no event that Peers tells of.
func awaitRefusal(t *testing.T, m *peers.Mesh, cause string, more uint64) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for refusals(m, cause) < more {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%d refusals for %q, want %d: %v", refusals(m, cause), cause, more, m.Refusals())
		}
	}
}

func BenchmarkPublishToPeers(b *testing.B) {
	x, y := newMember(b, "x", nil), newMember(b, "y", nil)
	introduce(x, y)
	x.await(b, "y", "up", up)
	y.await(b, "x", "up", up)
	took := make([]time.Duration, 0, b.N)
	term := uint64(0)
	for b.Loop() {
		term++
		began := time.Now()
		x.Publish(report(term))
		x.report.Store(new(report(term)))
		y.await(b, "x", fmt.Sprint("term ", term), func(p ha.Peer) bool { return p.Report.Term == term })
		took = append(took, time.Since(began))
	}
	b.ReportMetric(float64(quantile(took, 0.5).Microseconds()), "p50-µs")
	b.ReportMetric(float64(quantile(took, 0.99).Microseconds()), "p99-µs")
}

func report(term uint64) ha.Report { return ha.Report{Role: ha.RoleReplica, Term: term} }

func quantile(all []time.Duration, q float64) time.Duration {
	slices.Sort(all)
	return all[int(q*float64(len(all)-1))]
}
