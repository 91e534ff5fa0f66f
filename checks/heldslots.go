package checks

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// HeldSlot is a replication slot, of whomever, and what it costs.
type HeldSlot struct {
	Name   string
	Active bool  // somebody reads from it
	Lost   bool  // its log is gone: nobody can go on from it
	Bytes  int64 // of log that the server keeps for it
}

// HeldSlots returns all slots that outlive a session, those that keep most first.
func (c *Conn) HeldSlots(ctx context.Context) ([]HeldSlot, error) {
	var slots []HeldSlot
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `select slot_name::text, active, coalesce(wal_status = 'lost', false),
			coalesce(greatest(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end - restart_lsn, 0), 0)::bigint
			from pg_replication_slots where not temporary order by 4 desc, 1`)
		if err != nil {
			return err
		}
		slots, err = pgx.CollectRows(rows, pgx.RowToStructByPos[HeldSlot])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look at what slots keep: %w", err)
	}
	return slots, nil
}
