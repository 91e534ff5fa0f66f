package api

import (
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Scraped is a reading of a member's metrics.
type Scraped struct {
	Age     float64 `json:"seconds_ago"`
	Program string  `json:"program"` // as it names itself (User-Agent)
	Host    string  `json:"host"`
}

// maxProgram in bytes: a client chooses its own name.
const maxProgram = 80

// scraped remembers the last reading.
type scraped struct{ newest atomic.Pointer[scrape] }

type scrape struct {
	at            time.Time
	program, host string
}

func (s *scraped) note(r *http.Request) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	program := r.UserAgent()
	s.newest.Store(&scrape{at: time.Now(), program: program[:min(len(program), maxProgram)], host: host})
}

// last is the last reading; nil: there was none.
func (s *scraped) last() *Scraped {
	n := s.newest.Load()
	if n == nil {
		return nil
	}
	return &Scraped{Age: time.Since(n.at).Seconds(), Program: n.program, Host: n.host}
}

// zoneOf is the tag zone, which is the user's own.
func zoneOf(r ha.Report) string {
	for _, t := range r.Tags {
		if t.Name == "zone" {
			return t.Value
		}
	}
	return ""
}
