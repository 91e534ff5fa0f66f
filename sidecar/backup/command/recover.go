package command

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
)

// checkEmpty refuses to restore over something, or under a running server.
func (e *Engine) checkEmpty(dir string, delta bool) error {
	files := e.c.User.Files()
	entries, err := files.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the directory to restore into: %w", err)
	}
	if content, err := files.ReadFile(filepath.Join(dir, "postmaster.pid")); err == nil {
		var pid int
		if _, err := fmt.Sscan(string(content), &pid); err == nil && pid > 1 && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return fmt.Errorf("%w: %s, process %d", backup.ErrServing, dir, pid)
		}
	}
	if !delta && len(entries) > 0 {
		return fmt.Errorf("%w: %s", backup.ErrNotEmpty, dir)
	}
	return nil
}

// writeRecovery makes PostgreSQL recover to the target at its next start, whatever
// the restore command wrote: only one target may be set.
func (e *Engine) writeRecovery(r backup.Restore) error {
	files := e.c.User.Files()
	for _, name := range []string{"PG_VERSION", "global/pg_control"} {
		if _, err := files.Stat(filepath.Join(r.DataDir, name)); err != nil {
			return fmt.Errorf("the restore command succeeded and left no %s: %w", name, err)
		}
	}
	auto := filepath.Join(r.DataDir, "postgresql.auto.conf")
	content, err := files.ReadFile(auto)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read postgresql.auto.conf: %w", err)
	}
	target := r.Target
	if r.Standby {
		target = backup.Target{Timeline: target.Timeline}
	}
	settings := target.Settings(e.Commands().Restore)
	if r.Scratch {
		settings = append(settings, backup.Setting{Name: "archive_mode", Value: "off"})
	}
	signal, other := "recovery.signal", "standby.signal"
	if r.Standby {
		signal, other = other, signal
	}
	if err := files.Remove(filepath.Join(r.DataDir, other)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", other, err)
	}
	if err := e.write(auto, withSettings(string(content), settings)); err != nil {
		return err
	}
	return e.write(filepath.Join(r.DataDir, signal), "")
}

// inFile writes a value for a configuration file, where a backslash escapes.
var inFile = strings.NewReplacer(`\`, `\\`, "'", "''")

// withSettings takes former settings of recovery out of a configuration and adds
// new ones.
func withSettings(content string, settings []backup.Setting) string {
	lines := slices.DeleteFunc(strings.SplitAfter(content, "\n"), func(line string) bool {
		name := strings.ToLower(strings.TrimLeft(line, " \t"))
		end := strings.IndexAny(name, " \t=")
		if end < 0 {
			return strings.TrimSpace(line) == ""
		}
		name = name[:end]
		return strings.HasPrefix(name, "recovery_target") ||
			slices.ContainsFunc(settings, func(s backup.Setting) bool { return s.Name == name })
	})
	b := strings.TrimRight(strings.Join(lines, ""), "\n")
	if b != "" {
		b += "\n"
	}
	for _, s := range settings {
		b += fmt.Sprintf("%s = '%s'\n", s.Name, inFile.Replace(s.Value))
	}
	return b
}

// write writes a file of PostgreSQL's user, synced.
func (e *Engine) write(path, content string) error {
	if err := e.c.User.Files().ReplaceSync(path, []byte(content)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
