package labtest

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// errNotYet is the reason of a condition that gives none.
var errNotYet = errors.New("not yet")

// Eventually waits for what no event tells the test, such as a state of another
// program: it calls check again and again until that returns nil. After within
// the test fails with check's last error. What takes long is asked more seldom:
// the pause between two calls is a twentieth of the time waited so far, at least
// 1 ms and at most 100 ms.
func Eventually(t testing.TB, within time.Duration, what string, check func() error) {
	t.Helper()
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		waited := time.Since(start)
		if waited >= within {
			t.Fatalf("waited %v for %s: %v", within, what, err)
		}
		timer.Reset(min(max(waited/20, time.Millisecond), 100*time.Millisecond))
		<-timer.C
	}
}

// Until is Eventually for a condition that is true or not.
func Until(t testing.TB, within time.Duration, what string, done func() bool) {
	t.Helper()
	Eventually(t, within, what, func() error {
		if done() {
			return nil
		}
		return errNotYet
	})
}

// Stopwatch measures how long something took, and how long this machine stood
// still meanwhile, as shared machines do: this process, which wants to wake each
// millisecond, did not. Within holds what was measured to a bound without that
// time. Its goroutine ends with Stop, or with the test.
type Stopwatch struct {
	t     testing.TB
	start time.Time
	stop  chan struct{}
	ended chan stalls
}

// StartStopwatch begins to measure.
func StartStopwatch(t testing.TB) *Stopwatch {
	w := &Stopwatch{t: t, start: time.Now(), stop: make(chan struct{}), ended: make(chan stalls, 1)}
	ready := make(chan struct{})
	go func() {
		s := stalls{last: time.Now()}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		close(ready)
		for {
			select {
			case <-tick.C:
				s.awake(time.Now())
			case <-w.stop:
				s.awake(time.Now())
				w.ended <- s
				return
			case <-t.Context().Done():
				return
			}
		}
	}()
	<-ready
	return w
}

// Within ends the measurement and fails the test if more than limit has passed,
// not counting the time in which the machine stood still. It returns the time
// that has passed.
func (w *Stopwatch) Within(limit time.Duration, what string) time.Duration {
	w.t.Helper()
	took := time.Since(w.start)
	close(w.stop)
	if err := judge(took, limit, (<-w.ended).total); err != nil {
		w.t.Errorf("%s: %v", what, err)
	} else if took > limit {
		w.t.Logf("%s: took %v, but this machine stood still meanwhile: the bound of %v is not applied", what, took, limit)
	}
	return took
}

// judge compares a measurement with its bound.
func judge(took, limit, stalled time.Duration) error {
	if took-stalled <= limit {
		return nil
	}
	return fmt.Errorf("took %v, more than %v (this machine stood still for %v of it)", took, limit, stalled)
}

// stalls sums up how long a process that wants to wake each millisecond did not.
type stalls struct {
	last  time.Time
	total time.Duration
}

// late is how late a wake-up must be to count: less is a busy machine's everyday.
const late = 10 * time.Millisecond

func (s *stalls) awake(now time.Time) {
	if gap := now.Sub(s.last) - time.Millisecond; gap > late {
		s.total += gap
	}
	s.last = now
}
