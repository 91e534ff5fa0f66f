package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Backup is a copy of a server that is restored in the place of one that the source sends.
// The log that it lacks comes from the archive and from the source.
type Backup struct {
	SystemID string // of the cluster: another's data are refused
	// Line is the leader's log, of which the backup's is a part. Its timelines are made
	// known to the copy: what the archive has besides is none of its business.
	Line ha.Position
	// Delta: Make can keep what is there and is as in the backup.
	Delta bool
	// Make writes the data; keep says that the directory has data.
	Make func(ctx context.Context, dir string, keep bool, p Program) error
}

// archiveGate is the file without which nothing is fetched from the archive (S2). It has
// the stretches of log that may be: a timeline, and its first and last segment, as they
// stand in the segments' names.
const archiveGate = "archive"

// checkBackup refuses to restore where the places outside of the data directory are used:
// a backup program writes to them as it likes.
func (s *Server) checkBackup(from Source) error {
	if from.Backup == nil {
		return nil
	}
	l, err := s.keptLayout()
	if err != nil {
		return err
	}
	if l.WAL != "" || len(from.Spaces) > 0 {
		return errors.New("restore the copy: a cluster with tablespaces, or with its log elsewhere, is copied from a member")
	}
	return nil
}

// copyBackup makes the copy that the marker, which stands, is of. In the data directory
// itself what is as in the backup stays.
func (s *Server) copyBackup(ctx context.Context, from Source, target string, progress func(done, total int64)) error {
	bare, err := s.empty(target)
	if err != nil {
		return err
	}
	keep := from.Backup.Delta && !bare && target == s.o.DataDir
	if !keep {
		if err := s.wipe(target); err != nil {
			return err
		}
	}
	if err := s.makeDir(s.linked(target)); err != nil {
		return err
	}
	lock, err := s.lockPrograms(ctx)
	if err != nil {
		return err
	}
	defer lock.Close() // ours; the program has its own
	if progress != nil {
		progress(0, 0)
	}
	if err := from.Backup.Make(ctx, target, keep, Program{Lock: lock, Started: s.noteGroup}); err != nil {
		return err
	}
	c, err := s.control(ctx, target)
	if err != nil {
		return err
	}
	if c.systemID != from.Backup.SystemID {
		return fmt.Errorf("restore the copy: the backup is of system %s, and the cluster's is %s", c.systemID, from.Backup.SystemID)
	}
	err = errors.Join(s.remove(filepath.Join(target, "recovery.signal")), s.writeLine(filepath.Join(target, "pg_wal"), from.Backup.Line))
	if err != nil {
		return err
	}
	return errors.Join(s.matchMode(target), s.syncFiles(target))
}

// writeLine makes the timelines known that the leader's log came by, and takes away what
// is there of others. A number that it never was on is held by a placeholder: PostgreSQL
// looks for the newest up to the first that is missing.
func (s *Server) writeLine(dir string, line ha.Position) error {
	entries, err := s.files.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list the copy's log: %w", err)
	}
	for _, e := range entries {
		if _, is := historyTLI(e.Name()); is {
			if err := s.remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	forks := append(line.History[:len(line.History):len(line.History)], ha.Fork{TLI: line.TLI})
	for tli := ha.TLI(2); tli <= line.TLI; tli++ {
		if err := s.write(filepath.Join(dir, historyName(tli)), ancestry(forks, tli)); err != nil {
			return fmt.Errorf("write the history of timeline %d: %w", tli, err)
		}
	}
	return nil
}

// GiveUpBackup has a server cloned anew that was restored from a backup and does not get
// the log that it needs.
func (s *Server) GiveUpBackup() error {
	r, err := s.rewoundFrom()
	if err != nil || !r.Backup {
		return err
	}
	return s.noteRewound(rewound{From: nobody})
}

// nobody is no member's name.
const nobody = "pgsidecar:nobody"

// FetchCommand is the restore_command of a standby; empty: nothing is archived. It fetches
// only while the gate stands, and only segments that are whole on the leader's line: the
// archive may also have what a deposed primary wrote after its successor's timeline began,
// and timelines that nobody is on. History files come from the leader.
//
// Any failure is status 1: what PostgreSQL takes for a signal, or for a command that is
// not there, would end the server.
func (s *Server) FetchCommand() string {
	if s.o.WAL.RestoreCommand == "" {
		return ""
	}
	gate := "'" + strings.ReplaceAll(s.state(archiveGate), "%", "%%") + "'" // has no quote (New)
	return "test -e " + gate + " && awk -v f=%f 'length(f) == 24 && substr(f, 1, 8) == $1 \"\" && substr(f, 9) >= $2 \"\" && " +
		"substr(f, 9) <= $3 \"\" {ok = 1} END {exit !ok}' " + gate + " && { " + s.o.WAL.RestoreCommand + "; } || exit 1"
}

// OpenArchive lets a standby that follows fetch the leader's log from the archive, and
// reports whether it may. While the server is fenced it may not.
func (s *Server) OpenArchive(ctx context.Context, line ha.Position) (bool, error) {
	c, err := s.control(ctx, s.o.DataDir)
	if err != nil || s.o.WAL.RestoreCommand == "" {
		return false, err
	}
	s.mu.Lock() // a fence comes before or after
	defer s.mu.Unlock()
	if s.IsShut() {
		return false, nil
	}
	// Not synced: as the gate to the upstream.
	if err := s.files.Replace(s.state(archiveGate), []byte(stretches(c, line))); err != nil {
		return false, fmt.Errorf("open the archive: %w", noSpace(err))
	}
	return true, nil
}

// stretches are the segments that are whole on the timelines of a log. The one in which a
// timeline was left is whole on the next.
func stretches(c control, line ha.Position) string {
	var b strings.Builder
	size := ha.LSN(c.segment)
	from := ha.LSN(0)
	for _, f := range line.History {
		if end := f.End - f.End%size; end > from {
			fmt.Fprintf(&b, "%08X %s %s\n", uint32(f.TLI), c.segmentName(f.TLI, from)[8:], c.segmentName(f.TLI, end-1)[8:])
			from = end
		}
	}
	fmt.Fprintf(&b, "%08X %s FFFFFFFFFFFFFFFF\n", uint32(line.TLI), c.segmentName(line.TLI, from)[8:])
	return b.String()
}

// ArchiveOpen reports whether the server may fetch log from the archive.
func (s *Server) ArchiveOpen() bool {
	_, err := s.files.Lstat(s.state(archiveGate))
	return err == nil
}

// ShutArchive closes the gate to the archive alone.
func (s *Server) ShutArchive() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.files.Remove(s.state(archiveGate)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("shut the archive: %w", err)
	}
	return nil
}

// admitUpstream opens the gates that a start needs.
func (s *Server) admitUpstream(ctx context.Context, up Upstream) error {
	if up.Member == "" {
		return nil
	}
	if err := s.Admit(up.Member); err != nil {
		return err
	}
	if !up.Line.Known() {
		return nil
	}
	_, err := s.OpenArchive(ctx, up.Line)
	return err
}
