package checks

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Configured is what the server's configuration says about what is promised of it, from
// whatever source it comes, and what is wrong with its files.
type Configured struct {
	// Files are the lines of configuration files that the server cannot read: since
	// they were written it keeps to what it had read before, all files of one kind.
	Files []string
	// Rules are the lines of pg_hba.conf ("hba: ...") and, from PostgreSQL 15 on, of
	// pg_ident.conf ("ident: ...") that it cannot read.
	Rules []string
	// Commit is synchronous_commit of a session for which nothing else is set.
	Commit string
	// Relaxed are settings of the server by which an acknowledged commit can be lost,
	// with where they come from: synchronous_commit, fsync, full_page_writes,
	// data_sync_retry. Weak are roles' and databases' synchronous_commit.
	Relaxed, Weak []string
	// ReadOnly are the settings of the server and of databases by which transactions may not
	// write unless they ask to: default_transaction_read_only.
	ReadOnly []string
	// Pending are the parameters that wait for a restart.
	Pending []Pending
	// Libc and ICU are the versions of the libraries by which text is put in order here;
	// empty: none is used, or it has no version.
	Libc, ICU string
	// Reordered are what was put in order by a library of another version than the machine
	// has, for people: each database's own order, and the collations that something in
	// this session's database is made with.
	Reordered []string
	// Unarchived is how many files wait to be archived, and UnarchivedSince since when the oldest
	// does (Unix seconds); zero: none waits, or archive_mode is off.
	Unarchived      int
	UnarchivedSince int64
	// Roles are the names of those that receive the log, by their oids.
	Roles map[int64]string
}

// Pending is a parameter of which a restart takes up another value.
type Pending struct {
	Name, Now, Wanted string // Wanted as the file has it; empty: it is reset
}

const (
	// The order of C and POSIX never changes. A database may have a locale that was not
	// there when pg_collation was filled, but then its machine has others. One of ICU's
	// collations is enough: all have the version of the library and of its data.
	collations = `select
		coalesce((select pg_collation_actual_version(oid) from pg_collation
			where collprovider = 'c' and collcollate !~* '^(c|posix)($|[.])' limit 1), ''),
		coalesce((select pg_collation_actual_version(oid) from pg_collation where collprovider = 'i' order by oid limit 1), '')`
	// From PostgreSQL 15 on a database has its version too.
	reordered = `select count(*) || ' collations of database ' || current_database() || ', such as ' || min(collname) || ' (made with ' || collversion || ', here ' || now || ')'
		from (select oid, collname, collversion, pg_collation_actual_version(oid) now from pg_collation where collversion is not null) c
		where now is not null and now <> collversion
			and exists (select from pg_depend where refclassid = 'pg_collation'::regclass and refobjid = c.oid) group by collversion, now`
	reorderedDatabases = ` union all select 'database ' || datname || ' (made with ' || datcollversion || ', here ' || pg_database_collation_actual_version(oid) || ')'
		from pg_database where datallowconn and datcollversion <> pg_database_collation_actual_version(oid)`
	unarchived = `select count(*), coalesce(extract(epoch from min(modification))::bigint, 0) from pg_ls_archive_statusdir()
		where name like '%.ready' and current_setting('archive_mode') <> 'off'`
	// What takes effect by a restart alone is an error there too, and is none.
	wrongFiles = `select coalesce(sourcefile, 'configuration') || ' line ' || coalesce(sourceline, 0) || ': ' || coalesce(name || ': ', '') || error
		from pg_file_settings where error is not null and error <> 'setting could not be applied' order by seqno`
	pendingSettings = `select name, setting, coalesce((select setting from pg_file_settings f where f.name = s.name order by seqno desc limit 1), '')
		from pg_settings s where pending_restart order by name`
	senderRoles = `select distinct a.usesysid::bigint, pg_get_userbyid(a.usesysid)::text
		from pg_stat_get_wal_senders() w join pg_stat_get_activity(null) a on a.pid = w.pid where a.usesysid is not null`
	// Roles' and databases' settings are listed by themselves, and hide the server's
	// from a session that they are for.
	durableSettings = `select s.name, case when hidden then coalesce(f.setting, s.boot_val) else s.reset_val end,
			case when hidden and f.sourcefile is not null then ' in ' || f.sourcefile || ' line ' || f.sourceline
				when s.sourcefile is not null then ' in ' || s.sourcefile || ' line ' || s.sourceline
				when s.source = 'command line' then ' by the command line' else '' end
		from (select *, source in ('user', 'database', 'database user', 'client', 'session') as hidden from pg_settings) s
		left join lateral (select * from pg_file_settings f where f.name = s.name and f.applied limit 1) f on s.hidden
		where s.name in ('synchronous_commit', 'fsync', 'full_page_writes', 'data_sync_retry', 'default_transaction_read_only') order by s.name`
	readOnlyDefault = "default_transaction_read_only"
)

// patience bounds the wait for the session, which a checkpoint may hold for minutes.
const patience = 50 * time.Millisecond

// Configured reads the configuration as the server has it. ErrOccupied says that a
// checkpoint is under way.
func (c *Conn) Configured(ctx context.Context) (Configured, error) {
	var s Configured
	wrong, err := c.WrongLines(ctx)
	if err == nil {
		s.Rules = wrong
		err = c.slow.within(ctx, patience, func(conn *pgx.Conn) error { return readConfigured(ctx, conn, c.o.Major, &s) })
	}
	if err != nil {
		return Configured{}, fmt.Errorf("look at the configuration: %w", err)
	}
	return s, nil
}

func readConfigured(ctx context.Context, conn *pgx.Conn, major int, s *Configured) error {
	batch := &pgx.Batch{}
	ordered := reordered
	if major >= 15 {
		ordered += reorderedDatabases
	}
	for _, q := range []string{collations, unarchived, ordered + " order by 1", wrongFiles, defaults, pendingSettings, senderRoles, durableSettings} {
		batch.Queue(q)
	}
	answers := conn.SendBatch(ctx, batch)
	defer answers.Close()                         // an error of it is one of the reads'
	s.Relaxed, s.Weak, s.ReadOnly = nil, nil, nil // f may be run twice
	if err := answers.QueryRow().Scan(&s.Libc, &s.ICU); err != nil {
		return err
	}
	if err := answers.QueryRow().Scan(&s.Unarchived, &s.UnarchivedSince); err != nil {
		return err
	}
	rows, err := answers.Query()
	if err != nil {
		return err
	}
	if s.Reordered, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return err
	}
	if rows, err = answers.Query(); err != nil {
		return err
	}
	if s.Files, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return err
	}
	if rows, err = answers.Query(); err != nil {
		return err
	}
	var role int64
	var name, value, where string
	if _, err = pgx.ForEachRow(rows, []any{&value}, func() error {
		if strings.HasPrefix(value, readOnlyDefault) {
			s.ReadOnly = append(s.ReadOnly, value)
		} else {
			s.Weak = append(s.Weak, value)
		}
		return nil
	}); err != nil {
		return err
	}
	if rows, err = answers.Query(); err != nil {
		return err
	}
	if s.Pending, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Pending]); err != nil {
		return err
	}
	if rows, err = answers.Query(); err != nil {
		return err
	}
	s.Roles = map[int64]string{}
	if _, err = pgx.ForEachRow(rows, []any{&role, &name}, func() error { s.Roles[role] = name; return nil }); err != nil {
		return err
	}
	if rows, err = answers.Query(); err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, []any{&name, &value, &where}, func() error {
		if name == "synchronous_commit" {
			s.Commit = value
		}
		switch {
		case name == readOnlyDefault && value == "on":
			s.ReadOnly = append(s.ReadOnly, name+"="+value+where)
		case name != readOnlyDefault && weak(name, value):
			s.Relaxed = append(s.Relaxed, name+"="+value+where)
		}
		return nil
	})
	return err
}

// weak reports whether a value gives up what is promised of an acknowledged commit.
func weak(name, value string) bool {
	switch name {
	case "synchronous_commit":
		return slices.Contains([]string{"off", "local", "remote_write"}, strings.ToLower(value))
	case "data_sync_retry":
		return value == "on"
	}
	return value == "off"
}
