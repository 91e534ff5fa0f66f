package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

const partialSuffix = ".partial"

// RestorePartial gives the last segment of a timeline that this server has left by
// a promotion its name back, as a copy. Where WAL is archived, PostgreSQL renames it
// to NAME.partial (XLogInitNewTimeline's caller, CleanupAfterArchiveRecovery), and a
// walsender that is to send the timeline before, of which that segment is a part
// as well, says for ever that it "has already been removed": a member that was away
// while two primaries crashed within one segment could not come back.
//
// The archiver does not see the copy, as it is marked as archived, and it goes when
// PostgreSQL removes or recycles the log before it; so nothing is done for a segment
// that is no longer there under any timeline. Until it is whole it has a name that
// PostgreSQL removes when it starts. What is there afterwards is what a server has
// that archives nothing.
func (s *Server) RestorePartial() error {
	entries, err := s.files.ReadDir(s.data("pg_wal"))
	if err != nil {
		return fmt.Errorf("list write-ahead log: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	for _, partial := range names {
		name, ok := strings.CutSuffix(partial, partialSuffix)
		if _, segment := segmentTLI(name); !ok || !segment || slices.Contains(names, name) {
			continue
		}
		kept := slices.ContainsFunc(names, func(other string) bool {
			_, segment := segmentTLI(other)
			return segment && other[8:] == name[8:]
		})
		if kept {
			if err := s.restorePartial(name); err != nil {
				return fmt.Errorf("restore the name of %s: %w", partial, err)
			}
		}
	}
	return nil
}

func (s *Server) restorePartial(name string) error {
	status := s.data("pg_wal", "archive_status")
	if _, err := s.files.Lstat(filepath.Join(status, name+".ready")); !errors.Is(err, fs.ErrNotExist) {
		return err // it is to be archived under this name
	}
	if err := s.write(filepath.Join(status, name+".done"), nil); err != nil {
		return err
	}
	unfinished := s.data("pg_wal", "xlogtemp.pgsidecar")
	defer s.files.Remove(unfinished) // of no effect after the rename
	if _, err := s.copyFile(s.data("pg_wal", name+partialSuffix), unfinished); err != nil {
		return err
	}
	if err := s.files.Rename(unfinished, s.data("pg_wal", name)); err != nil {
		return err
	}
	s.log.Info("a segment that was renamed at the promotion has its name back, for members that have yet to read it", "segment", name)
	return s.syncDir(s.data("pg_wal"))
}
