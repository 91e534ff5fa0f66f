package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// Options say how a drill is done.
type Options struct {
	Lab *lab.Lab
	// Routes names the routes that are measured, the first being the one that
	// Summarize counts; none: all that the lab has.
	Routes    []string
	Workers   int           // connections for each route; 0: 4
	Deadline  time.Duration // for each of the fault, recovery and becoming whole; 0: two minutes, five for two sites
	Objective Objective
	// PauseOnly leaves out what weighs on a small machine: DNS is asked ten
	// times a second rather than 500 (but see DNSEvery), nobody writes to the members directly (so
	// a second primary is seen only if the routes lead there), nobody reads, and
	// the members' data is not inspected. All of it takes a core, and then
	// measures itself.
	PauseOnly bool
	// DNSEvery is how often DNS is asked (DNSPoller.Interval); 0: 2 ms, and 100 ms
	// with PauseOnly.
	DNSEvery time.Duration
	// Hold is how long a fault lasts whose scenario says how long; 0: as that says.
	Hold     time.Duration
	Progress func(string) // nil: none
}

// ErrNotPossible is returned by Run when the lab cannot play the scenario or is
// not healthy; nothing was changed.
var ErrNotPossible = errors.New("drill is not possible")

// rehearsal is a drill under way.
type rehearsal struct {
	Options
	scenario  Scenario
	cast      Cast
	report    *Report
	run       int64     // tells this drill's rows from others'
	routes    []*Writer // through the routes
	direct    []*Writer // to each member
	readers   []*Reader
	dns       *DNSPoller
	primaries *Primaries
	returned  time.Time // the old primary streamed again; zero: not seen
	log       *ackLog   // of a drill of two sites; nil: there is none
}

// Run does one drill and returns what it measured. A report that has failures
// is no error; an error says that the drill could not be done to its end, and
// then the report (if any) has what is known. The fault is undone in any case.
func Run(ctx context.Context, s Scenario, o Options) (*Report, error) {
	usual := 2 * time.Minute
	if s.Sites {
		usual = 5 * time.Minute // its members are rewound over a long way, several at once
	}
	o.Deadline = cmp.Or(o.Deadline, usual)
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if s.Hold > 0 {
		s.Hold = cmp.Or(o.Hold, s.Hold)
	}
	if err := s.Possible(o.Lab.Sites()[0].Plan()); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNotPossible, s.Name, err)
	}
	r := &rehearsal{Options: o, scenario: s, primaries: new(Primaries), run: rand.Int64(),
		report: &Report{Scenario: s.Name, Why: s.Why, Expect: s.Expect, Started: time.Now(), Objective: o.Objective.demand()}}
	err := r.prepare(ctx)
	if err == nil {
		err = r.holdBack(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNotPossible, s.Name, err)
	}
	err = r.play(ctx)
	r.stop()
	if err == nil {
		err = r.close(ctx)
	}
	if err != nil {
		return r.report, fmt.Errorf("drill %s: %w", s.Name, err)
	}
	r.report.judge(o.Objective, s.Catalog || s.Replays)
	r.remember(ctx)
	return r.report, nil
}

// Repeat does a drill several times, one after the other, and stops at the first
// that could not be done to its end.
func Repeat(ctx context.Context, s Scenario, o Options, times int) ([]*Report, error) {
	var reports []*Report
	for range times {
		report, err := Run(ctx, s, o)
		if err != nil {
			return reports, err
		}
		reports = append(reports, report)
	}
	return reports, nil
}

// prepare waits until the cluster is whole, and makes the drill's table.
func (r *rehearsal) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.Deadline)
	defer cancel()
	if err := r.mend(ctx); err != nil {
		return err
	}
	for _, m := range r.members() {
		// Nobody starts it again, so it is of no use to wait.
		if _, err := r.Lab.SiteOf(m.Name).PID(m.Name, lab.Sidecar); err != nil {
			return fmt.Errorf("the cluster is not whole: %w", err)
		}
	}
	r.Progress("waiting until the cluster is whole")
	if err := r.Lab.WaitReady(ctx); err != nil {
		return err
	}
	var err error
	if r.Lab, err = r.Lab.Leading(ctx); err != nil {
		return err
	}
	conn, err := r.primary(ctx)
	if err != nil {
		return err
	}
	defer closeNow(conn)
	if r.scenario.Sites {
		r.log = new(ackLog)
	}
	password, err := os.ReadFile(r.Lab.Plan().PasswordFile(lab.ApplicationRole))
	if err != nil {
		return fmt.Errorf("read a password: %w", err)
	}
	if err := Prepare(ctx, conn, lab.ApplicationRole, strings.TrimSpace(string(password))); err != nil {
		return err
	}
	return r.makeWriters()
}

// mend undoes what a drill that was killed has left.
func (r *rehearsal) mend(ctx context.Context) error {
	what, err := r.Lab.Broken()
	if err != nil || what == "" {
		return err
	}
	r.Progress("undoing what a drill has left that was killed: " + what)
	if err := r.Lab.Mend(ctx); err != nil {
		return err
	}
	return r.Lab.Mended()
}

// primary connects as superuser to the server that is the primary: the one that
// is not in recovery.
func (r *rehearsal) primary(ctx context.Context) (*pgx.Conn, error) {
	var errs []error
	for _, m := range r.members() {
		config, err := r.Lab.SiteOf(m.Name).ConnConfig(lab.SuperuserRole, m.Name)
		if err != nil {
			return nil, err
		}
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var standby bool
		if err = conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby); err == nil && !standby {
			return conn, nil
		}
		errs = append(errs, err)
		closeNow(conn)
	}
	return nil, fmt.Errorf("find the primary's server: %w", errors.Join(append(errs, errors.New("none is out of recovery"))...))
}

// members are those of all sites.
func (r *rehearsal) members() (all []lab.Host) {
	for _, site := range r.Lab.Sites() {
		all = append(all, site.Plan().Members()...)
	}
	return all
}

// makeWriters lays out the measuring.
func (r *rehearsal) makeWriters() error {
	plan := r.Lab.Plan()
	frontier := new(Frontier)
	name := func(address string) string {
		for _, m := range r.members() {
			if m.PostgresAddress() == address {
				return m.Name
			}
		}
		return address
	}
	add := func(route Route) *Writer {
		return &Writer{Route: route, Run: r.run, First: 100 * (len(r.routes) + len(r.direct)), Workers: cmp.Or(r.Workers, routeWorkers),
			Member: name, Primaries: r.primaries, Frontier: frontier, Traced: true, log: r.log}
	}
	routes, err := Routes(r.Lab)
	if err != nil {
		return err
	}
	if len(r.Routes) == 0 {
		r.Routes = r.usual(routes)
	}
	for _, wanted := range r.Routes {
		i := slices.IndexFunc(routes, func(route Route) bool { return route.Name == wanted })
		if i < 0 {
			return fmt.Errorf("the lab has no route %q", wanted)
		}
		r.routes = append(r.routes, add(routes[i]))
		r.readers = append(r.readers, &Reader{Route: routes[i], Run: r.run, Frontier: frontier})
	}
	replicas, err := replicaRoutes(r.Lab)
	if err != nil {
		return err
	}
	if r.scenario.Sites {
		replicas = nil // they are of one site
	}
	for _, route := range replicas {
		r.readers = append(r.readers, &Reader{Route: route, Run: r.run, Frontier: frontier})
	}
	for _, m := range r.members() {
		route, err := Direct(r.Lab.SiteOf(m.Name), m.Name)
		if err != nil {
			return err
		}
		w := add(route)
		w.Direct, w.Workers, w.Interval = true, 1, directInterval
		r.direct = append(r.direct, w)
	}
	asked := r.Lab
	if r.scenario.Sites && r.scenario.Expect == Moves {
		asked = r.Lab.Other() // whose Consul is to name the next primary
	}
	app := asked.Plan().App()
	dial, err := asked.Dialer(app.Name)
	if err != nil {
		return err
	}
	r.dns = &DNSPoller{Dial: dial, Server: app.DNSAddress(), Name: "primary." + plan.Cluster + ".service.consul.", Interval: r.DNSEvery}
	if r.PauseOnly {
		r.direct, r.readers = nil, nil
		r.dns.Interval = cmp.Or(r.DNSEvery, 100*time.Millisecond)
	}
	return nil
}

// usual are the ways that are measured if none is named: of two sites, where the drill is
// of them, those of the clients at each, first at the one that the fault leaves whole.
func (r *rehearsal) usual(routes []Route) (usual []string) {
	if !r.scenario.Sites {
		for _, route := range routes {
			if !ofSites(route.Name) {
				usual = append(usual, route.Name)
			}
		}
		return usual
	}
	near, far := r.Lab, r.Lab.Other()
	if r.scenario.Expect == Moves {
		near, far = far, near
	}
	return []string{fromSite(near), fromSite(far), byHAProxy(near), byHAProxy(far)}
}

// play is the drill: measure, break, wait, mend, wait.
func (r *rehearsal) play(ctx context.Context) error {
	if err := r.dns.Start(); err != nil {
		return err
	}
	for _, w := range slices.Concat(r.routes, r.direct) {
		w.Start()
	}
	for _, reader := range r.readers {
		reader.Start()
	}
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	before := make([]int, len(r.routes))
	for i, w := range r.routes {
		before[i] = w.Reigned()
	}
	r.Progress("injecting the fault: " + r.scenario.Why)
	if err := r.Lab.Break(r.scenario.Name); err != nil {
		return err
	}
	r.report.Machine, r.report.Fault = thisMachine(), time.Now()
	faulting, cancel := context.WithTimeout(ctx, r.Deadline)
	err := r.scenario.Fault(faulting, r.cast)
	cancel()
	r.report.FaultMs = ms(time.Since(r.report.Fault))
	if err == nil {
		r.Progress("waiting until writes go on")
		// That writes do not go on is a result, and what came after it too.
		if late := r.waitRecovered(ctx, before); late != nil && ctx.Err() == nil {
			r.report.Failures = append(r.report.Failures, fmt.Sprintf("writes did not go on: %v", late))
		}
	}
	if err == nil && r.scenario.Check != nil {
		r.Progress("looking whether the fault does what it should")
		checking, cancel := context.WithTimeout(ctx, r.Deadline)
		defer cancel()
		err = r.scenario.Check(checking, r.cast)
	}
	r.report.Recovered = time.Now()
	if r.scenario.Undo != nil {
		r.Progress("undoing the fault")
		// Also when the caller has given up: nothing stays broken.
		undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		err = errors.Join(err, r.scenario.Undo(undoing, r.cast))
	}
	err = errors.Join(err, r.Lab.Mended())
	r.report.Undone = time.Now()
	if r.scenario.Undo == nil {
		r.report.Undone = r.report.Fault // what it took comes back by itself
	}
	if err != nil {
		return err
	}
	if err := r.waitWhole(ctx); err != nil {
		r.report.Failures = append(r.report.Failures, fmt.Sprintf("the cluster did not become whole again: %v", err))
	}
	return ctx.Err()
}

// undoTimeout bounds the undoing of a fault: a member that was told to stop ends first.
const undoTimeout = time.Minute

// quietTime is how long is measured before the fault.
const quietTime = time.Second

// warmUp waits until every route takes writes, and casts the parts by who
// acknowledges them.
func (r *rehearsal) warmUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r.Progress("writing through " + strings.Join(r.Routes, ", "))
	for _, w := range r.routes {
		if err := w.WaitAcked(ctx, 100); err != nil {
			return fmt.Errorf("%w (errors: %s)", err, inWords(w.Errors()))
		}
	}
	sleep(ctx, quietTime)
	reigns := r.primaries.Reigns()
	last := reigns[len(reigns)-1]
	r.cast = Cast{Lab: r.Lab, Primary: last.Member}
	if err := r.beginSites(); err != nil {
		return err
	}
	plan := r.Lab.Plan()
	for _, m := range plan.Members() {
		if m.Name != last.Member {
			r.cast.Replicas = append(r.cast.Replicas, m.Name)
		}
	}
	if len(r.cast.Replicas) == 0 {
		return errors.New("there is no replica")
	}
	r.report.Initial = Initial{Primary: last.Member, Timeline: last.Timeline, Replicas: r.cast.Replicas,
		Mode: plan.Mode, Standbys: plan.Standbys, Isolated: plan.Isolated}
	return nil
}

// moveTimeout is how long a drill waits for another primary: longer than the
// last resort takes, a session's end (two times its TTL of 10 s).
const moveTimeout = 40 * time.Second

// waitRecovered waits until writes go on through every route: with a new
// primary if one is expected. All routes wait for that one together: had each a time of its
// own, the last ones would have none left to write in, and be blamed.
func (r *rehearsal) waitRecovered(ctx context.Context, before []int) error {
	sleep(ctx, r.scenario.Hold)
	ctx, cancel := context.WithTimeout(ctx, r.Deadline)
	defer cancel()
	moving, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	for i, w := range r.routes {
		if r.scenario.NoDNS && w.Route.Name == "dns" || r.unheard(w.Route.Name) {
			continue
		}
		if r.scenario.Expect == Moves {
			_ = w.WaitChange(moving, before[i]) // if nothing moves, but writes go on, the report says so
		}
		if err := w.WaitAcked(ctx, 100); err != nil {
			return fmt.Errorf("%w (errors: %s)", err, inWords(w.Errors()))
		}
	}
	return nil
}

func (r *rehearsal) waitWhole(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.Deadline)
	defer cancel()
	r.Progress("waiting until the cluster is whole again")
	r.waitReturned(ctx)
	if err := r.Lab.WaitReady(ctx); err != nil {
		return err
	}
	r.report.Whole = time.Now()
	for _, w := range r.routes {
		if err := w.WaitAcked(ctx, 50); err != nil {
			return err
		}
	}
	return nil
}

// waitReturned waits until the old primary, if it was replaced, streams from the
// new one, and notes when. What is wrong with that, waiting for the whole cluster
// finds out.
func (r *rehearsal) waitReturned(ctx context.Context) {
	reigns := r.primaries.Reigns()
	old, now := r.cast.Primary, reigns[len(reigns)-1].Member
	if r.scenario.Sites {
		r.waitSiteReturned(ctx, now)
		return
	}
	if now == old {
		return
	}
	config, err := r.Lab.ConnConfig(lab.SuperuserRole, now)
	if err != nil {
		return
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return
	}
	defer closeNow(conn)
	ctx, cancel := context.WithTimeout(ctx, r.Deadline/2)
	defer cancel()
	for {
		var streams bool
		err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming')", old).Scan(&streams)
		if err != nil {
			return
		}
		if streams {
			r.returned = time.Now()
			return
		}
		sleep(ctx, 50*time.Millisecond)
	}
}

// stop ends the measuring. Writers that were not started have nothing to stop.
func (r *rehearsal) stop() {
	for _, w := range slices.Concat(r.routes, r.direct) {
		if w.cancel != nil {
			w.Stop()
		}
	}
	for _, reader := range r.readers {
		if reader.cancel != nil {
			reader.Stop()
		}
	}
	if r.dns.cancel != nil {
		r.dns.Stop()
	}
}
