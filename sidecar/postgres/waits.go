package postgres

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// cancelledWait are the words of PostgreSQL (SyncRepWaitForLSN) by which it says that a
// commit was acknowledged, or is visible, without its standbys: somebody cancelled the
// statement, or ended the session, while it waited for them.
var cancelledWait = [...]string{"canceling wait for synchronous replication", "canceling the wait for synchronous replication"}

// waits is how far the server's logs were read for them: its output, and the files of the
// log collector, one after the other.
type waits struct {
	output, collected followed
	count             uint64
}

// followed is a log that is read on from where it was left.
type followed struct {
	path string           // empty: it was not asked for yet
	at   map[string]int64 // how far each of its files was read
}

// mostFollowed bounds the files whose end is remembered.
const mostFollowed = 1000

// CancelledWaits counts the commits, since this process first asked, whose wait for
// standbys was cancelled, by the server's log. What was logged elsewhere (syslog), while
// the log was cut off at its greatest size, or in a file that the log collector has begun
// and ended between two calls, is not seen. It is for one caller at a time.
func (s *Server) CancelledWaits() (uint64, error) {
	err := s.follow(&s.waits.output, s.logFile())
	c := s.collected().path
	if c == "" && s.waits.collected.path == "" {
		// Where a collector begins later, all that it writes is new.
		s.waits.collected.path = s.data("current_logfiles")
	}
	if c != "" {
		err = errors.Join(err, s.follow(&s.waits.collected, c))
	}
	return s.waits.count, err
}

// follow counts in what was added to a log, whose newest file is given.
func (s *Server) follow(f *followed, path string) error {
	if f.at == nil || len(f.at) > mostFollowed {
		f.at = map[string]int64{}
	}
	last := f.path
	f.path = path
	if last == "" { // what was logged before is of an earlier process
		info, err := s.files.Stat(path)
		if err == nil {
			f.at[path] = info.Size()
		}
		return ignoreMissing(err)
	}
	var err error
	if last != path {
		err = s.countWaits(f, last) // its end
		if _, seen := f.at[path]; !seen {
			info, err := s.files.Stat(path)
			if err == nil {
				f.at[path] = s.collectedBefore(path, info.Size())
			}
		}
	}
	return errors.Join(err, s.countWaits(f, path))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// countWaits reads one file on.
func (s *Server) countWaits(log *followed, path string) error {
	f, err := s.files.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ignoreMissing(err)
	}
	defer f.Close() // only read
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	if info.Size() < log.at[path] { // the file has begun anew
		log.at[path] = 0
	}
	if _, err := f.Seek(log.at[path], io.SeekStart); err != nil {
		return err
	}
	for lines := bufio.NewReader(io.LimitReader(f, info.Size()-log.at[path])); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil // a line that is not whole is read with the next
		}
		log.at[path] += int64(len(line))
		for _, words := range cancelledWait {
			if strings.Contains(line, words) {
				s.waits.count++
			}
		}
	}
}
