package postgres

import (
	"hash/crc32"
	"slices"
	"sync"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// marks are what tells this server's timelines apart from others of their numbers, as its log
// has shown it. They are forgotten before each start: other data may have taken the place of
// those that were there.
type marks struct {
	mu      sync.Mutex
	segment int64 // bytes of a segment; zero: not known yet
	known   map[ha.Fork]ha.Mark
}

// markSize is how many bytes a timeline's mark is of: what a promotion writes first is a record
// of the end of recovery, in which its time stands. A page's header may be before it.
const markSize = 64

// Mark fills in what tells the timelines of a position of this server apart. What is not in
// the log any more, or not yet, stays unknown.
func (s *Server) Mark(p ha.Position) ha.Position {
	if len(p.History) == 0 {
		return p
	}
	p.History = slices.Clone(p.History)
	for i := 1; i < len(p.History); i++ {
		f := &p.History[i]
		f.Mark = s.markOf(f.TLI, p.History[i-1].End, f.End)
	}
	p.Mark = s.markOf(p.TLI, p.History[len(p.History)-1].End, p.LSN)
	return p
}

// markOf is that of a timeline which begins at one position and has been written up to another.
func (s *Server) markOf(tli ha.TLI, from, to ha.LSN) ha.Mark {
	m, key := &s.marks, ha.Fork{TLI: tli, End: from}
	m.mu.Lock()
	defer m.mu.Unlock()
	if known := m.known[key]; known != 0 || m.segment == 0 || to < from+markSize {
		return known
	}
	f, err := s.files.Open(s.data("pg_wal", control{segment: m.segment}.segmentName(tli, from)))
	if err != nil {
		return 0
	}
	defer f.Close() // only read
	var begin [markSize]byte
	if _, err := f.ReadAt(begin[:], int64(from)%m.segment); err != nil || begin == [markSize]byte{} {
		return 0 // also where it goes on in the next segment
	}
	mark := max(ha.Mark(crc32.ChecksumIEEE(begin[:])), 1)
	if m.known == nil {
		m.known = map[ha.Fork]ha.Mark{}
	}
	m.known[key] = mark
	return mark
}

// forgetMarks is called before each start.
func (s *Server) forgetMarks() {
	s.marks.mu.Lock()
	s.marks.known = nil
	s.marks.mu.Unlock()
}

// noteSegment keeps how long a segment of the log is.
func (s *Server) noteSegment(c control) {
	s.marks.mu.Lock()
	s.marks.segment = c.segment
	s.marks.mu.Unlock()
}
