package peers

import (
	"errors"
	"net/netip"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Refusal is how often something was refused for one cause since the start.
type Refusal struct {
	Cause string // one of a fixed set of short words, as in logs and metrics
	Count uint64
}

// causes is the closed set, in the order of Mesh.Refusals.
var causes = [...]struct {
	err  error
	name string
}{
	{ErrOversized, "oversized"},
	{ErrForged, "forged"},
	{ErrMalformed, "malformed"},
	{ErrReplayed, "replayed"},
	{ErrUnauthenticated, "unauthenticated"},
	{ErrCluster, "cluster"},
	{ErrName, "name"},
	{ErrDuplicate, "duplicate"},
	{ErrProtocol, "protocol"},
	{ErrBusy, "busy"},
	{ErrSecret, "secret"},
}

// quiet is how long a cause is not logged again.
const quiet = time.Minute

type refusalCount struct {
	count    uint64
	loggedAt ha.Instant
	unlogged uint64 // since loggedAt
}

// cause returns the index in causes of err, or -1: a broken connection is not
// a refusal.
func cause(err error) int {
	for i, c := range causes {
		if errors.Is(err, c.err) {
			return i
		}
	}
	return -1
}

// refuse counts a refusal and logs it, once per cause and minute. member is
// what the other end called itself: not proved, and not to be trusted.
func (m *Mesh) refuse(err error, remote, member string) {
	i := cause(err)
	if i < 0 {
		return
	}
	now := m.now()
	m.mu.Lock()
	r := &m.refusals[i]
	r.count++
	loud := r.loggedAt == 0 || !r.loggedAt.Within(quiet, now)
	unlogged := r.unlogged
	if loud {
		r.loggedAt, r.unlogged = now, 0
	} else {
		r.unlogged++
	}
	m.mu.Unlock()
	if loud {
		m.logger.Warn("peer refused", "cause", causes[i].name, "error", err,
			"remote", hostOf(remote), "claimed_member", shorten(member), "not_logged_before", unlogged)
	}
}

// Refusals returns what was refused since the start, one entry for each cause.
func (m *Mesh) Refusals() []Refusal {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]Refusal, len(causes))
	for i, c := range causes {
		all[i] = Refusal{Cause: c.name, Count: m.refusals[i].count}
	}
	return all
}

func hostOf(remote string) string {
	if a, err := netip.ParseAddrPort(remote); err == nil {
		return a.Addr().String()
	}
	return remote
}

// shorten keeps an attacker's text from filling the log.
func shorten(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most]
	}
	return s
}
