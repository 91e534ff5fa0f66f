package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/postmaster"
)

// StartOptions say as what the server is started.
type StartOptions struct {
	Primary bool // out of recovery; otherwise a standby that receives from nobody
	Hidden  bool // a primary that keeps clients out (S9)
	// Sync is the primary's synchronous_standby_names. A standby's is always one
	// that nothing satisfies, until it is set before its promotion.
	Sync ha.SyncSetting
	// Forget, if not zero, is the timeline of a standby's log: the history of
	// later ones, which it has not reached, is removed (ErrUnreached).
	Forget ha.TLI
	// Upstream is what a rewound standby receives from at once: it needs the log
	// up to where the source was before it takes connections. Nobody else has one.
	Upstream Upstream
}

// Upstream is a member that a standby receives from.
type Upstream struct {
	Member   string // empty: there is none
	ConnInfo string // without a password
	Slot     string
	// Line is the leader's log, whose segments may also come from the archive; unknown:
	// they may not.
	Line ha.Position
}

// Start starts the server; it returns when the postmaster was started, not when
// it is ready. It returns ErrUnfinished, ErrForeign or ErrStray where it must not. What the
// server follows is cleared and the gate shut before, so a restart never undoes
// a fence.
func (s *Server) Start(ctx context.Context, o StartOptions) error {
	if err := s.checkData(); err != nil {
		return err
	}
	s.forgetMarks()
	told, err := s.obey(o.Primary)
	if err != nil {
		return err
	}
	if err := errors.Join(s.Shut(), s.MakeState(), s.noteLayout(), s.noteMounts()); err != nil {
		return err
	}
	s.makeRoom()
	sync := frozen
	if o.Primary {
		sync = syncNames(o.Sync)
	}
	// First, so that what it drops cannot make the configuration invalid.
	if err := errors.Join(s.cleanAuto(told), s.startControl(sync, o.Upstream, told)); err != nil {
		return err
	}
	if err := s.judgeByLog(); err != nil {
		return err
	}
	set := s.current()
	set.recovery = told.Settings
	if err := s.mendAuto(ctx, set, true); err != nil {
		return err
	}
	s.setRaised(nil)
	if told.Recovery {
		if set, err = s.asBackedUp(ctx, set); err != nil {
			return err
		}
	}
	if !o.Primary {
		if set, err = s.forStandby(ctx, set); err != nil {
			return err
		}
	}
	if err := s.writeConfig(ctx, set, o.Hidden && o.Primary); err != nil {
		return err
	}
	s.mu.Lock()
	s.hidden = o.Hidden && o.Primary
	s.mu.Unlock()
	if told.Recovery { // what was known is of other data
		err = s.newCopy(ha.Position{})
	} else {
		err = s.writeSignal(!o.Primary)
	}
	if err != nil {
		return err
	}
	if err := s.forgetTimelines(o.Forget); err != nil {
		return err
	}
	if err := s.holdTimelines(told); err != nil {
		return err
	}
	if err := s.removeStalePID(); err != nil {
		return err
	}
	if err := s.admitUpstream(ctx, o.Upstream); err != nil {
		return err
	}
	as := asStandby
	if o.Primary {
		as = asPrimary
	}
	if err := s.beginLife(as); err != nil {
		return err
	}
	return s.guard.Start(ctx, Command{
		Path: s.o.BinDir + "/postgres",
		Args: append(s.arguments(set), s.plainArguments(ctx, set)...),
		Env:  s.environment(), Dir: s.o.DataDir, UID: s.uid, GID: s.gid, LogFile: s.logFile(),
	})
}

// Stop ends the server: it returns when it and all its children are gone. One that
// somebody else has started on the data directory is ended too: fast, and when ctx is
// done at once.
func (s *Server) Stop(ctx context.Context, immediate bool) error {
	s.makeRoom() // for the checkpoint, and for what the next start needs
	if err := s.guard.Stop(ctx, immediate); err != nil {
		return fmt.Errorf("stop the server: %w", err)
	}
	pid, err := postmaster.Find(s.o.DataDir)
	if err != nil {
		return fmt.Errorf("stop the server: %w", err)
	}
	if pid == 0 {
		return nil
	}
	s.log.Warn("stopping a server that pgsidecar did not start", "pid", pid, "immediate", immediate)
	if err := postmaster.End(ctx, s.o.DataDir, pid, immediate); err != nil {
		return fmt.Errorf("stop the server that pgsidecar did not start: %w", err)
	}
	return nil
}

// checkStray returns ErrStray while somebody's server runs on the data directory.
func (s *Server) checkStray() error {
	pid, err := postmaster.Find(s.o.DataDir)
	if err != nil || pid == 0 {
		return err
	}
	return fmt.Errorf("%w: process %d in %s", ErrStray, pid, s.o.DataDir)
}

// checkData refuses a directory that must not be started or changed, and one in which
// a server runs: the caller has stopped this member's own.
func (s *Server) checkData() error {
	m, err := s.marked()
	if err != nil {
		return err
	}
	if m.Operation != "" {
		return fmt.Errorf("%w: %s", ErrUnfinished, m)
	}
	if _, err = s.checkForeign(); err != nil {
		return err
	}
	return s.checkStray()
}

// writeSignal makes the server a standby at its next start, or not.
func (s *Server) writeSignal(standby bool) error {
	if err := s.remove(s.data("recovery.signal")); err != nil {
		return err
	}
	if !standby {
		return s.remove(s.data("standby.signal"))
	}
	if _, err := s.files.Lstat(s.data("standby.signal")); err == nil {
		return nil
	}
	return s.write(s.data("standby.signal"), nil)
}

// NewPrograms reports whether the server runs another program than the one that stands
// in BinDir: that was replaced, as by an upgrade of the package, or BinDir is another.
// What cannot be found out is no.
func (s *Server) NewPrograms() bool {
	content, err := s.files.ReadFile(s.data("postmaster.pid"))
	if err != nil {
		return false
	}
	first, _, _ := strings.Cut(string(content), "\n")
	runs, err := os.Stat(filepath.Join("/proc", strings.TrimSpace(first), "exe")) // also of a file that is deleted
	if err != nil {
		return false
	}
	stands, err := s.files.Stat(filepath.Join(s.o.BinDir, "postgres"))
	return err == nil && !os.SameFile(runs, stands)
}

// removeStalePID removes a postmaster.pid whose process is somebody else by now:
// PostgreSQL only sees that a process has the number, and in a container the
// next life often has it too.
func (s *Server) removeStalePID() error {
	content, err := s.files.ReadFile(s.data("postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read postmaster.pid: %w", err)
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 0 {
		return nil // PostgreSQL says what is wrong with it
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil || s.sameFile(cwd, s.o.DataDir) {
		return nil // gone, which PostgreSQL sees itself; or truly in this directory
	}
	s.log.Warn("removing the process id file of an earlier life", "pid", pid)
	return s.remove(s.data("postmaster.pid"))
}

func (s *Server) sameFile(a, b string) bool {
	x, err := s.files.Stat(a)
	if err != nil {
		return false
	}
	y, err := s.files.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// Starved reports whether the server's startup process waits for a log segment
// that it finds nowhere. It says so in its title (update_process_title is on by
// default); also, for a moment, between two segments. Where the segment is there
// but cannot be read the title still names it, and the log tells (PostgreSQL 15
// and newer), ten times a second.
func (s *Server) Starved() bool {
	if _, err := s.files.Stat(s.data("postmaster.pid")); err != nil {
		return false
	}
	if s.logEndsWith("waiting for WAL to become available at") {
		return true
	}
	for title := range s.children() {
		if strings.Contains(title, "startup waiting for ") {
			return true
		}
	}
	return false
}

// children lists the postmaster's, by title and process id.
func (s *Server) children() iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		b, err := s.files.ReadFile(s.data("postmaster.pid"))
		if err != nil {
			return
		}
		first, _, _ := bytes.Cut(b, []byte("\n"))
		lists, _ := filepath.Glob("/proc/" + string(bytes.TrimSpace(first)) + "/task/*/children") // the pattern is well formed
		for _, list := range lists {
			children, err := s.files.ReadFile(list)
			if err != nil {
				continue // the process has ended
			}
			for _, word := range bytes.Fields(children) {
				title, err1 := os.ReadFile("/proc/" + string(word) + "/cmdline")
				pid, err2 := strconv.Atoi(string(word))
				if err1 != nil || err2 != nil || len(title) == 0 {
					continue // it has ended
				}
				if !yield(strings.TrimRight(string(title), "\x00 "), pid) {
					return
				}
			}
		}
	}
}

// LoggingIn lists the server processes whose clients have connected and are not let in
// yet: such are in no view (pg_stat_activity has those who have authenticated), but say
// so in their title, as update_process_title is on by default. One that has not heard
// its client's name yet still has the postmaster's.
func (s *Server) LoggingIn() []int {
	var pids []int
	for title, pid := range s.children() {
		state := title[strings.LastIndexByte(title, ' ')+1:]
		if !strings.HasPrefix(title, "postgres: ") || state == "initializing" || state == "authentication" || state == "startup" {
			pids = append(pids, pid)
		}
	}
	return pids
}
