package pgbouncer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// consoleAddress splits host:port, of which host may be a directory.
func consoleAddress(s string) (string, uint16, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", 0, fmt.Errorf("pgbouncer address %q is not host:port", s)
	}
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || port == 0 || s[:i] == "" {
		return "", 0, fmt.Errorf("pgbouncer address %q is not host:port", s)
	}
	return strings.Trim(s[:i], "[]"), uint16(port), nil
}

// console is a connection to the administration console.
type console struct {
	address, user, password string
	timeout                 time.Duration
}

// open connects to the console. The function returned ends the connection.
func (c console) open(ctx context.Context) (*pgconn.PgConn, func(), error) {
	host, port, err := consoleAddress(c.address)
	if err != nil {
		return nil, nil, err
	}
	// An empty text, so that no PG… variable of the environment is taken.
	cfg, err := pgconn.ParseConfig("host=" + quoteValue(host) + " dbname=pgbouncer sslmode=disable user=" + quoteValue(c.user))
	if err != nil {
		return nil, nil, fmt.Errorf("pgbouncer console: %w", err)
	}
	cfg.Host, cfg.Port, cfg.Password, cfg.Fallbacks = host, port, c.password, nil
	cfg.RuntimeParams = map[string]string{"application_name": "pgsidecar"}
	cfg.ConnectTimeout = c.timeout
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to pgbouncer's console: %w", err)
	}
	return conn, func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
		defer cancel()
		conn.Close(closing) //nolint:errcheck // the command's result is known
	}, nil
}

// run sends one command in the simple protocol, the only one that the console
// knows, and returns when it is answered.
func (c console) run(ctx context.Context, command string) error {
	conn, end, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer end()
	if _, err := conn.Exec(ctx, command).ReadAll(); err != nil {
		return fmt.Errorf("pgbouncer: %s: %w", command, err)
	}
	return nil
}

// pause makes all clients wait, and returns when the last transaction has ended; sent
// is called when the command is on its way.
//
// A login at the server that PAUSE finds under way is cut off, and counts as one that
// failed: until the next succeeds, which is after RESUME, each new query is answered by
// an error ("server login has been failing"; PgBouncer 1.18, src/janitor.c
// per_loop_pause, src/objects.c check_fast_fail). So logins are let end first, for a
// while.
func (c console) pause(ctx context.Context, database string, loginWait time.Duration, sent func()) error {
	conn, end, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer end()
	late := time.NewTimer(loginWait)
	defer late.Stop()
	look := time.NewTicker(loginLook)
	defer look.Stop()
	for waiting := true; waiting && loggingIn(ctx, conn, database); {
		select {
		case <-look.C:
		case <-late.C:
			waiting = false
		}
	}
	result := conn.Exec(ctx, command("PAUSE", database))
	sent()
	if _, err := result.ReadAll(); err != nil {
		return fmt.Errorf("pgbouncer: PAUSE: %w", err)
	}
	return nil
}

// loginLook is how often to ask PgBouncer for its logins: it does not report their end.
const loginLook = time.Millisecond

// loggingIn reports whether PgBouncer has a login at a server of the database, or of
// any, under way. An answer that is not understood is none.
func loggingIn(ctx context.Context, conn *pgconn.PgConn, database string) bool {
	results, err := conn.Exec(ctx, "SHOW POOLS").ReadAll()
	if err != nil || len(results) != 1 {
		return false
	}
	name, logins := -1, -1
	for i, f := range results[0].FieldDescriptions {
		switch f.Name {
		case "database":
			name = i
		case "sv_login":
			logins = i
		}
	}
	return name >= 0 && logins >= 0 && slices.ContainsFunc(results[0].Rows, func(row [][]byte) bool {
		return string(row[logins]) != "0" && (database == "" || string(row[name]) == database)
	})
}

// database is where PgBouncer leads the clients of one database to.
type database struct {
	name, host string
	port       int
}

// databases asks for them. An answer that is not understood has none.
func (c console) databases(ctx context.Context) ([]database, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	conn, end, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	results, err := conn.Exec(ctx, "SHOW DATABASES").ReadAll()
	if err != nil {
		return nil, fmt.Errorf("pgbouncer: SHOW DATABASES: %w", err)
	}
	if len(results) != 1 {
		return nil, nil
	}
	column := map[string]int{}
	for i, f := range results[0].FieldDescriptions {
		column[f.Name] = i
	}
	var all []database
	for _, row := range results[0].Rows {
		var d database
		for name, i := range column {
			switch name {
			case "name":
				d.name = string(row[i])
			case "host":
				d.host = string(row[i])
			case "port":
				d.port, _ = strconv.Atoi(string(row[i])) //nolint:errcheck // then it is no member's
			}
		}
		all = append(all, d)
	}
	return all, nil
}

// quoteValue quotes a value of a libpq connection string.
func quoteValue(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// resume lets clients go on. That nothing was paused is no error.
func (c console) resume(ctx context.Context, database string) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	err := c.run(ctx, command("RESUME", database))
	// PgBouncer gives all its errors one code (1.18, src/admin.c: admin_error),
	// so this one is known by its text only.
	var refused *pgconn.PgError
	if errors.As(err, &refused) && strings.Contains(refused.Message, "not paused") {
		return nil
	}
	return err
}

func command(verb, database string) string {
	if database == "" {
		return verb
	}
	return verb + ` "` + database + `"`
}
