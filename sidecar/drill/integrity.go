package drill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// MemberReport is the state of one member's data after a drill.
type MemberReport struct {
	Name     string `json:"name"`
	Primary  bool   `json:"primary"`
	Timeline uint32 `json:"timeline"`
	// Rows of the drill that are there, and the difference to the primary's.
	Rows    int64 `json:"rows"`
	Differs int64 `json:"differs"`
	// Checksums says that data checksums are on; ChecksumFailures is how many
	// pages did not match theirs, since the statistics were reset.
	Checksums        bool  `json:"checksums"`
	ChecksumFailures int64 `json:"checksum_failures"`
	// Indexes is how many B-tree indexes amcheck has compared with their tables;
	// 0: amcheck is not installed.
	Indexes int      `json:"indexes"`
	Damage  []string `json:"damage,omitempty"` // what amcheck found, in words
}

// Inspect looks at the data of the server that conn leads to, as superuser: the
// drill's rows, checksums, and with amcheck every B-tree index of the database
// against its table, and the drill's table itself.
func Inspect(ctx context.Context, conn *pgx.Conn, name string, run int64) (MemberReport, error) {
	m := MemberReport{Name: name}
	err := conn.QueryRow(ctx, `SELECT NOT pg_is_in_recovery(),
		coalesce((SELECT received_tli FROM pg_stat_wal_receiver), (SELECT timeline_id FROM pg_control_checkpoint())),
		(SELECT count(*) FROM drill.writes WHERE run = $1),
		current_setting('data_checksums')::bool,
		(SELECT coalesce(sum(checksum_failures), 0)::bigint FROM pg_stat_database)`, run).
		Scan(&m.Primary, &m.Timeline, &m.Rows, &m.Checksums, &m.ChecksumFailures)
	if err != nil {
		return m, fmt.Errorf("inspect %s: %w", name, err)
	}
	if m.Indexes, m.Damage, err = checkIndexes(ctx, conn); err != nil {
		return m, fmt.Errorf("inspect %s: %w", name, err)
	}
	return m, nil
}

// checkIndexes runs amcheck. What it finds is no error of this function.
func checkIndexes(ctx context.Context, conn *pgx.Conn) (checked int, damage []string, err error) {
	var schema *string
	err = conn.QueryRow(ctx, "SELECT min(extnamespace::regnamespace::text) FROM pg_extension WHERE extname = 'amcheck'").Scan(&schema)
	if err != nil || schema == nil {
		return 0, nil, err
	}
	rows, err := conn.Query(ctx, `SELECT c.oid, c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_index i ON i.indexrelid = c.oid
		WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisready AND i.indisvalid ORDER BY 2`)
	if err != nil {
		return 0, nil, fmt.Errorf("list indexes: %w", err)
	}
	type index struct {
		OID  uint32
		Name string
	}
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[index])
	if err != nil {
		return 0, nil, fmt.Errorf("list indexes: %w", err)
	}
	for _, i := range indexes {
		_, err := conn.Exec(ctx, fmt.Sprintf("SELECT %s.bt_index_check($1::oid::regclass, true)", *schema), i.OID)
		switch {
		case err != nil && (conn.IsClosed() || ctx.Err() != nil):
			return checked, damage, fmt.Errorf("check index %s: %w", i.Name, err)
		case err != nil:
			damage = append(damage, fmt.Sprintf("%s: %v", i.Name, err))
		}
		checked++
	}
	heap, err := conn.Query(ctx, fmt.Sprintf("SELECT format('drill.writes, block %%s: %%s', blkno, msg) FROM %s.verify_heapam('drill.writes') LIMIT 20", *schema))
	if err != nil {
		return checked, damage, fmt.Errorf("check the drill's table: %w", err)
	}
	found, err := pgx.CollectRows(heap, pgx.RowTo[string])
	if err != nil {
		damage = append(damage, fmt.Sprintf("drill.writes: %v", err))
	}
	return checked, append(damage, found...), nil
}

// prepareInspection installs amcheck on the primary, where its package is
// there, and with it on all members.
func prepareInspection(ctx context.Context, conn *pgx.Conn) error {
	var available bool
	err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'amcheck')").Scan(&available)
	if err != nil || !available {
		return err
	}
	if _, err := conn.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA drill"); err != nil {
		return fmt.Errorf("install amcheck: %w", err)
	}
	return nil
}

// inspect looks at the data of every member, when it has replayed what the
// primary, to which conn leads, has written.
func (r *rehearsal) inspect(ctx context.Context, conn *pgx.Conn) ([]MemberReport, error) {
	if err := prepareInspection(ctx, conn); err != nil {
		return nil, err
	}
	if err := workEnded(ctx, conn); err != nil {
		return nil, err
	}
	var written string
	if err := conn.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&written); err != nil {
		return nil, fmt.Errorf("ask for the primary's position: %w", err)
	}
	var all []MemberReport
	var primaryRows int64
	for _, h := range r.members() {
		m, err := r.inspectMember(ctx, h.Name, written)
		if err != nil {
			return nil, err
		}
		if m.Primary {
			primaryRows = m.Rows
		}
		all = append(all, m)
	}
	for i := range all {
		all[i].Differs = all[i].Rows - primaryRows
	}
	return all, nil
}

// workEnded waits until the server does nothing more for the application: what a writer
// that was stopped had sent is still done, and rows would be counted before it here and
// after it there.
func workEnded(ctx context.Context, conn *pgx.Conn) error {
	tick := time.NewTicker(20 * time.Millisecond) // PostgreSQL tells nobody
	defer tick.Stop()
	for {
		var works bool
		err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE usename = $1 AND state = 'active')", lab.ApplicationRole).Scan(&works)
		if err != nil {
			return fmt.Errorf("wait for the end of what was sent: %w", err)
		}
		if !works {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of what was sent: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func (r *rehearsal) inspectMember(ctx context.Context, name, written string) (MemberReport, error) {
	config, err := r.Lab.SiteOf(name).ConnConfig(lab.SuperuserRole, name)
	if err != nil {
		return MemberReport{}, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return MemberReport{}, fmt.Errorf("inspect %s: %w", name, err)
	}
	defer closeNow(conn)
	tick := time.NewTicker(20 * time.Millisecond) // a standby tells nobody how far it is
	defer tick.Stop()
	for {
		var replayed bool
		err := conn.QueryRow(ctx, "SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written).Scan(&replayed)
		if err != nil {
			return MemberReport{}, fmt.Errorf("wait until %s has replayed everything: %w", name, err)
		}
		if replayed {
			return Inspect(ctx, conn, name, r.run)
		}
		select {
		case <-ctx.Done():
			return MemberReport{}, fmt.Errorf("wait until %s has replayed everything: %w", name, errors.Join(ctx.Err(), context.Cause(ctx)))
		case <-tick.C:
		}
	}
}
