package checks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// drainTick is how often open transactions are looked for: PostgreSQL gives no
// event for their end.
const drainTick = 5 * time.Millisecond

// drainTimeout bounds each drain, whatever its context allows: clients wait.
const drainTimeout = time.Second

// ofClients are the open transactions in pg_stat_activity that are not pgsidecar's.
const ofClients = `backend_type = 'client backend' and pid <> pg_backend_pid() and xact_start is not null
  and application_name not in ('pgsidecar', 'pgsidecar work')`

// openTransactions counts clients' transactions that began before a time, and
// names the oldest.
const openTransactions = `
select clock_timestamp() < $1::timestamptz, count(*) over (), pid, coalesce(usename, ''), application_name, state,
  extract(epoch from clock_timestamp() - xact_start)::float8
from pg_stat_activity
where ` + ofClients + ` and xact_start < $1::timestamptz
union all select clock_timestamp() < $1::timestamptz, 0, 0, '', '', '', 0
order by 7 desc limit 1`

// Drain returns when no transaction is open that began before the call or
// shortly after it: within settle, which is the time that those who hold clients
// back need to do so. It returns ErrTransactions, and whose the oldest is, if
// they have not ended when the context ends.
func (c *Conn) Drain(ctx context.Context, settle time.Duration) error {
	var last error
	// The end of ctx is an answer, not a reason to break the session off.
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := c.work.do(ask, func(conn *pgx.Conn) error {
		var until time.Time
		if err := conn.QueryRow(ask, "select clock_timestamp() + $1", settle).Scan(&until); err != nil {
			return err
		}
		return every(ctx, drainTick, func() (done bool, err error) {
			done, last, err = drained(ask, conn, until)
			return done, err
		})
	})
	if errors.Is(err, context.DeadlineExceeded) && last != nil {
		return last
	}
	if err != nil {
		return fmt.Errorf("wait for open transactions: %w", err)
	}
	return nil
}

// lullTick is how often a lull is looked for.
const lullTick = 2 * time.Millisecond

// anyTransaction tells whether a client has one open.
const anyTransaction = `select exists (select from pg_stat_activity where ` + ofClients + `)`

// WaitQuietFor returns when quiet reports so and then no client has a transaction open, or when
// the context ends: that is no error. It comes after Drain, for what nobody could hold
// back in time.
func (c *Conn) WaitQuietFor(ctx context.Context, quiet func() bool) error {
	return lull(ctx, &c.work, quiet)
}

// WaitQuiet returns when no client has a transaction open, or when the context ends, which is
// no error. It may be called beside all else but Checkpoint. A checkpoint makes
// transactions wait, and poolers open more connections meanwhile: a planned stop begins
// better when that is over.
func (c *Conn) WaitQuiet(ctx context.Context) error {
	return lull(ctx, &c.slow, func() bool { return true })
}

func lull(ctx context.Context, on *session, quiet func() bool) error {
	// The end of ctx is an answer, not a reason to break the session off.
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := on.do(ask, func(conn *pgx.Conn) error {
		return every(ctx, lullTick, func() (bool, error) {
			if !quiet() {
				return false, nil
			}
			var open bool
			err := conn.QueryRow(ask, anyTransaction).Scan(&open)
			return !open, err
		})
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("wait for a lull: %w", err)
	}
	return nil
}

// drained reports whether the time has come and nothing from before it is open;
// else who has the oldest transaction.
func drained(ctx context.Context, conn *pgx.Conn, until time.Time) (bool, error, error) {
	var early bool
	var count, pid int
	var user, application, state string
	var age float64
	row := conn.QueryRow(ctx, openTransactions, until)
	if err := row.Scan(&early, &count, &pid, &user, &application, &state, &age); err != nil {
		return false, nil, err
	}
	if count == 0 {
		return !early, nil, nil
	}
	return false, fmt.Errorf("%w: %d of them; the oldest, %.1f s, is of process %d (user %s, application %q, %s)",
		ErrTransactions, count, age, pid, user, application, state), nil
}
