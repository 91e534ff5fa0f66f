package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

const (
	readySuffix = ".ready"
	doneSuffix  = ".done"
)

// Waiting is what PostgreSQL has yet to archive, as the files in
// pg_wal/archive_status say.
type Waiting struct {
	Files int   // segments, and files of timelines and backups
	Bytes int64 // of the segments
	// Oldest is when the one that waits longest became ready; zero: none waits.
	Oldest time.Time
	// First is where the oldest segment that waits begins; zero: none waits.
	First ha.LSN
	// SegmentSize is in bytes, and Free is what the disk of pg_wal has left.
	SegmentSize, Free int64
}

// Waiting reads what is yet to be archived. What is archived meanwhile may count
// or not.
func (s *Server) Waiting(ctx context.Context) (Waiting, error) {
	c, err := s.control(ctx, s.o.DataDir)
	if err != nil {
		return Waiting{}, err
	}
	w := Waiting{SegmentSize: c.segment}
	if w.Free, err = s.free(s.data("pg_wal")); err != nil {
		return w, err
	}
	entries, err := s.files.ReadDir(s.data("pg_wal", "archive_status"))
	if err != nil {
		return w, fmt.Errorf("list what is to be archived: %w", err)
	}
	for _, e := range entries {
		name, ready := strings.CutSuffix(e.Name(), readySuffix)
		info, err := e.Info()
		if !ready || err != nil {
			continue // done, or gone by now
		}
		w.Files++
		if w.Oldest.IsZero() || info.ModTime().Before(w.Oldest) {
			w.Oldest = info.ModTime()
		}
		if at, is := c.segmentStart(name); is {
			w.Bytes += c.segment
			if w.First == 0 || at < w.First {
				w.First = at
			}
		}
	}
	return w, nil
}

// segmentStart is where the segment of a name begins.
func (c control) segmentStart(name string) (ha.LSN, bool) {
	if _, is := segmentTLI(name); !is || c.segment <= 0 {
		return 0, false
	}
	var tli, high, low uint32
	if _, err := fmt.Sscanf(name, "%08X%08X%08X", &tli, &high, &low); err != nil {
		return 0, false
	}
	return ha.LSN(uint64(high)<<32 + uint64(low)*uint64(c.segment)), true
}

// Segments lists the names of the segments of log that are here.
func (s *Server) Segments() ([]string, error) {
	entries, err := s.files.ReadDir(s.data("pg_wal"))
	if err != nil {
		return nil, fmt.Errorf("list write-ahead log: %w", err)
	}
	var names []string
	for _, e := range entries {
		if _, is := segmentTLI(e.Name()); is {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// ArchiveAgain has the server archive segments that it takes for archived: a standby
// marks what it has received so, whether or not its primary came to archive it. It
// returns those that are to be archived now. One that is not there any more is not
// among them.
func (s *Server) ArchiveAgain(names []string) ([]string, error) {
	var again []string
	for _, name := range names {
		if _, is := segmentTLI(name); !is {
			return again, fmt.Errorf("archive %q again: no segment of log: %w", name, ha.ErrSyntax)
		}
		if _, err := s.files.Stat(s.data("pg_wal", name)); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return again, fmt.Errorf("archive %s again: %w", name, err)
		}
		status := s.data("pg_wal", "archive_status", name)
		err := s.files.Rename(status+doneSuffix, status+readySuffix)
		if errors.Is(err, fs.ErrNotExist) {
			err = s.write(status+readySuffix, nil)
		}
		if err != nil {
			return again, fmt.Errorf("archive %s again: %w", name, err)
		}
		again = append(again, name)
	}
	if len(again) == 0 {
		return nil, nil
	}
	return again, s.syncDir(filepath.Join(s.data("pg_wal"), "archive_status"))
}
