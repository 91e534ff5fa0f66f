package proof

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
)

// scratch is the folder, and the server in it.
type scratch struct {
	o     Options
	ended chan struct{} // closed when the server that start started has ended; nil: none was
	// sole is inherited by all programs. The group of the last is noted: beside it only the
	// server runs, which is ended by its own file.
	sole *program.Sole

	mu   sync.Mutex
	said string // the last severe message of the server; guarded by mu
}

func (s *scratch) data() string { return filepath.Join(s.o.Folder, "data") }

const port = 5432 // of a socket in a folder of its own, so any will do

// command is one of PostgreSQL's programs, which runs after the server itself.
func (s *scratch) command(name string, args ...string) program.Command {
	return program.Command{User: s.o.User, Background: true, Args: append([]string{filepath.Join(s.o.BinDir, name)}, args...)}
}

func (s *scratch) solePath() string { return filepath.Join(s.o.Folder, "running") }

// endPrograms ends what still works in the folder besides the server: also what a
// verification that was killed has left.
func (s *scratch) endPrograms(ctx context.Context) error {
	if s.sole == nil {
		if _, err := s.o.User.Files().Stat(s.solePath()); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		var err error
		if s.sole, err = program.TakeSole(ctx, s.o.User, s.solePath()); err != nil {
			return err
		}
	}
	err := s.sole.Release(ctx)
	s.sole = nil
	return err
}

// markName is a file that says that the folder is ours to remove.
const markName = "pgsidecar-verification"

// clear ends the server that is left, and removes the folder: only one that has our
// marker, or nothing at all.
func (s *scratch) clear(ctx context.Context) error {
	files := s.o.User.Files()
	entries, err := files.ReadDir(s.o.Folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the scratch folder: %w", err)
	}
	ours := slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == markName })
	if !ours && len(entries) > 0 {
		return fmt.Errorf("%w: %s has files that no verification made, and is left untouched", backup.ErrNotEmpty, s.o.Folder)
	}
	if err := errors.Join(s.stop(ctx, "immediate"), s.endPrograms(ctx)); err != nil {
		return err
	}
	// The marker goes last, so that what is left after a crash can still be removed.
	for _, e := range entries {
		if e.Name() != markName {
			if err := files.RemoveAll(filepath.Join(s.o.Folder, e.Name())); err != nil {
				return fmt.Errorf("remove the scratch folder: %w", err)
			}
		}
	}
	if err := files.RemoveTree(s.o.Folder); err != nil {
		return fmt.Errorf("remove the scratch folder: %w", err)
	}
	return nil
}

// stop ends the server, if it runs. pg_ctl knows a process of that number that is
// no server of the folder.
func (s *scratch) stop(ctx context.Context, mode string) error {
	if err := s.end(ctx, mode); err != nil || s.ended == nil {
		return err
	}
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("end the scratch server: %w", context.Cause(ctx))
	}
}

// end tells the server to end, no matter what started it.
func (s *scratch) end(ctx context.Context, mode string) error {
	if _, err := s.o.User.Files().Stat(filepath.Join(s.data(), "postmaster.pid")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	c := s.command("pg_ctl", "-D", s.data(), "-m", mode, "-w", "stop")
	if s.sole != nil {
		c = s.sole.With(c)
	}
	_, err := c.Run(ctx)
	var f *program.Failed
	if errors.As(err, &f) && strings.Contains(f.Said, "Is server running?") {
		return nil // a machine that fell left the file
	}
	if err != nil {
		return fmt.Errorf("end the scratch server: %w", err)
	}
	return nil
}

// start starts the server. Its goroutine ends with it; when ctx is done it is killed.
func (s *scratch) start(ctx context.Context) {
	s.ended = make(chan struct{})
	args := append([]string{filepath.Join(s.o.BinDir, "postgres"), "-D", s.data()}, s.parameters()...)
	c := s.sole.With(program.Command{User: s.o.User, Background: true, Args: args, Line: s.hear})
	go func() {
		defer close(s.ended)
		if _, err := c.Run(ctx); err != nil {
			s.hear("FATAL:  " + err.Error()) // counts if the server itself named no reason
		}
	}()
}

// hear keeps the last severe message of the server.
func (s *scratch) hear(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, message, fatal := strings.Cut(line, "FATAL:  ")
	if !fatal {
		_, message, fatal = strings.Cut(line, "PANIC:  ")
	}
	if fatal && (s.said == "" || !strings.HasPrefix(line, "FATAL:")) {
		s.said = message
	}
}

// words is the last severe message of the server.
func (s *scratch) words() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.said, "it named no reason")
}

// parameters are given on the command line, before what was restored.
func (s *scratch) parameters() []string {
	set := map[string]string{}
	maps.Copy(set, s.o.Parameters)
	maps.Copy(set, map[string]string{
		"listen_addresses": "", "unix_socket_directories": s.o.Folder, "unix_socket_permissions": "0700", "port": fmt.Sprint(port),
		"hba_file": filepath.Join(s.o.Folder, "hba"), "ident_file": filepath.Join(s.o.Folder, "ident"),
		"ssl": "off", "archive_mode": "off", "primary_conninfo": "", "primary_slot_name": "", "synchronous_standby_names": "",
		"autovacuum": "off", "hot_standby": "off", "max_wal_size": "128MB", "wal_keep_size": "0", "max_slot_wal_keep_size": "0",
		"shared_buffers": "64MB", "logging_collector": "off", "log_destination": "stderr", "recovery_target_action": "promote",
		"fsync": "off", "restart_after_crash": "off", "cluster_name": "pgsidecar verification",
	})
	var args []string
	for _, name := range slices.Sorted(maps.Keys(set)) {
		args = append(args, "-c", name+"="+set[name])
	}
	return args
}

// recover starts the server and waits until it takes writes, within the bounds.
func (s *scratch) recover(ctx context.Context, limit int64) error {
	bound := s.o.Recover
	if bound == 0 {
		bound = time.Hour
	}
	whole := ctx // the server lives on when it has recovered
	ctx, cancel := context.WithTimeoutCause(ctx, bound, fmt.Errorf("%w: the recovery took longer than %s", ErrFailed, bound))
	defer cancel()
	files := map[string]string{"hba": "local all all trust\n", "ident": ""}
	if _, err := s.o.User.Files().Stat(filepath.Join(s.data(), "postgresql.conf")); errors.Is(err, fs.ErrNotExist) {
		files["data/postgresql.conf"] = "" // a member's may be elsewhere
	}
	for name, content := range files {
		path := filepath.Join(s.o.Folder, name)
		if err := s.o.User.Files().Replace(path, []byte(content)); err != nil {
			return fmt.Errorf("prepare the scratch server: %w", err)
		}
	}
	s.start(whole)
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		if s.serves(ctx) {
			return nil
		}
		if used := s.used(); used > limit {
			return fmt.Errorf("%w: %s has taken %d MB and may take %d", ErrSpace, s.o.Folder, used>>20, limit>>20)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.ended:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%w: the recovery ended: %s", ErrFailed, s.words())
		}
	}
}

// serves reports whether the server is out of recovery.
func (s *scratch) serves(ctx context.Context) bool {
	conn, err := s.connect(ctx, "postgres")
	if err != nil {
		return false
	}
	defer conn.Close(ctx)
	recovering := true
	err = conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&recovering)
	return err == nil && !recovering
}

// connect opens a connection as the superuser that runs the server.
func (s *scratch) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	c, err := pgx.ParseConfig("")
	if err != nil {
		return nil, fmt.Errorf("connect to the scratch server: %w", err)
	}
	c.Host, c.Port, c.Database, c.User, c.Password, c.TLSConfig, c.Fallbacks = s.o.Folder, port, database, s.superuser(), "", nil, nil
	c.ConnectTimeout = 5 * time.Second
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("connect to the scratch server: %w", err)
	}
	return conn, nil
}

// superuser is the role that initdb made.
func (s *scratch) superuser() string {
	if s.o.Superuser != "" {
		return s.o.Superuser
	}
	return "postgres"
}
