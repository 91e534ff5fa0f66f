package member

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/availability"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestOutageNews: which outages a member writes down in a series of decisions.
func TestOutageNews(t *testing.T) {
	start := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	second := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }
	snap := func(term uint64, leader string, role ha.Role, writable, hears bool) *sidecar.Snapshot {
		s := &sidecar.Snapshot{State: ha.State{Role: role, Hears: hears}, Report: ha.Report{Writable: writable}}
		s.Observation.Consul.Record = ha.Record{Index: 1, Term: term, Leader: leader, Phase: ha.PhaseLeading}
		return s
	}
	primary := func(term uint64) *sidecar.Snapshot { return snap(term, "n1", ha.RolePrimary, true, false) }
	w := outageWatch{member: "n1"}
	step := func(at int, s *sidecar.Snapshot, r *failover.Record, want ...availability.Outage) {
		t.Helper()
		got := w.news(s, r, second(at))
		if len(got) != len(want) {
			t.Fatalf("second %d: %+v, want %+v", at, got, want)
		}
		for i := range want {
			want[i].Leader, want[i].Cause = "n1", got[i].Cause
			if got[i] != want[i] || got[i].Cause == "" {
				t.Errorf("second %d: %+v, want %+v", at, got[i], want[i])
			}
		}
	}
	step(0, nil, nil)
	step(1, snap(6, "n2", ha.RoleReplica, false, true), &failover.Record{Term: 6, Leader: "n2", From: "n1"})
	// It takes over, and its account comes a moment later.
	step(10, snap(6, "n2", ha.RoleReplica, false, false), nil)
	step(11, primary(7), nil)
	seven := &failover.Record{Term: 7, Leader: "n1", From: "n2", Reason: "not heard", Detected: second(10), Writable: second(11)}
	step(12, primary(7), seven, availability.Outage{From: second(10), To: second(11), Kind: availability.Failover, Term: 7})
	step(13, primary(7), seven)
	// It is restarted as asked, then by itself.
	asked := primary(7)
	asked.Observation.Intent.Restart = true
	step(20, asked, seven)
	step(21, snap(7, "n1", ha.RoleStopped, false, false), seven)
	step(25, primary(7), seven, availability.Outage{From: second(21), To: second(25), Kind: availability.Restart, Planned: true, Term: 7})
	step(30, snap(7, "n1", ha.RolePrimary, false, false), seven)
	step(31, primary(7), seven, availability.Outage{From: second(30), To: second(31), Kind: availability.Restart, Term: 7})
	// Another leads: that is its business.
	step(40, snap(8, "n2", ha.RoleReplica, false, true), &failover.Record{Term: 8, Leader: "n2", From: "n1", Detected: second(35), Writable: second(40)})

	// All were away for an hour.
	w = outageWatch{member: "n1", seen: second(40)}
	nine := &failover.Record{Term: 9, Leader: "n1", From: "n2", Reason: "not heard", Detected: second(3600), Writable: second(3602)}
	step(3599, snap(8, "n2", ha.RoleReplica, false, false), nil)
	step(3602, primary(9), nine, availability.Outage{From: second(3600), To: second(3602), Kind: availability.Failover, Term: 9},
		availability.Outage{From: second(40), To: second(3600), Kind: availability.Unseen, Term: 9})
}

func TestSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seen")
	if got := readSeen(path); !got.IsZero() {
		t.Error(got)
	}
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := writeSeen(path, at); err != nil {
		t.Fatal(err)
	}
	if got := readSeen(path); !got.Equal(at) {
		t.Errorf("%v, want %v", got, at)
	}
	for _, damaged := range []string{"", "x", "-1", "99999999999"} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readSeen(path); !got.IsZero() {
			t.Errorf("%q is %v", damaged, got)
		}
	}
}
