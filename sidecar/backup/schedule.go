package backup

import (
	"fmt"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule says when backups of a kind are due.
type Schedule struct {
	Kind Kind
	spec string
	when cron.Schedule
}

// ParseSchedule reads five fields of cron, or @daily and its like. The times are
// UTC unless the text begins with CRON_TZ=Area/City, so that all members mean the
// same moment. It returns ErrSetting.
func ParseSchedule(kind Kind, spec string) (Schedule, error) {
	when, err := cron.ParseStandard(spec)
	if err != nil {
		return Schedule{}, fmt.Errorf(`schedule %q: %w: %v; expected minute, hour, day, month and weekday, such as "30 2 * * 0"`, spec, ErrSetting, err)
	}
	if when.Next(time.Unix(0, 0).UTC()).IsZero() {
		return Schedule{}, fmt.Errorf("schedule %q: %w: it is never due", spec, ErrSetting)
	}
	return Schedule{Kind: kind, spec: spec, when: when}, nil
}

// String returns the schedule as it was written.
func (s Schedule) String() string { return s.spec }

// Next returns the first moment after t at which the schedule is due.
// A schedule without a zone counts in the zone of what it is asked, here UTC.
func (s Schedule) Next(t time.Time) time.Time { return s.when.Next(t.UTC()).UTC() }

// rank orders kinds by how much they hold.
var rank = map[Kind]int{Incremental: 1, Differential: 2, Full: 3, Logical: 3}

// Due returns the kind that is due now, and when the next one is. last is when a
// backup of each kind was last begun; a zero time never. A fuller backup also
// stands for the lesser ones, and several missed times are made up for by one.
// since is when the schedules were first known: what was due before it is not.
func Due(schedules []Schedule, last map[Kind]time.Time, since, now time.Time) (due Kind, next time.Time) {
	for _, s := range schedules {
		from := since
		for kind, at := range last {
			if rank[kind] >= rank[s.Kind] && at.After(from) {
				from = at
			}
		}
		when := s.Next(from)
		if !when.After(now) {
			if rank[s.Kind] > rank[due] {
				due = s.Kind
			}
			when = s.Next(now)
		}
		if next.IsZero() || when.Before(next) {
			next = when
		}
	}
	return due, next
}
