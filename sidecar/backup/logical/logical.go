// Package logical makes backups of rows by pg_dump: one of each database, and of
// what databases share (roles, tablespaces) by pg_dumpall. They survive a change of
// PostgreSQL's version and a damaged page; no moment but their own can be restored.
//
// A backup is a folder in Config.Folder named by its moment:
//
//	20260301-120000L/
//	    manifest.json     written last: what has none is no backup
//	    globals.sql
//	    DATABASE.dump     a file (custom) or a folder (directory), percent-encoded
//
// It is made under a name that ends in .unfinished, synced, and then renamed. One
// process at a time works on the folder: it holds the lock of the file "lock", which
// the kernel lets go when that dies, and removes what an earlier one left.
//
// The snapshots of two databases are not of the same moment: pg_dump has one for
// each. On a replica a long dump may be cancelled by what it replays; then
// max_standby_streaming_delay is too short (ErrConflict).
//
// The package starts no goroutine.
package logical

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// ErrConflict: the replica cancelled the dump to go on replaying.
var ErrConflict = errors.New("the replica cancelled the dump")

// Format is pg_dump's.
type Format string

// The formats of a dump: both are restored by pg_restore, in part and in parallel.
const (
	Directory Format = "directory"
	Custom    Format = "custom"
)

// Config says which server is dumped, and where to.
type Config struct {
	BinDir string // of pg_dump, pg_dumpall and pg_restore
	Folder string // absolute, ours alone
	User   program.User
	// Host is an address or the folder of a socket; passwords come from Passfile.
	Host      string
	Port      int
	Account   string
	Passfile  string   // empty: none is needed
	Databases []string // empty: all that take connections, but templates
	Format    Format   // empty: Directory
	Jobs      int      // of pg_dump and pg_restore, format Directory; 0: 1
	Retention backup.Retention
}

// Engine makes logical backups.
type Engine struct {
	c   Config
	now func() time.Time
}

var _ backup.Maker = (*Engine)(nil)

// New returns the engine, or ErrSetting.
func New(c Config) (*Engine, error) {
	if c.Format == "" {
		c.Format = Directory
	}
	switch {
	case !filepath.IsAbs(c.Folder):
		return nil, fmt.Errorf("%w: folder %q; expected an absolute path", backup.ErrSetting, c.Folder)
	case c.Format != Directory && c.Format != Custom:
		return nil, fmt.Errorf("%w: format %q; expected directory or custom", backup.ErrSetting, c.Format)
	case c.Host == "" || c.Account == "":
		return nil, fmt.Errorf("%w: a server and an account are needed", backup.ErrSetting)
	}
	return &Engine{c: c, now: time.Now}, nil
}

// manifest is what a backup's folder says of it.
type manifest struct {
	Backup    backup.Backup `json:"backup"`
	Format    Format        `json:"format"`
	Databases []string      `json:"databases"`
}

const (
	manifestName = "manifest.json"
	globalsName  = "globals.sql"
	unfinished   = ".unfinished"
)

// dumpName is a database's file or folder.
func dumpName(database string) string { return url.PathEscape(database) + ".dump" }

// connect opens a connection to one database.
func (e *Engine) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	c, err := pgx.ParseConfig("")
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	c.Host, c.Port, c.User, c.Database, c.TLSConfig, c.Fallbacks = e.c.Host, uint16(e.c.Port), e.c.Account, database, nil, nil
	if e.c.Passfile != "" {
		if c.Password, err = password(e.c.Passfile); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backup.ErrServer, err)
	}
	return conn, nil
}

// password is the last field of the passfile's first line.
func password(file string) (string, error) {
	content, err := rights.OwnerOf(filepath.Dir(file)).ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the passfile: %w", err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	unescape := strings.NewReplacer(`\:`, ":", `\\`, `\`)
	fields := 0
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case ':':
			if fields++; fields == 4 {
				return unescape.Replace(line[i+1:]), nil
			}
		}
	}
	return "", fmt.Errorf("%w: %s is no passfile", backup.ErrSetting, file)
}

// look asks the server who it is, where its log is, and which databases it has.
func (e *Engine) look(ctx context.Context) (b backup.Backup, databases []string, err error) {
	conn, err := e.connect(ctx, "postgres")
	if err != nil {
		return b, nil, err
	}
	defer conn.Close(ctx)
	var system, lsn string
	var timeline, version, size int64
	err = conn.QueryRow(ctx, `select system_identifier::text, (select timeline_id::bigint from pg_control_checkpoint()),
  case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end::text,
  current_setting('server_version_num')::bigint, (select sum(pg_database_size(oid))::bigint from pg_database where datallowconn)
  from pg_control_system()`).Scan(&system, &timeline, &lsn, &version, &size)
	if err != nil {
		return b, nil, fmt.Errorf("ask the server: %w", err)
	}
	b = backup.Backup{Kind: backup.Logical, SystemID: system, Timeline: ha.TLI(timeline), Version: int(version / 10000), Size: size}
	if b.StartLSN, err = ha.ParseLSN(lsn); err != nil {
		return b, nil, fmt.Errorf("ask the server: %w", err)
	}
	rows, err := conn.Query(ctx, "select datname::text from pg_database where datallowconn and not datistemplate order by 1")
	if err != nil {
		return b, nil, fmt.Errorf("list databases: %w", err)
	}
	if databases, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return b, nil, fmt.Errorf("list databases: %w", err)
	}
	for _, wanted := range e.c.Databases {
		if !slices.Contains(databases, wanted) {
			return b, nil, fmt.Errorf("%w: there is no database %q", backup.ErrSetting, wanted)
		}
	}
	if len(e.c.Databases) > 0 {
		databases = e.c.Databases
	}
	return b, databases, nil
}

// Check connects, and writes a file into the folder.
func (e *Engine) Check(ctx context.Context) error {
	if _, _, err := e.look(ctx); err != nil {
		return err
	}
	unlock, err := e.lock()
	if err != nil {
		return err
	}
	return unlock()
}

// lock takes the folder for this process.
func (e *Engine) lock() (func() error, error) {
	files := e.c.User.Files()
	if _, err := files.Stat(e.c.Folder); err != nil {
		return nil, fmt.Errorf("%w: %w", backup.ErrNoRepository, err)
	}
	path := filepath.Join(e.c.Folder, "lock")
	f, err := rights.OpenLock(path)
	if err != nil {
		return nil, fmt.Errorf("lock the folder of backups: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s is locked", backup.ErrRunning, e.c.Folder), f.Close())
	}
	left, err := files.Glob(filepath.Join(e.c.Folder, "*"+unfinished))
	for _, dir := range left {
		err = errors.Join(err, files.RemoveTree(dir))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("remove what an earlier backup left: %w", err), f.Close())
	}
	return f.Close, nil
}

// program runs one of PostgreSQL's programs against the server.
func (e *Engine) program(ctx context.Context, name string, args ...string) error {
	c := program.Command{User: e.c.User, Background: true, Args: append([]string{filepath.Join(e.c.BinDir, name),
		"-h", e.c.Host, "-p", strconv.Itoa(e.c.Port), "-U", e.c.Account, "--no-password"}, args...)}
	if e.c.Passfile != "" {
		c.Env = []string{"PGPASSFILE=" + e.c.Passfile}
	}
	_, err := c.Run(ctx)
	var f *program.Failed
	if !errors.As(err, &f) {
		return err
	}
	for part, kind := range map[string]error{"No space left on device": backup.ErrFull, "Disk quota exceeded": backup.ErrFull,
		"conflict with recovery": ErrConflict, "connection to server": backup.ErrServer} {
		if strings.Contains(f.Said, part) {
			return fmt.Errorf("%w: %w", kind, err)
		}
	}
	return err
}

// Backup dumps each database.
func (e *Engine) Backup(ctx context.Context, r backup.Request) (backup.Backup, error) {
	if r.Kind != backup.Logical {
		return backup.Backup{}, fmt.Errorf("%w: a backup of kind %q", backup.ErrUnsupported, r.Kind)
	}
	b, databases, err := e.look(ctx)
	if err != nil {
		return b, err
	}
	unlock, err := e.lock()
	if err != nil {
		return b, err
	}
	b.Start = e.now().UTC().Truncate(time.Second)
	b.Label = b.Start.Format("20060102-150405") + "L"
	dir := filepath.Join(e.c.Folder, b.Label+unfinished)
	if err := e.dump(ctx, dir, databases, r.Progress); err != nil {
		// What was made is worth nothing; the next lock removes what is left now.
		return b, errors.Join(fmt.Errorf("dump: %w", err), e.c.User.Files().RemoveTree(dir), unlock())
	}
	b.Stop = e.now().UTC()
	b, err = e.finish(dir, manifest{Backup: b, Format: e.c.Format, Databases: databases})
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w: %w", backup.ErrFull, err)
	}
	if err != nil {
		err = errors.Join(err, e.c.User.Files().RemoveTree(dir)) // nothing, if it has its name already
	}
	return b, errors.Join(err, unlock())
}

// dump writes all files of a backup.
func (e *Engine) dump(ctx context.Context, dir string, databases []string, progress func(float64)) error {
	if err := e.c.User.Files().MakeDir(dir); err != nil {
		return err
	}
	if err := e.program(ctx, "pg_dumpall", "--globals-only", "--file="+filepath.Join(dir, globalsName)); err != nil {
		return err
	}
	for i, database := range databases {
		args := []string{"--format=" + string(e.c.Format), "--file=" + filepath.Join(dir, dumpName(database)), "--dbname=" + conninfo(database)}
		if e.c.Format == Directory {
			args = append(args, "--jobs="+strconv.Itoa(max(1, e.c.Jobs)))
		}
		if err := e.program(ctx, "pg_dump", args...); err != nil {
			return fmt.Errorf("database %s: %w", database, err)
		}
		if progress != nil {
			progress(float64(i+1) / float64(len(databases)))
		}
	}
	return nil
}

// conninfo names a database where a plain name might be taken for a conninfo string.
func conninfo(database string) string {
	return "dbname='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(database) + "'"
}

// finish makes a dump a backup.
func (e *Engine) finish(dir string, m manifest) (backup.Backup, error) {
	files := e.c.User.Files()
	err := files.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := d.Info(); err == nil && !d.IsDir() {
			m.Backup.Stored += info.Size()
		}
		return syncPath(rights.User{}, path) // WalkDir has them already
	})
	if err != nil {
		return m.Backup, fmt.Errorf("sync the dump: %w", err)
	}
	content, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m.Backup, fmt.Errorf("write the manifest: %w", err)
	}
	path := filepath.Join(dir, manifestName)
	if err := errors.Join(files.ReplaceSync(path, content), syncPath(files, dir)); err != nil {
		return m.Backup, fmt.Errorf("write the manifest: %w", err)
	}
	if err := errors.Join(rights.OwnerOf(e.c.Folder).Rename(dir, strings.TrimSuffix(dir, unfinished)), syncPath(files, e.c.Folder)); err != nil {
		return m.Backup, fmt.Errorf("finish the backup: %w", err)
	}
	return m.Backup, nil
}

func syncPath(files rights.User, path string) error {
	f, err := files.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// List reads the manifests.
func (e *Engine) List(context.Context) (backup.Repository, error) {
	entries, err := e.c.User.Files().ReadDir(e.c.Folder)
	if err != nil {
		return backup.Repository{}, fmt.Errorf("%w: %w", backup.ErrNoRepository, err)
	}
	r := backup.Repository{Free: -1}
	for _, entry := range entries {
		if !entry.IsDir() || strings.HasSuffix(entry.Name(), unfinished) {
			continue
		}
		m, err := e.manifest(entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // not ours
		}
		if err != nil {
			return r, err
		}
		r.Backups, r.SystemID = append(r.Backups, m.Backup), m.Backup.SystemID
	}
	var free syscall.Statfs_t
	if err := syscall.Statfs(e.c.Folder, &free); err == nil {
		r.Free = int64(free.Bavail) * free.Bsize
	}
	return r, nil
}

func (e *Engine) manifest(label string) (manifest, error) {
	var m manifest
	content, err := e.c.User.Files().ReadFile(filepath.Join(e.c.Folder, label, manifestName))
	if err == nil {
		err = json.Unmarshal(content, &m)
	}
	if err == nil && m.Backup.Label != label {
		err = fmt.Errorf("it is of backup %q", m.Backup.Label)
	}
	if err != nil {
		return m, fmt.Errorf("read the manifest of %s: %w", label, err)
	}
	return m, nil
}

// Expire removes what retention does not keep. A backup is no backup any more
// before its first file goes.
func (e *Engine) Expire(ctx context.Context) ([]string, error) {
	unlock, err := e.lock()
	if err != nil {
		return nil, err
	}
	list, err := e.List(ctx)
	if err != nil {
		return nil, errors.Join(err, unlock())
	}
	var gone []string
	for _, label := range e.c.Retention.Expired(list.Backups, e.now()) {
		path := filepath.Join(e.c.Folder, label)
		if err := errors.Join(rights.OwnerOf(e.c.Folder).Rename(path, path+unfinished), e.c.User.Files().RemoveTree(path+unfinished)); err != nil {
			return gone, errors.Join(fmt.Errorf("remove backup %s: %w", label, err), unlock())
		}
		gone = append(gone, label)
	}
	return gone, unlock()
}

// Restore restores one database of a backup into the server, where a database of
// that name must exist and be empty. It stops at the first error.
func (e *Engine) Restore(ctx context.Context, label, database string) error {
	m, err := e.manifest(label)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %q", backup.ErrNoBackup, label)
	}
	if err != nil {
		return err
	}
	if !slices.Contains(m.Databases, database) {
		return fmt.Errorf("%w: backup %s has no database %q", backup.ErrNoBackup, label, database)
	}
	args := []string{"--exit-on-error", "--dbname=" + conninfo(database)}
	if m.Format == Directory {
		args = append(args, "--jobs="+strconv.Itoa(max(1, e.c.Jobs)))
	}
	if err := e.program(ctx, "pg_restore", append(args, filepath.Join(e.c.Folder, label, dumpName(database)))...); err != nil {
		return fmt.Errorf("restore database %s of %s: %w", database, label, err)
	}
	return nil
}
