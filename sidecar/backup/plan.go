package backup

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Question is what a recovery is planned from.
type Question struct {
	Target     Target
	Repository Repository
	Archive    Archive
	// SystemID is what the cluster must have; empty: any, for a new cluster.
	SystemID string
	// Label is a backup that a person chose; empty: the newest that fits.
	Label string
	Now   time.Time
	Rates Rates
}

// Rates are what the last verification measured; zero: unknown.
type Rates struct {
	Restore float64 // bytes of data in a second
	Replay  float64 // bytes of log in a second
}

// Plan is what a recovery would do.
type Plan struct {
	Target   Target `json:"-"`
	Reach    string `json:"target"` // for people
	Backup   Backup `json:"backup"`
	Window   Window `json:"window"`
	Segments int    `json:"segments"` // of log to read, at most
	LogBytes int64  `json:"log_bytes"`
	// Duration is the estimate of Rates; 0: nothing was measured yet.
	Duration time.Duration `json:"duration"`
	// Warning says that the recovery ends before what the archive has at last.
	Warning string `json:"warning,omitempty"`
}

// MakePlan chooses the backup for a target. It returns ErrNoBackup, ErrSystemID
// or ErrTarget, each with what can be had instead.
func MakePlan(q Question) (Plan, error) {
	if _, found := q.Repository.Newest(); !found {
		return Plan{}, fmt.Errorf("%w: the repository has no finished backup; make one with: pgsidecar backup run", ErrNoBackup)
	}
	c, err := Examine(q.Archive, q.Repository.Backups, q.Target.Timeline)
	if err != nil {
		return Plan{}, err
	}
	if err := q.inRange(c); err != nil {
		return Plan{}, err
	}
	b, err := q.choose(c)
	if err != nil {
		return Plan{}, err
	}
	if q.SystemID != "" && b.SystemID != "" && b.SystemID != q.SystemID {
		return Plan{}, fmt.Errorf("%w: backup %s is of %s, and this cluster is %s", ErrSystemID, b.Label, b.SystemID, q.SystemID)
	}
	p := Plan{Target: q.Target, Reach: q.Target.String(), Backup: b}
	i := slices.IndexFunc(c.Windows, func(w Window) bool { return w.covers(b) })
	if i < 0 {
		if q.Target.Kind != Immediate {
			return Plan{}, fmt.Errorf("%w: the log of backup %s is not all in the archive", ErrTarget, b.Label)
		}
		p.Window = Window{Label: b.Label, From: b.Stop, To: b.Stop, Start: b.StopLSN, End: b.StopLSN, Timeline: b.Timeline}
	} else {
		p.Window = c.Windows[i]
		p.warn(c)
	}
	p.measure(q)
	return p, nil
}

// warn looks for a gap after the window: to PostgreSQL it is the end of the log,
// at which it begins to serve without a word.
func (p *Plan) warn(c Continuity) {
	if p.Target.Kind != Latest && p.Target.Kind != "" {
		return
	}
	for _, g := range c.Gaps {
		if g.Start >= p.Window.End {
			p.Warning = "the recovery ends before a gap in the archive: " + g.String()
			return
		}
	}
}

// reaches reports whether the window's log goes up to a moment. Repositories tell
// in whole seconds when log arrived.
func (w Window) reaches(at time.Time) bool {
	return w.To.IsZero() || !at.Truncate(time.Second).After(w.To)
}

// covers reports whether the window's log leads on from the backup.
func (w Window) covers(b Backup) bool { return b.StopLSN >= w.Start && b.StartLSN < w.End }

// measure counts the log between the backup and the target.
func (p *Plan) measure(q Question) {
	size := q.Archive.SegmentSize
	end := p.Window.End
	switch q.Target.Kind {
	case ToLSN:
		end = min(end, q.Target.LSN)
	case Immediate:
		end = p.Backup.StopLSN
	case ToTime:
		// The first segment that arrived after the moment is the last to be read.
		for _, s := range q.Archive.Segments {
			id, err := parseSegment(s.Name, size)
			at := ha.LSN(id.number * uint64(size))
			if err == nil && at >= p.Backup.StopLSN && !s.At.IsZero() && s.At.After(q.Target.Time) {
				end = min(end, at+ha.LSN(size))
			}
		}
	}
	if from := segmentStart(p.Backup.StartLSN, size); end > from {
		p.Segments = int((int64(end-from) + size - 1) / size)
		p.LogBytes = int64(end - from)
	}
	if q.Rates.Restore > 0 && q.Rates.Replay > 0 {
		seconds := float64(p.Backup.Size)/q.Rates.Restore + float64(p.LogBytes)/q.Rates.Replay
		p.Duration = time.Duration(seconds * float64(time.Second)).Round(time.Second)
	}
}

// inRange refuses a target that lies in no window.
func (q Question) inRange(c Continuity) error {
	inside := func(has func(w Window) bool) error {
		if slices.ContainsFunc(c.Windows, has) {
			return nil
		}
		return fmt.Errorf("%w: %s; %s", ErrTarget, q.Target, offered(c))
	}
	switch q.Target.Kind {
	case ToTime:
		if q.Target.Time.After(q.Now) {
			return fmt.Errorf("%w: %s is in the future", ErrTarget, q.Target)
		}
		return inside(func(w Window) bool { return !q.Target.Time.Before(w.From) && w.reaches(q.Target.Time) })
	case ToLSN:
		return inside(func(w Window) bool { return q.Target.LSN >= w.Start && q.Target.LSN <= w.End })
	case ToName, ToXID, Latest, "":
		return inside(func(Window) bool { return true })
	}
	return nil
}

// offered says what can be restored.
func offered(c Continuity) string {
	if len(c.Windows) == 0 {
		return "no backup has its log in the archive"
	}
	var all []string
	for _, w := range c.Windows {
		to := "the end of the log"
		if !w.To.IsZero() {
			to = w.To.UTC().Format(time.RFC3339)
		}
		all = append(all, fmt.Sprintf("%s to %s (%s to %s)", w.From.UTC().Format(time.RFC3339), to, w.Start, w.End))
	}
	return "what can be restored: " + strings.Join(all, ", ")
}

// choose returns the newest backup that ends before the target, or the one that a
// person named. One that ends in the second of the target comes last: engines tell
// whole seconds, and it may end after the target.
func (q Question) choose(c Continuity) (Backup, error) {
	if q.Label != "" {
		return q.named(c)
	}
	var same *Backup
	for _, b := range slices.Backward(q.Repository.Backups) {
		if !b.Good() || b.Kind == Logical || slices.Contains(c.Aside, b.Label) || slices.Contains(c.Unusable, b.Label) || !q.before(b, c) {
			continue
		}
		if q.Target.Kind != ToTime || !b.Stop.Truncate(time.Second).Equal(q.Target.Time.Truncate(time.Second)) {
			return b, nil
		}
		if same == nil {
			same = &b
		}
	}
	if same != nil {
		return *same, nil
	}
	return Backup{}, fmt.Errorf("%w: no backup ends before %s; %s", ErrTarget, q.Target, offered(c))
}

func (q Question) named(c Continuity) (Backup, error) {
	b, found := q.Repository.Find(q.Label)
	switch {
	case !found:
		return Backup{}, fmt.Errorf("%w: %q; pgsidecar backup list shows them", ErrNoBackup, q.Label)
	case !b.Good():
		return Backup{}, fmt.Errorf("%w: backup %s is damaged or not finished", ErrNoBackup, b.Label)
	case slices.Contains(c.Aside, b.Label) || slices.Contains(c.Unusable, b.Label):
		return Backup{}, fmt.Errorf("%w: the log of backup %s does not lead to timeline %d", ErrTarget, b.Label, c.Timeline)
	case !q.before(b, c):
		return Backup{}, fmt.Errorf("%w: backup %s ends after %s, or a gap in the archive lies between", ErrTarget, b.Label, q.Target)
	}
	return b, nil
}

// before reports whether the target can be reached from the backup, as far as
// that is known: where a name or a transaction lies only PostgreSQL finds out.
func (q Question) before(b Backup, c Continuity) bool {
	i := slices.IndexFunc(c.Windows, func(w Window) bool { return w.covers(b) })
	if i < 0 {
		return q.Target.Kind == Immediate
	}
	w := c.Windows[i]
	switch q.Target.Kind {
	case ToTime:
		return !b.Stop.After(q.Target.Time) && w.reaches(q.Target.Time)
	case ToLSN:
		return b.StopLSN <= q.Target.LSN && q.Target.LSN <= w.End
	}
	return true
}
