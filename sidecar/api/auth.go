package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// NoToken is why a member without a token of its own refuses a change.
const NoToken = "this member has no token, so only a client certificate may change something; " +
	"set token_file in the block api of each pg.hcl, and restart pgsidecar"

// gate says whose changes are taken.
type gate struct {
	token func() (string, error)
	allow []netip.Prefix
}

// allowed reports whether changes are taken from an address: one of the list's, or a
// member's.
func (s *Server) allowed(from netip.Addr) bool {
	if len(s.allow) == 0 {
		return true
	}
	from = from.Unmap()
	for _, network := range s.allow {
		if network.Contains(from) {
			return true
		}
	}
	f, known := s.facts()
	if !known {
		return false
	}
	for _, name := range f.members() {
		r, _ := f.reportOf(name)
		for _, address := range []string{r.API, r.Postgres} {
			if at, err := netip.ParseAddrPort(address); err == nil && at.Addr().Unmap() == from {
				return true
			}
		}
	}
	return false
}

// authorize returns who asks for a change, in words for the log, or a Refusal:
// 403 for another site's page and for an address that is not allowed, 401 for all else.
func (s *Server) authorize(r *http.Request) (by string, err error) {
	if s.cross.Check(r) != nil {
		return "", Refuse(http.StatusForbidden, "a page of another site may not ask for this")
	}
	if !s.allowed(hostOf(r.RemoteAddr)) {
		return "", Refuse(http.StatusForbidden, "changes are not taken from this address; see allow in the block api")
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return "certificate of " + r.TLS.VerifiedChains[0][0].Subject.CommonName, nil
	}
	var token string
	if s.token != nil {
		if token, err = s.token(); err != nil {
			s.logger.Error("token cannot be read; no change is allowed", "error", err)
			return "", Refuse(http.StatusUnauthorized, "a token is required, and this member cannot read its own")
		}
	}
	switch shown := shownToken(r); {
	case token == "":
		return "", Refuse(http.StatusUnauthorized, NoToken)
	case shown == "":
		return "", Refuse(http.StatusUnauthorized, "no auth header received")
	case !sameSecret(shown, token):
		return "", Refuse(http.StatusUnauthorized, "not authenticated")
	}
	return "token", nil
}

// shownToken is the token that the request shows, if any.
func shownToken(r *http.Request) string {
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(value)
	}
	_, password, _ := r.BasicAuth()
	return password
}

// sameSecret takes the same time whatever is shown, of whatever length.
func sameSecret(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// refusedLog bounds the lines about refused changes: anybody can cause them.
type refusedLog struct {
	mu       sync.Mutex
	since    ha.Instant
	lines    int
	unlogged int
}

// refusedLines is how many refused changes are logged per minute.
const refusedLines = 100

// loud reports whether to log, and how many were not logged before.
func (l *refusedLog) loud(now ha.Instant) (bool, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since == 0 || !l.since.Within(time.Minute, now) {
		l.since, l.lines = now, 0
	}
	if l.lines >= refusedLines {
		l.unlogged++
		return false, 0
	}
	l.lines++
	unlogged := l.unlogged
	l.unlogged = 0
	return true, unlogged
}

// refuseChange answers a change that was not done, and logs it.
func (s *Server) refuseChange(w http.ResponseWriter, r *http.Request, c change, err error) {
	status := unavailable
	var refusal *Refusal
	if errors.As(err, &refusal) {
		status = refusal.Status
	}
	s.recorder.changeRefused(c.name, status)
	if loud, unlogged := s.refused.loud(s.now()); loud {
		s.logger.Warn("change refused", "change", c.name, "remote", hostOf(r.RemoteAddr).String(), "status", status,
			"error", err, "not_logged_before", unlogged)
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="pgsidecar"`)
		w.Header().Add("WWW-Authenticate", "Bearer")
	}
	if status == http.StatusRequestEntityTooLarge || status == http.StatusUnauthorized {
		w.Header().Set("Connection", "close") // the rest of the body is not read
	}
	writeText(w, status, err.Error())
}
