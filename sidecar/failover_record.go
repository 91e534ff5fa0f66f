package sidecar

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// failoverRecord is this member's record of the newest term, while it is written.
type failoverRecord struct {
	mu     sync.Mutex // guards what follows
	record failover.Record
	stored uint64 // the newest term whose record was stored
	lostAt moment // the leader was lost then; zero: it was not
	began  moment // the record's first
}

// moment is one by the wall clock, and by the clock that nobody sets.
type moment struct {
	wall time.Time
	at   ha.Instant
}

func (s *Sidecar) moment() moment { return moment{time.Now(), s.opts.Now()} }

// stamp notes something in the record of a term, with the time. A later term begins a new
// record, which keeps since when the leader before was lost. Only the record's first moment
// is by the wall clock, and the others are as long after it as they were: somebody may set
// that clock meanwhile, and an outage is as long all the same.
func (f *failoverRecord) stamp(term uint64, now moment, note func(r *failover.Record, now time.Time)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.record.Term > term:
		return
	case f.record.Term < term:
		f.record = failover.Record{Term: term, Detected: f.lostAt.wall}
		if f.began = f.lostAt; f.began == (moment{}) {
			f.began = now
		}
		f.lostAt = moment{}
	}
	note(&f.record, f.began.wall.Add(now.at.Sub(f.began.at)))
}

// lost notes when the leader was lost; the zero moment, that it was heard again and
// no failover came of it.
func (f *failoverRecord) lost(at moment) {
	f.mu.Lock()
	f.lostAt = at
	f.mu.Unlock()
}

// complete returns the record of a term once, if it is complete. A sidecar that
// finds its server leading knows no record: the one before it has stored that.
func (f *failoverRecord) complete(term uint64, member string) (r failover.Record, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok = f.record, f.record.Term == term && f.writable(member) && f.stored < term
	f.stored = max(f.stored, term)
	return r, ok
}

// writable reports whether it is of a term in which this member took a write; mu is held.
func (f *failoverRecord) writable(member string) bool {
	return f.record.Leader == member && !f.record.Writable.IsZero()
}

// Writable is the account of the newest term, if this member leads it and has taken a write,
// as far as it is known: Announced and Routed may come later. Else it is nil. It is there at
// once, where the account in Consul waits for the catalog.
func (s *Sidecar) Writable() *failover.Record {
	f := &s.failover
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.writable(s.opts.Member) {
		return nil
	}
	r := f.record
	return &r
}

// stampLeader notes whose term it is.
func (s *Sidecar) stampLeader(before, r *ha.Record) {
	s.failover.stamp(r.Term, s.moment(), func(c *failover.Record, now time.Time) {
		c.Leader, c.From, c.Reason, c.Timeline = r.Leader, r.Origin.Leader, r.Reason, r.Timeline
		c.Planned = c.Planned || r.Final != nil
		if c.Elected.IsZero() {
			c.Elected = now
		}
		if c.Detected.IsZero() {
			c.Detected = c.Elected
		}
		if c.Writable.IsZero() && r.Phase == ha.PhaseLeading && before.Term == r.Term {
			c.Writable = now // the first primary of all was not promoted
		}
	})
}

// historyTimeout bounds the storing of a record.
const historyTimeout = 5 * time.Second

// routedTimeout bounds the wait for the catalog to lead to a new primary: its agent
// tells it some 20 ms after it was told.
const routedTimeout = time.Second

// awaitRouted notes when the catalog leads to this member in a term. Who reads it next
// does not read a record that lacks that, so the record is stored after it.
func (s *Sidecar) awaitRouted(ctx context.Context, term uint64) {
	ctx, cancel := context.WithTimeout(ctx, routedTimeout)
	defer cancel()
	named := false
	_, err := s.Await(ctx, func(snap *Snapshot) bool {
		named = s.opts.Cluster.View().Named == term
		return named || snap.Observation.Consul.Record.Term > term
	})
	if err == nil && named {
		s.failover.stamp(term, s.moment(), func(r *failover.Record, now time.Time) { r.Routed = now })
	}
}

// storeFailover writes the record of a term that is complete into Consul, once,
// and feeds the metrics.
func (s *Sidecar) storeFailover(ctx context.Context, term uint64) {
	s.awaitRouted(ctx, term)
	r, ok := s.failover.complete(term, s.opts.Member)
	if !ok {
		return
	}
	text, err := json.Marshal(r)
	if err != nil {
		s.log.Error("cannot write the record of the failover", "error", err)
		return
	}
	fields := []any{"term", term, "from", r.From, "reason", r.Reason}
	s.opts.Recorder.LeaderChange(r.Kind())
	for _, p := range r.Phases() {
		fields = append(fields, p.Name+"_ms", float64(p.Took.Microseconds())/1000)
		if !p.At.IsZero() {
			s.opts.Recorder.FailoverPhase(p.Name, p.Took)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	if err := s.opts.Cluster.PutHistory(ctx, term, text); err != nil {
		s.log.Warn("cannot store the record of the failover", "term", term, "error", err)
	}
	s.log.Info("failover recorded", fields...)
}
