package checks

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// A promotion waits for replay, and replay waits for what readers of a standby may still
// see: by max_standby_streaming_delay, and for ever if that is -1. Nobody writes
// meanwhile, so those readers' sessions are ended: PostgreSQL would end them too, later.
const (
	unblockAfter = 200 * time.Millisecond // most promotions are over before
	unblockEvery = 200 * time.Millisecond
)

// unblock ends the sessions that the startup process waits for: those whose snapshot,
// lock or pinned page is in its way. (pg_blocking_pids does not know the startup
// process; all that it locks are relations.)
const unblock = `
select b.pid, pg_terminate_backend(b.pid)
from pg_stat_activity s, pg_stat_activity b
where s.backend_type = 'startup' and b.backend_type = 'client backend' and b.pid <> pg_backend_pid()
and (s.wait_event = 'RecoveryConflictSnapshot' and b.backend_xmin is not null
  or s.wait_event = 'RecoveryConflictTablespace' and b.xact_start is not null
  or s.wait_event_type = 'BufferPin' and b.xact_start is not null
  or s.wait_event_type = 'Lock' and exists (
    select from pg_locks w join pg_locks h on h.relation = w.relation and h.database = w.database
    where w.pid = s.pid and not w.granted and h.pid = b.pid and h.granted))`

// unblocker ends what is in the way of replay, from time to time.
type unblocker struct {
	c    *Conn
	next time.Time
}

func (c *Conn) unblocker() *unblocker { return &unblocker{c, time.Now().Add(unblockAfter)} }

func (u *unblocker) look(ctx context.Context, conn *pgx.Conn) error {
	if time.Now().Before(u.next) {
		return nil
	}
	u.next = time.Now().Add(unblockEvery)
	rows, err := conn.Query(ctx, unblock)
	if err != nil {
		return err
	}
	var pid int32
	var ended bool
	_, err = pgx.ForEachRow(rows, []any{&pid, &ended}, func() error {
		u.c.log.Warn("ending a session that the promotion waits for", "pid", pid, "ended", ended)
		return nil
	})
	return err
}
