package sidecar_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// TestCostOfMembers: a member of 50 has the goroutines of a member of 3, besides what its
// mesh has (package peers), and in the steady state asks Consul as little: for nothing
// but what the client does by itself (package sessions).
func TestCostOfMembers(t *testing.T) {
	few, many := costOf(t, 3), costOf(t, 50)
	t.Logf("goroutines of a member of 3: %.2f, of 50: %.2f", few, many)
	// One that had just begun something for a moment counts a third among three.
	if many > few+1 {
		t.Errorf("a member of 50 has %.2f goroutines, one of 3 has %.2f", many, few)
	}
}

// costOf returns how many goroutines a member of so many has.
func costOf(t *testing.T, n int) (goroutines float64) {
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		w := newWorld(t)
		defer w.stop()
		w.add("n1")
		w.primaryIs("n1", 20*time.Second)
		for i := range n - 1 {
			w.add(fmt.Sprintf("n%d", i+2))
		}
		w.until("all to stream", time.Minute, func() bool {
			replicas := 0
			for _, m := range w.members {
				if m.tag == "replica" && m.upstream == "n1" {
					replicas++
				}
			}
			return replicas == n-1 && len(w.record.Durability.Voters) > 1
		})
		time.Sleep(10 * time.Second) // what is to be settled
		w.mu.Lock()
		w.asked = 0
		w.mu.Unlock()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.asked != 0 {
			t.Errorf("%d members asked Consul for %d changes in 20 s in which nothing happened", n, w.asked)
		}
		goroutines = float64(runtime.NumGoroutine()-before) / float64(n)
	})
	return goroutines
}
