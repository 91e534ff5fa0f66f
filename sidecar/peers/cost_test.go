package peers_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/peers"
)

// TestCostOfMembers: what a member does for the others grows by no more than a stream to
// and from each: three goroutines and some memory. How often its loop is woken in a
// heartbeat does not grow with their number, as the members beat together.
func TestCostOfMembers(t *testing.T) {
	const few, many = 3, 50
	a, b := costOf(t, few), costOf(t, many)
	t.Logf("a member of %d: %+v; of %d: %+v", few, a, many, b)
	if more := (b.goroutines - a.goroutines) / (many - few); more > 3.5 {
		t.Errorf("each other member costs %.1f goroutines", more)
	}
	if more := (b.bytes - a.bytes) / (many - few); more > 128<<10 {
		t.Errorf("each other member costs %.0f bytes", more)
	}
	if b.woken > 4*a.woken+2 {
		t.Errorf("woken %.1f times a heartbeat by %d members, and %.1f times by %d", b.woken, many-1, a.woken, few-1)
	}
}

// cost is a member's in a calm cluster.
type cost struct {
	goroutines, bytes float64 // stacks and heap
	woken             float64 // a heartbeat
}

// costOf is that of one member of so many. The others are in this process too, and know
// that one alone, so that half of all that is there is its own.
func costOf(t *testing.T, n int) cost {
	const beat = 100 * time.Millisecond
	var all []*member
	for i := range n {
		all = append(all, newMember(t, fmt.Sprintf("m%02d", i), func(o *peers.Options) { o.Heartbeat, o.Timeout = beat, 5*beat }))
	}
	before, goroutines := used(), runtime.NumGoroutine()
	one, others := all[0], all[1:]
	var addresses []peers.Address
	for _, m := range others {
		addresses = append(addresses, peers.Address{Member: m.name, API: m.address()})
	}
	one.SetAddresses(addresses)
	for _, m := range others {
		m.SetAddresses([]peers.Address{{Member: one.name, API: one.address()}})
	}
	for _, m := range others {
		one.await(t, m.name, "up", up)
		m.await(t, one.name, "up", up)
	}
	await(7 * beat) // until nothing has changed for a time-out
	woken := one.woken.Load()
	await(10 * beat)
	c := cost{goroutines: float64(runtime.NumGoroutine()-goroutines) / 2, bytes: (used() - before) / 2, woken: float64(one.woken.Load()-woken) / 10}
	for _, m := range all {
		m.stop()
	}
	return c
}

func used() float64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return float64(s.HeapInuse + s.StackInuse)
}

// await lets time pass, for what happens by itself.
func await(d time.Duration) { <-time.After(d) }
