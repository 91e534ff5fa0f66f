package availability_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/availability"
)

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

// TestYear: a year of 40 outages of known length gives the known figures.
func TestYear(t *testing.T) {
	from, to := at("2025-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z")
	var outages []availability.Outage
	var down, planned time.Duration
	for i := range 40 {
		o := availability.Outage{From: from.Add(time.Duration(i) * 219 * time.Hour), Kind: availability.Failover, Term: uint64(i)}
		took := time.Duration(i+1) * 7 * time.Second
		o.To, o.Planned = o.From.Add(took), i%4 == 0
		outages = append(outages, o)
		if o.Planned {
			planned += took
		} else {
			down += took
		}
	}
	whole := availability.Compute(availability.Question{From: from, To: to, By: availability.Yearly, Objective: 0.9999}, outages)
	if len(whole) != 1 {
		t.Fatalf("%d years", len(whole))
	}
	y := whole[0]
	total := to.Sub(from)
	if y.Name != "2025" || y.Total != availability.Seconds(total.Seconds()) || y.Down != availability.Seconds(down.Seconds()) ||
		y.Planned != availability.Seconds(planned.Seconds()) || y.Outages != 30 || y.Longest != 280 {
		t.Errorf("%+v; down %v, planned %v", y, down, planned)
	}
	if want := float64(total-down-planned) / float64(total); *y.Availability != want {
		t.Errorf("availability %v, want %v", *y.Availability, want)
	}
	if got := float64(y.Budget); math.Abs(got-(0.0001*total.Seconds()-down.Seconds()-planned.Seconds())) > 0.001 {
		t.Errorf("budget %v", got)
	}
	if ratio := *y.ByMeans; math.Abs(ratio-float64(total-down-planned)/float64(total-planned)) > 1e-12 {
		t.Errorf("MTBF/(MTBF+MTTR) is %v", ratio)
	}
	for _, spans := range []availability.Spans{availability.Daily, availability.Monthly} {
		var sum, asked availability.Seconds
		n := 0
		for _, p := range availability.Compute(availability.Question{From: from, To: to, By: spans}, outages) {
			sum, asked, n = sum+p.Down, asked+p.Planned, n+p.Outages
		}
		if sum != y.Down || asked != y.Planned || n != y.Outages {
			t.Errorf("by %s: %v down, %v planned, %d outages", spans, sum, asked, n)
		}
	}
}

// share reports whether a figure is one of a whole.
func share(f float64) bool { return f >= 0 && f <= 1 }

func TestOverlaps(t *testing.T) {
	day := at("2026-11-01T00:00:00Z")
	minutes := func(from, to int, kind availability.Kind, planned bool) availability.Outage {
		return availability.Outage{From: day.Add(time.Duration(from) * time.Minute), To: day.Add(time.Duration(to) * time.Minute), Kind: kind, Planned: planned}
	}
	for name, c := range map[string]struct {
		outages                []availability.Outage
		down, planned, unknown availability.Seconds
	}{
		"none":                       {nil, 0, 0, 0},
		"two leaders, one outage":    {[]availability.Outage{minutes(10, 20, "failover", false), minutes(15, 25, "failover", false)}, 15 * 60, 0, 0},
		"a failure in a switchover":  {[]availability.Outage{minutes(10, 20, "switchover", true), minutes(12, 14, "failover", false)}, 2 * 60, 8 * 60, 0},
		"nobody saw, then a leader":  {[]availability.Outage{minutes(0, 60, "unseen", false), minutes(55, 62, "failover", false)}, 7 * 60, 0, 55 * 60},
		"a clock that was set back":  {[]availability.Outage{minutes(20, 10, "failover", false)}, 0, 0, 0},
		"from the day before":        {[]availability.Outage{minutes(-10, 5, "failover", false)}, 5 * 60, 0, 0},
		"until the day after":        {[]availability.Outage{minutes(1435, 1500, "failover", false)}, 5 * 60, 0, 0},
		"unseen, with a hole in it":  {[]availability.Outage{minutes(0, 30, "unseen", false), minutes(10, 20, "restart", true)}, 0, 10 * 60, 20 * 60},
		"outages that only touch":    {[]availability.Outage{minutes(0, 1, "failover", false), minutes(1, 2, "failover", false)}, 120, 0, 0},
		"all of it, and nobody knew": {[]availability.Outage{minutes(-60, 2000, "unseen", false)}, 0, 0, 24 * 3600},
	} {
		t.Run(name, func(t *testing.T) {
			p := availability.Compute(availability.Question{From: day, To: day.AddDate(0, 0, 1), By: availability.Daily}, c.outages)[0]
			if p.Down != c.down || p.Planned != c.planned || p.Unknown != c.unknown {
				t.Errorf("%+v", p)
			}
			if a := p.Availability; (a == nil) != (p.Unknown == p.Total) || a != nil && !share(*a) {
				t.Errorf("availability %v of %+v", a, p)
			}
		})
	}
}

// TestJournal: a damaged line is kept, counted, and in nobody's way; what is written
// twice is there once; a journal does not outgrow a value of Consul's.
func TestJournal(t *testing.T) {
	o := availability.Outage{From: at("2026-11-29T10:00:00Z"), To: at("2026-11-29T10:00:01Z"), Kind: availability.Failover, Term: 7, Leader: "n2"}
	journal := []byte("{\"from\": damaged\n")
	for range 2 {
		var err error
		if journal, err = availability.Append(journal, o); err != nil {
			t.Fatal(err)
		}
	}
	got, damaged := availability.Read(journal)
	if len(got) != 1 || got[0] != o || damaged != 1 || !strings.Contains(string(journal), "damaged") {
		t.Errorf("%+v, %d damaged:\n%s", got, damaged, journal)
	}
	if o.Month() != "2026-11" {
		t.Error(o.Month())
	}
	o.Cause = strings.Repeat("x", 10_000)
	for i := range 100 {
		o.Term = uint64(i)
		journal, _ = availability.Append(journal, o)
	}
	got, damaged = availability.Read(journal)
	if len(journal) > 400<<10 || damaged != 0 || len(got) < 30 || got[len(got)-1].Term != 99 {
		t.Errorf("%d bytes, %d outages, %d damaged", len(journal), len(got), damaged)
	}
	if months := availability.Months(at("2025-11-30T23:00:00Z"), at("2026-02-01T00:00:00Z")); strings.Join(months, " ") != "2025-11 2025-12 2026-01 2026-02" {
		t.Error(months)
	}
}

// FuzzJournal: whatever is in a month's journal, the next outage is written and read, what
// was read before stays, and the figures are figures.
func FuzzJournal(f *testing.F) {
	for _, text := range []string{"", "\n\n", "{\"from\": damaged\n", "\x00\xff\n{}\nnull\n[1]\n",
		`{"from":"2026-11-29T10:00:00Z","to":"2026-11-29T09:00:00Z","kind":"failover","term":7,"leader":"n2"}`,
		`{"from":"0001-01-01T00:00:00Z","to":"9999-12-31T23:59:59Z","kind":"unseen","planned":true,"term":18446744073709551615}` + "\n{"} {
		f.Add([]byte(text))
	}
	o := availability.Outage{From: at("2026-11-30T10:00:00Z"), To: at("2026-11-30T10:00:01Z"), Kind: availability.Restart, Term: 99_999_999_999, Leader: "n3"}
	f.Fuzz(func(t *testing.T, journal []byte) {
		before, damaged := availability.Read(journal)
		next, err := availability.Append(journal, o)
		if err != nil {
			t.Fatal(err)
		}
		after, still := availability.Read(next)
		if !slices.Contains(after, o) {
			t.Fatalf("it is not in %q", next)
		}
		if len(journal) < 100<<10 && (len(after) < len(before) || still != damaged) {
			t.Fatalf("%d outages and %d damaged lines became %d and %d: %q", len(before), damaged, len(after), still, next)
		}
		for _, p := range availability.Compute(availability.Question{From: at("2026-11-01T00:00:00Z"), To: at("2026-12-01T00:00:00Z"), By: availability.Daily, Objective: 0.999}, after) {
			if p.Availability != nil && !share(*p.Availability) || p.ByMeans != nil && !share(*p.ByMeans) || p.Down < 0 || p.Planned < 0 || p.Unknown < 0 {
				t.Fatalf("%+v of %q", p, next)
			}
		}
	})
}
