package command

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Engine runs the commands.
type Engine struct {
	c        Config
	commands backup.Commands
	now      func() time.Time
}

var _ backup.Engine = (*Engine)(nil)

// New returns the engine, or all that is wrong with the configuration (ErrSetting).
func New(c Config) (*Engine, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.SegmentSize == 0 {
		c.SegmentSize = backup.DefaultSegment
	}
	e := &Engine{c: c, now: time.Now}
	var err1, err2 error
	e.commands.Archive, err1 = e.line("archive")
	e.commands.Restore, err2 = e.line("fetch")
	return e, errors.Join(err1, err2)
}

// line writes a command for PostgreSQL, which replaces %p and %f in it, and has a
// shell run it.
func (e *Engine) line(name string) (string, error) {
	percent := func(s string) string { return strings.ReplaceAll(s, "%", "%%") }
	words, err := expand(e.c.Commands[name], map[string]string{"path": "%p", "name": "%f"}, percent)
	if err != nil {
		return "", err
	}
	if shell := e.c.withEnvironment(nil); len(shell) > 0 {
		shell[len(shell)-1] = percent(shell[len(shell)-1])
		words = append(shell, words...)
	}
	return program.Quote(words...), nil
}

// has reports whether a person gave the command.
func (e *Engine) has(name string) bool { return len(e.c.Commands[name]) > 0 }

// run runs one command and returns what it printed.
func (e *Engine) run(ctx context.Context, name string, values map[string]string) (string, error) {
	return e.runAs(ctx, program.Command{}, name, values)
}

// alone runs a command that changes the repository. One that outlived its sidecar is ended
// first.
func (e *Engine) alone(ctx context.Context, name string, values map[string]string) error {
	if err := e.c.User.Files().MakeDir(e.c.Dir); err != nil {
		return fmt.Errorf("make the engine's folder: %w", err)
	}
	sole, err := program.TakeSole(ctx, e.c.User, filepath.Join(e.c.Dir, "running"))
	if err != nil {
		return err
	}
	_, err = e.runAs(ctx, sole.With(program.Command{Background: name == "backup"}), name, values)
	// Also where ctx is done: what was killed may not have ended yet.
	return errors.Join(err, sole.Release(context.WithoutCancel(ctx)))
}

func (e *Engine) runAs(ctx context.Context, c program.Command, name string, values map[string]string) (string, error) {
	words, err := expand(e.c.Commands[name], values, keep)
	if err != nil {
		return "", fmt.Errorf("command %s: %w", name, err)
	}
	if err := e.c.writeEnvironment(); err != nil {
		return "", err
	}
	c.User, c.Args, c.Dir = e.c.User, e.c.withEnvironment(words), e.c.Dir
	out, err := c.Run(ctx)
	var f *program.Failed
	if errors.As(err, &f) && (strings.Contains(f.Said, "No space left on device") || strings.Contains(f.Said, "Disk quota exceeded")) {
		return "", fmt.Errorf("command %s: %w: %w", name, backup.ErrFull, err)
	}
	if err != nil {
		return "", fmt.Errorf("command %s: %w", name, err)
	}
	return out, nil
}

// Commands are the archive and fetch commands.
func (e *Engine) Commands() backup.Commands { return e.commands }

// Prepare runs the prepare command, if there is one, and writes the environment
// that archive and fetch need. A list of another cluster is refused by Plan.
func (e *Engine) Prepare(ctx context.Context) error {
	if err := e.c.writeEnvironment(); err != nil || !e.has("prepare") {
		return err
	}
	_, err := e.run(ctx, "prepare", map[string]string{"data_dir": e.c.DataDir})
	return err
}

// Check runs the check command, or else lists.
func (e *Engine) Check(ctx context.Context) error {
	if e.has("check") {
		_, err := e.run(ctx, "check", map[string]string{"data_dir": e.c.DataDir})
		return err
	}
	_, err := e.List(ctx)
	return err
}

// Backup makes one and returns what is new in the list.
func (e *Engine) Backup(ctx context.Context, r backup.Request) (backup.Backup, error) {
	before, err := e.List(ctx)
	if err != nil {
		return backup.Backup{}, err
	}
	if err := e.alone(ctx, "backup", map[string]string{"kind": string(r.Kind), "data_dir": e.c.DataDir}); err != nil {
		return backup.Backup{}, err
	}
	after, err := e.List(ctx)
	if err != nil {
		return backup.Backup{}, err
	}
	for _, b := range slices.Backward(after.Backups) {
		if _, old := before.Find(b.Label); !old {
			return b, nil
		}
	}
	return backup.Backup{}, fmt.Errorf("%w: the backup command succeeded and the list has nothing new", errList)
}

// List runs the list command.
func (e *Engine) List(ctx context.Context) (backup.Repository, error) {
	out, err := e.run(ctx, "list", nil)
	if err != nil {
		return backup.Repository{}, err
	}
	r := backup.Repository{Free: -1}
	if r.Backups, err = parseList(out, e.c.Format); err != nil {
		return backup.Repository{}, err
	}
	if newest, found := r.Newest(); found {
		r.SystemID = newest.SystemID
	}
	return r, nil
}

// Archived runs the wal command, and fetches the history files.
func (e *Engine) Archived(ctx context.Context) (backup.Archive, error) {
	a := backup.Archive{SegmentSize: e.c.SegmentSize, Histories: map[ha.TLI][]ha.Fork{}}
	if !e.has("wal") {
		return a, fmt.Errorf("%w: list the archive, without a wal command", backup.ErrUnsupported)
	}
	out, err := e.run(ctx, "wal", nil)
	if err != nil {
		return a, err
	}
	var histories []string
	a.Segments, histories = parseWAL(out)
	for _, name := range histories {
		timeline, err := backup.HistoryTimeline(name)
		if err != nil {
			return a, err
		}
		if a.Histories[timeline], err = e.history(ctx, name); err != nil {
			return a, err
		}
	}
	return a, nil
}

// history fetches one history file.
func (e *Engine) history(ctx context.Context, name string) ([]ha.Fork, error) {
	files := e.c.User.Files()
	dir, err := files.MkdirTemp(e.c.Dir, "fetch-")
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", name, err)
	}
	defer files.RemoveAll(dir)
	to := filepath.Join(dir, name)
	if _, err := e.run(ctx, "fetch", map[string]string{"name": name, "path": to}); err != nil {
		return nil, err
	}
	content, err := files.ReadFile(to)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", name, err)
	}
	return backup.ParseHistory(string(content))
}

// Restore runs the restore command and writes the settings of the recovery.
func (e *Engine) Restore(ctx context.Context, r backup.Restore) error {
	if !filepath.IsAbs(r.DataDir) || r.Label == "" {
		return fmt.Errorf("%w: restore of %q into %q", backup.ErrUnsupported, r.Label, r.DataDir)
	}
	list, err := e.List(ctx)
	if err != nil {
		return err
	}
	if b, found := list.Find(r.Label); !found || !b.Good() {
		return fmt.Errorf("%w: %q", backup.ErrNoBackup, r.Label)
	}
	if err := e.checkEmpty(r.DataDir, r.Delta); err != nil {
		return err
	}
	if err := e.c.User.Files().MakeDir(r.DataDir); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	c := program.Command{Background: r.Scratch, Started: r.Started}
	if r.Lock != nil {
		c.Files = append(c.Files, r.Lock)
	}
	if _, err := e.runAs(ctx, c, "restore", map[string]string{"label": r.Label, "data_dir": r.DataDir}); err != nil {
		return err
	}
	return e.writeRecovery(r)
}

// Expire runs the expire command once, or for each backup that retention does not
// keep, newest first, so that nothing is left without what it is built upon.
func (e *Engine) Expire(ctx context.Context) ([]string, error) {
	if !e.has("expire") || e.c.Retention == (backup.Retention{}) {
		return nil, nil
	}
	before, err := e.List(ctx)
	if err != nil {
		return nil, err
	}
	values := map[string]string{"full": strconv.Itoa(e.c.Retention.Full), "days": strconv.Itoa(int(e.c.Retention.Window / (24 * time.Hour)))}
	used, err := uses(e.c.Commands["expire"])
	if err != nil {
		return nil, err
	}
	labels := []string{""}
	if slices.Contains(used, "label") {
		labels = e.c.Retention.Expired(before.Backups, e.now())
	}
	for _, label := range slices.Backward(labels) {
		values["label"] = label
		if err := e.alone(ctx, "expire", values); err != nil {
			return nil, err
		}
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
