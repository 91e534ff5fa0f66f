package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// TestPreparedStatements: clients of PgBouncer in transaction mode that have prepared their
// statements go on with them on the next primary, after a planned switchover and after a
// crash: none is told that its statement is not known there, or known already. Who waits
// for nothing in that moment sees no error at all. Needs PgBouncer 1.21 or later (make
// matrix MATRIX=trixie:cmd/pgsidecar MATRIXRUN=TestPreparedStatements).
func TestPreparedStatements(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	if !programs.PgBouncerPrepares(labtest.Program(t, programs.PgBouncer)) {
		t.Skip("this PgBouncer keeps no prepared statements: needs 1.21")
	}
	l := newSwitchLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var idle, busy []*preparing
	for i := range 8 {
		idle, busy = append(idle, l.preparing(ctx, i)), append(busy, l.preparing(ctx, i))
	}
	var working sync.WaitGroup
	stop, end := context.WithCancel(ctx)
	for _, p := range busy {
		working.Go(func() { p.work(stop) })
	}
	for _, change := range []struct {
		name string
		make func() error
	}{
		{"switchover", l.switchover},
		{"crash", func() error { return l.crash(ctx) }},
		{"switchover after it", l.switchover},
	} {
		l.must(change.make())
		for i, p := range idle {
			if err := p.ask(ctx); err != nil {
				t.Errorf("after the %s idle client %d: %v", change.name, i, err)
			}
		}
	}
	end()
	working.Wait()
	done, wrong := 0, 0
	for _, p := range busy {
		done += p.done
		for _, err := range p.failed {
			var refused *pgconn.PgError
			if errors.As(err, &refused) && (refused.Code == "26000" || refused.Code == "42P05") {
				wrong++
				t.Errorf("a busy client: %v", err)
			}
		}
	}
	t.Logf("%d statements, %d wrong", done, wrong)
	if done < 1000 {
		t.Errorf("only %d statements were executed", done)
	}
	if t.Failed() {
		l.showLogs()
	}
}

// crash kills the primary's server, and returns when another leads and all is whole.
func (l *switchLab) crash(ctx context.Context) error {
	record, err := l.Record(ctx)
	if err != nil {
		return err
	}
	if err := l.Kill(record.Leader, lab.Postgres); err != nil {
		return err
	}
	return l.WaitReady(ctx)
}

// preparing is a client with prepared statements.
type preparing struct {
	l      *switchLab
	number int
	conn   *pgx.Conn
	done   int
	failed []error
}

func (l *switchLab) preparing(ctx context.Context, number int) *preparing {
	l.t.Helper()
	p := &preparing{l: l, number: number}
	l.must(p.connect(ctx))
	l.must(p.ask(ctx))
	return p
}

func (p *preparing) connect(ctx context.Context) error {
	config, err := p.l.ConnConfig(lab.ApplicationRole, p.l.Plan().Members()[0].Name)
	if err != nil {
		return err
	}
	app := p.l.Plan().App()
	config.Host, config.Port = app.Address, uint16(app.Ports.Pool)
	config.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement // prepared by name, once for each connection
	p.conn, err = pgx.ConnectConfig(ctx, config)
	if err == nil {
		p.l.t.Cleanup(func() { p.conn.Close(context.Background()) }) //nolint:errcheck // it may be closed
	}
	return err
}

// ask executes one of two statements that it has prepared before.
func (p *preparing) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, statement := range []string{"select $1::int + 1", "select $1::int + 1 + count(*)::int * 0 from pgbench_branches"} {
		var sum int
		if err := p.conn.QueryRow(ctx, statement, p.number).Scan(&sum); err != nil {
			return err
		}
		if sum != p.number+1 {
			return fmt.Errorf("%s is %d", statement, sum)
		}
	}
	p.done++
	return nil
}

// work asks again and again, with another connection after an error.
func (p *preparing) work(ctx context.Context) {
	for ctx.Err() == nil {
		err := p.ask(ctx)
		for err != nil && ctx.Err() == nil {
			p.failed = append(p.failed, err)
			p.conn.Close(ctx) //nolint:errcheck // it is given up
			if err = p.connect(ctx); err != nil {
				continue
			}
		}
	}
}
