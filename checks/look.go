package checks

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Facts is what one look at the server saw: what is decided on, and what people are
// told. A new fact is one field here, or in ha.SQL if it is decided on, and one scan.
type Facts struct {
	ha.SQL // without Hidden, which a file says, and SyncAt (see SyncInEffect)

	StartedAt    time.Time // of the postmaster, by the server's clock
	SystemID     string
	Version      int       // server_version_num
	Received     ha.LSN    // a standby's; zero: nothing in this life
	ReplayedAt   time.Time // commit time of the last transaction replayed
	ReplayPaused bool
	ApplyDelay   time.Duration // recovery_min_apply_delay
	// Limits are a standby's max_connections, max_worker_processes, max_wal_senders,
	// max_prepared_transactions and max_locks_per_transaction; it replays nothing while
	// its primary has more.
	Limits []int64
	// Senders are all connections that receive the log, also of programs that are no
	// member, and of a standby's own.
	Senders []Sender
}

// Sender is one row of pg_stat_replication; its role as a number, since its name may be
// locked.
type Sender struct {
	Name, State, SyncState string
	SyncPriority           int32
	Role                   int64  // oid
	Address                string // empty: a local socket
}

// The three statements of a look go in one round trip and are executed in this
// order: first whether anything is received, then how much was.
const (
	lookReceiving = `
select pg_is_in_recovery(),
  coalesce((select status from pg_stat_wal_receiver), ''),
  exists (select from pg_stat_get_activity(null) where backend_type = 'walreceiver'),
  coalesce((select wait_event from pg_stat_get_activity(null) where backend_type = 'startup' limit 1), '')`

	// The timelines are those that PostgreSQL itself would find: history files
	// whose numbers follow the last checkpoint's without a gap.
	lookPosition = `
with recursive
  here as materialized (
    select standby, case when standby then pg_last_wal_receive_lsn() end as received,
      case when standby then pg_last_wal_replay_lsn() end as replayed,
      case when not standby then pg_current_wal_flush_lsn() end as flushed
    from (select pg_is_in_recovery() as standby offset 0) x),
  last as materialized (select timeline_id as tli from pg_control_checkpoint()),
  size as materialized (select bytes_per_wal_segment::numeric as bytes from pg_control_init()),
  segment as materialized (
    select upper(lpad(to_hex(div(n, per)::bigint), 8, '0') || lpad(to_hex(mod(n, per)::bigint), 8, '0')) as name
    from (select div((greatest(received, replayed, flushed) - '0/0'::pg_lsn) - 1, bytes) as n,
            div(4294967296, bytes) as per from here, size) x),
  timelines(tli, name) as (
    select tli, upper(lpad(to_hex(tli), 8, '0')) from last
    union all
    select tli + 1, upper(lpad(to_hex(tli + 1), 8, '0')) from timelines
    where (pg_stat_file('pg_wal/' || upper(lpad(to_hex(tli + 1), 8, '0')) || '.history', true)).size is not null),
  found as materialized (
    select t.tli, (pg_stat_file('pg_wal/' || t.name || s.name, true)).size is not null as present,
      coalesce(pg_read_file('pg_wal/' || t.name || '.history', 0, 1000000, true), '') as history
    from timelines t, segment s)
select standby, coalesce(received, '0/0')::text, coalesce(replayed, '0/0')::text, coalesce(flushed, '0/0')::text,
  (select tli from last)::bigint,
  (select array_agg(tli::bigint order by tli) from found),
  (select array_agg(present order by tli) from found),
  (select array_agg(history order by tli) from found)
from here`

	lookSettings = `
select current_setting('server_version_num')::int, pg_postmaster_start_time(),
  (select system_identifier from pg_control_system())::text,
  current_setting('primary_conninfo'), current_setting('restore_command'),
  current_setting('synchronous_standby_names'),
  exists (select from pg_settings where pending_restart),
  pg_last_xact_replay_timestamp(),
  case when pg_is_in_recovery() then pg_is_wal_replay_paused() else false end,
  (select setting::bigint from pg_settings where name = 'recovery_min_apply_delay'),
  (select array_agg(current_setting(name)::bigint order by n) from unnest(array['max_connections', 'max_worker_processes',
    'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction']) with ordinality l(name, n))`

	// As pg_stat_replication, without its join with pg_authid, which somebody may
	// have locked.
	lookWalsenders = `
select w.pid, a.application_name, w.state, w.sync_priority, coalesce(w.flush_lsn, '0/0')::text, a.backend_start,
  coalesce(a.usesysid::bigint, 0), coalesce(host(a.client_addr), ''), w.sync_state
from pg_stat_get_wal_senders() w join pg_stat_get_activity(null) a on a.pid = w.pid
order by a.application_name, a.backend_start`
)

// receiving is the first answer of a look.
type receiving struct {
	standby bool
	status  string
	process bool   // there is a walreceiver, connected or not
	waits   string // what the startup process waits for
}

// readAll reports whether the startup process has read all the log there is:
// it only waits so when no source had the next record. (Had it ever asked for a
// walreceiver in this life, it had come so far then, and what came later is
// known as received.)
func (r receiving) readAll(received ha.LSN) bool {
	return received != 0 || r.waits == "RecoveryRetrieveRetryInterval"
}

// delayed reports whether it waits until a commit is as old as recovery_min_apply_delay says.
func (r receiving) delayed() bool { return r.waits == "RecoveryApplyDelay" }

// warmTime bounds how long a look waits for the session that changes settings.
const warmTime = 200 * time.Millisecond

// Read returns all that SQL says, in one round trip. Position is final where Settled
// is true, if the gate was shut before the look (S2). Upstream is empty if the gate
// is shut.
func (c *Conn) Read(ctx context.Context) (Facts, error) {
	var f Facts
	// First, so that what an earlier session began is over, and is seen. One that
	// does not end hangs; the server need not.
	warming, cancel := context.WithTimeout(ctx, warmTime)
	unsure := c.work.warm(warming, c.rehearse) != nil
	cancel()
	err := c.look.do(ctx, func(conn *pgx.Conn) error {
		f = Facts{SQL: ha.SQL{SeenAt: c.o.Now(), SyncUnsure: unsure}}
		shut := c.o.Shut != nil && c.o.Shut() // before anything is asked
		return c.lookOn(ctx, conn, shut, &f)
	})
	if err != nil {
		return Facts{}, fmt.Errorf("look at the server: %w", err)
	}
	if f.InRecovery == ha.No {
		f.RecoveryEnd = c.endOfRecovery(&f)
	}
	return f, nil
}

// endOfRecovery is not before where the recovery of this life of a primary ended:
// its flush position when it was first seen out of recovery (S9).
func (c *Conn) endOfRecovery(f *Facts) ha.LSN {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.life.Equal(f.StartedAt) {
		c.life, c.recoveryEnd = f.StartedAt, f.Position.LSN
	}
	return c.recoveryEnd
}

func (c *Conn) lookOn(ctx context.Context, conn *pgx.Conn, shut bool, f *Facts) error {
	batch := &pgx.Batch{}
	for _, q := range []string{lookReceiving, lookPosition, lookSettings, lookWalsenders} {
		batch.Queue(q)
	}
	answers := conn.SendBatch(ctx, batch)
	err := c.readLook(answers, shut, f)
	if closing := answers.Close(); err == nil {
		err = closing
	}
	return err
}

func (c *Conn) readLook(answers pgx.BatchResults, shut bool, f *Facts) error {
	var r receiving
	if err := answers.QueryRow().Scan(&r.standby, &r.status, &r.process, &r.waits); err != nil {
		return fmt.Errorf("what is received: %w", err)
	}
	at, err := scanPosition(answers.QueryRow())
	if err != nil {
		return fmt.Errorf("position: %w", err)
	}
	var conninfo, restore, names string
	var delay int64 // in milliseconds, the parameter's unit
	var replayed *time.Time
	if err := answers.QueryRow().Scan(&f.Version, &f.StartedAt, &f.SystemID, &conninfo, &restore, &names,
		&f.PendingRestart, &replayed, &f.ReplayPaused, &delay, &f.Limits); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	f.ApplyDelay = time.Duration(delay) * time.Millisecond
	rows, err := answers.Query()
	if err != nil {
		return fmt.Errorf("walsenders: %w", err)
	}
	senders, err := scanWalsenders(rows)
	if err != nil {
		return fmt.Errorf("walsenders: %w", err)
	}
	if shut {
		conninfo = ""
	}
	f.InRecovery = ha.Known(at.standby)
	f.Receiving = ha.Known(at.standby && r.status == "streaming")
	f.Upstream, f.UpstreamAt = upstreamOf(conninfo)
	f.Position, f.Received, f.Replayed = at.position, at.received, at.replayed
	f.Checkpointed = at.position.TLI != 0 && at.position.TLI == at.checkpoint
	f.Settled = r.standby && at.standby && !r.process && conninfo == "" && restore == "" &&
		at.position.Known() && r.readAll(at.received)
	f.ReadAll = r.standby && at.standby && !r.process && r.waits == "RecoveryRetrieveRetryInterval"
	if r.standby && !r.process && r.delayed() {
		f.Delayed = f.ApplyDelay
	}
	f.Sync = parseSync(names)
	f.Walsenders = c.sync.walsenders(f.StartedAt, senders)
	for _, w := range senders {
		f.Senders = append(f.Senders, w.Sender)
	}
	if replayed != nil {
		f.ReplayedAt = *replayed
	}
	return nil
}

// place is the second answer of a look.
type place struct {
	standby                     bool
	received, replayed, flushed ha.LSN
	checkpoint                  ha.TLI // of the last checkpoint
	position                    ha.Position
}

func scanPosition(row pgx.Row) (place, error) {
	var p place
	var received, replayed, flushed string
	var checkpoint int64
	var tlis []int64
	var present []bool
	var histories []string
	if err := row.Scan(&p.standby, &received, &replayed, &flushed, &checkpoint, &tlis, &present, &histories); err != nil {
		return place{}, err
	}
	for _, l := range []struct {
		to   *ha.LSN
		text string
	}{{&p.received, received}, {&p.replayed, replayed}, {&p.flushed, flushed}} {
		v, err := ha.ParseLSN(l.text)
		if err != nil {
			return place{}, err
		}
		*l.to = v
	}
	p.checkpoint = ha.TLI(checkpoint)
	at := max(p.received, p.replayed, p.flushed)
	for i := len(tlis) - 1; i >= 0; i-- {
		if !present[i] {
			continue
		}
		history, err := parseHistory(histories[i])
		if err != nil {
			return place{}, err
		}
		p.position = onTimeline(ha.TLI(tlis[i]), history, at)
		break
	}
	return p, nil
}

// onTimeline returns the position at an LSN of a log that has a segment file of
// a timeline there. The file of a new timeline begins with a copy of the old
// one's log, so before the fork the log is still on the older timeline.
func onTimeline(tli ha.TLI, history []ha.Fork, at ha.LSN) ha.Position {
	for len(history) > 0 && at <= history[len(history)-1].End {
		tli = history[len(history)-1].TLI
		history = history[:len(history)-1]
	}
	if len(history) == 0 {
		history = nil
	}
	return ha.Position{History: history, TLI: tli, LSN: at}
}

// parseHistory reads a timeline history file: lines of timeline, switch
// position and reason; "#" begins a comment.
func parseHistory(content string) ([]ha.Fork, error) {
	var forks []ha.Fork
	for line := range strings.Lines(content) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		var tli uint32
		var end string
		if _, err := fmt.Sscan(line, &tli, &end); err != nil {
			return nil, fmt.Errorf("timeline history line %q: %w", line, ha.ErrSyntax)
		}
		at, err := ha.ParseLSN(end)
		if err != nil {
			return nil, fmt.Errorf("timeline history: %w", err)
		}
		forks = append(forks, ha.Fork{TLI: ha.TLI(tli), End: at})
	}
	return ha.Straight(forks), nil
}

// walsender is one row of pg_stat_replication.
type walsender struct {
	Sender
	pid   int32
	flush ha.LSN
	start time.Time
}

func scanWalsenders(rows pgx.Rows) ([]walsender, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (walsender, error) {
		var w walsender
		var flush string
		err := row.Scan(&w.pid, &w.Name, &w.State, &w.SyncPriority, &flush, &w.start, &w.Role, &w.Address, &w.SyncState)
		if err == nil {
			w.flush, err = ha.ParseLSN(flush)
		}
		return w, err
	})
}

// merge makes one of the rows of each name. A connection that broke may live on
// beside the new one: where the log is, the newest says; whether the name is
// counted, any does; whether it is known to count by the current k, all must.
// Rows come by name and start.
func merge(rows []walsender, fresh func(walsender) bool) []ha.Walsender {
	var merged []ha.Walsender
	for _, r := range rows {
		if r.State == "backup" {
			continue
		}
		w := ha.Walsender{Member: r.Name, Streaming: r.State == "streaming", Sync: r.SyncPriority > 0, Flush: r.flush, Fresh: fresh(r)}
		if n := len(merged); n > 0 && merged[n-1].Member == r.Name {
			w.Sync = w.Sync || merged[n-1].Sync
			w.Fresh = w.Fresh && merged[n-1].Fresh
			merged[n-1] = w
			continue
		}
		merged = append(merged, w)
	}
	slices.SortStableFunc(merged, func(a, b ha.Walsender) int { return strings.Compare(a.Member, b.Member) })
	return merged
}
