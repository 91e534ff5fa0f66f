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
		if s != nil {
			s.Observation.Now = ha.Instant(time.Hour).Add(time.Duration(at) * time.Second)
		}
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
	// Somebody sets the clock meanwhile: the outage is as long as it was.
	for i, set := range []time.Duration{-time.Hour, time.Hour} {
		step(32+2*i, snap(7, "n1", ha.RolePrimary, false, false), seven)
		back := primary(7)
		back.Observation.Now = ha.Instant(time.Hour + time.Duration(33+2*i)*time.Second)
		if got := w.news(back, seven, second(33+2*i).Add(set)); len(got) != 1 || got[0].Took() != time.Second {
			t.Errorf("the clock is set by %v: %+v", set, got)
		}
	}
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

// year is a cluster of three members, each of which watches it and writes into the journals
// what it ends.
type year struct {
	t        *testing.T
	watches  map[string]*outageWatch
	journals map[string][]byte // by month
	term     uint64
	leader   string
	last     *failover.Record
}

// look has every member look: who leads, and whether it takes writes.
func (y *year) look(at time.Time, serves bool) {
	y.t.Helper()
	for name, w := range y.watches {
		s := &sidecar.Snapshot{State: ha.State{Role: ha.RoleReplica, Hears: serves}}
		s.Observation.Now = ha.Instant(at.Unix()) * ha.Instant(time.Second)
		s.Observation.Consul.Record = ha.Record{Index: 1, Term: y.term, Leader: y.leader, Phase: ha.PhaseLeading}
		if name == y.leader {
			s.State = ha.State{Role: ha.RolePrimary}
			s.Report.Writable = serves
		}
		for _, o := range w.news(s, y.last, at) {
			journal, err := availability.Append(y.journals[o.Month()], o)
			if err != nil {
				y.t.Fatal(err)
			}
			y.journals[o.Month()] = journal
		}
	}
}

// outage is one from a moment on, after which the same member leads, or another.
func (y *year) outage(from, to time.Time, other, planned bool) {
	y.t.Helper()
	y.look(from, false)
	if other {
		names := map[string]string{"n1": "n2", "n2": "n3", "n3": "n1"}
		y.term++
		y.last = &failover.Record{Term: y.term, Leader: names[y.leader], From: y.leader, Reason: "lost", Planned: planned, Detected: from, Writable: to}
		y.leader = names[y.leader]
	}
	y.look(to, true)
	y.look(to.Add(time.Second), true)
}

// TestYearOfOutages: forty outages of a year, of known length, that three members see, and
// an hour in which none of them ran, give the known figures to the second: each is written
// by one member once, into the journal of its month.
func TestYearOfOutages(t *testing.T) {
	begin := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	y := &year{t: t, watches: map[string]*outageWatch{}, journals: map[string][]byte{}, term: 1, leader: "n1"}
	for _, name := range []string{"n1", "n2", "n3"} {
		y.watches[name] = &outageWatch{member: name}
	}
	y.last = &failover.Record{Term: 1, Leader: "n1", Writable: begin}
	y.look(begin, true)
	var down, planned time.Duration
	for i := range 40 {
		from, took := begin.Add(time.Duration(i+1)*210*time.Hour), time.Duration(i+1)*3*time.Second
		y.look(from.Add(-time.Second), true)
		switch i % 4 {
		case 0: // another leads, as asked
			y.outage(from, from.Add(took), true, true)
			planned += took
		case 1: // the same comes back
			y.outage(from, from.Add(took), false, false)
			down += took
		default:
			y.outage(from, from.Add(took), true, false)
			down += took
		}
	}
	away := begin.Add(8700 * time.Hour)
	y.look(away, true)
	for name, w := range y.watches {
		y.watches[name] = &outageWatch{member: name, seen: w.seen} // the sidecars start again
	}
	y.outage(away.Add(time.Hour), away.Add(time.Hour+10*time.Second), true, false)
	down += 10 * time.Second

	var all []availability.Outage
	for _, journal := range y.journals {
		outages, damaged := availability.Read(journal)
		if damaged > 0 {
			t.Errorf("%d lines are damaged", damaged)
		}
		all = append(all, outages...)
	}
	p := availability.Compute(availability.Question{From: begin, To: begin.AddDate(1, 0, 0), By: availability.Yearly}, all)[0]
	if p.Down != availability.Seconds(down.Seconds()) || p.Planned != availability.Seconds(planned.Seconds()) || p.Unknown != 3600 || p.Outages != 31 {
		t.Errorf("%+v; down %v, planned %v", p, down, planned)
	}
	if len(all) != 42 || len(y.journals) != 12 {
		t.Errorf("%d outages in %d journals", len(all), len(y.journals))
	}
}
