package trace

import (
	"strconv"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// OfTerm is the trace of a term.
func OfTerm(systemID string, term uint64) TraceID {
	return Derive("term", systemID, strconv.FormatUint(term, 10))
}

// steps are the spans of a term's leader; each ends with a phase and begins with the one
// before.
var steps = map[string]string{"elected": "elect", "fenced": "collect votes", "promoted": "promote", "writable": "first write", "announced": "announce", "routed": "route"}

// Term returns the spans of a term, by its leader's account of it.
func Term(systemID string, r *failover.Record) []Span {
	t := OfTerm(systemID, r.Term)
	root := Span{Trace: t, ID: t.Root(), Name: r.Kind(), From: r.Detected, To: r.Detected, Attributes: []Attribute{
		{"pgsidecar.member", r.Leader}, {"pgsidecar.term", strconv.FormatUint(r.Term, 10)}, {"pgsidecar.leader", r.Leader},
		{"pgsidecar.from", r.From}, {"pgsidecar.reason", r.Reason}, {"pgsidecar.timeline", strconv.FormatUint(uint64(r.Timeline), 10)}}}
	var spans []Span
	for _, p := range r.Phases() {
		if p.At.IsZero() {
			continue
		}
		// An earlier version's account has the wall clock, which may have been set back meanwhile.
		from, to := root.To, p.At
		if to.Before(from) {
			to = from
		}
		spans = append(spans, t.below(r.Leader, steps[p.Name], from, to))
		root.To = to
	}
	return append([]Span{root}, spans...)
}

// Witness sees, on one member, what that member did in a term that another leads. Its zero
// value has seen nothing; it is for one goroutine.
type Witness struct {
	begun    bool
	term     uint64
	seen     time.Time // when the term was first seen here
	voted    bool
	followed bool
	// stopping is since when the server, a primary's, is being stopped; its span belongs
	// to the term that comes then.
	stopping, stopped time.Time
	primary           bool
}

// Seen is what a witness looks at.
type Seen struct {
	Member string
	Record *ha.Record
	Report *ha.Report
	Server *ha.Server
}

// Look returns the spans that have ended by now.
func (w *Witness) Look(s Seen, now time.Time) (spans []Span) {
	r := s.Record
	if !r.Exists() {
		return nil
	}
	w.watchStop(s, now)
	if !w.begun {
		// What is under way when this process begins was not seen from its beginning.
		w.begun, w.term, w.voted, w.followed = true, r.Term, true, true
	}
	t := OfTerm(r.SystemID, r.Term)
	if r.Term > w.term {
		w.term, w.seen, w.voted, w.followed = r.Term, now, false, false
		if !w.stopping.IsZero() && !w.stopped.IsZero() {
			spans = append(spans, t.below(s.Member, "stop", w.stopping, w.stopped))
		}
		w.stopping, w.stopped = time.Time{}, time.Time{}
	}
	if r.Leader == s.Member {
		w.voted, w.followed = true, true // its own account tells
		return spans
	}
	if !w.voted && s.Report.Voted && s.Report.Term == r.Term {
		w.voted = true
		spans = append(spans, t.below(s.Member, "vote", w.seen, now))
	}
	if !w.followed && r.Phase == ha.PhaseLeading && s.Report.Streaming && s.Server.Upstream == r.Leader {
		w.followed = true
		spans = append(spans, t.below(s.Member, "follow", w.seen, now))
	}
	return spans
}

// watchStop notes when a primary's server stops.
func (w *Witness) watchStop(s Seen, now time.Time) {
	running := s.Server.Process == ha.ProcessRunning
	switch {
	case running && s.Report.Writable:
		w.primary, w.stopping, w.stopped = true, time.Time{}, time.Time{}
	case w.primary:
		if w.stopping.IsZero() {
			w.stopping = now // it takes no writes any more
		}
		if !running {
			w.stopped, w.primary = now, false
		}
	}
}
