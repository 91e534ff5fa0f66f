package sidecar_test

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestLeaderMoves: a leader goes on in its term, and others reach it at another address.
// They follow it there.
func TestLeaderMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		n1 := w.members["n1"]
		n1.cancel()
		if err := <-n1.ended; err != nil {
			t.Fatal(err)
		}
		w.look(func() { n1.address = "n1:6432" })
		n1.run()
		w.until("both follow it there", 5*time.Second, func() bool {
			return w.members["n2"].upstreamAt == n1.address && w.members["n3"].upstreamAt == n1.address
		})
		w.settled("n1")
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.record.Term != 1 {
			t.Errorf("term %d: another was elected for that", w.record.Term)
		}
	})
}
