package checks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// nobody is no member's name. (It has a colon.)
const nobody = "pgsidecar:nobody"

// frozenNames is a setting under which nothing is acknowledged, and every
// walsender of the names that has read it shows a sync_priority of 2 or more.
func frozenNames(names []string) string {
	return "FIRST 999 (" + quoteList(append([]string{nobody}, names...)) + ")"
}

// syncState is what this process has proved of synchronous_standby_names.
type syncState struct {
	turn chan struct{} // holds one token while the setting is changed or proved

	mu     sync.Mutex
	life   time.Time      // of the server that it was proved of
	set    ha.SyncSetting // K 0 in a known life: none
	proved bool
	// pids are the walsenders seen to use set's k; since is the server's time
	// when they were: later ones have begun with it.
	pids  []int32
	since time.Time

	// prepared is the setting that a standby was given for its promotion, in the
	// life preparedIn; mixed: more than one k was.
	prepared   ha.SyncSetting
	preparedIn time.Time
	mixed      bool
}

// prepare notes a setting made on a standby. Until then every process of it read
// one that nothing satisfies, so whichever has not read this one yet releases
// nothing.
func (s *syncState) prepare(life time.Time, set ha.SyncSetting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := s.preparedIn.Equal(life)
	s.mixed = same && (s.mixed || s.prepared.K != set.K)
	s.prepared, s.preparedIn = set, life
}

// promoted takes the prepared setting for proved: no walsender of this life can
// release a commit by another k.
func (s *syncState) promoted(life time.Time) {
	s.mu.Lock()
	set, known := s.prepared, s.preparedIn.Equal(life) && !s.mixed && s.prepared.K > 0
	s.mu.Unlock()
	if known {
		s.learn(life, set, nil, time.Time{})
	}
}

// fresh reports whether a walsender is known to release commits by the proved k.
func (s *syncState) fresh(life time.Time, w walsender) bool {
	return s.proved && s.life.Equal(life) && (w.start.After(s.since) || slices.Contains(s.pids, w.pid))
}

func (s *syncState) walsenders(life time.Time, rows []walsender) []ha.Walsender {
	s.mu.Lock()
	defer s.mu.Unlock()
	return merge(rows, func(w walsender) bool { return s.fresh(life, w) })
}

// keeps reports whether a walsender that uses the proved setting releases
// commits by this one's k too.
func (s *syncState) keeps(life time.Time, k int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proved && s.life.Equal(life) && s.set.K == k
}

func (s *syncState) learn(life time.Time, set ha.SyncSetting, pids []int32, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := s.proved && s.life.Equal(life) && s.set.K == set.K
	s.life, s.set, s.proved = life, set, true
	if !same {
		s.pids, s.since = pids, since
	}
}

func (s *syncState) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proved = false
}

// SetSync makes synchronous_standby_names of a primary so, and returns its flush
// position read after the setting was in effect everywhere (S4; see the package
// comment for the proof). What was acknowledged later is held by K of the names.
// ErrUnproved says that the setting was made and that the proof did not come
// before ctx ended; SyncInEffect tries again.
//
// Of a standby it only makes the setting, and returns zero: it is in effect when
// the standby is promoted, because a standby runs under a setting like it from
// its start (package postgres's Start).
func (c *Conn) SetSync(ctx context.Context, set ha.SyncSetting) (ha.LSN, error) {
	if err := c.sync.take(ctx); err != nil {
		return 0, err
	}
	defer c.sync.give()
	var at ha.LSN
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		var err error
		at, err = c.setSync(ctx, conn, set)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("set the synchronous standbys: %w", err)
	}
	return at, nil
}

// SyncInEffect returns the primary's flush position read after the setting was
// seen to be in effect. If this process has not proved that of the server's
// present setting, it does so now, which stalls commits for some 10 ms. While
// SetSync is at it the answer is zero; of a standby too.
func (c *Conn) SyncInEffect(ctx context.Context) (ha.LSN, error) {
	select {
	case c.sync.turn <- struct{}{}:
		defer c.sync.give()
	default:
		return 0, nil
	}
	var at ha.LSN
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		var standby bool
		var names string
		err := conn.QueryRow(ctx, "select pg_is_in_recovery(), current_setting('synchronous_standby_names')").Scan(&standby, &names)
		if err != nil || standby {
			return err
		}
		set := parseSync(names)
		if set.K < 0 {
			return nil // not ours, or frozen: SetSync comes first
		}
		at, err = c.setSync(ctx, conn, set)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("see the synchronous standbys in effect: %w", err)
	}
	return at, nil
}

func (s *syncState) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another change of the synchronous standbys: %w", context.Cause(ctx))
	}
}

func (s *syncState) give() { <-s.turn }

func (c *Conn) setSync(ctx context.Context, conn *pgx.Conn, set ha.SyncSetting) (ha.LSN, error) {
	var standby bool
	var life time.Time
	var names string
	if err := conn.QueryRow(ctx, `select pg_is_in_recovery(), pg_postmaster_start_time(),
		current_setting('synchronous_standby_names')`).Scan(&standby, &life, &names); err != nil {
		return 0, err
	}
	want := []setting{{"synchronous_standby_names", syncNames(set)}}
	beside, err := consumersWait(ctx, conn, set)
	if err != nil {
		return 0, err
	}
	if standby {
		c.sync.forget()
		c.sync.prepare(life, set)
		if err := c.alter(ctx, conn, want, beside...); err != nil {
			return 0, err
		}
		// A cascading replica's walsender may not have read it, and lives on
		// through a promotion; it comes back with the new setting.
		_, err := conn.Exec(ctx, "select pg_terminate_backend(pid) from pg_stat_replication where state <> 'backup'")
		return 0, err
	}
	changed := names != want[0].value
	if set.K > 0 && !c.sync.keeps(life, set.K) {
		changed = true
		if err := c.freeze(ctx, conn, life, set, names == ""); err != nil {
			// Whatever was not proved: nobody is to wait for ever.
			err = errors.Join(fmt.Errorf("%w: %w", ErrUnproved, err), c.thaw(conn, set))
			return 0, err
		}
	}
	if err := c.alter(ctx, conn, want, beside...); err != nil {
		return 0, err
	}
	if set.K == 0 {
		c.sync.learn(life, set, nil, time.Time{})
	} else if changed {
		c.release(ctx, conn, set)
	}
	return c.inEffect(ctx, conn, set)
}

// releaseTime bounds how long a release waits for walsenders that have yet to
// read the setting.
const releaseTime = 100 * time.Millisecond

// release lets the commits go that have what the setting asks for, and were
// confirmed before it counted: those that waited through a freeze, or for a
// voter that is gone. A walsender releases commits only when its standby
// confirms something, and a standby does that when there is something new, or
// after wal_receiver_status_interval. If everybody waits nothing new comes, so
// something is written here that waits for nobody. Who is acknowledged is still
// the walsenders' decision.
//
// A walsender that reads the setting after its standby confirmed this releases
// nothing, so those of the names are waited for; not for long, as one that has
// read it releases for all that the setting counts.
func (c *Conn) release(ctx context.Context, conn *pgx.Conn, set ha.SyncSetting) {
	end := time.Now().Add(releaseTime) // not the context's: that would cut a query short, and the session with it
	err := until(ctx, func() (bool, error) {
		rows, err := walsenders(ctx, conn)
		late := slices.ContainsFunc(rows, func(r walsender) bool {
			return r.SyncPriority != 1 && r.State != "backup" && slices.Contains(set.Names, r.Name)
		})
		return !late || time.Now().After(end), err
	})
	if err == nil {
		_, err = conn.Exec(ctx, "select pg_logical_emit_message(true, 'pgsidecar', 'release')")
	}
	if err != nil { // the setting is made, and the commits wait for the next write
		c.log.Warn("could not release the commits that waited through a change of the synchronous standbys", "error", kind(err))
	}
}

// thawTimeout bounds the way back from a freeze that failed.
const thawTimeout = time.Second

// thaw makes the setting although ctx of the freeze has ended, and lets the
// commits go.
func (c *Conn) thaw(conn *pgx.Conn, set ha.SyncSetting) error {
	ctx, cancel := context.WithTimeout(context.Background(), thawTimeout)
	defer cancel()
	if conn.IsClosed() {
		fresh, err := c.connectWork(ctx) // the session that broke may still be at work
		if err != nil {
			return err
		}
		defer fresh.Close(ctx) // the server ends the session either way
		conn = fresh
	}
	if err := c.alter(ctx, conn, []setting{{"synchronous_standby_names", syncNames(set)}}); err != nil {
		return err
	}
	c.release(ctx, conn, set)
	return nil
}

// freeze makes a setting that nothing satisfies, and returns when all that act
// on settings are seen to have read it.
func (c *Conn) freeze(ctx context.Context, conn *pgx.Conn, life time.Time, set ha.SyncSetting, fromNone bool) error {
	c.sync.forget()
	if err := c.alter(ctx, conn, []setting{{"synchronous_standby_names", frozenNames(set.Names)}}); err != nil {
		return err
	}
	if fromNone {
		if err := c.seeCommitWait(ctx, conn); err != nil {
			return fmt.Errorf("no commit was seen to wait: %w", err)
		}
	}
	var pids []int32
	var since time.Time
	waiting := ""
	err := until(ctx, func() (bool, error) {
		rows, err := walsenders(ctx, conn)
		if err != nil {
			return false, err
		}
		pids, waiting = pids[:0], ""
		for _, r := range rows {
			// 1 is of the setting before. A name that is not among the new
			// shows 0 at last, a new one 2 or more.
			if r.SyncPriority == 1 || r.SyncPriority == 0 && slices.Contains(set.Names, r.Name) && r.State != "backup" {
				waiting = r.Name
				return false, nil
			}
			pids = append(pids, r.pid)
		}
		return true, conn.QueryRow(ctx, "select clock_timestamp()").Scan(&since)
	})
	if err != nil && waiting != "" {
		return fmt.Errorf("the walsender of %s has not read the setting: %w", waiting, err)
	}
	if err == nil {
		c.sync.learn(life, set, pids, since)
	}
	return err
}

func walsenders(ctx context.Context, conn *pgx.Conn) ([]walsender, error) {
	rows, err := conn.Query(ctx, lookWalsenders)
	if err != nil {
		return nil, err
	}
	return scanWalsenders(rows)
}

// seeCommitWait proves that the checkpointer has told the backends to wait: it
// commits on another connection until a commit is seen waiting, and cancels it.
func (c *Conn) seeCommitWait(ctx context.Context, conn *pgx.Conn) error {
	// It logs nothing of the wait that is cut off: who reads that of clients' commits would
	// count it (package postgres).
	other, err := c.connectWith(ctx, map[string]string{"synchronous_commit": "local", "log_min_messages": "error"})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	pid := other.PgConn().PID()
	go func() {
		for {
			_, err := other.Exec(ctx, `begin; set local synchronous_commit = on;
				select pg_logical_emit_message(true, 'pgsidecar', 'sync'); commit`, pgx.QueryExecModeSimpleProtocol)
			if err != nil || ctx.Err() != nil {
				ended <- err
				return
			}
		}
	}()
	err = until(ctx, func() (bool, error) {
		var waits bool
		err := conn.QueryRow(ctx, `select exists (select from pg_stat_get_activity($1) where wait_event = 'SyncRep')`,
			int32(pid)).Scan(&waits)
		return waits, err
	})
	cancel()
	<-ended // it failed, as it was cancelled
	if _, e := conn.Exec(context.WithoutCancel(ctx), "select pg_terminate_backend($1)", int32(pid)); e != nil && err == nil {
		err = e
	}
	_ = other.Close(ctx) // it is closed already
	return err
}

// inEffect waits until no walsender but those of the setting counts, and returns
// the flush position read after that.
func (c *Conn) inEffect(ctx context.Context, conn *pgx.Conn, set ha.SyncSetting) (ha.LSN, error) {
	counts := ""
	err := until(ctx, func() (bool, error) {
		rows, err := walsenders(ctx, conn)
		if err != nil {
			return false, err
		}
		for _, r := range rows {
			if r.SyncPriority > 0 && !slices.Contains(set.Names, r.Name) {
				counts = r.Name
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return 0, fmt.Errorf("%w: %s still counts: %w", ErrUnproved, counts, err)
	}
	var text string
	if err := conn.QueryRow(ctx, "select pg_current_wal_flush_lsn()::text").Scan(&text); err != nil {
		return 0, err
	}
	return ha.ParseLSN(text)
}
