package checks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// setting is a parameter and its value.
type setting struct{ name, value string }

// ControlFile is a file of the server's configuration that only this member writes,
// and that holds the settings by which replication is controlled. It does not follow
// ALTER SYSTEM, which somebody else's files and settings may forbid.
type ControlFile interface {
	// Control reads the file.
	Control() (map[string]string, error)
	// SetControl changes settings in the file, durably; the others stay.
	SetControl(values map[string]string) error
}

// alter makes settings, those that are not so already, reloads, and waits until this
// session has read them; not those beside. It costs a file synced and renamed.
func (c *Conn) alter(ctx context.Context, conn *pgx.Conn, want []setting, beside ...setting) error {
	changed, err := c.change(ctx, conn, slices.Concat(want, beside))
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
		coalesce(pg_read_file('postgresql.auto.conf', 0, 1000000, true), ''),
		coalesce(pg_read_file(current_setting('config_file'), 0, 1000000, true), '') like '%/control.conf''%'`
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
func (c *Conn) change(ctx context.Context, conn *pgx.Conn, want []setting) (bool, error) {
	names, _ := columns(want)
	have, err := scanCurrent(conn.QueryRow(ctx, readCurrent, names), names)
	if err != nil {
		return false, err
	}
	return c.changeFrom(ctx, conn, have, want)
}

// current is what settings say, and what postgresql.auto.conf will say at the
// next reload.
type current struct {
	values map[string]string
	auto   string
	// included: the next reload reads the control file. A server that an earlier
	// release has started reads it only when its configuration was written anew, and
	// by what is taken out of postgresql.auto.conf before it would lose its settings.
	included bool
}

// scanCurrent reads the answer to readCurrent for these names.
func scanCurrent(row pgx.Row, names []string) (current, error) {
	c := current{values: make(map[string]string, len(names))}
	var values []string
	if err := row.Scan(&values, &c.auto, &c.included); err != nil {
		return current{}, err
	}
	for i, name := range names {
		c.values[name] = values[i]
	}
	return c, nil
}

// changeFrom is change, when it is known what there is. A line of ALTER SYSTEM comes
// after the control file's, so one that somebody has made there is taken back.
func (c *Conn) changeFrom(ctx context.Context, conn *pgx.Conn, have current, want []setting) (bool, error) {
	if c.o.Control == nil || !have.included {
		return have.alterSystem(ctx, conn, want)
	}
	file, err := c.o.Control.Control()
	if err != nil {
		return false, err
	}
	next, commands, differs := map[string]string{}, []string{}, false
	for _, w := range want {
		next[w.name] = w.value
		differs = differs || have.values[w.name] != w.value || file[w.name] != w.value
		if inFile(have.auto, w.name) && fileDiffers(have.auto, w) {
			commands = append(commands, "alter system reset "+w.name)
		}
	}
	if !differs && len(commands) == 0 {
		return false, nil
	}
	if err := c.o.Control.SetControl(next); err != nil {
		return false, err
	}
	return true, inTurn(ctx, conn, append(commands, "select pg_reload_conf()"))
}

// alterSystem makes settings by ALTER SYSTEM; each costs PostgreSQL a file.
func (c current) alterSystem(ctx context.Context, conn *pgx.Conn, want []setting) (bool, error) {
	var commands []string
	for _, w := range want {
		if c.values[w.name] != w.value || fileDiffers(c.auto, w) {
			commands = append(commands, "alter system set "+w.name+" = "+quoteText(w.value))
		}
	}
	if len(commands) == 0 {
		return false, nil
	}
	return true, inTurn(ctx, conn, append(commands, "select pg_reload_conf()"))
}

// inFile reports whether postgresql.auto.conf has a line for a setting.
func inFile(auto, name string) bool {
	for line := range strings.Lines(auto) {
		if rest, found := strings.CutPrefix(strings.TrimSpace(line), name); found && strings.HasPrefix(strings.TrimSpace(rest), "=") {
			return true
		}
	}
	return false
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
	Timeout  time.Duration // of a connection that is neither made nor answered
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

// upstreamOf returns the member that a primary_conninfo of ours names, and the address
// that it has for it.
func upstreamOf(conninfo string) (member, address string) {
	value := func(name string) string {
		_, rest, found := strings.Cut(" "+conninfo, " "+name+"='")
		if !found {
			return ""
		}
		value, _, _ := strings.Cut(rest, "'")
		return value
	}
	member, found := strings.CutPrefix(value("service"), servicePrefix)
	if !found {
		return "", ""
	}
	if host, port := value("host"), value("port"); host != "" && port != "" {
		address = net.JoinHostPort(host, port)
	}
	return member, address
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
