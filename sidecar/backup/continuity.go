package backup

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Gap is a stretch of log that is not in the archive: nothing is recovered past
// it, except from a backup that began after it.
type Gap struct {
	Timeline    ha.TLI `json:"timeline"`
	First, Last string // names of segments, both missing
	Count       int    `json:"count"`
	Start, End  ha.LSN // of what is missing
	// From is when the last segment before the gap arrived, To when the first
	// backup after it ended: no moment between can be restored. Zero: unknown, and
	// for To that there is no such backup, so that the window is still open.
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// String names the gap and its window for people.
func (g Gap) String() string {
	what := fmt.Sprintf("segment %s is missing", g.First)
	if g.Count > 1 {
		what = fmt.Sprintf("%d segments are missing, %s to %s", g.Count, g.First, g.Last)
	}
	from, to := "an unknown time", "the next backup"
	if !g.From.IsZero() {
		from = g.From.UTC().Format(time.RFC3339)
	}
	if !g.To.IsZero() {
		to = g.To.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("%s: no moment from %s to %s can be restored", what, from, to)
}

// Window is a time of which every moment can be restored.
type Window struct {
	Label string    `json:"label"` // of the first backup that it begins with
	From  time.Time `json:"from"`  // that backup's end
	To    time.Time `json:"to"`    // when the last segment arrived; zero: unknown
	// Start and End are the same as positions; End is on Timeline.
	Start    ha.LSN `json:"start"`
	End      ha.LSN `json:"end"`
	Timeline ha.TLI `json:"timeline"`
}

// Continuity is what an archive and its backups can restore.
type Continuity struct {
	Timeline ha.TLI   `json:"timeline"` // the one looked at: the newest, or the one asked for
	Gaps     []Gap    `json:"gaps"`     // by position
	Windows  []Window `json:"windows"`  // by position
	// Aside are good backups that are not on the history of Timeline: they belong
	// to a past that a failover left, and restore only that.
	Aside []string `json:"aside,omitempty"`
	// Unusable are backups whose own log, from start to stop, has a gap.
	Unusable []string `json:"unusable,omitempty"`
	// Unread are names in the archive that are no segment of this size.
	Unread []string `json:"unread,omitempty"`
}

// leg is one timeline's part of the history that is looked at, in segments: from
// first, up to but not including end. The segment in which a timeline was left is
// the next one's: PostgreSQL copies its beginning, and reads it from there.
type leg struct {
	timeline   ha.TLI
	first, end uint64
	left       ha.LSN // where the timeline was left
}

// Examine finds the gaps in an archive on the way from the oldest good backup to
// the newest segment of a timeline; 0 is the newest timeline that has a segment.
// It returns ErrSetting if the segments' size cannot be, and ErrTarget if the
// timeline's history is not there.
func Examine(a Archive, backups []Backup, timeline ha.TLI) (Continuity, error) {
	if !validSegmentSize(a.SegmentSize) {
		return Continuity{}, fmt.Errorf("segments of %d bytes: %w", a.SegmentSize, ErrSetting)
	}
	c := Continuity{Timeline: timeline}
	have := map[segmentID]time.Time{}
	for _, s := range a.Segments {
		id, err := parseSegment(s.Name, a.SegmentSize)
		if err != nil {
			c.Unread = append(c.Unread, s.Name)
			continue
		}
		have[id] = s.At
	}
	if timeline == 0 {
		c.Timeline = newestTimeline(have, a.Histories)
	}
	if c.Timeline == 0 {
		return c, nil // nothing is archived yet
	}
	legs, err := history(a, c.Timeline)
	if err != nil {
		return Continuity{}, err
	}
	usable := c.onHistory(backups, legs)
	if len(usable) == 0 {
		return c, nil
	}
	w := walk{size: a.SegmentSize, have: have, legs: legs}
	w.run(usable)
	c.Gaps = w.gaps
	c.Unusable = w.close(c.Gaps, usable)
	c.Windows = w.windows(usable, c.Unusable)
	return c, nil
}

// newestTimeline is the one that PostgreSQL recovers to as the latest: of a
// history file counts only one that names an ancestor.
func newestTimeline(have map[segmentID]time.Time, histories map[ha.TLI][]ha.Fork) ha.TLI {
	newest := ha.TLI(0)
	for id := range have {
		newest = max(newest, id.timeline)
	}
	for timeline, forks := range histories {
		if len(forks) > 0 {
			newest = max(newest, timeline)
		}
	}
	return newest
}

// history returns the legs of a timeline, oldest first; the last has no end.
func history(a Archive, timeline ha.TLI) ([]leg, error) {
	forks := a.Histories[timeline]
	if len(forks) == 0 && timeline != 1 {
		return nil, fmt.Errorf("%w: the history file of timeline %d is not in the archive", ErrTarget, timeline)
	}
	var legs []leg
	first := uint64(0)
	for _, f := range forks {
		end := uint64(f.End) / uint64(a.SegmentSize)
		legs = append(legs, leg{timeline: f.TLI, first: first, end: end, left: f.End})
		first = end
	}
	const never = ^uint64(0)
	return append(legs, leg{timeline: timeline, first: first, end: never, left: ha.LSN(never)}), nil
}

// onHistory returns the good backups that lie on the legs, by position; the
// others are noted in Aside.
func (c *Continuity) onHistory(backups []Backup, legs []leg) []Backup {
	var on []Backup
	for _, b := range backups {
		if !b.Good() || b.Kind == Logical {
			continue
		}
		inside := slices.ContainsFunc(legs, func(l leg) bool {
			return l.timeline == b.Timeline && max(b.StartLSN, b.StopLSN) <= l.left
		})
		if !inside {
			c.Aside = append(c.Aside, b.Label)
			continue
		}
		on = append(on, b)
	}
	slices.SortStableFunc(on, func(a, b Backup) int { return cmp.Compare(a.StartLSN, b.StartLSN) })
	return on
}

// walk goes along the legs and notes what is missing.
type walk struct {
	size int64
	have map[segmentID]time.Time
	legs []leg
	gaps []Gap
	last segmentID // the newest segment
	at   time.Time // when it arrived
}

// run goes from the first backup to the newest segment, or to what the newest
// backup needs to be consistent.
func (w *walk) run(usable []Backup) {
	from, end := uint64(usable[0].StartLSN)/uint64(w.size), w.newest()
	for _, b := range usable {
		if b.Timeline == w.legs[len(w.legs)-1].timeline {
			end = max(end, (uint64(max(b.StartLSN+1, b.StopLSN))-1)/uint64(w.size)+1)
		}
	}
	before := time.Time{}
	for _, l := range w.legs {
		next, stop := max(from, l.first), min(l.end, end)
		for _, n := range w.numbers(l.timeline) {
			if n < next || n >= stop {
				continue
			}
			w.miss(l.timeline, next, n, before)
			w.last = segmentID{timeline: l.timeline, number: n}
			w.at = w.have[w.last]
			before, next = w.at, n+1
		}
		w.miss(l.timeline, next, stop, before)
	}
}

// numbers lists a timeline's segments in order.
func (w *walk) numbers(timeline ha.TLI) []uint64 {
	var all []uint64
	for id := range w.have {
		if id.timeline == timeline {
			all = append(all, id.number)
		}
	}
	slices.Sort(all)
	return all
}

// newest is the number after the last leg's newest segment; what an older
// timeline has beyond the fork does not count.
func (w *walk) newest() uint64 {
	last := w.legs[len(w.legs)-1]
	next := last.first
	for id := range w.have {
		if id.timeline == last.timeline {
			next = max(next, id.number+1)
		}
	}
	return next
}

// miss notes that the segments from first up to but not including end are missing,
// if those are any.
func (w *walk) miss(timeline ha.TLI, first, end uint64, before time.Time) {
	if first >= end {
		return
	}
	w.gaps = append(w.gaps, Gap{Timeline: timeline, Count: int(end - first), From: before,
		First: segmentID{timeline: timeline, number: first}.name(w.size),
		Last:  segmentID{timeline: timeline, number: end - 1}.name(w.size),
		Start: ha.LSN(first * uint64(w.size)), End: ha.LSN(end * uint64(w.size))})
}

// close ends each gap's window with the first backup that began after it, and
// returns the backups that a gap makes useless.
func (w *walk) close(gaps []Gap, usable []Backup) []string {
	var useless []string
	for _, b := range usable {
		if slices.ContainsFunc(gaps, func(g Gap) bool { return w.touches(g, b) }) {
			useless = append(useless, b.Label)
		}
	}
	for i := range gaps {
		for _, b := range usable {
			if segmentStart(b.StartLSN, w.size) >= gaps[i].End && !slices.Contains(useless, b.Label) {
				gaps[i].To = b.Stop
				break
			}
		}
	}
	return useless
}

// touches reports whether a gap has a part of what a backup needs to be consistent.
func (w *walk) touches(g Gap, b Backup) bool {
	return g.Start <= max(b.StartLSN, b.StopLSN) && g.End > segmentStart(b.StartLSN, w.size)
}

func segmentStart(l ha.LSN, size int64) ha.LSN { return l - l%ha.LSN(size) }

// windows returns the stretches between gaps that begin with a backup.
func (w *walk) windows(usable []Backup, useless []string) []Window {
	var all []Window
	for _, b := range usable {
		if slices.Contains(useless, b.Label) {
			continue
		}
		end := Window{Label: b.Label, From: b.Stop, Start: b.StopLSN, Timeline: w.last.timeline,
			To: w.at, End: ha.LSN((w.last.number + 1) * uint64(w.size))}
		for _, g := range w.gaps {
			if g.Start >= b.StartLSN {
				end.To, end.End, end.Timeline = g.From, g.Start, g.Timeline
				break
			}
		}
		if n := len(all); n > 0 && all[n-1].End == end.End {
			continue // the window of an earlier backup reaches over this one
		}
		all = append(all, end)
	}
	return all
}
