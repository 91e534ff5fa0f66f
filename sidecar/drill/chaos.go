package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// ChaosOptions say how a run of random faults is done.
type ChaosOptions struct {
	Lab *lab.Lab
	// Seed determines which faults are injected, in which order and how long
	// they last; not what they meet.
	Seed     uint64
	Time     time.Duration // no fault begins after it; 0: a minute
	Faults   int           // no more than these; 0: as many as there is time for
	Deadline time.Duration // for becoming whole after a fault; 0: two minutes
	Without  []string      // scenarios that are left out
	// Acts: what operators do, in the scenarios' place; nothing but what a status names
	// is done for the cluster to be healthy again.
	Acts     bool
	Progress func(string) // nil: none
}

// Chaos injects one random fault after the other, and now and then two at once,
// while writers go on through HAProxy and on every member's own host, and others
// read, and overwrite registers. After each
// it waits until the cluster is whole, and reads back every row that was
// acknowledged since the beginning. It ends at the first fault after which the
// cluster is not as it should be, with all faults undone, so that it can be
// looked at. A report that has failures is no error.
func Chaos(ctx context.Context, o ChaosOptions) (*ChaosReport, error) {
	o.Time, o.Deadline = cmp.Or(o.Time, time.Minute), cmp.Or(o.Deadline, 2*time.Minute)
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	plan := o.Lab.Plan()
	r := &rehearsal{primaries: new(Primaries), run: rand.Int64(), report: new(Report),
		Options: Options{Lab: o.Lab, Routes: []string{"haproxy"}, Deadline: o.Deadline, Progress: func(string) {}}}
	if err := r.prepare(ctx); err != nil {
		return nil, fmt.Errorf("chaos: %w", err)
	}
	if err := r.holdBack(ctx); err != nil {
		return nil, fmt.Errorf("chaos: %w", err)
	}
	for _, reader := range r.readers {
		reader.Interval = 50 * time.Millisecond
	}
	for _, w := range r.routes {
		w.Interval, w.Traced = 10*time.Millisecond, false // hours of rows are read back
	}
	for _, w := range r.direct {
		w.Interval, w.Traced = 20*time.Millisecond, false
	}
	r.dns.Interval = 20 * time.Millisecond
	report := &ChaosReport{Seed: o.Seed, Mode: plan.Mode, Members: len(plan.Members()), Servers: len(plan.Servers()), Started: time.Now()}
	if err := r.begin(ctx); err != nil {
		r.stop()
		return nil, fmt.Errorf("chaos: %w", err)
	}
	registers := &Registers{Route: r.routes[0].Route, Run: r.run, Interval: 20 * time.Millisecond}
	registers.Start()
	c := newChaos(o, r, report)
	err := c.run(ctx)
	registers.Stop()
	r.stop()
	report.Seconds, report.Operations = time.Since(report.Started).Seconds(), registers.Operations()
	report.Registers = Count(report.Operations)
	for _, reader := range r.readers {
		report.Reads = append(report.Reads, reader.Report(report.Started))
	}
	if err == nil && ctx.Err() == nil && len(report.Failures) == 0 {
		err = c.verifyAll(ctx)
	}
	report.Overlaps, report.Doubles = r.primaries.Overlaps(), len(report.doubles(r.dns.Answers()))
	report.judge()
	return report, err
}

// chaos is such a run.
type chaos struct {
	ChaosOptions
	rehearsal *rehearsal
	report    *ChaosReport
	draw      *rand.Rand
	// possible makes those to draw from, anew for each draw: what a scenario remembers of
	// its fault, to undo it, is of that fault alone, also where two of a pair are the same.
	possible func() []Scenario
}

func newChaos(o ChaosOptions, r *rehearsal, report *ChaosReport) *chaos {
	c := &chaos{ChaosOptions: o, rehearsal: r, report: report, draw: rand.New(rand.NewPCG(o.Seed, 0))}
	all := Scenarios
	if o.Acts {
		all = (&operator{c.draw}).acts
	}
	plan := o.Lab.Plan()
	c.possible = func() []Scenario {
		return slices.DeleteFunc(all(), func(s Scenario) bool {
			// What DNS said is judged for the whole run, and so cannot allow for one fault.
			return s.Possible(plan) != nil || s.Catalog || slices.Contains(o.Without, s.Name)
		})
	}
	return c
}

// begin starts the measuring, and waits until every route takes writes.
func (r *rehearsal) begin(ctx context.Context) error {
	if err := r.dns.Start(); err != nil {
		return err
	}
	for _, w := range slices.Concat(r.routes, r.direct) {
		w.Start()
	}
	for _, reader := range r.readers {
		reader.Start()
	}
	return r.warmUp(ctx)
}

// run injects faults until the time is over.
func (c *chaos) run(ctx context.Context) error {
	end := c.report.Started.Add(c.Time)
	for n := 1; time.Now().Before(end) && ctx.Err() == nil && (c.Faults == 0 || n <= c.Faults); n++ {
		faults := c.pick()
		fault := ChaosFault{Number: n}
		for _, f := range faults {
			fault.Scenarios = append(fault.Scenarios, f.scenario.Name)
		}
		c.Progress(fmt.Sprintf("%d: %s", n, fault.name()))
		err := c.play(ctx, &fault, faults)
		c.report.Faults = append(c.report.Faults, fault)
		if ctx.Err() != nil {
			return nil // asked to end; what was injected is undone
		}
		if err != nil {
			c.report.Failures = append(c.report.Failures, fmt.Sprintf("fault %d (%s), %s: %v", n, fault.name(), time.Now().UTC().Format(time.RFC3339), err))
			return nil
		}
	}
	return nil
}

// picked is a fault and how long it lasts.
type picked struct {
	scenario Scenario
	hold     time.Duration
	swap     bool  // the other replica plays the first one's part
	order    []int // of the replicas, of acts
	cast     Cast  // who played which part
}

// alone are scenarios that are no part of a pair: their undoing waits for what
// another fault may make impossible.
var alone = []string{"terminated", "switchover", "archive-blocked", "disk-full", "disk-full-standby", "wal-damaged", "failover-disturbed", "consul-away", "consul-frozen", "token-revoked",
	"replica-promoted", "replica-written", "primary-restarted", "replica-restarted", "disk-hung", "disk-replaced", "port-cut",
	"keys-deleted", "record-deleted", "lock-deleted"}

// pick draws the next fault, or pair of faults.
func (c *chaos) pick() []picked {
	one := func() picked {
		possible := c.possible()
		p := picked{scenario: possible[c.draw.IntN(len(possible))], swap: c.draw.IntN(2) == 1}
		// Some faults end before they are noticed, some after; long ones are cut short.
		p.hold = time.Duration(c.draw.Int64N(int64(6 * time.Second)))
		if c.Acts {
			p.order = c.draw.Perm(len(c.Lab.Plan().Members()) - 1)
		}
		return p
	}
	first, second, pair := one(), one(), c.draw.IntN(4) == 0
	if first.scenario.Name == "member-removed" && second.scenario.Name == first.scenario.Name {
		pair = false // the second is the last that may hold a commit, and cannot be removed
	}
	if pair && !slices.Contains(alone, first.scenario.Name) && !slices.Contains(alone, second.scenario.Name) {
		return inOrder(first, second)
	}
	return []picked{first}
}

// inOrder has a pause of the whole cluster come second of two, so that it ends first: what
// undoes the other may need a primary, which nobody starts in a pause.
func inOrder(first, second picked) []picked {
	if first.scenario.Name == "pause" {
		first, second = second, first
	}
	return []picked{first, second}
}

// play injects the faults, undoes them, waits until the cluster is whole, and
// reads the rows back.
func (c *chaos) play(ctx context.Context, fault *ChaosFault, faults []picked) error {
	r := c.rehearsal
	begun := time.Now()
	before := r.primaries.newest()
	if err := c.Lab.Break(fault.name()); err != nil {
		return err
	}
	var injected []picked
	var err error
	for i, p := range faults {
		p.cast = c.cast(before.Member, p)
		injected = append(injected, p)
		faulting, cancel := context.WithTimeout(ctx, c.Deadline)
		err = p.scenario.Fault(faulting, p.cast)
		cancel()
		if i > 0 && (errors.Is(err, lab.ErrNotRunning) || c.Acts && ctx.Err() == nil) {
			err = nil // the first one has taken it already, or stands in its way
		}
		if err != nil {
			err = fmt.Errorf("inject %s: %w", p.scenario.Name, err)
			break
		}
		sleep(ctx, p.hold)
	}
	fault.FaultMs = ms(time.Since(begun))
	if err = errors.Join(c.setRight(ctx, injected, err), c.Lab.Mended()); err != nil {
		return err
	}
	undone := time.Now()
	for {
		err = c.healthy(ctx, fault)
		if slices.ContainsFunc(faults, func(p picked) bool { return p.scenario.Replays }) {
			c.report.replays = append(c.report.replays, period{begun, time.Now()})
		}
		fault.WholeMs = ms(time.Since(undone))
		fault.PauseMs = ms(r.routes[0].Longest(begun, time.Time{}).Length())
		after := r.primaries.newest()
		fault.Moved = after.Member != before.Member || after.Timeline != before.Timeline
		if err == nil {
			err = c.report.verify(ctx, r)
		}
		// What was undone at the last moment may still have its consequence, such
		// as a lease that ends just now, after the cluster was seen whole.
		if !errors.Is(err, errUnread) || time.Since(undone) > c.Deadline {
			return err
		}
	}
}

// verifyAll reads back all rows, when nobody writes any more. As after each fault, what was undone
// at the last moment may still have its consequence: then it waits for the next primary.
func (c *chaos) verifyAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Deadline)
	defer cancel()
	for {
		err := c.report.verify(ctx, c.rehearsal)
		if !errors.Is(err, errUnread) || ctx.Err() != nil {
			return err
		}
		if late := c.Lab.WaitReady(ctx); late != nil {
			return fmt.Errorf("%w; the cluster did not become whole again: %w", err, late)
		}
	}
}

// setRight looks whether what was injected is found, unless that has failed, and undoes all
// of it. Of two acts one may have taken away who is to say what the other has broken: what
// nobody looks for is undone first.
func (c *chaos) setRight(ctx context.Context, injected []picked, err error) error {
	looked := func(p picked) bool { return !c.Acts || p.scenario.Check != nil }
	err = errors.Join(err, c.undo(ctx, injected, func(p picked) bool { return !looked(p) }))
	if err == nil {
		err = c.found(ctx, injected)
	}
	return errors.Join(err, c.undo(ctx, injected, looked))
}

// found waits until the cluster has found what nobody undoes: before, it may look
// whole.
func (c *chaos) found(ctx context.Context, faults []picked) error {
	ctx, cancel := context.WithTimeout(ctx, c.Deadline)
	defer cancel()
	for _, p := range faults {
		if p.scenario.Check == nil || p.scenario.Undo != nil && !c.Acts {
			continue
		}
		if err := p.scenario.Check(ctx, p.cast); err != nil {
			return fmt.Errorf("%s was not found: %w", p.scenario.Name, err)
		}
	}
	return nil
}

// cast gives the parts for one fault.
func (c *chaos) cast(primary string, p picked) Cast {
	cast := Cast{Lab: c.Lab, Primary: primary}
	for _, m := range c.Lab.Plan().Members() {
		if m.Name != primary {
			cast.Replicas = append(cast.Replicas, m.Name)
		}
	}
	if p.swap {
		slices.Reverse(cast.Replicas)
	}
	if p.order != nil {
		drawn := slices.Clone(cast.Replicas)
		for i, at := range p.order {
			cast.Replicas[i] = drawn[at]
		}
	}
	return cast
}

// undo undoes those of the faults, the last one first, also when the caller has given up.
func (c *chaos) undo(ctx context.Context, faults []picked, those func(picked) bool) (err error) {
	for _, p := range slices.Backward(faults) {
		if p.scenario.Undo == nil || !those(p) {
			continue
		}
		undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		failed := p.scenario.Undo(undoing, p.cast)
		cancel()
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("undo %s: %w", p.scenario.Name, failed))
		}
	}
	return err
}

// whole waits until the cluster is as before, and takes writes.
func (c *chaos) whole(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Deadline)
	defer cancel()
	if err := c.Lab.WaitReady(ctx); err != nil {
		return fmt.Errorf("the cluster did not become whole again: %w", err)
	}
	for _, w := range c.rehearsal.routes {
		if err := w.WaitAcked(ctx, 20); err != nil {
			return fmt.Errorf("the cluster is whole, but takes no writes: %w", err)
		}
	}
	return nil
}

// healthy waits until the cluster is whole, and every member says so.
func (c *chaos) healthy(ctx context.Context, fault *ChaosFault) error {
	if !c.Acts {
		return c.whole(ctx)
	}
	o := &obeying{chaos: c, at: map[string]time.Time{}}
	obeying, cancel := context.WithTimeout(ctx, c.Deadline)
	defer cancel()
	err := o.obey(obeying)
	fault.Typed = append(fault.Typed, o.typed...)
	if err != nil {
		return err
	}
	return c.whole(ctx)
}

// newest returns the reign that began last.
func (p *Primaries) newest() Reign {
	reigns := p.Reigns()
	return reigns[len(reigns)-1]
}
