package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Rewound is what a rewind did.
type Rewound struct {
	// Needed is false if nothing had diverged.
	Needed bool
	Fork   ha.Fork // where the server's own log left the source's
	Kept   Kept
}

// Kept is what was kept aside (S7).
type Kept struct {
	Dir      string // empty: there was nothing
	Segments int
	Bytes    int64
	Partial  bool // not all: Options.KeepDiverged or the free space did not allow it
}

// Rewind makes the data directory's log a prefix of the source's, by pg_rewind.
// The server is stopped; if it crashed, its crash recovery is done first. What
// diverged is kept aside before anything is overwritten. Links in the data directory, such
// as log, are taken out of pg_rewind's way and put back. It returns
// ErrNoCommonPast if only a clone can help, as where the data has strayed. The source's last checkpoint must be
// on its current timeline.
func (s *Server) Rewind(ctx context.Context, from Source) (Rewound, error) {
	if err := s.checkData(); err != nil {
		return Rewound{}, err
	}
	if err := s.checkStrayed(); err != nil {
		return Rewound{}, err
	}
	if err := s.noteLayout(); err != nil {
		return Rewound{}, err
	}
	_, err := s.files.Lstat(s.data("standby.signal"))
	m := marker{Operation: "rewind", Phase: phasePrepare, From: from.Member, Since: time.Now(), Standby: err == nil}
	r, err := s.prepareRewind(ctx, m, from)
	if err != nil {
		return r, errors.Join(err, s.Discard(context.WithoutCancel(ctx))) // nothing was overwritten yet
	}
	if r.Needed {
		m.Phase = phaseMake
		if err := s.mark(m); err != nil {
			return Rewound{}, err
		}
		if _, err := s.pgRewind(ctx, from); err != nil {
			return r, err
		}
		if err := s.noteRewound(rewound{From: from.Member, Term: from.Term}); err != nil {
			return r, err
		}
		if err := s.remove(s.state("life")); err != nil {
			return r, err
		}
	}
	if err := s.layLinks(s.o.DataDir); err != nil {
		return r, err
	}
	if err := s.step("rewind done"); err != nil {
		return r, err
	}
	if err := s.writeSignal(true); err != nil {
		return r, err
	}
	return r, s.unmark()
}

// prepareRewind does all that comes before the first byte is overwritten.
func (s *Server) prepareRewind(ctx context.Context, m marker, from Source) (Rewound, error) {
	if err := s.recover(ctx, m); err != nil {
		return Rewound{}, err
	}
	if err := s.takeLinks(m); err != nil {
		return Rewound{}, err
	}
	fork, needed, err := s.findFork(ctx, from)
	if err != nil {
		return Rewound{}, err
	}
	if err := s.checkUnneeded(ctx, needed); err != nil {
		return Rewound{}, err
	}
	r := Rewound{Needed: needed, Fork: fork}
	if needed {
		r.Kept, err = s.keepAside(ctx, from, &fork)
	}
	return r, err
}

// checkUnneeded returns ErrNoCommonPast where pg_rewind finds nothing to rewind and there
// is log of the server's own all the same. pg_rewind compares the timelines of the last
// checkpoints: it does not see what a standby's crash recovery wrote beside another on the
// same timeline, nor, up to PostgreSQL 15, a later timeline that the server was promoted to
// before it was killed.
func (s *Server) checkUnneeded(ctx context.Context, needed bool) error {
	if needed {
		return nil
	}
	l, err := s.lifeNow()
	if err != nil {
		return err
	}
	if l.Tainted || l.Recovered && l.Role == asStandby {
		return fmt.Errorf("%w: its crash recovery wrote log of its own", ErrNoCommonPast)
	}
	c, err := s.control(ctx, s.o.DataDir)
	if err == nil && c.minimumTLI > c.timeline {
		err = fmt.Errorf("%w: its log goes on to timeline %d, which it has no checkpoint on", ErrNoCommonPast, c.minimumTLI)
	}
	return err
}

// recover does the crash recovery of a server that was not shut down: pg_rewind
// needs to know where its log ends. A server in single-user mode cannot be a
// standby, so standby.signal goes first; the marker remembers it.
func (s *Server) recover(ctx context.Context, m marker) error {
	c, err := s.control(ctx, s.o.DataDir)
	if err != nil {
		return err
	}
	if err := s.writeConfig(ctx, s.current(), true); err != nil {
		return err
	}
	if c.state == stateShutDown || c.state == stateShutDownRecovery {
		return nil
	}
	if err := s.removeStalePID(); err != nil {
		return err
	}
	if err := s.mark(m); err != nil {
		return err
	}
	if err := s.writeSignal(false); err != nil {
		return err
	}
	// What it writes is this member's doing, and no end of the life before.
	if l, err := s.lifeNow(); err != nil {
		return err
	} else if l.Role != "" {
		l.Recovered, l.End = true, nil
		if err := s.writeLife(l); err != nil {
			return err
		}
	}
	s.log.Info("recovering the crashed server before it is rewound", "state", c.state)
	if _, err := s.program(ctx, "postgres", []string{"--single", "-D", s.o.DataDir,
		"-c", "config_file=" + s.state("postgresql.conf"), "-c", "synchronous_standby_names=",
		"-c", "logging_collector=off", "-c", "log_destination=stderr", "template1"},
		runOptions{changes: true, dir: s.o.DataDir}); err != nil {
		return fmt.Errorf("crash recovery before the rewind: %w", err)
	}
	return s.step("rewind recovered")
}

var forkPattern = regexp.MustCompile(`servers diverged at WAL location ([0-9A-F]+/[0-9A-F]+) on timeline (\d+)`)

// findFork asks pg_rewind, without changing anything, where the logs part.
func (s *Server) findFork(ctx context.Context, from Source) (ha.Fork, bool, error) {
	said, err := s.pgRewind(ctx, from, "--dry-run")
	if err != nil {
		return ha.Fork{}, false, err
	}
	if strings.Contains(said, "no rewind required") {
		return ha.Fork{}, false, nil
	}
	found := forkPattern.FindStringSubmatch(said)
	if found == nil {
		return ha.Fork{}, false, fmt.Errorf("pg_rewind does not say where the servers diverged: %q: %w", said, ha.ErrSyntax)
	}
	end, err := ha.ParseLSN(found[1])
	if err != nil {
		return ha.Fork{}, false, err
	}
	tli, err := strconv.ParseUint(found[2], 10, 32)
	return ha.Fork{TLI: ha.TLI(tli), End: end}, true, err
}

// pgRewind runs pg_rewind and returns what it said.
func (s *Server) pgRewind(ctx context.Context, from Source, more ...string) (string, error) {
	if err := s.writePassfile(); err != nil {
		return "", err
	}
	var said strings.Builder
	args := append([]string{"-D", s.o.DataDir, "--source-server", s.conninfo(from, "postgres"),
		"--no-ensure-shutdown"}, more...)
	fetch, err := s.rewindFetch()
	if err != nil {
		return "", err
	}
	_, err = s.program(ctx, "pg_rewind", append(args, fetch...), runOptions{changes: true, patience: cmp.Or(s.patience, rewindPatience), line: func(l string) {
		said.WriteString(l + "\n")
	}})
	s.reach.learn(err)
	return said.String(), err
}

// rewindFetch has pg_rewind fetch from the archive what the server's own log lacks back to
// where it left the source's. It asks postgres for restore_command, in a file of its own
// (since PostgreSQL 15): the server's has it only while it may fetch.
func (s *Server) rewindFetch() ([]string, error) {
	if s.o.WAL.RestoreCommand == "" || s.version < 15 {
		return nil, nil
	}
	file := s.state("rewind.conf")
	err := s.write(file, []byte("# Written by pgsidecar: for pg_rewind.\nrestore_command = "+quoteSetting(s.o.WAL.RestoreCommand)+"\n"))
	return []string{"--restore-target-wal", "--config-file=" + file}, err
}

// keepAside copies what the local log has and the source's has not (S7): the
// segments of the local timeline from the fork on, its history and the control
// file. Without a known fork it takes the segments written last. The oldest that
// were kept before go if there are too many.
func (s *Server) keepAside(ctx context.Context, from Source, fork *ha.Fork) (Kept, error) {
	c, err := s.control(ctx, s.o.DataDir)
	if err != nil {
		return Kept{}, err
	}
	names, err := s.divergedSegments(c, fork)
	if err != nil || len(names) == 0 {
		return Kept{}, err
	}
	base := s.state("diverged")
	name := fmt.Sprintf("%s-timeline%d", time.Now().UTC().Format("20060102T150405.000Z"), c.timeline)
	k := Kept{Dir: filepath.Join(base, name)}
	for _, dir := range []string{base, k.Dir} {
		if err := s.makeDir(dir); err != nil {
			return Kept{}, err
		}
	}
	room, err := s.free(base)
	if err != nil {
		return Kept{}, err
	}
	limit := min(s.o.KeepDiverged.Bytes, room/4)
	for _, name := range names {
		if k.Bytes+c.segment > limit && k.Segments > 0 || c.segment > room/2 {
			k.Partial = true
			break
		}
		n, err := s.copyFile(s.data("pg_wal", name), filepath.Join(k.Dir, name))
		if err != nil {
			return Kept{}, fmt.Errorf("keep aside: %w", err)
		}
		k.Bytes, k.Segments = k.Bytes+n, k.Segments+1
	}
	if err := s.describeKept(k, from, c, fork); err != nil {
		return Kept{}, err
	}
	s.log.Info("kept aside what diverged", "directory", k.Dir, "segments", k.Segments, "bytes", k.Bytes, "partial", k.Partial)
	return k, s.pruneKept(base)
}

// describeKept adds what a person needs to read the segments.
func (s *Server) describeKept(k Kept, from Source, c control, fork *ha.Fork) error {
	for _, name := range []string{filepath.Join("pg_wal", historyName(c.timeline)), filepath.Join("global", "pg_control")} {
		_, err := s.copyFile(s.data(name), filepath.Join(k.Dir, filepath.Base(name)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("keep aside: %w", err)
		}
	}
	about := struct {
		Member   string   `json:"member"`
		From     string   `json:"replaced_from"`
		SystemID string   `json:"system_identifier"`
		Timeline ha.TLI   `json:"timeline"`
		Fork     *ha.Fork `json:"fork,omitempty"`
		Partial  bool     `json:"partial"`
		Read     string   `json:"read_with"`
	}{s.o.Member, from.Member, c.systemID, c.timeline, fork, k.Partial,
		fmt.Sprintf("pg_waldump -p %s -t %d", k.Dir, c.timeline)}
	if fork != nil {
		about.Read += " -s " + fork.End.String()
	}
	content, err := json.MarshalIndent(about, "", "  ")
	if err != nil {
		return fmt.Errorf("keep aside: %w", err)
	}
	if err := s.write(filepath.Join(k.Dir, "about.json"), append(content, '\n')); err != nil {
		return err
	}
	return s.syncDir(filepath.Dir(k.Dir))
}

// divergedSegments lists the segments to keep, those that matter most first.
func (s *Server) divergedSegments(c control, fork *ha.Fork) ([]string, error) {
	entries, err := s.files.ReadDir(s.data("pg_wal"))
	if err != nil {
		return nil, fmt.Errorf("list write-ahead log: %w", err)
	}
	type segment struct {
		name string
		at   time.Time
	}
	var found []segment
	for _, e := range entries {
		tli, ok := segmentTLI(e.Name())
		info, err := e.Info()
		if !ok || err != nil {
			continue // not a segment, or gone by now
		}
		if fork != nil && (tli < fork.TLI || e.Name()[8:] < c.segmentName(0, fork.End)[8:] ||
			c.state == stateShutDown && e.Name()[8:] > c.segmentName(0, c.checkpoint)[8:]) {
			continue // before the fork, or made in advance and never written
		}
		found = append(found, segment{e.Name(), info.ModTime()})
	}
	if fork == nil {
		slices.SortFunc(found, func(a, b segment) int { return b.at.Compare(a.at) })
	}
	names := make([]string, len(found))
	for i, f := range found {
		names[i] = f.name
	}
	return names, nil
}

// pruneKept removes the oldest beyond Options.KeepDiverged.Count.
func (s *Server) pruneKept(base string) error {
	entries, err := s.files.ReadDir(base)
	if err != nil {
		return fmt.Errorf("list what was kept aside: %w", err)
	}
	for len(entries) > s.o.KeepDiverged.Count {
		name := filepath.Join(base, entries[0].Name())
		s.log.Info("removing the oldest that was kept aside", "directory", name)
		if err := s.files.RemoveAll(name); err != nil {
			return fmt.Errorf("remove what was kept aside: %w", err)
		}
		entries = entries[1:]
	}
	return nil
}

// rewound is the content of the file of that name: the member whose log a server that was
// rewound, or restored from a backup, needs before it takes connections.
type rewound struct {
	From   string `json:"from"`
	Term   uint64 `json:"term,omitempty"`   // ha.Files.RewoundTerm
	Backup bool   `json:"backup,omitempty"` // what is missing may be in the archive alone
}

func (s *Server) noteRewound(r rewound) error {
	content, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("note what the server needs: %w", err)
	}
	return s.write(s.state("rewound"), append(content, '\n'))
}

// rewoundFrom reads the file; From is empty if there is none.
func (s *Server) rewoundFrom() (rewound, error) {
	var r rewound
	err := readJSON(s.files, s.state("rewound"), &r)
	return r, err
}

// Consistent says that the server has come to where it takes connections: it
// has what a rewind left it to receive.
func (s *Server) Consistent() error { return s.remove(s.state("rewound")) }
