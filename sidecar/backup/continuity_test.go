package backup

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// day is when everything in these tests happens: segment n arrives at minute n.
var day = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func minute(n int) time.Time { return day.Add(time.Duration(n) * time.Minute) }

// lsn is a place in segment n.
func lsn(n, offset int) ha.LSN { return ha.LSN(n*DefaultSegment + offset) }

// archived makes an archive of "timeline:first-last" stretches.
func archived(t testing.TB, stretches ...string) Archive {
	t.Helper()
	a := Archive{SegmentSize: DefaultSegment, Histories: map[ha.TLI][]ha.Fork{}}
	for _, s := range stretches {
		var tli, first, last int
		if _, err := fmt.Sscanf(s, "%d:%d-%d", &tli, &first, &last); err != nil {
			t.Fatal(err)
		}
		for n := first; n <= last; n++ {
			a.Segments = append(a.Segments, Segment{Name: SegmentAt(ha.TLI(tli), lsn(n, 0), DefaultSegment), At: minute(n)})
		}
	}
	return a
}

// made is a backup that begins in one segment and ends in another.
func made(label string, tli ha.TLI, first, last int) Backup {
	return Backup{Label: label, Kind: Full, Timeline: tli, StartLSN: lsn(first, 40), StopLSN: lsn(last, 80),
		Start: minute(first), Stop: minute(last), SystemID: "7", Size: 1 << 30}
}

// TestGaps looks at archives with and without holes.
func TestGaps(t *testing.T) {
	fork := func(a Archive, tli ha.TLI, forks ...ha.Fork) Archive {
		a.Histories[tli] = forks
		return a
	}
	left := func(tli ha.TLI, n, offset int) ha.Fork { return ha.Fork{TLI: tli, End: lsn(n, offset)} }
	for _, c := range []struct {
		name     string
		archive  Archive
		backups  []Backup
		timeline ha.TLI
		gaps     string // "timeline:first-last from-to", minutes; ? is unknown
		windows  string // "label from-to"
		aside    string
		useless  string
	}{
		{name: "nothing at all", archive: archived(t)},
		{name: "log without a backup", archive: archived(t, "1:1-9")},
		{name: "whole", archive: archived(t, "1:1-9"), backups: []Backup{made("a", 1, 2, 3)}, windows: "a 3-9"},
		{name: "what was before the oldest backup is not missed", archive: archived(t, "1:1-1", "1:5-9"),
			backups: []Backup{made("a", 1, 5, 5)}, windows: "a 5-9"},
		{name: "a gap for ever", archive: archived(t, "1:1-5", "1:8-9"), backups: []Backup{made("a", 1, 2, 3)},
			gaps: "1:6-7 5-?", windows: "a 3-5"},
		{name: "a gap that a backup ends", archive: archived(t, "1:1-5", "1:7-12"), backups: []Backup{made("a", 1, 2, 3), made("b", 1, 9, 10)},
			gaps: "1:6-6 5-10", windows: "a 3-5, b 10-12"},
		{name: "two gaps", archive: archived(t, "1:1-3", "1:5-6", "1:9-9"), backups: []Backup{made("a", 1, 1, 2)},
			gaps: "1:4-4 3-?, 1:7-8 6-?", windows: "a 2-3"},
		{name: "a gap within a backup makes it useless", archive: archived(t, "1:1-5", "1:7-12"), backups: []Backup{made("a", 1, 5, 8), made("b", 1, 9, 10)},
			gaps: "1:6-6 5-10", windows: "b 10-12", useless: "a"},
		{name: "the log of the newest backup has not arrived", archive: archived(t, "1:1-5"), backups: []Backup{made("a", 1, 2, 3), made("b", 1, 5, 6)},
			gaps: "1:6-6 5-?", windows: "a 3-5", useless: "b"},
		{name: "a failover in the midst of a segment", archive: fork(archived(t, "1:1-5", "2:6-9"), 2, left(1, 6, 500)),
			backups: []Backup{made("a", 1, 2, 3)}, windows: "a 3-9"},
		{name: "a failover at the border of a segment", archive: fork(archived(t, "1:1-5", "2:6-9"), 2, left(1, 6, 0)),
			backups: []Backup{made("a", 1, 2, 3)}, windows: "a 3-9"},
		{name: "a hole before a failover", archive: fork(archived(t, "1:1-3", "2:6-9"), 2, left(1, 6, 500)),
			backups: []Backup{made("a", 1, 2, 3)}, gaps: "1:4-5 3-?", windows: "a 3-3"},
		{name: "a hole after a failover", archive: fork(archived(t, "1:1-5", "2:7-9"), 2, left(1, 6, 500)),
			backups: []Backup{made("a", 1, 2, 3)}, gaps: "2:6-6 5-?", windows: "a 3-5"},
		{name: "what the old primary wrote past the fork fills nothing", archive: fork(archived(t, "1:1-8", "2:7-9"), 2, left(1, 6, 500)),
			backups: []Backup{made("a", 1, 2, 3)}, gaps: "2:6-6 5-?", windows: "a 3-5"},
		{name: "a timeline of which nothing arrived", archive: fork(archived(t, "1:1-5", "3:9-9"), 3, left(1, 6, 500), left(2, 8, 0)),
			backups: []Backup{made("a", 1, 2, 3)}, gaps: "2:6-7 5-?, 3:8-8 5-?", windows: "a 3-5"},
		{name: "a timeline that has only its history", archive: fork(archived(t, "1:1-5"), 2, left(1, 6, 500)),
			backups: []Backup{made("a", 1, 2, 3)}, windows: "a 3-5"},
		{name: "a claimed number is no timeline", archive: fork(archived(t, "1:1-5"), 2),
			backups: []Backup{made("a", 1, 2, 3)}, windows: "a 3-5"},
		{name: "a backup past the fork", archive: fork(archived(t, "1:1-8", "2:6-9"), 2, left(1, 6, 500)),
			backups: []Backup{made("a", 1, 2, 3), made("b", 1, 7, 8)}, windows: "a 3-9", aside: "b"},
		{name: "an older timeline by name", archive: fork(archived(t, "1:1-8", "2:6-9"), 2, left(1, 6, 500)),
			backups: []Backup{made("a", 1, 2, 3), made("b", 1, 7, 8)}, timeline: 1, windows: "a 3-8"},
		{name: "a damaged backup begins nothing", archive: archived(t, "1:1-9"),
			backups: []Backup{{Label: "x", Damaged: true, Timeline: 1, StartLSN: lsn(1, 0), Stop: minute(1)}, made("a", 1, 2, 3)}, windows: "a 3-9"},
		{name: "a name far away does not take for ever", archive: archived(t, "1:1-5", "1:900000000-900000000"),
			backups: []Backup{made("a", 1, 2, 3)}, gaps: "1:6-899999999 5-?", windows: "a 3-5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Examine(c.archive, c.backups, c.timeline)
			if err != nil {
				t.Fatal(err)
			}
			at := func(m time.Time) string {
				if m.IsZero() {
					return "?"
				}
				return fmt.Sprint(int(m.Sub(day).Minutes()))
			}
			var gaps, windows []string
			for _, g := range got.Gaps {
				gaps = append(gaps, fmt.Sprintf("%d:%d-%d %s-%s", g.Timeline, g.Start/DefaultSegment, g.End/DefaultSegment-1, at(g.From), at(g.To)))
				if first := SegmentAt(g.Timeline, g.Start, DefaultSegment); g.First != first || !strings.Contains(g.String(), first) {
					t.Errorf("gap %s is called %q", first, g)
				}
			}
			for _, w := range got.Windows {
				windows = append(windows, fmt.Sprintf("%s %s-%s", w.Label, at(w.From), at(w.To)))
			}
			for _, f := range []struct{ what, got, want string }{
				{"gaps", strings.Join(gaps, ", "), c.gaps}, {"windows", strings.Join(windows, ", "), c.windows},
				{"aside", strings.Join(got.Aside, " "), c.aside}, {"useless", strings.Join(got.Unusable, " "), c.useless},
			} {
				if f.got != f.want {
					t.Errorf("%s: got %q, want %q", f.what, f.got, f.want)
				}
			}
		})
	}
}

// TestExamineRefuses: what cannot be known is an error, and an odd name is noted.
func TestExamineRefuses(t *testing.T) {
	a := archived(t, "2:6-9")
	if _, err := Examine(a, nil, 0); !errors.Is(err, ErrTarget) {
		t.Errorf("a timeline without its history: %v", err)
	}
	a.SegmentSize = 3 << 20
	if _, err := Examine(a, nil, 0); !errors.Is(err, ErrSetting) {
		t.Errorf("an odd size of segments: %v", err)
	}
	a = archived(t, "1:1-2")
	a.Segments = append(a.Segments, Segment{Name: "0000000100000000000000FF1"}, Segment{Name: "000000010000000000000100"})
	got, err := Examine(a, nil, 0)
	if err != nil || len(got.Unread) != 2 {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestSegmentNames follows PostgreSQL's naming for each size of segment.
func TestSegmentNames(t *testing.T) {
	for _, c := range []struct {
		size int64
		lsn  string
		want string
	}{
		{16 << 20, "0/0", "000000010000000000000000"},
		{16 << 20, "0/3000148", "000000010000000000000003"},
		{16 << 20, "1/0", "000000010000000100000000"},
		{16 << 20, "FF/FFFFFFFF", "00000001000000FF000000FF"},
		{1 << 20, "0/3000148", "000000010000000000000030"},
		{1 << 20, "1/FFFFFFFF", "000000010000000100000FFF"},
		{1 << 30, "2/C0000000", "000000010000000200000003"},
	} {
		at, err := ha.ParseLSN(c.lsn)
		if err != nil {
			t.Fatal(err)
		}
		name := SegmentAt(1, at, c.size)
		if name != c.want {
			t.Errorf("%s of %d: got %s, want %s", c.lsn, c.size, name, c.want)
		}
		id, err := parseSegment(name, c.size)
		if err != nil || id.name(c.size) != name {
			t.Errorf("%s: read as %+v, %v", name, id, err)
		}
	}
	for _, bad := range []string{"", "0000000100000000000000", "00000001.history", "000000010000000000000003.partial",
		"00000001000000000000000G", "000000000000000000000001", "000000010000000000000100", "+0000001000000000000001"} {
		if id, err := parseSegment(bad, DefaultSegment); !errors.Is(err, ErrName) {
			t.Errorf("%q: read as %+v, %v", bad, id, err)
		}
	}
}

// TestHistoryFiles reads what PostgreSQL and pgsidecar write.
func TestHistoryFiles(t *testing.T) {
	got, err := ParseHistory("1\t0/6000500\tno recovery target specified\n\n2\t0/8000000\tbefore 2026-03-01 00:00:00+00\n")
	want := []ha.Fork{{TLI: 1, End: 0x6000500}, {TLI: 2, End: 0x8000000}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := ParseHistory("# pgsidecar: this timeline was claimed and never used\n"); err != nil || got != nil {
		t.Errorf("a placeholder: %v, %v", got, err)
	}
	// A recovery that was to follow timeline 3 ended on timeline 1.
	got, err = ParseHistory("1\t0/9000000\tx\n2\t0/A000000\tx\n3\t0/8000000\tbefore 2026-03-01 00:00:00+00\n")
	if want := []ha.Fork{{TLI: 1, End: 0x8000000}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"1", "x\t0/1", "1\tnowhere", "0\t0/1", "2\t0/9\n1\t0/A"} {
		if got, err := ParseHistory(bad); !errors.Is(err, ErrName) {
			t.Errorf("%q: read as %v, %v", bad, got, err)
		}
	}
	if tli, err := HistoryTimeline("0000000A.history"); err != nil || tli != 10 {
		t.Errorf("got %d, %v", tli, err)
	}
	for _, bad := range []string{"A.history", "00000000.history", "0000000A.backup", "0000000A"} {
		if _, err := HistoryTimeline(bad); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
