package hooks

import (
	"context"
	"reflect"
	"slices"
	"sync"
)

// lineLength is how many events wait for one target at most. A failover makes about
// five; so this is an hour of trouble for a receiver that is away.
const lineLength = 64

// line is what waits for one target.
type line struct {
	name string
	on   []Kind
	// newestRole: of roles only the newest is told; a later one ends the command of an
	// earlier.
	newestRole bool
	target     deliverer
	wake       chan struct{} // capacity 1

	mu      sync.Mutex // guards what follows
	waiting []*Event
	closed  bool
	overrun context.CancelCauseFunc // ends what runs, if that is for a role; else nil
}

// same reports whether two lines have the same target.
func (l *line) same(other *line) bool {
	switch mine := l.target.(type) {
	case *commandTarget:
		theirs, ok := other.target.(*commandTarget)
		return ok && reflect.DeepEqual(mine.hook, theirs.hook)
	case *noticeTarget:
		theirs, ok := other.target.(*noticeTarget)
		return ok && reflect.DeepEqual(mine.notice, theirs.notice)
	}
	return false
}

// push adds an event, if the target wants it. It returns the kind of an event that had
// to be dropped for it.
func (l *line) push(e *Event) (dropped Kind) {
	if e.Kind.Waits() || !slices.Contains(l.on, e.Kind) && !(l.newestRole && e.Kind.role()) {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ""
	}
	if l.newestRole && e.Kind.role() {
		l.waiting = slices.DeleteFunc(l.waiting, func(w *Event) bool { return w.Kind.role() })
		if l.overrun != nil {
			l.overrun(ErrOvertaken)
		}
		if !slices.Contains(l.on, e.Kind) {
			return "" // it only ends the one before
		}
	}
	l.waiting = append(l.waiting, e)
	if len(l.waiting) > lineLength {
		dropped = l.waiting[0].Kind
		l.waiting = slices.Delete(l.waiting, 0, 1)
	}
	l.nudge()
	return dropped
}

// close lets the goroutine end when nothing waits any more.
func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.nudge()
}

func (l *line) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// next waits for an event. The context is the one to tell it under; done ends it. It
// returns nil when there will be none.
func (l *line) next(life context.Context) (e *Event, ctx context.Context, done func()) {
	for {
		l.mu.Lock()
		if life.Err() == nil && len(l.waiting) > 0 {
			e = l.waiting[0]
			l.waiting = slices.Delete(l.waiting, 0, 1)
			ctx, cancel := context.WithCancelCause(life)
			if l.newestRole && e.Kind.role() {
				l.overrun = cancel
			}
			l.mu.Unlock()
			return e, ctx, func() {
				l.mu.Lock()
				l.overrun = nil
				l.mu.Unlock()
				cancel(nil)
			}
		}
		over := l.closed || life.Err() != nil
		l.mu.Unlock()
		if over {
			return nil, nil, nil
		}
		select {
		case <-life.Done():
		case <-l.wake:
		}
	}
}
