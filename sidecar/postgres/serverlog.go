package postgres

import (
	"bytes"
	"regexp"
	"strings"
)

// logSize is how long the server's log is; zero: there is none.
func (s *Server) logSize() int64 {
	info, err := s.files.Stat(s.logFile())
	if err != nil {
		return 0
	}
	return info.Size()
}

// logOfLife is where the log of the server's present life begins: at its start, or at
// the beginning of a file that has been cut off since.
func (s *Server) logOfLife(size int64) int64 {
	var l life
	if err := readJSON(s.files, s.state("life"), &l); err != nil || l.LogAt > size {
		return 0
	}
	return l.LogAt
}

// logEndsWith reports whether a text is in the newest 16 KiB of what the server has
// logged since its start: a second's worth of clients that are turned away lies between
// two lines of the startup process.
func (s *Server) logEndsWith(text string) bool {
	return bytes.Contains(s.endOfLife(), []byte(text))
}

// endOfLife is the newest 16 KiB, at most, of what the server has printed since its start,
// and as much of what its log collector has written.
func (s *Server) endOfLife() []byte { return s.lifeTail(16 << 10) }

func (s *Server) lifeTail(limit int64) []byte {
	size := s.logSize()
	printed, err := s.tailOf(s.logFile(), limit, s.logOfLife(size))
	if err != nil {
		printed = nil // there is none yet
	}
	return append(printed, s.endOfCollected(limit)...)
}

// saidOfStream is what a walreceiver ends with that gets no log (libpqwalreceiver.c).
var saidOfStream = regexp.MustCompile(`FATAL:  (?:[0-9A-Z]{5}: )?(could not (?:connect to the primary server|receive data from WAL stream|start WAL streaming|receive timeline history file)[^\n]*)`)

// longestSaid bounds what is repeated of the server's log, in bytes.
const longestSaid = 300

// StreamProblem is why the standby's last attempt to receive log failed, in PostgreSQL's
// words; empty: its log does not say.
func (s *Server) StreamProblem() string {
	all := saidOfStream.FindAllSubmatch(s.endOfLife(), -1)
	if len(all) == 0 {
		return ""
	}
	last := strings.TrimSpace(string(all[len(all)-1][1]))
	if len(last) > longestSaid {
		last = strings.ToValidUTF8(last[:longestSaid], "") + "…"
	}
	return last
}

// noBind begins the line by which PostgreSQL says why it has no socket to listen on.
const noBind = "could not bind "

// LastWords returns the last severe message in the server's log since it was
// started, for people who ask why it did not come up; empty if there is none.
func (s *Server) LastWords() string {
	words, bind := "", ""
	for line := range strings.Lines(string(s.lifeTail(64 << 10))) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.Contains(line, "starting PostgreSQL"):
			words, bind = "", "" // an earlier life
		case strings.Contains(line, noBind):
			bind = line[strings.Index(line, noBind):]
		case strings.Contains(line, "FATAL:"), strings.Contains(line, "PANIC:"):
			if i := strings.Index(line, "FATAL:"); i >= 0 {
				words = line[i:]
				if bind != "" && strings.Contains(words, "sockets") { // it does not say why
					words += ": " + bind
				}
			} else if i := strings.Index(line, "PANIC:"); i >= 0 {
				words = line[i:]
			}
		case words != "" && (strings.Contains(line, "HINT:") || strings.Contains(line, "DETAIL:")):
			if i := max(strings.Index(line, "HINT:"), strings.Index(line, "DETAIL:")); i >= 0 {
				words += " " + line[i:]
			}
		}
	}
	return words
}
