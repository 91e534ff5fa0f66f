package member

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/availability"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

const (
	// seenEvery is how often a member that sees a primary notes so on its disk.
	seenEvery = time.Minute
	// unseenAfter is how long a gap must be before it is said that nobody saw: more than
	// two notes apart.
	unseenAfter = 2*seenEvery + 10*time.Second
	// outagesTimeout bounds one write of outages, and outagesAgain is when a write that
	// failed is tried again.
	outagesTimeout = 5 * time.Second
	outagesAgain   = 10 * time.Second
)

// keepOutages writes down the outages that this member ends, until ctx ends.
func (m *Member) keepOutages(ctx context.Context) {
	w := outageWatch{member: m.config.Member, seen: readSeen(m.seenFile())}
	var pending []availability.Outage
	var tried, noted time.Time
	for {
		last, now := m.sidecar.Snapshot(), time.Now()
		pending = append(pending, w.news(last, m.endedTerm(), now)...)
		if w.seen.Sub(noted) >= seenEvery {
			noted = w.seen
			if err := writeSeen(m.seenFile(), noted); err != nil {
				m.log.Warn("cannot note that a primary was seen; a time without members may be missing in pgsidecar availability", "error", err)
			}
		}
		if len(pending) > 0 && now.Sub(tried) >= outagesAgain {
			tried = now
			if err := m.putOutages(ctx, pending); err != nil {
				m.log.Warn("cannot write outages; tried again", "outages", len(pending), "error", err)
			} else {
				pending, tried = nil, time.Time{}
				m.readOutages(ctx)
			}
		}
		if _, err := m.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool { return s != last }); err != nil {
			return
		}
	}
}

// endedTerm is the newest term of which an account is known: this member's own is, as soon
// as it has taken a write, which ends the outage.
func (m *Member) endedTerm() *failover.Record {
	last, own := m.lastTerm(), m.sidecar.Writable()
	if own != nil && (last == nil || own.Term > last.Term) {
		return own
	}
	return last
}

func (m *Member) seenFile() string { return filepath.Join(m.config.Postgres.StateDir, "seen") }

// putOutages writes them into the journals of their months.
func (m *Member) putOutages(ctx context.Context, outages []availability.Outage) error {
	ctx, cancel := context.WithTimeout(ctx, outagesTimeout)
	defer cancel()
	for _, o := range outages {
		err := m.cluster.PutOutages(ctx, o.Month(), func(journal []byte) ([]byte, error) { return availability.Append(journal, o) })
		if err != nil {
			return err
		}
	}
	return nil
}

// readOutages reads all journals.
func (m *Member) readOutages(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, outagesTimeout)
	defer cancel()
	journals, err := m.cluster.Outages(ctx)
	if err != nil {
		m.log.Debug("cannot read the outages", "error", err)
		return
	}
	var all []availability.Outage
	damaged := 0
	for _, j := range journals {
		outages, n := availability.Read(j)
		all, damaged = append(all, outages...), damaged+n
	}
	if damaged > 0 {
		m.log.Warn("lines of the outages in Consul cannot be read, and are left out", "lines", damaged)
	}
	m.mu.Lock()
	m.outages, m.unreadOutages = all, damaged
	m.mu.Unlock()
}

// outageWatch is what is known of the primary, from one snapshot to the next.
type outageWatch struct {
	member string
	seen   time.Time // when a primary that takes writes was last seen; zero: never
	term   uint64    // the newest that was written down, or had begun before
	begun  bool
	// served is the term in which this member took writes; zero: it does not. lost is
	// since when it does not any more in that term, and lostAt the same by the clock that
	// nobody sets; asked: as somebody wanted.
	served uint64
	lost   time.Time
	lostAt ha.Instant
	asked  bool
}

// news are the outages that have ended by a snapshot.
func (w *outageWatch) news(s *sidecar.Snapshot, term *failover.Record, now time.Time) (ended []availability.Outage) {
	if s == nil {
		return nil
	}
	r := &s.Observation.Consul.Record
	if !w.begun && r.Exists() {
		w.begun, w.term = true, r.Term
		if r.Phase != ha.PhaseLeading || r.Leader == w.member && !s.Report.Writable {
			w.term-- // it is under way, or its account is still to come
		}
	}
	if w.begun && term != nil && term.Term > w.term && term.Leader == w.member && !term.Writable.IsZero() {
		w.term = term.Term
		ended = append(ended, w.ended(term)...)
	}
	serves := r.Leader == w.member && r.Phase == ha.PhaseLeading && s.State.Role == ha.RolePrimary && s.Report.Writable
	switch {
	case serves && w.served == r.Term && !w.lost.IsZero():
		ended = append(ended, availability.Outage{From: w.lost, To: w.lost.Add(s.Observation.Now.Sub(w.lostAt)), Kind: availability.Restart, Cause: "the primary did not take writes",
			Planned: w.asked, Term: r.Term, Leader: w.member})
		w.lost, w.asked = time.Time{}, false
	case serves:
		w.served, w.lost, w.asked = r.Term, time.Time{}, false
	case w.served == r.Term && w.served != 0 && w.lost.IsZero():
		w.lost, w.lostAt = now, s.Observation.Now
	case w.served != r.Term:
		w.served = 0
	}
	w.asked = w.asked || w.served != 0 && s.Observation.Intent.Restart
	if serves || s.State.Hears && r.Phase == ha.PhaseLeading && r.Leader != w.member {
		w.seen = now
	}
	return ended
}

// ended are the outage before a term, and what nobody saw before that.
func (w *outageWatch) ended(r *failover.Record) []availability.Outage {
	if r.Kind() == "bootstrap" {
		return nil
	}
	kind, cause := availability.Failover, r.Reason
	if r.Planned {
		kind = availability.Switchover
	}
	all := []availability.Outage{{From: r.Detected, To: r.Writable, Kind: kind, Cause: cause, Planned: r.Planned, Term: r.Term, Leader: r.Leader}}
	if !w.seen.IsZero() && r.Detected.Sub(w.seen) > unseenAfter {
		all = append(all, availability.Outage{From: w.seen, To: r.Detected, Kind: availability.Unseen,
			Cause: "no member that knew a primary was running", Term: r.Term, Leader: r.Leader})
	}
	return all
}

// readSeen reads when a primary was last seen; zero: it is not known.
func readSeen(path string) time.Time {
	text, err := rights.OwnerOf(filepath.Dir(path)).ReadOwn(path)
	if err != nil {
		return time.Time{}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n <= 0 || n > time.Now().Unix() { // damaged, or of a clock that was set back
		return time.Time{}
	}
	return time.Unix(n, 0)
}

// writeSeen notes it. The file is replaced, so that it is never half there.
func writeSeen(path string, at time.Time) error {
	if err := rights.OwnerOf(filepath.Dir(path)).Replace(path, fmt.Appendln(nil, at.Unix())); err != nil {
		return fmt.Errorf("write the note: %w", err)
	}
	return nil
}
