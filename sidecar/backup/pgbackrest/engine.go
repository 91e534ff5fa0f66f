package pgbackrest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Engine is pgBackRest.
type Engine struct{ c Config }

var _ backup.Engine = (*Engine)(nil)

// New returns the engine, or all that is wrong with the configuration (ErrSetting).
// It touches nothing yet.
func New(c Config) (*Engine, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Program == "" {
		c.Program = "pgbackrest"
	}
	if c.SegmentSize == 0 {
		c.SegmentSize = backup.DefaultSegment
	}
	return &Engine{c: c}, nil
}

// options are those of each command line.
func (e *Engine) options() []string {
	return []string{"--config=" + e.c.file(), "--config-include-path=" + e.c.include(), "--stanza=" + e.c.Stanza}
}

// run writes the configuration, so that a secret that changed counts, and runs one
// of pgBackRest's commands.
func (e *Engine) run(ctx context.Context, r program.Command, args ...string) (string, error) {
	if err := e.c.write(); err != nil {
		return "", err
	}
	r.User = e.c.User
	r.Args = slices.Concat([]string{e.c.Program}, e.options(), args)
	out, err := r.Run(ctx)
	if err != nil {
		return "", failure(err)
	}
	return out, nil
}

const (
	// lockWait is how long Prepare waits for one that outlived its sidecar.
	lockWait  = 20 * time.Second
	lockAgain = 200 * time.Millisecond
)

// Prepare makes the stanza; it needs the server, as primary. It has a lock of its own: with
// the usual one it would keep pgBackRest's archiving in the background from its work, for
// which archive-push then waits in vain until archive-timeout. Nothing is lost by that: what
// archives needs a stanza that is there, and these locks are each member's own anyway.
func (e *Engine) Prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	again := time.NewTicker(lockAgain)
	defer again.Stop()
	for {
		_, err := e.run(ctx, program.Command{}, "--lock-path="+filepath.Join(e.c.Dir, "lock", "prepare"), "stanza-create")
		switch {
		case err == nil:
			return nil
		case strings.Contains(err.Error(), "unable to create path '"+e.c.Repository.Path):
			return fmt.Errorf("make the repository ready: %w: %w", backup.ErrNoRepository, err)
		case !errors.Is(err, backup.ErrRunning):
			return fmt.Errorf("make the repository ready: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("make the repository ready: %w", err)
		case <-again.C:
		}
	}
}

// Check lets the server switch to a new segment and waits until it has arrived.
func (e *Engine) Check(ctx context.Context) error {
	if _, err := e.run(ctx, program.Command{}, "check"); err != nil {
		return fmt.Errorf("check the repository: %w", err)
	}
	return nil
}

// Commands run pgBackRest itself.
func (e *Engine) Commands() backup.Commands { return e.commands() }

// commands are those with more options. A percent sign of a path is doubled for
// PostgreSQL, which replaces %p and %f.
func (e *Engine) commands(options ...string) backup.Commands {
	words := slices.Concat([]string{e.c.Program}, e.options(), options)
	for i := range words {
		words[i] = strings.ReplaceAll(words[i], "%", "%%")
	}
	line := program.Quote(words...)
	return backup.Commands{Archive: line + ` archive-push "%p"`, Restore: line + ` archive-get %f "%p"`}
}

var (
	share    = regexp.MustCompile(`\([0-9.]+[A-Z]*B, ([0-9.]+)%\)`)
	newLabel = regexp.MustCompile(`new backup label = (\S+)`)
)

// progress calls f with the share that a line of pgBackRest's log names.
func progress(f func(float64)) func(line string) {
	return func(line string) {
		m := share.FindStringSubmatch(line)
		if f == nil || m == nil {
			return
		}
		if percent, err := strconv.ParseFloat(m[1], 64); err == nil {
			f(min(1, percent/100))
		}
	}
}

// Backup makes a backup, with a lower priority than the server's.
func (e *Engine) Backup(ctx context.Context, r backup.Request) (backup.Backup, error) {
	switch r.Kind {
	case backup.Full, backup.Differential, backup.Incremental:
	default:
		return backup.Backup{}, fmt.Errorf("%w: a backup of kind %q", backup.ErrUnsupported, r.Kind)
	}
	label, each := "", progress(r.Progress)
	line := func(line string) {
		if m := newLabel.FindStringSubmatch(line); m != nil {
			label = m[1]
		}
		each(line)
	}
	err := e.alone(ctx, func(sole *program.Sole) error {
		_, err := e.run(ctx, sole.With(program.Command{Line: line, Background: true}), "--type="+string(r.Kind), "--log-level-console=detail", "backup")
		return err
	})
	if err != nil {
		return backup.Backup{}, fmt.Errorf("make a backup: %w", err)
	}
	list, err := e.List(ctx)
	if err != nil {
		return backup.Backup{}, err
	}
	b, found := list.Find(label)
	if !found {
		return backup.Backup{}, fmt.Errorf("%w: it made backup %q and does not list it", errInfo, label)
	}
	return b, nil
}

// alone runs what makes or removes backups. One that outlived its sidecar is ended first:
// pgBackRest would refuse to run beside it, and nobody hears what comes of it.
func (e *Engine) alone(ctx context.Context, f func(*program.Sole) error) error {
	if err := e.c.write(); err != nil { // the folder
		return err
	}
	sole, err := program.TakeSole(ctx, e.c.User, filepath.Join(e.c.Dir, "running"))
	if err != nil {
		return err
	}
	err = f(sole)
	// Also where ctx is done: what was killed may not have ended yet.
	return errors.Join(err, sole.Release(context.WithoutCancel(ctx)))
}

// List asks for the stanza's backups. Free is of a local folder only.
func (e *Engine) List(ctx context.Context) (backup.Repository, error) {
	out, err := e.run(ctx, program.Command{}, "--output=json", "info")
	if err != nil {
		return backup.Repository{}, fmt.Errorf("list backups: %w", err)
	}
	r, err := parseInfo(out, e.c.Stanza)
	if err != nil {
		return backup.Repository{}, fmt.Errorf("list backups of stanza %s in %s: %w", e.c.Stanza, e.c.Repository.Path, err)
	}
	var free syscall.Statfs_t
	if local := e.c.Repository.Type == "" || e.c.Repository.Type == "posix"; local && e.c.Repository.Options["host"] == "" {
		if err := syscall.Statfs(e.c.Repository.Path, &free); err == nil {
			r.Free = int64(free.Bavail) * free.Bsize
		}
	}
	return r, nil
}

// Archived lists the log, and reads the history files.
func (e *Engine) Archived(ctx context.Context) (backup.Archive, error) {
	a := backup.Archive{SegmentSize: e.c.SegmentSize, Histories: map[ha.TLI][]ha.Fork{}}
	folder := path.Join("archive", e.c.Stanza)
	out, err := e.run(ctx, program.Command{}, "--recurse", "--output=json", "repo-ls", folder)
	if err != nil {
		return a, fmt.Errorf("list the archive: %w", err)
	}
	segments, histories, err := parseArchive(out)
	if err != nil {
		return a, err
	}
	a.Segments = segments
	for _, name := range histories {
		timeline, err := backup.HistoryTimeline(path.Base(name))
		if err != nil {
			continue // a stray file
		}
		content, err := e.run(ctx, program.Command{}, "repo-get", path.Join(folder, name))
		if err != nil {
			return a, fmt.Errorf("read %s: %w", name, err)
		}
		if a.Histories[timeline], err = backup.ParseHistory(content); err != nil {
			return a, fmt.Errorf("read %s: %w", name, err)
		}
	}
	return a, nil
}

// Expire removes what retention does not keep, and the log that only that needed.
func (e *Engine) Expire(ctx context.Context) ([]string, error) {
	before, err := e.List(ctx)
	if err != nil {
		return nil, err
	}
	err = e.alone(ctx, func(sole *program.Sole) error {
		_, err := e.run(ctx, sole.With(program.Command{}), "expire")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("expire backups: %w", err)
	}
	after, err := e.List(ctx)
	if err != nil {
		return nil, err
	}
	var gone []string
	for _, b := range before.Backups {
		if _, kept := after.Find(b.Label); !kept {
			gone = append(gone, b.Label)
		}
	}
	return gone, nil
}

// kinds are pgBackRest's names of targets.
var kinds = map[backup.TargetKind]string{
	"": "default", backup.Latest: "default", backup.ToTime: "time", backup.ToLSN: "lsn",
	backup.ToName: "name", backup.ToXID: "xid", backup.Immediate: "immediate",
}

var _ backup.Placer = (*Engine)(nil)

// Spaces asks for the tablespaces of a backup.
func (e *Engine) Spaces(ctx context.Context, label string) ([]backup.Space, error) {
	out, err := e.run(ctx, program.Command{}, "--output=json", "--set="+label, "info")
	if err != nil {
		return nil, fmt.Errorf("list the tablespaces of backup %s: %w", label, err)
	}
	spaces, err := parseSpaces(out, label)
	if err != nil {
		return nil, fmt.Errorf("list the tablespaces of backup %s: %w", label, err)
	}
	return spaces, nil
}

// Restore restores one backup. pgBackRest writes recovery.signal and the settings
// of recovery itself.
func (e *Engine) Restore(ctx context.Context, r backup.Restore) error {
	args, err := restoreArgs(r)
	if err != nil {
		return err
	}
	// pgBackRest's own line does not double percent signs, and PostgreSQL 16 and later do not
	// start with that.
	fetch := e.Commands().Restore
	if r.Scratch { // others may be moved before they are used
		fetch = e.commands("--pg1-path=" + r.DataDir).Restore
	}
	args = slices.Insert(args, len(args)-1, "--recovery-option=restore_command="+confValue.Replace(fetch))
	command := program.Command{Line: progress(r.Progress), Background: r.Scratch, Started: r.Started}
	if r.Lock != nil {
		command.Files = append(command.Files, r.Lock)
	}
	if _, err := e.run(ctx, command, args...); err != nil {
		return fmt.Errorf("restore backup %s: %w", r.Label, err)
	}
	return nil
}

// confValue escapes what pgBackRest puts between quotes into postgresql.auto.conf as it is.
var confValue = strings.NewReplacer(`\`, `\\`, "'", "''")

func restoreArgs(r backup.Restore) ([]string, error) {
	kind, known := kinds[r.Target.Kind]
	if !known || !filepath.IsAbs(r.DataDir) || r.Label == "" {
		return nil, fmt.Errorf("%w: restore of %q into %q to %q", backup.ErrUnsupported, r.Label, r.DataDir, r.Target.Kind)
	}
	set := map[string]string{"pg1-path": r.DataDir, "set": r.Label, "log-level-console": "detail", "type": kind}
	switch {
	case r.Standby:
		set["type"] = "standby"
	case kind != "default":
		set["target-action"] = "promote"
	}
	if value := r.Target.Value(); value != "" && !r.Standby {
		set["target"] = value
	}
	if kind != "immediate" {
		set["target-timeline"] = "latest"
		if r.Target.Timeline != 0 {
			set["target-timeline"] = strconv.FormatUint(uint64(r.Target.Timeline), 10)
		}
	}
	if r.Scratch {
		// Tablespaces must not be written over those of the server.
		set["archive-mode"], set["tablespace-map-all"] = "off", r.DataDir+".tablespaces"
	}
	var args []string
	for _, name := range slices.Sorted(maps.Keys(set)) {
		args = append(args, "--"+name+"="+set[name])
	}
	for _, oid := range slices.Sorted(maps.Keys(r.Spaces)) {
		args = append(args, fmt.Sprintf("--tablespace-map=%d=%s", oid, r.Spaces[oid]))
	}
	if r.Target.Exclusive {
		if kind == "name" || kind == "immediate" || kind == "default" {
			return nil, fmt.Errorf("%w: a recovery to just before %s", backup.ErrUnsupported, r.Target)
		}
		args = append(args, "--target-exclusive")
	}
	if r.Delta {
		args = append(args, "--delta")
	}
	return append(args, "restore"), nil
}
