package checks

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// MarkQuery returns when the newest mark was written; MarkDatabase is where it is.
const (
	MarkQuery    = "select max(at) from pgsidecar.mark"
	MarkDatabase = "postgres"
)

// writeMark replaces the mark. It waits for no standby: it is there to be found again in
// the archive, and nobody is promised anything by it.
const writeMark = `begin read write;
	set local synchronous_commit = local;
	create schema if not exists pgsidecar;
	create table if not exists pgsidecar.mark (one boolean primary key default true check (one), at timestamptz not null, writes bigint not null);
	insert into pgsidecar.mark (at, writes) values (clock_timestamp(), 1)
		on conflict (one) do update set at = excluded.at, writes = mark.writes + 1;
	commit`

// WriteMark writes, on a primary, the moment by which a restored server is known to have
// all that was written before.
func (c *Conn) WriteMark(ctx context.Context) error {
	err := c.slow.do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, writeMark, pgx.QueryExecModeSimpleProtocol)
		if err != nil && !conn.IsClosed() {
			_, _ = conn.Exec(ctx, "rollback", pgx.QueryExecModeSimpleProtocol) // err says what was wrong
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("write the mark: %w", err)
	}
	return nil
}
