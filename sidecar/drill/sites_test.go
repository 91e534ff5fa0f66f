package drill

import (
	"math"
	"strings"
	"testing"
	"time"
)

// TestSplit: that both sites take writes is what a split of them is to show; that two servers
// of one site do is a fault.
func TestSplit(t *testing.T) {
	siteOf := func(member string) string { return map[string]string{"n1": "dc1", "n2": "dc1", "n4": "dc2"}[member] }
	begun := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := new(Primaries)
	write := func(member string, timeline uint32, seconds ...int) {
		for _, s := range seconds {
			at := begun.Add(time.Duration(s) * time.Second)
			p.Add(Ack{Member: member, Timeline: timeline, Sent: at.Add(-time.Millisecond), Acked: at})
		}
	}
	write("n1", 1, 1, 20)
	write("n4", 97, 8, 30)
	s := new(SitesReport)
	if within := s.split(p.overlaps(), siteOf); len(within) != 0 || math.Round(s.BothMs) != 11999 {
		t.Errorf("both took writes for %.0f ms; within a site %q", s.BothMs, within)
	}
	write("n2", 2, 15)
	if within := new(SitesReport).split(p.overlaps(), siteOf); len(within) != 1 || !strings.HasPrefix(within[0], "n1 (timeline 1) still took writes 4.999s after n2") {
		t.Errorf("within a site: %q", within)
	}
}

// TestSitesReport: rows that are lost are counted by the site that acknowledged them, and
// compared with what site promote had announced.
func TestSitesReport(t *testing.T) {
	heard := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	siteOf := func(member string) string { return map[string]string{"n1": "dc1", "n4": "dc2"}[member] }
	var acks []loggedAck
	for seq := range int64(10) { // five of them after the other site was heard last
		acks = append(acks, loggedAck{worker: 0, seq: seq + 1, member: "n1", acked: heard.Add(time.Duration(2*seq-9) * time.Second)})
	}
	acks = append(acks, loggedAck{worker: 0, seq: 11, member: "n4", acked: heard.Add(time.Minute)}, loggedAck{worker: 1, seq: 1, member: "n4", acked: heard.Add(time.Minute)})
	for name, c := range map[string]struct {
		lost      map[int][]span
		announced *Announced
		kept      int64
		allowed   int64
		fails     string // empty: it passes
	}{
		"nothing is lost":            {announced: &Announced{Heard: heard}, allowed: 5},
		"what was written since":     {lost: map[int][]span{0: {{6, 10}}}, announced: &Announced{Heard: heard}, kept: 1, allowed: 5},
		"more than that":             {lost: map[int][]span{0: {{5, 10}}}, announced: &Announced{Heard: heard}, kept: 1, allowed: 5, fails: "6 rows of dc1 are lost, and site promote had announced 5"},
		"and what was lacking":       {lost: map[int][]span{0: {{5, 10}}}, announced: &Announced{Heard: heard, LagBytes: 130}, kept: 1, allowed: 6},
		"nothing is kept":            {lost: map[int][]span{0: {{10, 10}}}, announced: &Announced{Heard: heard}, allowed: 5, fails: "nothing was kept aside"},
		"at the site that was there": {lost: map[int][]span{1: {{1, 1}}}, announced: &Announced{Heard: heard}, kept: 1, allowed: 5, fails: "1 rows are lost that dc2 acknowledged"},
		"it was not said":            {announced: &Announced{LagBytes: -1}, allowed: 10, fails: "did not say how much is lost"},
		"nobody was promoted so":     {},
	} {
		s := &SitesReport{Before: "dc1", Announced: c.announced, KeptBytes: c.kept}
		s.count(acks, c.lost, siteOf)
		if len(s.Rows) != 2 || s.Rows[0].Acked != 10 || s.Rows[1].Acked != 2 || s.Rows[1].Site != "dc2" {
			t.Errorf("%s: %+v", name, s.Rows)
		}
		if got := s.allowed(); got != c.allowed {
			t.Errorf("%s: %d may be lost, want %d", name, got, c.allowed)
		}
		r := &Report{Expect: Either, Sites: s}
		for _, row := range s.Rows {
			r.Rows.Lost += row.Lost
		}
		r.judge(Objective{}, false)
		if failed := strings.Join(r.Failures, "; "); (failed == "") != (c.fails == "") || !strings.Contains(failed, c.fails) {
			t.Errorf("%s: %q, want %q", name, failed, c.fails)
		}
		s.After = "dc2"
		var text strings.Builder
		if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), "dc1 acknowledged 10 and lost") {
			t.Errorf("%s: %v\n%s", name, err, text.String())
		}
	}
}
