package backup

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestPlan has two backups of a log with a gap between them.
func TestPlan(t *testing.T) {
	repository := Repository{Backups: []Backup{made("a", 1, 2, 3), made("b", 1, 9, 10)}}
	archive := archived(t, "1:1-5", "1:7-12")
	for _, c := range []struct {
		name   string
		change func(*Question)
		label  string
		err    error
		says   string
	}{
		{"the latest", func(q *Question) {}, "b", nil, ""},
		{"a moment after the second", func(q *Question) { q.Target = Target{Kind: ToTime, Time: minute(11)} }, "b", nil, ""},
		{"a moment between the first and the gap", func(q *Question) { q.Target = Target{Kind: ToTime, Time: minute(4)} }, "a", nil, ""},
		{"the end of a backup", func(q *Question) { q.Target = Target{Kind: ToTime, Time: minute(10)} }, "b", nil, ""},
		{"before the first backup", func(q *Question) { q.Target = Target{Kind: ToTime, Time: minute(1)} }, "", ErrTarget, "2026-03-01T00:03:00Z to 2026-03-01T00:05:00Z"},
		{"in the gap", func(q *Question) { q.Target = Target{Kind: ToTime, Time: minute(7)} }, "", ErrTarget, "what can be restored"},
		{"after the last log", func(q *Question) { q.Target = Target{Kind: ToTime, Time: minute(13)} }, "", ErrTarget, "to 2026-03-01T00:12:00Z"},
		{"within the second of the last log", func(q *Question) {
			q.Target = Target{Kind: ToTime, Time: minute(12).Add(700 * time.Millisecond)}
		}, "b", nil, ""},
		{"the second after the last log", func(q *Question) { q.Target = Target{Kind: ToTime, Time: minute(12).Add(time.Second)} }, "", ErrTarget, "to 2026-03-01T00:12:00Z"},
		{"within the second in which a backup ends", func(q *Question) {
			q.Repository.Backups = []Backup{made("a", 1, 8, 9), made("b", 1, 9, 10)}
			q.Target = Target{Kind: ToTime, Time: minute(10).Add(700 * time.Millisecond)}
		}, "a", nil, ""},
		{"in the future", func(q *Question) { q.Target = Target{Kind: ToTime, Time: minute(61)} }, "", ErrTarget, "in the future"},
		{"a position", func(q *Question) { q.Target = Target{Kind: ToLSN, LSN: lsn(11, 5)} }, "b", nil, ""},
		{"a position before the gap", func(q *Question) { q.Target = Target{Kind: ToLSN, LSN: lsn(5, 5)} }, "a", nil, ""},
		{"a position within the first backup", func(q *Question) { q.Target = Target{Kind: ToLSN, LSN: lsn(3, 5)} }, "", ErrTarget, "can be restored"},
		{"a position in the gap", func(q *Question) { q.Target = Target{Kind: ToLSN, LSN: lsn(6, 5)} }, "", ErrTarget, "can be restored"},
		{"a position after the end", func(q *Question) { q.Target = Target{Kind: ToLSN, LSN: lsn(13, 5)} }, "", ErrTarget, "can be restored"},
		{"a name", func(q *Question) { q.Target = Target{Kind: ToName, Name: "before"} }, "b", nil, ""},
		{"a name, from a chosen backup", func(q *Question) { q.Target, q.Label = Target{Kind: ToName, Name: "before"}, "a" }, "a", nil, ""},
		{"a moment past a gap, from a chosen backup", func(q *Question) { q.Target, q.Label = Target{Kind: ToTime, Time: minute(11)}, "a" }, "", ErrTarget, "a gap"},
		{"a backup that ends after the target", func(q *Question) { q.Target, q.Label = Target{Kind: ToTime, Time: minute(4)}, "b" }, "", ErrTarget, "ends after"},
		{"a backup that is not there", func(q *Question) { q.Label = "c" }, "", ErrNoBackup, "backup list"},
		{"the end of a backup, as such", func(q *Question) { q.Target = Target{Kind: Immediate}; q.Label = "a" }, "a", nil, ""},
		{"another cluster's", func(q *Question) { q.SystemID = "8" }, "", ErrSystemID, "is of 7, and this cluster is 8"},
		{"a timeline that is nowhere", func(q *Question) { q.Target.Timeline = 4 }, "", ErrTarget, "history file of timeline 4"},
		{"no backup", func(q *Question) { q.Repository = Repository{} }, "", ErrNoBackup, "pgsidecar backup run"},
		{"only a damaged one", func(q *Question) {
			q.Repository = Repository{Backups: []Backup{{Label: "x", Damaged: true, Stop: minute(1)}}}
		}, "", ErrNoBackup, "no finished backup"},
		{"no log", func(q *Question) { q.Archive.Segments = nil }, "", ErrTarget, "no backup has its log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := Question{Target: Target{Kind: Latest}, Repository: repository, Archive: archive, SystemID: "7", Now: minute(60)}
			c.change(&q)
			got, err := MakePlan(q)
			if !errors.Is(err, c.err) || got.Backup.Label != c.label {
				t.Fatalf("got backup %q, %v; want %q, %v", got.Backup.Label, err, c.label, c.err)
			}
			if err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("it says %q, not %q in one line", err, c.says)
			}
		})
	}
}

// TestPlanMeasures counts log and time.
func TestPlanMeasures(t *testing.T) {
	q := Question{Repository: Repository{Backups: []Backup{made("a", 1, 2, 3)}}, Archive: archived(t, "1:1-9"), Now: minute(60),
		Rates: Rates{Restore: 100 << 20, Replay: 16 << 20}}
	for _, c := range []struct {
		target   Target
		segments int
	}{
		{Target{}, 8}, {Target{Kind: ToLSN, LSN: lsn(5, 1)}, 4}, {Target{Kind: ToTime, Time: minute(5)}, 5}, {Target{Kind: Immediate}, 2},
	} {
		q.Target = c.target
		p, err := MakePlan(q)
		if err != nil || p.Segments != c.segments {
			t.Errorf("%s: %d segments, %v; want %d", c.target, p.Segments, err, c.segments)
		}
		if p.Duration < 10*time.Second || p.Duration > 30*time.Second {
			t.Errorf("%s takes %s", c.target, p.Duration)
		}
	}
}

// TestPlanWarns: PostgreSQL takes a gap for the end of the log.
func TestPlanWarns(t *testing.T) {
	q := Question{Repository: Repository{Backups: []Backup{made("a", 1, 2, 3)}}, Archive: archived(t, "1:1-5", "1:7-9"), Now: minute(60)}
	p, err := MakePlan(q)
	if err != nil || !strings.Contains(p.Warning, "000000010000000000000006 is missing") {
		t.Errorf("warning %q, %v", p.Warning, err)
	}
}

// TestParseTarget takes only what means one thing.
func TestParseTarget(t *testing.T) {
	for _, c := range []struct {
		kind         TargetKind
		value        string
		want, values string // String and Value; want empty: refused
	}{
		{ToTime, "2026-03-01 12:00:00+01", "2026-03-01 11:00:00Z", "2026-03-01 11:00:00+00"},
		{ToTime, "2026-03-01T11:00:00.25Z", "2026-03-01 11:00:00.25Z", "2026-03-01 11:00:00.25+00"},
		{ToTime, "2026-03-01 11:00:00 UTC", "2026-03-01 11:00:00Z", "2026-03-01 11:00:00+00"},
		{ToTime, "2026-03-01 12:00:00", "", ""},
		{ToTime, "2026-03-01 12:00:00 CEST", "", ""},
		{ToTime, "yesterday", "", ""},
		{ToTime, "", "", ""},
		{ToLSN, "0/3000148", "position 0/3000148", "0/3000148"},
		{ToLSN, "0/0", "", ""},
		{ToLSN, "3000148", "", ""},
		{ToName, "before the drop", `the restore point "before the drop"`, "before the drop"},
		{ToName, "", "", ""},
		{ToName, "a\nb", "", ""},
		{ToName, strings.Repeat("x", 64), "", ""},
		{ToXID, "1234", "transaction 1234", "1234"},
		{ToXID, "2", "", ""},
		{ToXID, "4294967296", "", ""},
		{Latest, "", "the end of the archived log", ""},
		{Latest, "x", "", ""},
		{"never", "", "", ""},
	} {
		got, err := ParseTarget(c.kind, c.value)
		switch {
		case c.want == "" && !errors.Is(err, ErrTarget):
			t.Errorf("%s %q: got %+v, %v", c.kind, c.value, got, err)
		case c.want != "" && (err != nil || got.String() != c.want || got.Value() != c.values):
			t.Errorf("%s %q: got %q, %q, %v", c.kind, c.value, got, got.Value(), err)
		}
	}
}

// TestTargetSettings: each target ends in a server that takes writes.
func TestTargetSettings(t *testing.T) {
	write := func(target Target) string {
		var b strings.Builder
		for _, s := range target.Settings("fetch %f %p") {
			b.WriteString(s.Name + "=" + s.Value + ";")
		}
		return b.String()
	}
	for _, c := range []struct {
		target Target
		want   string
	}{
		{Target{}, "restore_command=fetch %f %p;recovery_target_timeline=latest;"},
		{Target{Kind: ToLSN, LSN: 0x3000148, Exclusive: true, Timeline: ha.TLI(3)},
			"restore_command=fetch %f %p;recovery_target_timeline=3;recovery_target_lsn=0/3000148;recovery_target_inclusive=off;recovery_target_action=promote;"},
		{Target{Kind: Immediate}, "restore_command=fetch %f %p;recovery_target_timeline=latest;recovery_target=immediate;recovery_target_action=promote;"},
	} {
		if got := write(c.target); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}
