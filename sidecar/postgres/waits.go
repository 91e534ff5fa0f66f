package postgres

import (
	"bufio"
	"io"
	"os"
	"strings"
)

// cancelledWait are the words of PostgreSQL (SyncRepWaitForLSN) by which it says that a
// commit was acknowledged, or is visible, without its standbys: somebody cancelled the
// statement, or ended the session, while it waited for them.
var cancelledWait = [...]string{"canceling wait for synchronous replication", "canceling the wait for synchronous replication"}

// waits is how far the server's log was read for them.
type waits struct {
	known bool
	at    int64
	count uint64
}

// CancelledWaits counts the commits, since this process first asked, whose wait for
// standbys was cancelled, by the server's log. What was logged elsewhere
// (logging_collector, syslog), or while the log was cut off at its greatest size, is
// not seen. It is for one caller at a time.
func (s *Server) CancelledWaits() (uint64, error) {
	f, err := s.files.Open(s.logFile())
	if os.IsNotExist(err) {
		s.waits.known, s.waits.at = true, 0
		return s.waits.count, nil
	}
	if err != nil {
		return s.waits.count, err
	}
	defer f.Close() // only read
	info, err := f.Stat()
	if err != nil {
		return s.waits.count, err
	}
	if !s.waits.known { // what was logged before is of an earlier process
		s.waits.known, s.waits.at = true, info.Size()
	}
	if info.Size() < s.waits.at { // the file has begun anew
		s.waits.at = 0
	}
	if _, err := f.Seek(s.waits.at, io.SeekStart); err != nil {
		return s.waits.count, err
	}
	for lines := bufio.NewReader(io.LimitReader(f, info.Size()-s.waits.at)); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return s.waits.count, nil // a line that is not whole is read with the next
		}
		s.waits.at += int64(len(line))
		for _, words := range cancelledWait {
			if strings.Contains(line, words) {
				s.waits.count++
			}
		}
	}
}
