package member

import (
	"testing"
	"time"
)

// TestLoginWatch: a planned stop waits for nobody to log in, and longer only for those who
// did so in time.
func TestLoginWatch(t *testing.T) {
	start := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name  string
		looks [][]int // 20 ms apart; lullWait is 50
		ended int     // the first look at which nobody is waited for
	}{
		{"nobody", [][]int{nil}, 0},
		{"one who is quick", [][]int{{7}, nil}, 1},
		{"one who is slow", [][]int{{7}, {7}, {7}, {7}, {7}, nil}, 5},
		{"others all the time", [][]int{{7}, {8}, {9}, {10}}, 3},
		{"others after a slow one", [][]int{{7}, {7, 8}, {8}, {8, 9}, {9}}, 4},
		{"who comes late", [][]int{{7}, {7}, {7}, {9}}, 3},
	} {
		w := loginWatch{until: start.Add(lullWait)}
		for i, pids := range c.looks {
			if got := w.ended(pids, start.Add(time.Duration(i)*20*time.Millisecond)); got != (i >= c.ended) {
				t.Errorf("%s, look %d: ended %v", c.name, i, got)
			}
		}
	}
}
