package member

import "strings"

// damage are words of a server whose data is damaged, or is no prefix of the
// cluster's history (PostgreSQL's xlog.c, xlogrecovery.c and slru.c).
var damage = [...]string{
	"could not locate a valid checkpoint record", "could not locate required checkpoint record", "invalid primary checkpoint",
	"requested timeline", "is not a child of this server's history", "WAL ends before", "invalid magic number",
	"could not access status of transaction", "control file", "corrupt", "PANIC",
}

// Diagnose says why the server ended before it was ready.
func (s *localServer) Diagnose() (words string, damaged bool) {
	words = s.files.LastWords()
	for _, d := range damage {
		damaged = damaged || strings.Contains(words, d)
	}
	if !damaged {
		s.files.SpeakPlainly()
	}
	return words, damaged && !strings.Contains(words, "No space left on device")
}
