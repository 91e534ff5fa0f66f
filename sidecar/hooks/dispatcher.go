package hooks

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Recorder counts what came of a target. It returns at once.
type Recorder interface {
	// Hook is one command that ended, or one notice that was sent or given up.
	Hook(name string, took time.Duration, err error)
}

// Options are what a Dispatcher is made of.
type Options struct {
	Cluster, Member string
	Recorder        Recorder
	Logger          hclog.Logger
}

// Dispatcher tells all targets what happens. Its methods may be called from any
// goroutine.
type Dispatcher struct {
	opts   Options
	client *http.Client
	pause  time.Duration // after a notice's first failed attempt

	life context.Context //nolint:containedctx // of all targets' goroutines
	end  context.CancelFunc
	all  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	lines  []*line
	waited []*commandTarget // those that an operation waits for
}

// New returns one that has no targets yet.
func New(o Options) *Dispatcher {
	d := &Dispatcher{opts: o, client: newClient(), pause: time.Second}
	d.life, d.end = context.WithCancel(context.Background())
	return d
}

// Set makes these the targets. One that is as it was keeps its line; one that is gone
// tells what waits in it, and ends. It returns ErrUser, and then changes nothing.
func (d *Dispatcher) Set(hooks []Hook, notices []Notice) error {
	var waited []*commandTarget
	var next []*line
	for _, h := range hooks {
		as, err := credential(h.User)
		if err != nil {
			return fmt.Errorf("hook %s: %w", h.Name, err)
		}
		target := &commandTarget{hook: h, as: as}
		if slices.ContainsFunc(h.On, Kind.Waits) {
			waited = append(waited, target)
		}
		if slices.ContainsFunc(h.On, func(k Kind) bool { return !k.Waits() }) {
			next = append(next, &line{name: h.Name, on: h.On, newestRole: true, target: target})
		}
	}
	for _, n := range notices {
		next = append(next, &line{name: n.Name, on: n.On, target: &noticeTarget{notice: n, client: d.client, pause: d.pause}})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.lines
	for i, l := range next {
		if at := slices.IndexFunc(before, l.same); at >= 0 {
			next[i] = before[at]
			before = slices.Delete(slices.Clone(before), at, at+1)
			continue
		}
		l.wake = make(chan struct{}, 1)
		d.all.Go(func() { d.serve(l) })
	}
	for _, l := range before {
		l.close()
	}
	d.lines, d.waited = next, waited
	return nil
}

// Tell tells every target that wants it. It returns at once.
func (d *Dispatcher) Tell(e Event) {
	d.complete(&e)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lines {
		if dropped := l.push(&e); dropped != "" {
			d.opts.Logger.Warn("an event was dropped, as too many wait", "target", l.name, "event", dropped)
		}
	}
}

// Before runs the hooks that this operation waits for, one after the other. It returns
// ErrAborted if one that may forbid the operation failed.
func (d *Dispatcher) Before(ctx context.Context, e Event) error {
	d.mu.Lock()
	waited := slices.Clone(d.waited)
	d.mu.Unlock()
	d.complete(&e)
	for _, c := range waited {
		if !slices.Contains(c.hook.On, e.Kind) {
			continue
		}
		begun := time.Now()
		err := c.deliver(ctx, &e)
		d.note(c.hook.Name, &e, begun, err)
		if err != nil && c.hook.Abort && e.Kind == BeforePromote {
			return fmt.Errorf("%w: hook %s: %w", ErrAborted, c.hook.Name, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// Close tells what still waits, until ctx is done; then it ends all that runs. It
// returns when every goroutine has ended.
func (d *Dispatcher) Close(ctx context.Context) {
	d.mu.Lock()
	for _, l := range d.lines {
		l.close()
	}
	d.lines, d.waited = nil, nil
	d.mu.Unlock()
	stop := context.AfterFunc(ctx, d.end)
	defer stop()
	d.all.Wait()
	d.end()
}

// complete fills in what the teller need not know.
func (d *Dispatcher) complete(e *Event) {
	e.ID, e.Cluster, e.Member = rand.Text(), d.opts.Cluster, d.opts.Member
	if e.At.IsZero() {
		e.At = time.Now()
	}
}

// serve is the goroutine of one target.
func (d *Dispatcher) serve(l *line) {
	for {
		e, ctx, done := l.next(d.life)
		if e == nil {
			return
		}
		begun := time.Now()
		err := l.target.deliver(ctx, e)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		done()
		d.note(l.name, e, begun, err)
	}
}

// note logs and counts what came of one event.
func (d *Dispatcher) note(name string, e *Event, begun time.Time, err error) {
	took := time.Since(begun)
	if d.opts.Recorder != nil {
		d.opts.Recorder.Hook(name, took, err)
	}
	switch {
	case err == nil:
		d.opts.Logger.Info("told of an event", "target", name, "event", e.Kind, "took", took)
	case errors.Is(err, ErrOvertaken):
		d.opts.Logger.Info("a command was ended by a newer role", "target", name, "event", e.Kind, "took", took)
	default:
		d.opts.Logger.Error("cannot tell of an event", "target", name, "event", e.Kind, "took", took, "error", err)
	}
}

// deliverer tells one target of one event.
type deliverer interface {
	deliver(ctx context.Context, e *Event) error
}
