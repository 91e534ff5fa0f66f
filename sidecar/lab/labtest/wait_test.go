package labtest

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// recorded is a test that is watched by another.
type recorded struct {
	testing.TB
	said string
}

func (r *recorded) Helper() {}

func (r *recorded) Fatalf(format string, args ...any) {
	r.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestEventually(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, calls := time.Now(), 0
		Eventually(t, time.Minute, "ten seconds", func() error {
			calls++
			if time.Since(start) < 10*time.Second {
				return errors.New("too early")
			}
			return nil
		})
		if took := time.Since(start); took > 10*time.Second+100*time.Millisecond {
			t.Errorf("seen only after %v", took)
		}
		if calls < 100 || calls > 300 {
			t.Errorf("%d calls in ten seconds", calls)
		}
	})
}

func TestEventuallyGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, start := &recorded{TB: t}, time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			Eventually(r, time.Second, "the moon", func() error { return errors.New("still down") })
		}()
		<-done
		if !strings.Contains(r.said, "waited 1s for the moon: still down") {
			t.Errorf("it said %q", r.said)
		}
		if took := time.Since(start); took < time.Second || took > 1100*time.Millisecond {
			t.Errorf("it gave up after %v", took)
		}
	})
}

// TestStopwatch: only a machine that stood still excuses a bound that was passed,
// and only by the time for which it did.
func TestStopwatch(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	for _, c := range []struct {
		name  string
		wakes []int // milliseconds; the last is the end
		limit int
		ok    bool
	}{
		{"in time", []int{1, 2, 3, 4}, 5, true},
		{"too late", []int{1, 2, 3, 4, 5, 6}, 5, false},
		{"stood still", []int{1, 2, 102, 103}, 5, true},
		{"stood still, and too late besides", []int{1, 2, 52, 53, 54, 55, 56, 57}, 5, false},
		{"stood still at the end", []int{1, 2, 102}, 5, true},
		{"a little late, often", []int{8, 16, 24, 32}, 5, false},
	} {
		s := stalls{last: at(0)}
		for _, ms := range c.wakes {
			s.awake(at(ms))
		}
		took := time.Duration(c.wakes[len(c.wakes)-1]) * time.Millisecond
		if err := judge(took, time.Duration(c.limit)*time.Millisecond, s.total); (err == nil) != c.ok {
			t.Errorf("%s: %v, stood still for %v", c.name, err, s.total)
		}
	}
	w := StartStopwatch(t)
	if took := w.Within(time.Minute, "nothing"); took > time.Minute {
		t.Errorf("nothing took %v", took)
	}
}
