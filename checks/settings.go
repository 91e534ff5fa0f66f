package checks

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// setting is a parameter and its value.
type setting struct{ name, value string }

// alter makes settings by ALTER SYSTEM, those that are not so already, reloads,
// and waits until this session has read them. Each costs PostgreSQL a file
// synced and renamed.
func alter(ctx context.Context, conn *pgx.Conn, want []setting) error {
	changed, err := change(ctx, conn, want)
	if err != nil || !changed {
		return err
	}
	names, values := columns(want)
	return until(ctx, func() (bool, error) {
		var done bool
		err := conn.QueryRow(ctx, readEffect, names, values).Scan(&done)
		return done, err
	})
}

const (
	readCurrent = `select array(select current_setting(n) from unnest($1::text[]) with ordinality as w(n, i) order by i),
		coalesce(pg_read_file('postgresql.auto.conf', 0, 1000000, true), '')`
	readEffect = `select coalesce(bool_and(current_setting(w.name) = w.value), true) from unnest($1::text[], $2::text[]) as w(name, value)`
)

func columns(want []setting) (names, values []string) {
	names, values = make([]string, len(want)), make([]string, len(want))
	for i, w := range want {
		names[i], values[i] = w.name, w.value
	}
	return names, values
}

// change makes the settings that are not so already and reloads, and reports
// whether it had to; they are not in effect yet when it returns.
func change(ctx context.Context, conn *pgx.Conn, want []setting) (bool, error) {
	names, _ := columns(want)
	have, err := scanCurrent(conn.QueryRow(ctx, readCurrent, names), names)
	if err != nil {
		return false, err
	}
	return have.change(ctx, conn, want)
}

// current is what settings say, and what postgresql.auto.conf will say at the
// next reload.
type current struct {
	values map[string]string
	file   string
}

// scanCurrent reads the answer to readCurrent for these names.
func scanCurrent(row pgx.Row, names []string) (current, error) {
	c := current{values: make(map[string]string, len(names))}
	var values []string
	if err := row.Scan(&values, &c.file); err != nil {
		return current{}, err
	}
	for i, name := range names {
		c.values[name] = values[i]
	}
	return c, nil
}

// change is change, when it is known what there is.
func (c current) change(ctx context.Context, conn *pgx.Conn, want []setting) (bool, error) {
	var commands []string
	for _, w := range want {
		if c.values[w.name] != w.value || fileDiffers(c.file, w) {
			commands = append(commands, "alter system set "+w.name+" = "+quoteText(w.value))
		}
	}
	if len(commands) == 0 {
		return false, nil
	}
	return true, inTurn(ctx, conn, append(commands, "select pg_reload_conf()"))
}

// inTurn runs commands, each in a transaction of its own (ALTER SYSTEM runs in
// no other), and sends them without waiting for answers in between: on a busy
// machine each round trip costs milliseconds.
func inTurn(ctx context.Context, conn *pgx.Conn, commands []string) error {
	pipeline := conn.PgConn().StartPipeline(ctx)
	for _, command := range commands {
		pipeline.SendQueryParams(command, nil, nil, nil, nil)
		if err := pipeline.Sync(); err != nil {
			return errors.Join(err, pipeline.Close())
		}
	}
	var errs []error
	for done := 0; done < len(commands); {
		results, err := pipeline.GetResults()
		switch answer := results.(type) {
		case *pgconn.ResultReader:
			_, err = answer.Close()
		case *pgconn.PipelineSync:
			done++
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", commands[min(done, len(commands)-1)], err))
			if conn.IsClosed() {
				break
			}
		}
		if results == nil && err == nil {
			break // the connection has ended
		}
	}
	return errors.Join(append(errs, pipeline.Close())...)
}

// fileDiffers reports whether postgresql.auto.conf says something else than what
// is wanted: what was altered and not reloaded yet comes with the next reload.
func fileDiffers(file string, want setting) bool {
	expected := want.name + " = '" + strings.NewReplacer("'", "''", `\`, `\\`).Replace(want.value) + "'"
	for line := range strings.Lines(file) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, want.name+" ") || strings.HasPrefix(line, want.name+"=") {
			return line != expected
		}
	}
	return false
}

// quoteText writes a string constant.
func quoteText(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

// quoteName writes an identifier.
func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// servicePrefix begins the service that primary_conninfo names for the gate.
const servicePrefix = "pgsidecar:"

// Upstream says how a standby reaches another member's server.
type Upstream struct {
	Service  string // of the gate; it names the member: "pgsidecar:" and its name
	Host     string
	Port     int
	User     string
	Passfile string
	Self     string        // this member's name, as its walsender shows
	Timeout  time.Duration // of a connection that neither comes about nor answers
	// More are further libpq options, such as sslmode.
	More [][2]string
}

// ConnInfo writes the primary_conninfo for an upstream. No password is in it.
func ConnInfo(u Upstream) string {
	seconds := max(2, int((u.Timeout+time.Second-1)/time.Second)) // libpq takes 1 for 2
	// dbname is for the worker that copies slots (PostgreSQL 17); others do without.
	options := [][2]string{{"service", u.Service}, {"host", u.Host}, {"port", strconv.Itoa(u.Port)}, {"user", u.User}, {"dbname", "postgres"},
		{"passfile", u.Passfile}, {"application_name", u.Self}, {"connect_timeout", strconv.Itoa(seconds)},
		{"keepalives_idle", strconv.Itoa(seconds)}, {"keepalives_interval", "1"}, {"keepalives_count", "2"},
		{"tcp_user_timeout", strconv.Itoa(seconds * 1000)}}
	var b strings.Builder
	for _, o := range append(options, u.More...) {
		if o[1] != "" {
			b.WriteString(" " + o[0] + "='" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(o[1]) + "'")
		}
	}
	return strings.TrimPrefix(b.String(), " ")
}

// upstreamOf returns the member that a primary_conninfo of ours names.
func upstreamOf(conninfo string) string {
	_, rest, found := strings.Cut(" "+conninfo, " service='"+servicePrefix)
	if !found {
		return ""
	}
	member, _, _ := strings.Cut(rest, "'")
	return member
}

// syncNames writes synchronous_standby_names.
func syncNames(set ha.SyncSetting) string {
	if set.K == 0 || len(set.Names) == 0 {
		return ""
	}
	return fmt.Sprintf("ANY %d (%s)", set.K, quoteList(set.Names))
}

func quoteList(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = quoteName(n)
	}
	return strings.Join(quoted, ", ")
}

// parseSync reads synchronous_standby_names as syncNames or frozenNames wrote
// it. Any other text becomes a setting with that text for its one name, which
// equals none that is wanted.
func parseSync(text string) ha.SyncSetting {
	if strings.TrimSpace(text) == "" {
		return ha.SyncSetting{}
	}
	other := ha.SyncSetting{K: -1, Names: []string{text}}
	var method string
	var k int
	head, list, found := strings.Cut(text, "(")
	if n, err := fmt.Sscan(head, &method, &k); err != nil || n != 2 || !found || method != "ANY" || !strings.HasSuffix(list, ")") {
		return other
	}
	set := ha.SyncSetting{K: k}
	for _, name := range strings.Split(strings.TrimSuffix(list, ")"), ", ") {
		bare, opened := strings.CutPrefix(name, `"`)
		bare, closed := strings.CutSuffix(bare, `"`)
		if !opened || !closed {
			return other
		}
		set.Names = append(set.Names, strings.ReplaceAll(bare, `""`, `"`))
	}
	if syncNames(set) != text {
		return other
	}
	return set
}
