package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// stateDir is where a member's sidecar keeps its own files, among them the
// configuration that its server is started with.
func (h Host) stateDir() string { return h.DataDir() + ".pgsidecar" }

// pgCtlTimeout bounds one call of pg_ctl, and restartTimeout how long it waits for the old server to end.
const (
	pgCtlTimeout   = time.Minute
	restartTimeout = 10 * time.Second
)

// postmasterOf is the process ID of a member's server; zero: none runs.
func (l *Lab) postmasterOf(h Host) int {
	p, err := l.findPostmaster(h, ErrNotRunning)
	if err != nil {
		return 0
	}
	defer p.close()
	return p.pid
}

// PgCtl runs pg_ctl on a member's data directory, on its host and as PostgreSQL's
// user, as a person does who does not think of the sidecar. It looks ten times a second whether the
// server that it stops is gone (pg_ctl.c, WAITS_PER_SEC), and misses that where the sidecar starts it again
// within less: of a restart it then says, after a minute by default, that the server does not shut down. The
// server was restarted all the same, so that is no error here.
func (l *Lab) PgCtl(ctx context.Context, host string, args ...string) error {
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	credential, err := l.credential()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, pgCtlTimeout)
	defer cancel()
	restarts, before := args[0] == "restart", l.postmasterOf(h)
	if restarts {
		args = append(args, "--timeout", strconv.Itoa(int(restartTimeout.Seconds())))
	}
	args = append(args, "-D", h.DataDir(), "-l", filepath.Join(h.stateDir(), "byhand.log"))
	cmd := exec.CommandContext(ctx, filepath.Join(l.plan.PostgresBin, "pg_ctl"), args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.WaitDelay = &said, &said, h.DataDir(), time.Second
	cmd.Env = append(os.Environ(), EnvMark+"="+l.plan.ID+"/"+h.Name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: credential}
	if err := within(h.Namespace, cmd.Start); err != nil {
		return fmt.Errorf("pg_ctl %s on %s: %w", args[0], host, err)
	}
	if err := cmd.Wait(); err != nil {
		if now := l.postmasterOf(h); restarts && ctx.Err() == nil && before != 0 && now != 0 && now != before {
			return nil
		}
		return fmt.Errorf("pg_ctl %s on %s: %w: %s", args[0], host, err, strings.TrimSpace(said.String()))
	}
	return nil
}

// credential is PostgreSQL's user; nil: the user who runs the lab.
func (l *Lab) credential() (*syscall.Credential, error) {
	if l.plan.User == "" {
		return nil, nil
	}
	u, err := user.Lookup(l.plan.User)
	if err != nil {
		return nil, fmt.Errorf("look up user %s: %w", l.plan.User, err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("look up user %s: %w", l.plan.User, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// PrimaryByHand makes a primary of a replica whose sidecar does not run, on another
// port, lets it write what the cluster never wrote, stops it, and puts back the file
// that it was a standby by: afterwards nothing but its log shows what it was.
func (l *Lab) PrimaryByHand(ctx context.Context, host string) error {
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	signal := filepath.Join(h.DataDir(), "standby.signal")
	if err := os.Remove(signal); err != nil {
		return fmt.Errorf("start %s as a primary: %w", host, err)
	}
	port, err := programs.FreePort()
	if err != nil {
		return err
	}
	options := fmt.Sprintf("-c config_file=%s -c port=%d -c synchronous_standby_names=''", filepath.Join(h.stateDir(), "postgresql.conf"), port)
	if err := l.PgCtl(ctx, host, "start", "-w", "-o", options); err != nil {
		return err
	}
	err = l.writeByHand(ctx, h, port)
	if err = errors.Join(err, l.PgCtl(context.WithoutCancel(ctx), host, "stop", "-w", "-m", "fast")); err != nil {
		return err
	}
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		return fmt.Errorf("put back %s: %w", signal, err)
	}
	return l.own(signal)
}

// writeByHand writes more log than the cluster does meanwhile.
func (l *Lab) writeByHand(ctx context.Context, h Host, port int) error {
	config, err := l.ConnConfig(SuperuserRole, h.Name)
	if err != nil {
		return err
	}
	config.Port = uint16(port)
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("write to the server started by hand on %s: %w", h.Name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "CREATE TABLE byhand AS SELECT g, repeat('x', 200) FROM generate_series(1, 50000) g"); err != nil {
		return fmt.Errorf("write to the server started by hand on %s: %w", h.Name, err)
	}
	return nil
}

// ReplaceDisk takes away all that is on the disk of a member none of whose
// programs runs, data directory and sidecar's files, as when its volume is replaced.
func (l *Lab) ReplaceDisk(host string) error {
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	if _, err := l.PID(host, Postgres); !errors.Is(err, ErrNotRunning) {
		return errors.Join(err, fmt.Errorf("replace the disk of %s: its server runs", host))
	}
	names, err := os.ReadDir(disk(h))
	if err != nil {
		return fmt.Errorf("replace the disk of %s: %w", host, err)
	}
	for _, name := range names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(disk(h), name.Name())))
	}
	if err != nil {
		return fmt.Errorf("replace the disk of %s: %w", host, err)
	}
	return nil
}

// DataID returns what tells a member's data directory from the one that a clone puts
// in its place; 0: there is none.
func (l *Lab) DataID(host string) (int, error) {
	h, err := l.plan.Host(host)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(h.DataDir())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at the data directory of %s: %w", host, err)
	}
	return int(info.Sys().(*syscall.Stat_t).Ino), nil
}

// Kept returns how much a member's sidecar has kept aside of log that a rewind or a clone
// was about to overwrite, in bytes.
func (l *Lab) Kept(host string) (bytes int64, err error) {
	h, err := l.plan.Host(host)
	if err != nil {
		return 0, err
	}
	segments, err := filepath.Glob(filepath.Join(h.stateDir(), "diverged", "*", "*"))
	if err != nil {
		return 0, fmt.Errorf("look what %s has kept aside: %w", host, err)
	}
	for _, path := range segments {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile, as too much was kept
		}
		if err != nil {
			return 0, fmt.Errorf("look what %s has kept aside: %w", host, err)
		}
		bytes += info.Size()
	}
	return bytes, nil
}
