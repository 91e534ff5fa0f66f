package member

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
)

// TestStartingIsNotAsked: a server that says in postmaster.pid that it is starting is asked
// twice a second; one that says anything else each time.
func TestStartingIsNotAsked(t *testing.T) {
	var s starting
	now := time.Unix(1_790_000_000, 0)
	asked := func(file postgres.PIDFile, d time.Duration) (n int) {
		for end := now.Add(d); now.Before(end); now = now.Add(10 * time.Millisecond) {
			if !s.refuses(file, now) {
				n++
			}
		}
		return n
	}
	if n := asked(postgres.PIDFile{PID: 7, Starting: true}, 1990*time.Millisecond); n != 3 {
		t.Errorf("asked %d times in two seconds", n)
	}
	if n := asked(postgres.PIDFile{PID: 8, Starting: true}, 490*time.Millisecond); n != 0 {
		t.Errorf("the next life was asked at once, and %d times", n)
	}
	for name, file := range map[string]postgres.PIDFile{"ready": {PID: 8, Ready: true}, "stopping": {PID: 8}, "no file": {}} {
		if n := asked(file, time.Second); n != 100 {
			t.Errorf("%s: asked %d times of 100", name, n)
		}
	}
}
