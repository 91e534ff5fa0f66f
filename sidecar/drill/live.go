package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
)

// Live is a drill of a cluster that is no lab, done through what it offers to
// operators and applications. Its functions are called one after the other.
type Live struct {
	Scenario, Why string
	// Route leads an application to the primary; without one nothing is written,
	// and the members' account is all that is known of the pause.
	Route   *Route
	Workers int // connections that write; 0: 4
	// Member names the server at an address (host:port); nil: the address.
	Member func(address string) string
	// Check returns the state of the cluster, or why it would not survive the
	// drill. It is called before, and then until the cluster is whole again.
	Check func(ctx context.Context) (Initial, error)
	// Inject injects the fault, and returns when it is there.
	Inject func(ctx context.Context, before Initial) error
	// Account returns the account of the newest term; nil: there is none.
	Account   func(ctx context.Context) (*failover.Record, error)
	Objective Objective
	Deadline  time.Duration // for each of recovery and becoming whole; 0: two minutes
	Progress  func(string)
}

// Application returns the way that an application takes with a connection
// string, as libpq reads it. Nothing is connected.
func Application(connection string) (*Route, error) {
	config, err := pgx.ParseConfig(connection)
	if err != nil {
		return nil, fmt.Errorf("read connection string: %w", err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // for pools in transaction mode
	return &Route{Name: "application", Connect: func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.ConnectConfig(ctx, config.Copy())
	}}, nil
}

// liveComment marks the table that a drill of a live cluster has made, and that
// it may remove.
const liveComment = "made by pgsidecar drill live, and removed by it"

// checkInterval is how often a live cluster is asked whether it is whole.
const checkInterval = 500 * time.Millisecond

// Run does the drill. It returns ErrNotPossible, and nothing was changed, if
// the cluster is not healthy enough or the route cannot be measured.
func (l Live) Run(ctx context.Context) (*Report, error) {
	l.Deadline = cmp.Or(l.Deadline, 2*time.Minute)
	before, err := l.Check(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotPossible, err)
	}
	r := &rehearsal{run: rand.Int64(), primaries: new(Primaries), report: &Report{Scenario: l.Scenario, Why: l.Why, Expect: Moves,
		Started: time.Now(), Objective: l.Objective.demand(), Initial: before, Primary: before.Primary}}
	if l.Route != nil {
		if err := l.prepare(ctx, r); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotPossible, err)
		}
	}
	err = l.play(ctx, r)
	for _, w := range r.routes {
		w.Stop()
	}
	for _, reader := range r.readers {
		reader.Stop()
	}
	if err == nil {
		err = l.close(ctx, r)
	}
	if err != nil {
		return r.report, fmt.Errorf("drill %s: %w", l.Scenario, err)
	}
	r.report.judge(l.Objective, false)
	return r.report, nil
}

// prepare makes the drill's table through the route, and begins to write.
func (l Live) prepare(ctx context.Context, r *rehearsal) error {
	err := l.connected(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var role string
		var foreign bool
		err := conn.QueryRow(ctx, `SELECT current_user, to_regclass('drill.writes') IS NOT NULL
			AND obj_description(to_regclass('drill.writes'), 'pg_class') IS DISTINCT FROM $1`, liveComment).Scan(&role, &foreign)
		if err != nil {
			return fmt.Errorf("look for the drill's table: %w", err)
		}
		if foreign {
			return errors.New("there is a table drill.writes that no drill of a live cluster has made; it is left alone")
		}
		create := fmt.Sprintf(schema, pgx.Identifier{role}.Sanitize()) + "\nCOMMENT ON TABLE drill.writes IS '" + liveComment + "';"
		if _, err := conn.Exec(ctx, create, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("make the table drill.writes (the role must be allowed to create a schema): %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	frontier := new(Frontier)
	w := &Writer{Route: *l.Route, Run: r.run, Workers: l.Workers, Member: l.Member, Primaries: r.primaries, Frontier: frontier, Traced: true, Interval: time.Millisecond}
	r.routes, r.readers = []*Writer{w}, []*Reader{{Route: *l.Route, Run: r.run, Frontier: frontier}}
	w.Start()
	r.readers[0].Start()
	return nil
}

// connected calls f with a connection of the route's.
func (l Live) connected(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, l.Deadline)
	defer cancel()
	conn, err := l.Route.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connect by the application's way: %w", err)
	}
	defer closeNow(conn)
	return f(ctx, conn)
}

// play breaks, and waits until the cluster is whole again.
func (l Live) play(ctx context.Context, r *rehearsal) error {
	ctx, cancel := context.WithTimeout(ctx, 2*l.Deadline)
	defer cancel()
	p := r.report
	before := 0
	for _, w := range r.routes {
		if err := w.WaitAcked(ctx, 100); err != nil {
			return fmt.Errorf("%w (errors: %s)", err, inWords(w.Errors()))
		}
		sleep(ctx, quietTime)
		before = w.Reigned()
	}
	l.Progress("injecting the fault: " + l.Why)
	p.Machine, p.Fault = thisMachine(), time.Now()
	if err := l.Inject(ctx, p.Initial); err != nil {
		return err
	}
	p.FaultMs = ms(time.Since(p.Fault))
	p.Undone = p.Fault
	if len(r.routes) > 0 {
		l.Progress("waiting until writes go on")
		moving, cancel := context.WithTimeout(ctx, moveTimeout)
		_ = r.routes[0].WaitChange(moving, before) // if nothing moves, the report says so
		cancel()
		if err := r.routes[0].WaitAcked(ctx, 100); err != nil {
			p.Failures = append(p.Failures, fmt.Sprintf("writes did not go on: %v", err))
		}
	}
	p.Recovered = time.Now()
	l.Progress("waiting until the cluster is whole again")
	return l.waitWhole(ctx, p)
}

func (l Live) waitWhole(ctx context.Context, p *Report) error {
	tick := time.NewTicker(checkInterval) // members tell an operator nothing by themselves
	defer tick.Stop()
	for {
		after, err := l.Check(ctx)
		if err == nil && (after.Primary != p.Initial.Primary || after.Timeline != p.Initial.Timeline || time.Since(p.Fault) > moveTimeout) {
			p.Whole, p.Primary = time.Now(), after.Primary
			p.Moved = after.Primary != p.Initial.Primary || after.Timeline != p.Initial.Timeline
			return nil
		}
		select {
		case <-ctx.Done():
			p.Failures = append(p.Failures, fmt.Sprintf("the cluster did not become whole again: %v", errors.Join(err, ctx.Err())))
			return nil
		case <-tick.C:
		}
	}
}

// accountTimeout is how long a new leader's account may take to be told by the
// members' APIs.
const accountTimeout = 10 * time.Second

// waitAccount waits for the account of the term that has begun since the fault.
// That there is none is no error.
func (l Live) waitAccount(ctx context.Context, p *Report) error {
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	for p.Moved {
		a, err := l.Account(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case a != nil && a.Announced.After(p.Fault):
			p.Account = a
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// close reads the rows back and fills in the report.
func (l Live) close(ctx context.Context, r *rehearsal) error {
	p := r.report
	if err := l.waitAccount(ctx, p); err != nil {
		return err
	}
	if len(r.routes) > 0 {
		err := l.connected(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
			if p.Rows, err = Verify(ctx, conn, r.routes...); err != nil {
				return err
			}
			// The last step: a schema that was there before is not empty.
			if _, err := conn.Exec(ctx, "DROP TABLE drill.writes"); err != nil {
				return fmt.Errorf("remove the drill's table: %w", err)
			}
			_, _ = conn.Exec(ctx, "DROP SCHEMA drill RESTRICT") // refused if something of someone else's is in it
			return nil
		})
		if err != nil {
			return err
		}
	}
	r.reportRoutes()
	p.Reigns, p.Overlaps = r.primaries.Reigns(), r.primaries.Overlaps()
	switch {
	case len(r.routes) > 0:
	case p.Account != nil:
		p.RTOMs = ms(p.Account.Writable.Sub(p.Fault)) // nobody wrote: from the fault to the first write that is possible
	case p.Moved:
		p.Failures = append(p.Failures, "how long writes paused is not known: nobody wrote, and the new primary has left no account")
	}
	p.Stopped = p.stopped()
	last := Reign{}
	if n := len(p.Reigns); n > 0 {
		last = p.Reigns[n-1]
	}
	p.Phases = r.phases(last)
	if !p.Whole.IsZero() && p.Primary != p.Initial.Primary {
		p.Returned = &Return{Member: p.Initial.Primary, AfterMs: ms(p.Whole.Sub(p.Fault)), WholeMs: ms(p.Whole.Sub(p.Fault))}
	}
	return nil
}
