package checks

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// WriteProbe writes and syncs, waiting for no replica: it finds a server that is
// read only (ErrReadOnly), a full disk (ErrDiskFull), and, by its deadline, a
// disk that hangs. It leaves no row behind: one record in the log, and a file
// that ends with the transaction.
func (c *Conn) WriteProbe(ctx context.Context) error {
	err := c.work.do(ctx, func(conn *pgx.Conn) error {
		// The exported snapshot is a small new file on the data directory's file
		// system: a full one refuses it, while the log may still have room in a
		// recycled segment.
		_, err := conn.Exec(ctx, `begin isolation level repeatable read read write;
			select pg_logical_emit_message(true, 'pgsidecar', 'probe'), pg_export_snapshot();
			commit`, pgx.QueryExecModeSimpleProtocol)
		if err != nil && !conn.IsClosed() {
			if hasCode(err, codeUnsupported) { // "cannot set read-write mode during recovery"
				err = fmt.Errorf("%w: %w", ErrReadOnly, err)
			}
			_, end := conn.Exec(ctx, "rollback", pgx.QueryExecModeSimpleProtocol)
			return errors.Join(err, end)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("write probe: %w", err)
	}
	return nil
}

// Checkpoint makes a checkpoint: after a promotion, so that pg_rewind from this
// server is right; before a planned stop, so that the stop is short.
func (c *Conn) Checkpoint(ctx context.Context) error {
	err := c.slow.do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "checkpoint")
		return err
	})
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}
