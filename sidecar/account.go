package sidecar

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Account is what became of one term, with this member's wall clock for each
// phase. It is stored in Consul when the term's leader is announced.
type Account struct {
	Term      uint64    `json:"term"`
	Leader    string    `json:"leader"`
	From      string    `json:"from,omitempty"` // the leader before
	Reason    string    `json:"reason"`
	Planned   bool      `json:"planned,omitempty"` // the leader before had stopped cleanly, as asked
	Timeline  ha.TLI    `json:"timeline"`
	Detected  time.Time `json:"detected"`  // the leader before was lost, or asked to go
	Elected   time.Time `json:"elected"`   // the ballot was seen
	Fenced    time.Time `json:"fenced"`    // the votes were enough
	Promoted  time.Time `json:"promoted"`  // the server left recovery
	Writable  time.Time `json:"writable"`  // it took a write
	Announced time.Time `json:"announced"` // Consul's service has the primary tag
	Routed    time.Time `json:"routed,omitzero"`
	Forked    ha.LSN    `json:"forked,omitempty"` // where the timeline before ended
}

// mark notes a time in the account of a term. A later term begins a new
// account, which keeps since when the leader before was lost.
func (s *Sidecar) mark(term uint64, note func(*Account)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.account.Term > term:
		return
	case s.account.Term < term:
		s.account = Account{Term: term, Detected: s.lostAt}
		s.lostAt = time.Time{}
	}
	note(&s.account)
}

// note logs what has changed, one event per transition.
func (s *Sidecar) note(o ha.Observation) {
	st := &s.state
	if snap := s.Snapshot(); snap != nil {
		s.noteRole(snap.State.Role, o)
		if snap.State.Hears && !st.Hears && o.Consul.Record.Leader != o.Self {
			s.log.Warn("the primary is not heard any more", "leader", o.Consul.Record.Leader, "term", st.LostTerm)
			s.mu.Lock()
			s.lostAt = time.Now()
			s.mu.Unlock()
		}
		if st.Hears && !snap.State.Hears && o.Consul.Record.Leader != o.Self {
			s.mu.Lock()
			s.lostAt = time.Time{} // it was heard again: no failover came of it
			s.mu.Unlock()
		}
		before := snap.Observation.Consul.Record
		if r := o.Consul.Record; r.Term != before.Term || r.Phase != before.Phase {
			s.noteRecord(before, r)
		}
	} else {
		s.log.Info("member started", "member", o.Self, "process", o.Server.Process == ha.ProcessRunning)
	}
	s.noteBlocks()
	s.noteProblem(errText(s.opts.Cluster.View().Err))
}

// problemPause is how often, at most, another trouble of Consul is logged while
// there is one: without Consul each address in turn gives an error of its own.
const problemPause = 30 * time.Second

func (s *Sidecar) noteProblem(problem string) {
	now := s.opts.Now()
	switch {
	case problem == "" && s.problem != "":
		s.log.Info("consul does as asked again")
	case problem == s.problem || s.problem != "" && now.Sub(s.problemAt) < problemPause:
		return
	default:
		s.log.Warn("consul does not do as asked", "error", problem)
		s.problemAt = now
	}
	s.problem = problem
}

func (s *Sidecar) noteRole(before ha.Role, o ha.Observation) {
	if before != s.state.Role {
		s.log.Info("role changed", "from", before, "to", s.state.Role, "term", o.Consul.Record.Term, "position", o.Server.Position.String())
	}
	s.mu.Lock()
	first := !s.ready && s.announced.Known && s.announced.Tag != ""
	s.ready = s.ready || first
	s.mu.Unlock()
	if first && s.opts.Ready != nil {
		s.opts.Ready()
	}
}

func (s *Sidecar) noteRecord(before, r ha.Record) {
	s.log.Info("the cluster has changed", "term", r.Term, "leader", r.Leader, "phase", r.Phase, "reason", r.Reason)
	if r.Leader != s.opts.Member {
		return
	}
	s.mark(r.Term, func(c *Account) {
		c.Leader, c.From, c.Reason, c.Timeline = r.Leader, r.Origin.Leader, r.Reason, r.Timeline
		c.Planned = c.Planned || r.Final != nil
		if c.Elected.IsZero() {
			c.Elected = time.Now()
		}
		if c.Detected.IsZero() {
			c.Detected = c.Elected
		}
		if c.Writable.IsZero() && r.Phase == ha.PhaseLeading && before.Term == r.Term {
			c.Writable = time.Now() // the first primary of all was not promoted
		}
	})
}

// noteBlocks logs a block when it appears, changes or goes.
func (s *Sidecar) noteBlocks() {
	var b strings.Builder
	for _, block := range s.state.Blocks {
		b.WriteString(block.What + "; missing: " + block.Missing + "\n")
	}
	if b.String() == s.blocks {
		return
	}
	s.blocks = b.String()
	for _, block := range s.state.Blocks {
		s.log.Warn("waiting: "+block.What, "missing", block.Missing, "override", block.Override, "cost", block.Cost)
	}
	if s.blocks == "" {
		s.log.Info("nothing is waited for any more")
	}
}

// historyTimeout bounds the storing of an account.
const historyTimeout = 5 * time.Second

// storeAccount writes the account of a term that is complete into Consul, once.
// A sidecar that finds its server leading knows no account: the one before it
// stored that.
func (s *Sidecar) storeAccount(ctx context.Context, term uint64) {
	s.mu.Lock()
	a, stored := s.account, s.accounted
	s.accounted = max(stored, term)
	s.mu.Unlock()
	if a.Term != term || a.Leader != s.opts.Member || a.Writable.IsZero() || stored >= term {
		return
	}
	text, err := json.Marshal(a)
	if err != nil {
		s.log.Error("cannot write the account of the term", "error", err)
		return
	}
	s.record(a)
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	if err := s.opts.Cluster.PutHistory(ctx, term, text); err != nil {
		s.log.Warn("cannot store the account of the term", "term", term, "error", err)
	}
	s.log.Info("failover accounted", "term", term, "from", a.From, "reason", a.Reason,
		"elected_ms", since(a.Detected, a.Elected), "votes_ms", since(a.Detected, a.Fenced), "promoted_ms", since(a.Detected, a.Promoted),
		"writable_ms", since(a.Detected, a.Writable), "announced_ms", since(a.Detected, a.Announced))
}

// record feeds the metrics of a failover.
func (s *Sidecar) record(a Account) {
	kind := "failover"
	switch {
	case a.From == "":
		kind = "bootstrap"
	case a.Planned:
		kind = "switchover"
	}
	s.opts.Recorder.LeaderChange(kind)
	for _, p := range []struct {
		name string
		at   time.Time
	}{{"elected", a.Elected}, {"fenced", a.Fenced}, {"promoted", a.Promoted}, {"writable", a.Writable}, {"announced", a.Announced}} {
		if !p.at.IsZero() {
			s.opts.Recorder.FailoverPhase(p.name, p.at.Sub(a.Detected))
		}
	}
}

func since(from, to time.Time) float64 {
	if to.IsZero() {
		return 0
	}
	return float64(to.Sub(from).Microseconds()) / 1000
}

// registration is what the service says for an announcement.
func (s *Sidecar) registration(a ha.Action) Registration {
	snap := s.Snapshot()
	r := Registration{Tag: a.Tag, Status: "passing", Text: "PostgreSQL answers"}
	switch {
	case a.Tag == "primary":
		r.Replica = Check{Status: "passing", Text: "primary"}
	case a.Tag == "replica":
		r.Replica = Check{Status: "passing", Text: "streams from its primary"}
	default:
		r.Status, r.Text = "critical", "PostgreSQL has no role yet, or is stopped"
		r.Replica = Check{Status: "critical", Text: "does not stream"}
	}
	if snap != nil {
		rec := snap.Observation.Consul.Record
		r.Meta = [][2]string{{"term", strconv.FormatUint(rec.Term, 10)}, {"timeline", strconv.FormatUint(uint64(rec.Timeline), 10)}}
	}
	return r
}
