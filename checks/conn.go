package checks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Options say how the server is reached.
type Options struct {
	Socket   string // directory of its socket
	Port     int
	User     string                 // a superuser
	Password func() (string, error) // nil where the socket needs none
	Member   string                 // this member's name
	Major    int                    // the server's version: 17; 0: not known
	Logger   hclog.Logger
	Now      func() ha.Instant // CLOCK_BOOTTIME
	// Shut reports whether the gate to the upstream is shut. While it is, a look
	// counts primary_conninfo for nothing. Nil: the gate is not known.
	Shut func() bool
	// Control is where the settings of replication are made. Nil: by ALTER SYSTEM.
	Control ControlFile
}

// Conn speaks to the local server. Its methods may be called at the same time.
type Conn struct {
	o    Options
	log  hclog.Logger
	look session
	work session
	// slow makes checkpoints: they may take minutes, and nothing else must wait for
	// them. It has the server's own synchronous_commit, and writes nothing.
	slow session

	sync syncState

	mu          sync.Mutex // holds the next two
	life        time.Time  // of the server whose end of recovery is below
	recoveryEnd ha.LSN
}

// New makes a Conn. It connects to nothing yet.
func New(o Options) (*Conn, error) {
	switch {
	case o.Socket == "" || o.Port <= 0 || o.User == "":
		return nil, errors.New("checks: a socket, a port and a user are needed")
	case o.Now == nil:
		return nil, errors.New("checks: no clock")
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	c := &Conn{o: o, log: o.Logger}
	for _, s := range []*session{&c.look, &c.work, &c.slow} {
		s.connect, s.turn = c.connect, make(chan struct{}, 1)
	}
	c.work.connect, c.slow.connect = c.connectWork, c.connectPlain
	c.sync.turn = make(chan struct{}, 1)
	return c, nil
}

// Close ends all sessions.
func (c *Conn) Close() {
	// A second bounds the farewell to a server that does not answer.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c.look.close(ctx)
	c.work.close(ctx)
	c.slow.close(ctx)
}

// workName is the application_name of the sessions that change settings.
const workName = "pgsidecar work"

// connectWork opens the connection that changes settings, after it has ended
// those that did so before: a sidecar that was killed, or gave up waiting, may
// have left a command that its server still works on. What such a command has
// written is reloaded, so that the next look sees it.
func (c *Conn) connectWork(ctx context.Context) (*pgx.Conn, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := succeed(ctx, conn); err != nil {
		_ = conn.Close(ctx) // the server ends the session either way
		return nil, fmt.Errorf("end an earlier session: %w", kind(err))
	}
	return conn, nil
}

// pending tells whether a file says something that is not in effect: a change
// without its reload. What the command line sets never comes to agree with a file.
const pending = `select exists (select from pg_file_settings f join pg_settings s using (name)
	where f.applied and f.error is null and s.source <> 'command line'
	and f.setting is distinct from current_setting(name, true)
	and name in ('synchronous_standby_names', 'primary_conninfo', 'primary_slot_name', 'restore_command'))`

// reloadTime bounds the wait for a reload, which a busy machine delays.
const reloadTime = 2 * time.Second

func succeed(ctx context.Context, conn *pgx.Conn) error {
	err := until(ctx, func() (bool, error) {
		var left int
		err := conn.QueryRow(ctx, `select count(pg_terminate_backend(pid)) from pg_stat_get_activity(null)
			where application_name = $1 and pid <> pg_backend_pid()`, workName).Scan(&left)
		return left == 0, err
	})
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "select set_config('application_name', $1, false)", workName); err != nil {
		return err
	}
	var wrong bool
	if err := conn.QueryRow(ctx, pending).Scan(&wrong); err != nil || !wrong {
		return err
	}
	if _, err := conn.Exec(ctx, "select pg_reload_conf()"); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, reloadTime)
	defer cancel()
	err = until(wait, func() (bool, error) {
		err := conn.QueryRow(ctx, pending).Scan(&wrong)
		return !wrong, err
	})
	if wait.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// connect opens one connection. Nothing is taken from the environment, and
// nothing that the superuser's own settings say can make us wait for a replica
// or be timed out.
func (c *Conn) connect(ctx context.Context) (*pgx.Conn, error) {
	return c.connectWith(ctx, map[string]string{"synchronous_commit": "local"})
}

// connectPlain is connect, for a session that shows what the server's
// synchronous_commit is.
func (c *Conn) connectPlain(ctx context.Context) (*pgx.Conn, error) { return c.connectWith(ctx, nil) }

func (c *Conn) connectWith(ctx context.Context, more map[string]string) (*pgx.Conn, error) {
	conf, err := pgx.ParseConfig(fmt.Sprintf("host='%s' port=%d user=pgsidecar database=postgres sslmode=disable",
		c.o.Socket, c.o.Port))
	if err != nil {
		return nil, fmt.Errorf("connect to the local server: %w", err)
	}
	conf.User, conf.Password = c.o.User, ""
	if c.o.Password != nil {
		if conf.Password, err = c.o.Password(); err != nil {
			return nil, fmt.Errorf("read the superuser's password: %w", err)
		}
	}
	conf.Fallbacks, conf.ConnectTimeout = nil, 0
	conf.RuntimeParams = parameters(c.o.Major)
	maps.Copy(conf.RuntimeParams, more)
	conn, err := pgx.ConnectConfig(ctx, conf)
	if err != nil {
		return nil, fmt.Errorf("connect to the local server: %w", kind(err))
	}
	return conn, nil
}

// parameters are what a session of this program asks of a server of that version, whatever its
// user, its database or its files say. From PostgreSQL 17 a trigger of the event login may
// refuse a session, or write, which no standby does; and transaction_timeout would end a
// checkpoint or the wait for a promotion.
func parameters(major int) map[string]string {
	p := map[string]string{
		"application_name": "pgsidecar", "search_path": "pg_catalog",
		"statement_timeout": "0", "lock_timeout": "0", "idle_session_timeout": "0",
		"default_transaction_read_only": "off", "client_min_messages": "error", "jit": "off",
		"idle_in_transaction_session_timeout": "0", "log_statement": "none", "log_min_duration_statement": "-1",
		"DateStyle": "ISO", "client_encoding": "UTF8", "IntervalStyle": "postgres", "bytea_output": "hex",
		"standard_conforming_strings": "on", "array_nulls": "on",
		"role":                           "none",           // what ALTER ROLE has set may be no superuser
		"default_transaction_isolation":  "read committed", // a standby refuses each query in serializable
		"default_transaction_deferrable": "off",
	}
	if major >= 17 {
		p["event_triggers"], p["transaction_timeout"] = "off", "0"
	}
	return p
}

// session is one connection, made when it is needed.
type session struct {
	connect func(context.Context) (*pgx.Conn, error)
	turn    chan struct{} // holds one token while in use
	conn    *pgx.Conn
	// rehearsed: conn knows what warm has rehearsed on it.
	rehearsed bool
}

// do runs f on the session. All that is done by f may be done twice: if a
// connection kept from an earlier life of the server turns out dead, f is run
// again on a new one.
func (s *session) do(ctx context.Context, f func(*pgx.Conn) error) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrOccupied, context.Cause(ctx))
	}
	return s.inTurn(ctx, f)
}

// within is do, if the session is free in that time; else it returns ErrOccupied.
func (s *session) within(ctx context.Context, wait time.Duration, f func(*pgx.Conn) error) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case s.turn <- struct{}{}:
	case <-timer.C:
		return ErrOccupied
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrOccupied, context.Cause(ctx))
	}
	return s.inTurn(ctx, f)
}

// inTurn runs f; the caller holds the turn, which is given back.
func (s *session) inTurn(ctx context.Context, f func(*pgx.Conn) error) error {
	defer func() { <-s.turn }()
	kept := s.conn != nil && !s.conn.IsClosed()
	err := s.once(ctx, f)
	if err != nil && kept && s.conn.IsClosed() && ctx.Err() == nil {
		err = s.once(ctx, f)
	}
	return kind(err)
}

func (s *session) once(ctx context.Context, f func(*pgx.Conn) error) error {
	if s.conn == nil || s.conn.IsClosed() {
		conn, err := s.connect(ctx)
		if err != nil {
			return err
		}
		s.conn, s.rehearsed = conn, false
	}
	return f(s.conn)
}

// warm connects if nobody uses the session, and rehearses on the new connection
// what may have to be done on it, so that the next operation need not.
func (s *session) warm(ctx context.Context, rehearse func(context.Context, *pgx.Conn)) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
		if s.conn == nil || s.conn.IsClosed() {
			conn, err := s.connect(ctx)
			if err != nil {
				return err
			}
			s.conn, s.rehearsed = conn, false
		}
		if !s.rehearsed {
			s.rehearsed = true
			rehearse(ctx, s.conn)
		}
	default:
	}
	return nil
}

func (s *session) close(ctx context.Context) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
		if s.conn != nil {
			_ = s.conn.Close(ctx) // the server ends the session either way
			s.conn = nil
		}
	case <-ctx.Done():
	}
}

// tick is how often a state is looked at that PostgreSQL gives no event for.
const tick = time.Millisecond

// until calls f now and at each tick until it is done, fails, or ctx ends.
func until(ctx context.Context, f func() (bool, error)) error { return every(ctx, tick, f) }

func every(ctx context.Context, tick time.Duration, f func() (bool, error)) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		if done, err := f(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// awaitTick is slower: the server logs each connection that comes too soon.
const awaitTick = 5 * time.Millisecond

// Await waits until the server takes connections.
func (c *Conn) Await(ctx context.Context) error {
	var last error
	err := every(ctx, awaitTick, func() (bool, error) {
		last = c.work.do(ctx, func(conn *pgx.Conn) error { return conn.Ping(ctx) })
		if errors.Is(last, ErrDenied) {
			return false, last
		}
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the server: %w", errors.Join(err, last))
	}
	return nil
}
