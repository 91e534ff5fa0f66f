package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// ErrLeftOut: the source has a link, or another special file, in the place of data. A copy
// does not have what it leads to: its server would start, and lack a table or a database.
var ErrLeftOut = errors.New("the source has links in the place of data, which a copy leaves out")

// saidLeftOut is a path that a source names in a warning (sendDir of its basebackup.c), in
// whatever language: below the data directory, or in a tablespace.
var saidLeftOut = regexp.MustCompile(`["»«„“](?:\./|(pg_tblspc/))([^"»«„“”]+)["»«”“]`)

// leftOut collects what a source says that it leaves out of a copy; enough ends the copy.
type leftOut struct {
	mu     sync.Mutex
	named  []string
	enough func(error)
	from   string
}

// hear takes a line of pg_basebackup.
func (l *leftOut) hear(line string) {
	m := saidLeftOut.FindStringSubmatch(line)
	if m == nil {
		return
	}
	name := m[1] + m[2]
	if !isData(name) {
		return
	}
	l.mu.Lock()
	l.named = append(l.named, name)
	l.mu.Unlock()
	if strings.Contains(line, "skipping special file") { // not after hours
		l.enough(l.problem(name))
	}
}

// isData reports whether a path in the data directory is PostgreSQL's own data, and neither
// log nor what a server makes anew.
func isData(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	return vital(first) && first != "pg_wal" && first != "pg_stat_tmp" && !strings.Contains(first, ".")
}

func (l *leftOut) problem(name string) error {
	return fmt.Errorf("%w: %s on %s. There, stop the server, put what it leads to in its place, and start it; a tablespace is the way to another disk", ErrLeftOut, name, l.from)
}

// missing is what was named and is not in the copy.
func (l *leftOut) missing(s *Server, target string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range l.named {
		if _, err := s.files.Lstat(filepath.Join(target, name)); errors.Is(err, fs.ErrNotExist) {
			return l.problem(name)
		}
	}
	return nil
}
