package checks

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Fence stops a standby from receiving and returns its final position (S2).
// The caller has promised the term on disk and shut the gate. A sync setting
// with names is made on the way.
//
// It clears primary_conninfo and restore_command, ends the walreceiver, and
// waits until no walreceiver process is seen, connected or not. The startup
// process reads the configuration when it gets to it and may yet start one; that
// one reads the shut gate before it connects, because it began after the look
// that did not see it. What was received before is on disk: a walreceiver
// flushes before it disappears. Then the position is final: where receiving or
// replay ended, whichever is later, provided that all local log was read in this
// life of the server; that is proved by the startup process having asked for a
// walreceiver, or waiting to ask again. Fence waits for it until ctx ends; then
// the error is ErrUnsettled.
func (c *Conn) Fence(ctx context.Context, sync ha.SyncSetting) (ha.Position, error) {
	final, err := c.stand(ctx, func(life time.Time) []setting {
		want := []setting{{"primary_conninfo", ""}, {"restore_command", ""}}
		if sync.K > 0 {
			c.sync.forget()
			c.sync.prepare(life, sync)
			want = append(want, setting{"synchronous_standby_names", syncNames(sync)})
		}
		return want
	})
	if err != nil {
		return ha.Position{}, fmt.Errorf("fence: %w", err)
	}
	return final, nil
}

// Freeze is the part of a fence that makes the position final, without clearing
// primary_conninfo, which costs several syncs of files: the shut gate alone
// already keeps every later walreceiver from connecting, in this life of the
// server, and each start of it begins with cleared settings. A restore_command is
// cleared, because it needs no connection.
func (c *Conn) Freeze(ctx context.Context) (ha.Position, error) {
	final, err := c.stand(ctx, func(time.Time) []setting { return []setting{{"restore_command", ""}} })
	if err != nil {
		return ha.Position{}, fmt.Errorf("freeze: %w", err)
	}
	return final, nil
}

// stand ends the walreceiver, makes the settings, and returns the final position.
func (c *Conn) stand(ctx context.Context, settings func(life time.Time) []setting) (ha.Position, error) {
	var final ha.Position
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		s, err := lookStanding(ctx, conn)
		if err != nil {
			return err
		}
		endWalreceivers(s.pids)
		want := settings(s.life)
		if _, err := c.changeFrom(ctx, conn, s.have, want); err != nil {
			return err
		}
		final, err = c.settle(ctx, conn, want)
		return err
	})
	return final, err
}

// standing is a standby that is to be fenced.
type standing struct {
	life time.Time // when the server was started
	pids []int32   // of walreceivers: more than one only for a moment
	have current   // of the settings that a fence makes
}

const lookWalreceivers = `select pg_is_in_recovery(), pg_postmaster_start_time(),
	array(select pid from pg_stat_get_activity(null) where backend_type = 'walreceiver')`

// fenceSettings are those that a fence makes.
var fenceSettings = []string{"primary_conninfo", "restore_command", "synchronous_standby_names"}

// lookStanding asks all that a fence begins with, in one round trip. It returns
// ErrNotStandby for a server out of recovery.
func lookStanding(ctx context.Context, conn *pgx.Conn) (standing, error) {
	var s standing
	var standby bool
	batch := &pgx.Batch{}
	batch.Queue(lookWalreceivers)
	batch.Queue(readCurrent, fenceSettings)
	answers := conn.SendBatch(ctx, batch)
	err := answers.QueryRow().Scan(&standby, &s.life, &s.pids)
	if err == nil {
		s.have, err = scanCurrent(answers.QueryRow(), fenceSettings)
	}
	if closing := answers.Close(); err == nil {
		err = closing
	}
	if err == nil && !standby {
		err = ErrNotStandby
	}
	return s, err
}

// endWalreceivers asks them to end. pg_terminate_backend does not know
// walreceivers, and without this the startup process ends them only when it has
// replayed what was received. That a signal does not get there costs time only.
func endWalreceivers(pids []int32) {
	for _, pid := range pids {
		_ = syscall.Kill(int(pid), syscall.SIGTERM)
	}
}

// settle waits until the settings are in effect and the position is final, and
// returns it.
func (c *Conn) settle(ctx context.Context, conn *pgx.Conn, want []setting) (ha.Position, error) {
	var final ha.Position
	why := "nothing was seen"
	err := until(ctx, func() (bool, error) {
		effect, r, err := settling(ctx, conn, want)
		switch {
		case err != nil:
			return false, err
		case !r.standby:
			return false, ErrNotStandby
		case !effect:
			why = "the server has not read its settings again"
			return false, nil
		case r.process:
			why = "a walreceiver still runs"
			s, err := lookStanding(ctx, conn)
			endWalreceivers(s.pids)
			return false, err
		}
		// After it was seen that nothing is received: how much was.
		at, err := scanPosition(conn.QueryRow(ctx, lookPosition))
		switch {
		case err != nil:
			return false, err
		case !at.standby:
			return false, ErrNotStandby
		case !r.readAll(at.received):
			why = "local log is still being read, at " + at.replayed.String()
			if r.delayed() {
				why += ", held back by recovery_min_apply_delay"
			}
			return false, nil
		case !at.position.Known():
			return false, fmt.Errorf("no log file has the position %s: %w", max(at.received, at.replayed), ErrUnsettled)
		}
		final = at.position
		return true, nil
	})
	if err != nil && ctx.Err() != nil {
		return ha.Position{}, fmt.Errorf("%w: %s: %w", ErrUnsettled, why, err)
	}
	return final, err
}

// settling asks in one round trip, and in this order: are the settings in effect,
// and is anything received.
func settling(ctx context.Context, conn *pgx.Conn, want []setting) (effect bool, r receiving, err error) {
	names, values := columns(want)
	batch := &pgx.Batch{}
	batch.Queue(readEffect, names, values)
	batch.Queue(lookReceiving)
	answers := conn.SendBatch(ctx, batch)
	err = answers.QueryRow().Scan(&effect)
	if err == nil {
		err = answers.QueryRow().Scan(&r.standby, &r.status, &r.process, &r.waits)
	}
	if closing := answers.Close(); err == nil {
		err = closing
	}
	return effect, r, err
}

// rehearse asks a standby what a fence and a promotion will ask, so that the session has planned
// it and has the catalogs in memory when it counts: in a new session that takes
// longer than all the rest of a fence.
func (c *Conn) rehearse(ctx context.Context, conn *pgx.Conn) {
	// What goes wrong here goes wrong again where it is reported.
	_, _ = lookStanding(ctx, conn)
	_, _, _ = settling(ctx, conn, nil)
	_, _ = scanPosition(conn.QueryRow(ctx, lookPosition))
	var out bool
	var life time.Time
	_ = conn.QueryRow(ctx, lookPromoted).Scan(&out, &life)
}

// Follow makes a standby receive from the upstream that conninfo names (see
// ConnInfo), through a replication slot if one is named, and take from the
// archive what restoreCommand fetches. The caller has admitted the upstream.
func (c *Conn) Follow(ctx context.Context, conninfo, slot, restoreCommand string) error {
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		var standby bool
		if err := conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&standby); err != nil {
			return err
		}
		if !standby {
			return ErrNotStandby
		}
		return c.alter(ctx, conn, []setting{{"restore_command", restoreCommand}, {"primary_slot_name", slot},
			{"primary_conninfo", conninfo}})
	})
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	return nil
}

// Fetch makes a standby, which goes on to follow its upstream, take from the archive what
// restoreCommand fetches; empty: nothing. A fence and Follow undo it.
func (c *Conn) Fetch(ctx context.Context, restoreCommand string) error {
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		return c.alter(ctx, conn, []setting{{"restore_command", restoreCommand}})
	})
	if err != nil {
		return fmt.Errorf("take log from the archive: %w", err)
	}
	return nil
}

// Promote takes a standby out of recovery and returns where it is then. Before,
// reserve is told where the log is, to make sure of the timeline (package
// postgres's ReserveTimeline); its error is returned and nothing is promoted. A
// server that is out of recovery already is left alone.
func (c *Conn) Promote(ctx context.Context, reserve func(ha.Position) error) (ha.Position, error) {
	var now ha.Position
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		before, err := scanPosition(conn.QueryRow(ctx, lookPosition))
		if err != nil {
			return err
		}
		if before.standby {
			if err := reserve(before.position); err != nil {
				return err
			}
			if _, err := conn.Exec(ctx, askPromote); err != nil && !hasCode(err, codeRecovery) {
				return err
			}
		}
		life, err := c.promoted(ctx, conn)
		if err != nil {
			return err
		}
		c.sync.promoted(life)
		at, err := scanPosition(conn.QueryRow(ctx, lookPosition))
		if err == nil && !at.position.Known() {
			err = errors.New("the new timeline is not known")
		}
		now = at.position
		return err
	})
	if err != nil {
		return ha.Position{}, fmt.Errorf("promote: %w", err)
	}
	return now, nil
}

const (
	askPromote   = "select pg_promote(false)"
	lookPromoted = "select not pg_is_in_recovery(), pg_postmaster_start_time()"
)

// promoted waits until the server is out of recovery, and returns when it was
// started. Readers that hold up the replay of what is left are not waited for.
func (c *Conn) promoted(ctx context.Context, conn *pgx.Conn) (life time.Time, err error) {
	readers := c.unblocker()
	err = until(ctx, func() (bool, error) {
		var done bool
		if err := conn.QueryRow(ctx, lookPromoted).Scan(&done, &life); done || err != nil {
			return done, err
		}
		return false, readers.look(ctx, conn)
	})
	return life, err
}
