package drill

import (
	"testing"
	"testing/synctest"
	"time"
)

// What a client waits, and what it gives an attempt, grows with the time in which it
// had no answer, stays a small part of it, and is as before with the next answer.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pace{answered: time.Now()}
		for _, at := range []struct{ silent, patience, waits time.Duration }{
			{0, time.Second, 0},
			{3 * time.Second, time.Second, 30 * time.Millisecond},
			{16 * time.Second, 2 * time.Second, 160 * time.Millisecond},
			{time.Hour, longestPatience, longestWait},
		} {
			time.Sleep(at.silent - p.silence())
			if got := p.patience(time.Second); got != at.patience {
				t.Errorf("after %v without an answer an attempt is given %v, want %v", at.silent, got, at.patience)
			}
			if got := p.before(); got < at.waits || got > max(at.waits, 3*time.Millisecond) {
				t.Errorf("after %v without an answer the next attempt waits %v, want %v", at.silent, got, at.waits)
			}
		}
		crowded := Route{Crowd: 3 * time.Second}.pace()
		if got := crowded.patience(time.Second); got != 3*time.Second {
			t.Errorf("where a crowd takes 3 s an attempt is given %v", got)
		}
		p.answer()
		if p.patience(time.Second) != time.Second || p.before() > 3*time.Millisecond {
			t.Error("an answer does not count")
		}
	})
}
