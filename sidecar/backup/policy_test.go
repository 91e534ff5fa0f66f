package backup

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// chain makes backups of a text such as "F1 I2 I3 F4": kind and day; an x behind
// one marks it as damaged.
func chain(text string) []Backup {
	var all []Backup
	full, last := "", ""
	for _, word := range strings.Fields(text) {
		label, damaged := strings.CutSuffix(word, "x")
		n := 0
		for _, r := range label[1:] {
			n = 10*n + int(r-'0')
		}
		at := day.AddDate(0, 0, n)
		b := Backup{Label: label, Kind: Full, Start: at, Stop: at.Add(time.Hour), Damaged: damaged}
		switch label[0] {
		case 'I':
			b.Kind, b.Prior = Incremental, last
		case 'D':
			b.Kind, b.Prior = Differential, full
		default:
			full = label
		}
		last = label
		all = append(all, b)
	}
	return all
}

// TestRetention removes whole chains, and never what is needed.
func TestRetention(t *testing.T) {
	for _, c := range []struct {
		name, have string
		r          Retention
		today      int
		gone       string
	}{
		{"no retention", "F1 F2 F3", Retention{}, 9, ""},
		{"two full ones", "F1 F2 F3", Retention{Full: 2}, 9, "F1"},
		{"an incremental one is no full one", "F1 I2 F3 I4", Retention{Full: 2}, 9, ""},
		{"with what depends on them", "F1 I2 F3 I4 I5 F6", Retention{Full: 2}, 9, "F1 I2"},
		{"differential ones", "F1 D2 I3 F4 D5", Retention{Full: 1}, 9, "F1 D2 I3"},
		{"fewer than are kept", "F1 I2", Retention{Full: 3}, 9, ""},
		{"a damaged one does not count", "F1 F2 F3x F4", Retention{Full: 2}, 9, "F1 F3"},
		{"a damaged one is kept until a good one is made", "F1 F2 F3x", Retention{Full: 1}, 9, "F1"},
		{"a window keeps the one before it", "F1 F5 F9", Retention{Window: 5 * 24 * time.Hour}, 12, "F1"},
		{"a window of one day", "F1 F5 F9", Retention{Window: 24 * time.Hour}, 12, "F1 F5"},
		{"a window keeps chains", "F1 I2 I3 F5 I6", Retention{Window: 24 * time.Hour}, 8, "F1 I2 I3"},
		{"both: the wider one counts", "F1 F5 F9", Retention{Full: 1, Window: 5 * 24 * time.Hour}, 12, "F1"},
		{"the last good one never goes", "F1", Retention{Window: time.Hour}, 300, ""},
		{"nor does what it is built upon", "F1 I2 I3 I4", Retention{Window: time.Hour}, 300, ""},
		{"only damaged ones", "F1x F2x", Retention{Full: 1}, 9, ""},
	} {
		if got := strings.Join(c.r.Expired(chain(c.have), day.AddDate(0, 0, c.today)), " "); got != c.gone {
			t.Errorf("%s: gone %q, want %q", c.name, got, c.gone)
		}
	}
}

// TestSchedule follows cron, in UTC.
func TestSchedule(t *testing.T) {
	full, err := ParseSchedule(Full, "30 2 * * 0")
	if err != nil {
		t.Fatal(err)
	}
	incr, err := ParseSchedule(Incremental, "30 2 * * *")
	if err != nil {
		t.Fatal(err)
	}
	sunday := time.Date(2026, 3, 1, 2, 30, 0, 0, time.UTC)
	all := []Schedule{full, incr}
	for _, c := range []struct {
		name       string
		last       map[Kind]time.Time
		since, now time.Time
		due        Kind
		next       time.Time
	}{
		{"nothing is due at once", nil, sunday.Add(time.Hour), sunday.Add(2 * time.Hour), "", sunday.AddDate(0, 0, 1)},
		{"the fuller one", nil, sunday.Add(-time.Hour), sunday, Full, sunday.AddDate(0, 0, 1)},
		{"it stands for the lesser", map[Kind]time.Time{Full: sunday.Add(time.Second)}, sunday.Add(-time.Hour), sunday.Add(time.Minute), "", sunday.AddDate(0, 0, 1)},
		{"on Monday", map[Kind]time.Time{Full: sunday.Add(time.Second)}, sunday, sunday.AddDate(0, 0, 1), Incremental, sunday.AddDate(0, 0, 2)},
		{"a week was missed", map[Kind]time.Time{Full: sunday.Add(time.Second)}, sunday, sunday.AddDate(0, 0, 8), Full, sunday.AddDate(0, 0, 9)},
		{"an incremental one does not stand for a full one", map[Kind]time.Time{Incremental: sunday.AddDate(0, 0, 8)}, sunday, sunday.AddDate(0, 0, 8), Full, sunday.AddDate(0, 0, 9)},
	} {
		due, next := Due(all, c.last, c.since, c.now)
		if due != c.due || !next.Equal(c.next) {
			t.Errorf("%s: got %q, %s; want %q, %s", c.name, due, next, c.due, c.next)
		}
	}
	if next := full.Next(sunday.Add(-time.Minute).In(time.FixedZone("elsewhere", 5*3600))); !next.Equal(sunday) {
		t.Errorf("asked by a machine of another zone: %s", next)
	}
	zone, err := ParseSchedule(Full, "CRON_TZ=Europe/Berlin 30 2 * * *")
	if err != nil || !zone.Next(sunday).Equal(time.Date(2026, 3, 2, 1, 30, 0, 0, time.UTC)) {
		t.Errorf("a zone: %s, %v", zone.Next(sunday), err)
	}
	for _, bad := range []string{"", "daily", "60 2 * * *", "* * * * * *", "0 0 30 2 *", "CRON_TZ=Mars/Olympus 0 0 * * *"} {
		if _, err := ParseSchedule(Full, bad); !errors.Is(err, ErrSetting) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestChoose prefers whom it hurts least.
func TestChoose(t *testing.T) {
	primary := Candidate{Member: "n1", Primary: true, Here: true}
	free := Candidate{Member: "n3", Here: true, Lag: time.Second}
	voter := Candidate{Member: "n2", Here: true, Voter: true}
	with := func(c Candidate, change func(*Candidate)) Candidate { change(&c); return c }
	for _, c := range []struct {
		name string
		c    Choice
		want string
		why  string // "member: part of its reason"
	}{
		{"a replica that nobody waits for", Choice{Candidates: []Candidate{primary, voter, free}, Confirming: 2, Needed: 1}, "n3", "n2: better choice"},
		{"a voter that is not needed", Choice{Candidates: []Candidate{primary, voter}, Confirming: 2, Needed: 1}, "n2", "n1: better choice"},
		{"a voter that is needed", Choice{Candidates: []Candidate{primary, voter}, Confirming: 1, Needed: 1}, "n1", "n2: 1 voters confirm, and 1 must"},
		{"one that is far behind", Choice{Candidates: []Candidate{primary, with(free, func(c *Candidate) { c.Lag = time.Hour })}, Needed: 1}, "n1", "n3: 1h0m0s behind"},
		{"unknown is not little", Choice{Candidates: []Candidate{primary, with(free, func(c *Candidate) { c.Lag = -1 })}}, "n1", "n3: unknown"},
		{"one that is gone", Choice{Candidates: []Candidate{primary, with(free, func(c *Candidate) { c.Here = false })}}, "n1", "n3: not heard"},
		{"one that is excluded", Choice{Candidates: []Candidate{primary, with(free, func(c *Candidate) { c.Barred = true })}}, "n1", "n3: nobackup"},
		{"only replicas, and none will do", Choice{Candidates: []Candidate{primary, with(free, func(c *Candidate) { c.Lag = time.Hour })}, Source: OnlyReplica}, "", "n1: primary"},
		{"only the primary", Choice{Candidates: []Candidate{primary, free}, Source: OnlyPrimary}, "n1", "n3: replica"},
		{"the less lag", Choice{Candidates: []Candidate{free, with(free, func(c *Candidate) { c.Member, c.Lag = "n4", 0 })}}, "n4", ""},
		{"the first by name", Choice{Candidates: []Candidate{with(free, func(c *Candidate) { c.Member = "n4" }), free}}, "n3", ""},
		{"nobody", Choice{}, "", ""},
	} {
		c.c.MaxLag = 10 * time.Second
		got, reasons := c.c.Choose()
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
		if member, part, found := strings.Cut(c.why, ": "); found && !strings.Contains(reasons[member], part) {
			t.Errorf("%s: %s is told %q", c.name, member, reasons[member])
		}
		if len(reasons)+len(got)/2 != len(c.c.Candidates) {
			t.Errorf("%s: reasons for %v", c.name, slices.Sorted(maps.Keys(reasons)))
		}
	}
}
