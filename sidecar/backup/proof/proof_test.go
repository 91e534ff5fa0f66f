package proof

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/backuptest"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// copies is an engine of one backup: a copy that pg_basebackup made, and log that
// cp archived. The engines' own packages test theirs.
type copies struct {
	backup.Engine
	s      *backuptest.Server
	made   backup.Backup
	damage func(dataDir string)
	begun  int // restores
}

func (c *copies) base() string { return filepath.Join(c.s.Dir, "base") }
func (c *copies) wal() string  { return filepath.Join(c.s.Dir, "wal") }

func (c *copies) List(context.Context) (backup.Repository, error) {
	return backup.Repository{Backups: []backup.Backup{c.made}}, nil
}

func (c *copies) Restore(ctx context.Context, r backup.Restore) error {
	c.begun++
	cp := program.Command{User: c.s.User, Args: []string{filepath.Join(c.s.Dir, "cp"), "-a", c.base(), r.DataDir},
		Files: []*os.File{r.Lock}, Started: r.Started}
	if _, err := cp.Run(ctx); err != nil {
		return err
	}
	auto := "restore_command = '" + filepath.Join(c.s.Dir, "fetch") + " " + c.wal() + "/%f %p'\n"
	files := c.s.User.Files()
	err := errors.Join(files.Replace(filepath.Join(r.DataDir, "postgresql.auto.conf"), []byte(auto)),
		files.Replace(filepath.Join(r.DataDir, "recovery.signal"), nil))
	if c.damage != nil {
		c.damage(r.DataDir)
	}
	return err
}

// copied is a server with such a backup of it, and the file of one of its tables.
func copied(t *testing.T) (e *copies, o Options, file string) {
	t.Helper()
	s := backuptest.New(t)
	e = &copies{s: s}
	s.Folder("wal")
	for _, name := range []string{"cp", "fetch"} {
		if err := os.Symlink("/bin/cp", filepath.Join(s.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s.Start("cp %p " + e.wal() + "/%f")
	s.SQL("create table t as select n, repeat('x', 100) pad from generate_series(1, 20000) n; create index on t(n); create table mark(at timestamptz)")
	s.Run("pg_basebackup", "-h", s.Socket, "-p", s.SQL("show port"), "-U", "postgres", "-D", e.base(), "-X", "none", "-c", "fast")
	start, err := ha.ParseLSN(s.SQL("select checkpoint_lsn from pg_control_checkpoint()"))
	if err != nil {
		t.Fatal(err)
	}
	e.made = backup.Backup{Label: "base", Kind: backup.Full, Timeline: 1, StartLSN: start, Stop: time.Now(), Size: 40 << 20,
		SystemID: s.SQL("select system_identifier from pg_control_system()")}
	s.SQL("insert into mark values (now() - interval '1 minute')")
	s.Archive()
	file = s.SQL("select pg_relation_filepath('t')")
	s.SQL("insert into mark values (now()); delete from mark") // not archived: lost in the disaster
	return e, Options{Engine: e, BinDir: s.Bin, Folder: filepath.Join(s.Dir, "scratch"), User: s.User,
		Mark: "select max(at) from mark", MarkDatabase: "postgres", Recover: time.Minute}, file
}

// TestProof proves a good backup, and finds what is wrong with bad ones.
func TestProof(t *testing.T) {
	e, o, file := copied(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", r)
	if r.RPO < time.Minute || r.RPO > 3*time.Minute || r.RTO <= 0 || r.RTO != r.Restore+r.Recover || r.LogBytes < 1<<20 || r.Tables == 0 || !r.Checksums || r.Rates().Restore <= 0 {
		t.Errorf("report %+v", r)
	}
	gone := func() {
		t.Helper()
		if _, err := os.Stat(o.Folder); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the scratch folder is left: %v", err)
		}
	}
	gone()
	for _, c := range []struct {
		name, says string
		change     func(*Options)
		damage     func(dir string)
		want       error
	}{
		{"too little room", "may take 1", func(o *Options) { o.MaxBytes = 1 << 20 }, nil, ErrSpace},
		{"no mark", "the mark", func(o *Options) { o.Mark = "select max(at) from mark where at > now()" }, nil, ErrFailed},
		{"no table of marks", "read the mark", func(o *Options) { o.Mark = "select max(at) from nowhere" }, nil, ErrFailed},
		{"a damaged page", "p", func(*Options) {}, func(dir string) { overwrite(t, filepath.Join(dir, file), 8192*3+4000) }, ErrFailed},
		{"no log", "the recovery ended: ", func(*Options) {}, func(dir string) {
			if err := os.WriteFile(filepath.Join(dir, "postgresql.auto.conf"), []byte("restore_command = 'false'\n"), 0o600); err != nil {
				t.Error(err)
			}
		}, ErrFailed},
		{"not a server", "the recovery ended", func(*Options) {}, func(dir string) {
			if err := os.Remove(filepath.Join(dir, "PG_VERSION")); err != nil {
				t.Error(err)
			}
		}, ErrFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := o
			c.change(&changed)
			e.damage = c.damage
			before := e.begun
			_, err := Run(ctx, changed)
			if e.begun != before && c.want == ErrSpace {
				t.Error("it was restored where there is no room")
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v; want %v, %q", err, c.want, c.says)
			}
			t.Log(err)
			gone()
		})
	}
	e.damage = nil
	if _, err := Run(ctx, o); err != nil {
		t.Errorf("after all that failed: %v", err)
	}
}

// TestFolder: what no verification made is left untouched.
func TestFolder(t *testing.T) {
	o := Options{Folder: t.TempDir()}
	file := filepath.Join(o.Folder, "precious")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), o); !errors.Is(err, backup.ErrNotEmpty) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(o.Folder, markName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := scratch{o: o}
	if err := s.clear(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(o.Folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("our own folder is left: %v", err)
	}
}

// overwrite damages a page.
func overwrite(t *testing.T, path string, at int64) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("damage"), at)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Error(err)
	}
}
