package pgbackrest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/backuptest"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
)

// childEnv has the test binary be the sidecar that makes a backup or restores one, so
// that it can be killed.
const childEnv = "PGSIDECAR_TEST_SIDECAR"

type child struct {
	Config Config
	User   string
	Lock   string // of the restore
	Expire bool
	Label  string // of the backup to restore; empty: one is made
	Into   string
}

func TestMain(m *testing.M) { backuptest.Main(m, childEnv, runChild) }

func runChild(c child) error {
	u, err := program.Lookup(c.User)
	if err != nil {
		return err
	}
	c.Config.User = u
	e, err := New(c.Config)
	if err != nil {
		return err
	}
	if c.Expire {
		_, err := e.Expire(context.Background())
		return err
	}
	if c.Label == "" {
		_, err := e.Backup(context.Background(), backup.Request{Kind: backup.Full})
		return err
	}
	sole, err := program.TakeSole(context.Background(), u, c.Lock)
	if err != nil {
		return err
	}
	return e.Restore(context.Background(), backup.Restore{DataDir: c.Into, Label: c.Label, Lock: sole.File(), Started: sole.Started})
}

// What is killed.
const (
	engine  = "the engine"
	sidecar = "the sidecar" // its engine lives on
	host    = "the host"    // both, and the server
)

// killing kills at moments that pgBackRest's log shows.
type killing struct {
	*world
	child child
	log   string // of the command
	pid   string // a file with the engine's process
}

// newKilling has pgBackRest say who it is, and write a full log.
func newKilling(w *world) *killing {
	k := &killing{world: w, pid: filepath.Join(w.Dir, "pid")}
	k.child.Config = w.config
	k.child.Config.Program = w.File("wrapped", fmt.Sprintf("#!/bin/sh\necho $$ > %s\nexec pgbackrest --log-level-file=detail \"$@\"\n", k.pid))
	must(w, 0, os.Chmod(k.child.Config.Program, 0o755))
	if w.User.Name == "postgres" {
		k.child.User = w.User.Name
	}
	return k
}

// logged is what the log has after a point.
func (k *killing) logged(from int) []byte {
	content, _ := os.ReadFile(k.log) // empty: not there yet
	return content[min(from, len(content)):]
}

// at runs the sidecar until its engine's log has a line, and kills.
func (k *killing) at(line, victim string) {
	k.Helper()
	from := len(k.logged(0))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(must2(json.Marshal(k.child))(k)))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	must(k, 0, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	pattern, limit := regexp.MustCompile(line), time.After(2*time.Minute)
	for seen := false; !seen; {
		select {
		case <-tick.C:
			seen = pattern.Match(k.logged(from))
		case err := <-ended:
			if ended <- err; !pattern.Match(k.logged(from)) {
				k.Fatalf("it ended before that: %v, %s", err, out.String())
			}
			seen = true
		case <-limit:
			k.Fatalf("it did not come so far: %s", k.logged(from))
		}
	}
	pid := must2(strconv.Atoi(string(bytes.TrimSpace(must2(os.ReadFile(k.pid))(k)))))(k)
	switch victim {
	case engine:
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	case sidecar:
		_ = cmd.Process.Kill()
	case host:
		_ = cmd.Process.Kill()
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		if k.child.Label == "" { // a restore has no server beside it
			k.Stop()
			k.StartOn(k.DataDir, "archive_mode=on", "archive_command="+k.engine.Commands().Archive)
		}
	}
	<-ended
}

// TestKilled kills backups, restores and an expiry at many moments of each.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	must(t, 0, w.engine.Prepare(within(t)))
	w.SQL("create table big as select n, repeat(md5(n::text), 8) from generate_series(1, 50000) n")
	list := killedBackups(t, w)
	data := w.DataDir
	w.Stop()
	eachRestores(t, w, list.Backups)
	killedExpiry(t, w, list)
	w.DataDir = data
	killedRestores(t, w, list.Backups[len(list.Backups)-1].Label)
}

// killedBackups kills at ten moments of a backup. What is half made is not listed, and the
// next run is good.
func killedBackups(t *testing.T, w *world) backup.Repository {
	k := newKilling(w)
	k.log = filepath.Join(w.config.Dir, "log", "main-backup.log")
	for _, c := range []struct{ name, line, victim string }{
		{"begun", "backup command begin", sidecar},
		{"the server is asked", "execute .*backup start", host},
		{"started", "backup start archive", engine},
		{"the first file", `backup file .*%\)`, sidecar},
		{"the middle", `, [5-9][0-9.]*%\)`, host},
		{"all files", "execute .*backup stop", engine},
		{"stopped", "backup stop archive", sidecar},
		{"the log is awaited", "check archive for segment", host},
		{"named", "new backup label", engine},
		{"done", "backup command end", sidecar},
	} {
		t.Run(c.name, func(t *testing.T) {
			k.TB = t
			k.at(c.line, c.victim)
			for _, b := range must2(w.engine.List(within(t)))(t).Backups {
				if !b.Good() {
					t.Errorf("%s is listed: %+v", b.Label, b)
				}
			}
		})
	}
	k.TB = t
	next := w.backup(backup.Full)
	list := must2(w.engine.List(within(t)))(t)
	if b, found := list.Find(next.Label); !found || !b.Good() || list.Running {
		t.Errorf("the next backup: %+v of %+v", b, list)
	}
	return list
}

// eachRestores restores each backup that is listed.
func eachRestores(t *testing.T, w *world, backups []backup.Backup) {
	for _, b := range backups {
		dir := w.Folder("restored-" + b.Label)
		must(t, 0, w.engine.Restore(within(t), backup.Restore{DataDir: dir, Label: b.Label, Target: backup.Target{Kind: backup.Immediate}, Scratch: true}))
		w.StartOn(dir)
		w.Eventually("select pg_is_in_recovery()", "f")
		if got := w.SQL("select count(*) from big"); got != "50000" {
			t.Errorf("%s has %s rows, want 50000", b.Label, got)
		}
		w.Run("pg_ctl", "-D", dir, "-w", "stop")
		w.Run("pg_checksums", "--check", "-D", dir)
	}
	t.Logf("%d backups are listed, and each was restored", len(backups))
}

// killedExpiry: the next expiry removes what one that was killed has left.
func killedExpiry(t *testing.T, w *world, list backup.Repository) {
	k := newKilling(w)
	k.log, k.child.Expire = filepath.Join(w.config.Dir, "log", "main-expire.log"), true
	k.child.Config.Retention.Full = 1
	k.at("expire full backup|remove expired backup", engine)
	must2(w.with(func(c *Config) { c.Retention.Full = 1 }).Expire(within(t)))(t)
	left := must2(w.engine.List(within(t)))(t).Backups
	if want := list.Backups[len(list.Backups)-1:]; !slices.EqualFunc(left, want, func(x, y backup.Backup) bool { return x.Label == y.Label }) {
		t.Errorf("left: %+v, want %+v", left, want)
	}
}

// killedRestores kills at ten moments of a restore. Without pg_control, which comes
// last, PostgreSQL does not start on what is half made, and the next restore is whole.
func killedRestores(t *testing.T, w *world, label string) {
	k := newKilling(w)
	k.log = filepath.Join(w.config.Dir, "log", "main-restore.log")
	k.child.Label, k.child.Into = label, filepath.Join(w.Dir, "restored")
	k.child.Lock = filepath.Join(w.Dir, "restore.lock")
	for _, c := range []struct {
		name, line, victim string
		whole              bool // it may be by then, on a fast disk
	}{
		{"begun", "restore command begin", sidecar, false},
		{"the backup is chosen", "restore backup set", engine, false},
		{"the first file", `restore file .*%\)`, sidecar, false},
		{"a quarter", `, [2-9][0-9.]*%\)`, host, false},
		{"the middle", `, [5-9][0-9.]*%\)`, engine, false},
		{"the middle again", `, [5-9][0-9.]*%\)`, host, false},
		{"all files", "write updated", sidecar, true}, // the engine outlives it until it is ended
		{"pg_control", "restore global/pg_control", engine, true},
		{"pg_control again", "restore global/pg_control", host, true},
		{"done", "restore command end", sidecar, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			k.TB = t
			must(t, 0, os.RemoveAll(k.child.Into)) // as the caller does, by its marker
			k.at(c.line, c.victim)
			sole, err := program.TakeSole(within(t), w.User, k.child.Lock) // nothing writes any more
			must(t, 0, err)
			must(t, 0, sole.Release(within(t)))
			if _, err := os.Stat(filepath.Join(k.child.Into, "global", "pg_control")); err == nil && !c.whole {
				t.Error("what is half made has a pg_control")
			}
			if c.whole {
				return
			}
			if _, err := w.Try("pg_ctl", "-D", k.child.Into, "-w", "start"); err == nil {
				t.Error("PostgreSQL starts on what is half made")
			}
		})
	}
	k.TB = t
	dir := w.Folder("next")
	must(t, 0, w.engine.Restore(within(t), backup.Restore{DataDir: dir, Label: label}))
	must(t, 0, errors.Join(os.Rename(w.DataDir, w.DataDir+".old"), os.Rename(dir, w.DataDir))) // as a restore in place
	w.StartOn(w.DataDir)
	w.Eventually("select pg_is_in_recovery()", "f")
	if got := w.SQL("select count(*) from big"); got != "50000" {
		t.Errorf("%s rows, want 50000", got)
	}
}
