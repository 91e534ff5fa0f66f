package proof

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/backuptest"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
)

// childEnv has the test binary run one verification, so that it can be killed.
const childEnv = "PGSIDECAR_TEST_VERIFICATION"

// inChild is what the other process needs to know.
type inChild struct {
	Dir, User, BinDir, Folder string
	Made                      backup.Backup
}

func TestMain(m *testing.M) { backuptest.Main(m, childEnv, verify) }

func verify(c inChild) error {
	u, err := program.Lookup(c.User)
	if err != nil {
		return err
	}
	e := &copies{s: &backuptest.Server{Dir: c.Dir, User: u}, made: c.Made}
	_, err = Run(context.Background(), Options{Engine: e, BinDir: c.BinDir, Folder: c.Folder, User: u, Recover: time.Minute})
	return err
}

// hold replaces a program by one that says that it runs, and never ends.
func hold(t *testing.T, path, says string) {
	t.Helper()
	text := fmt.Sprintf("#!/bin/sh\necho $$ > %[1]s.new; mv %[1]s.new %[1]s; exec sleep 300\n", says)
	if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, []byte(text), 0o755)); err != nil {
		t.Fatal(err)
	}
}

// dead reports whether a process has ended.
func dead(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ") // its new parent has not waited for it yet
}

// What is killed.
const (
	sidecar = "the sidecar" // its program lives on
	work    = "the program" // the engine, or PostgreSQL's
	host    = "the host"    // both
)

// TestKilled kills, in each of the steps of a verification, what verifies, the program that
// works for it, or both. Nothing counts as proved; what is left is ended and removed, and
// the next verification finds its folder empty.
func TestKilled(t *testing.T) {
	e, o, _ := copied(t)
	for _, c := range []struct {
		at string
		// holds is the program that runs then: a name in BinDir, or the engine's.
		holds string
	}{
		{"restoring", "cp"},
		{"the server starts", "postgres"},
		{"the server recovers", "restore_command"},
		{"checking tables", "pg_amcheck"},
		{"stopping the server", "pg_ctl"},
		{"checking pages", "pg_checksums"},
	} {
		for _, victim := range []string{sidecar, work, host} {
			if c.holds == "pg_ctl" && victim == work {
				continue // the next pg_ctl would be held too
			}
			t.Run(c.at+"/"+victim, func(t *testing.T) { killed(t, e, o, c.holds, victim) })
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := Run(ctx, o); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

// holding is a verification in a process of its own, in which a program is held.
func holding(t *testing.T, e *copies, o Options, holds, name string) (cmd *exec.Cmd, says string) {
	t.Helper()
	s := e.s
	k := inChild{Dir: s.Folder("killed-" + name), BinDir: s.Folder("bin-" + name), Folder: o.Folder, Made: e.made}
	if s.User.Name == "postgres" {
		k.User = s.User.Name
	}
	for from, to := range map[string]string{e.base(): "base", e.wal(): "wal", "/bin/cp": "cp", "/bin//cp": "fetch"} {
		must(0, os.Symlink(from, filepath.Join(k.Dir, to)))(t)
	}
	for _, name := range []string{"postgres", "pg_amcheck", "pg_ctl", "pg_checksums"} {
		must(0, os.Symlink(filepath.Join(s.Bin, name), filepath.Join(k.BinDir, name)))(t)
	}
	says = filepath.Join(s.Folder("says"), name)
	switch path := filepath.Join(k.BinDir, holds); holds {
	case "cp":
		hold(t, filepath.Join(k.Dir, "cp"), says)
	case "restore_command": // the child's engine fetches log by a cp from this folder
		hold(t, filepath.Join(k.Dir, "fetch"), says)
	default:
		hold(t, path, says)
	}
	text := must(json.Marshal(k))(t)
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	return cmd, says
}

// killed kills a verification while a program of it is held.
func killed(t *testing.T, e *copies, o Options, holds, victim string) {
	cmd, says := holding(t, e, o, holds, holds+"-"+strings.ReplaceAll(victim, " ", "-"))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	must(0, cmd.Start())(t)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	held := 0
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(2 * time.Minute); held == 0; {
		select {
		case <-tick.C:
			content, _ := os.ReadFile(says) // empty: not yet
			held, _ = strconv.Atoi(strings.TrimSpace(string(content)))
		case err := <-ended:
			t.Fatalf("it ended before that: %v, %s", err, out.String())
		case <-limit:
			t.Fatal("it did not come so far")
		}
	}
	if victim != work {
		must(0, cmd.Process.Kill())(t)
	}
	if victim != sidecar {
		must(0, syscall.Kill(held, syscall.SIGKILL))(t)
	}
	if err := <-ended; err == nil {
		t.Errorf("it counts as proved: %s", out.String())
	}
	if err := syscall.Kill(held, 0); victim == sidecar && err != nil {
		t.Errorf("nothing was left: %v", err)
	}
	if victim == work {
		t.Log(strings.TrimSpace(out.String()))
		if _, err := os.Stat(o.Folder); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it has left its scratch folder: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	must(0, Clear(ctx, o))(t)
	if !dead(held) {
		t.Errorf("%s lives on", holds)
	}
	if _, err := os.Stat(o.Folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the scratch folder is left: %v", err)
	}
}

func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
