package failover_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
)

func TestKind(t *testing.T) {
	for want, r := range map[string]failover.Record{
		"bootstrap": {}, "failover": {From: "n1"}, "switchover": {From: "n1", Planned: true},
	} {
		if got := r.Kind(); got != want {
			t.Errorf("%+v: %s, want %s", r, got, want)
		}
	}
}

// TestPhases: the phases are in their order, and one that was not gone through took
// no time.
func TestPhases(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := failover.Record{Detected: at, Elected: at.Add(time.Second), Promoted: at.Add(3 * time.Second), Announced: at.Add(5 * time.Second), Routed: at.Add(6 * time.Second)}
	var got []time.Duration
	for _, p := range r.Phases() {
		got = append(got, p.Took)
	}
	for i, want := range []time.Duration{1, 0, 3, 0, 5, 6} {
		if got[i] != want*time.Second {
			t.Errorf("phase %d took %s, want %d s", i, got[i], want)
		}
	}
}

// TestOldRecords: what an earlier version wrote into Consul is read: a phase that was
// not gone through had the zero time there, and fields of a later one are no error.
func TestOldRecords(t *testing.T) {
	var r failover.Record
	text := `{"term":3,"leader":"n2","reason":"n1 was lost","timeline":2,"detected":"2026-01-02T03:04:05Z","fenced":"0001-01-01T00:00:00Z","forked":"0/3000060","later":1}`
	if err := json.Unmarshal([]byte(text), &r); err != nil || r.Term != 3 || !r.Fenced.IsZero() || r.Forked != 0x3000060 {
		t.Errorf("%+v, %v", r, err)
	}
}
