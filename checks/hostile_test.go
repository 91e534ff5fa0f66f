package checks_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// hostile are settings that somebody gave the role for his own sessions; those of one line
// are made together.
var hostile = [][]string{
	{"role = app"},
	{"default_transaction_isolation = serializable", "default_transaction_deferrable = on"},
	{"default_transaction_read_only = on", "statement_timeout = 1", "lock_timeout = 1", "idle_session_timeout = 1", "idle_in_transaction_session_timeout = 1",
		"search_path = evil", "DateStyle = 'SQL, DMY'", "IntervalStyle = iso_8601", "bytea_output = escape", "client_encoding = LATIN1",
		"TimeZone = 'Asia/Kathmandu'", "standard_conforming_strings = off", "array_nulls = off", "quote_all_identifiers = on", "row_security = off",
		"session_replication_role = replica"},
}

// TestHostileSettings: no setting that is made for the superuser's role
// keeps this program from looking at a primary or a standby.
func TestHostileSettings(t *testing.T) {
	t.Parallel()
	p := primary(t, "n1")
	p.exec("create role app")
	p.exec("create schema evil")
	p.exec("create function evil.now() returns int language sql as 'select 1/0'")
	p.exec("create view evil.pg_stat_replication as select 1 / (random() * 0)::int as pid")
	r := p.standby("n2")
	r.follow(p)
	r.streaming()
	sessions := map[*server]*pgx.Conn{p: p.sql(), r: r.sql()} // they are of a time before the settings
	ask := func(s *server, query string) (answer string) {
		t.Helper()
		rows, err := sessions[s].Query(within(t, 20*time.Second), query)
		must(t, err)
		answers, err := pgx.CollectRows(rows, pgx.RowTo[string])
		must(t, err)
		return strings.Join(answers, "")
	}
	looks := func(setting string) {
		t.Helper()
		written := ask(p, "select pg_current_wal_flush_lsn()::text")
		for _, s := range []*server{p, r} {
			poll(t, 20*time.Second, setting+" on "+s.name, func() bool {
				return s == p || ask(r, "select (pg_last_wal_replay_lsn() >= '"+written+"')::text") == "true"
			})
			conn := s.newConn()
			if _, err := conn.Read(within(t, 20*time.Second)); err != nil {
				t.Errorf("%s: a look at %s: %v", setting, s.name, err)
			}
			conn.Close()
		}
	}
	for _, settings := range hostile {
		for _, setting := range settings {
			ask(p, "alter role postgres set "+setting)
		}
		looks("the role's " + settings[0])
		ask(p, "alter role postgres reset all")
	}
}

// TestRefusalOfRights: a role that is let in and is no superuser is a refusal, with the way
// out.
func TestRefusalOfRights(t *testing.T) {
	t.Parallel()
	p := primary(t, "n1")
	p.exec("create role other login") // initdb's own keeps its rights from PostgreSQL 16 on
	conn := p.newConnAs("other")
	defer conn.Close()
	_, err := conn.Read(within(t, 20*time.Second))
	if why := checks.Refusal(err); !strings.Contains(why, "no superuser") || !strings.Contains(why, "ALTER ROLE") {
		t.Errorf("%v: %q", err, why)
	}
}

// TestRefusalInWords: what a refusal says is all that the server said, and other errors of a
// look are no refusals.
func TestRefusalInWords(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&pgconn.PgError{Code: "42501", Message: "permission denied", Detail: "what", Hint: "do this"}, "(permission denied; what; do this)"},
		{fmt.Errorf("look: %w", &pgconn.PgError{Code: "42501", Message: "permission denied"}), "(permission denied)"},
		{&pgconn.PgError{Code: "58030", Message: "disk"}, ""},
		{errors.New("timeout"), ""},
		{nil, ""},
	} {
		if got := checks.Refusal(c.err); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}

// TestProofIsNoCancelledWait: the proof that commits wait cuts one of its own off, and the
// log, by which those of clients are counted, has nothing of it.
func TestProofIsNoCancelledWait(t *testing.T) {
	t.Parallel()
	p := primary(t, "n1")
	r := p.standby("n2")
	r.follow(p)
	r.streaming()
	for range 2 { // each from none
		for _, set := range []ha.SyncSetting{{K: 1, Names: names("n2")}, {}} {
			_, err := p.conn.SetSync(within(t, 20*time.Second), set)
			must(t, err)
		}
	}
	if said := p.process.Output(); strings.Contains(said, "canceling the wait") {
		t.Errorf("the log:\n%s", said)
	}
}
