package sidecar

import (
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// journal is what the log was last told. It belongs to the loop.
type journal struct {
	blocks    string
	problem   string // Consul's, logged at problemAt
	problemAt ha.Instant
}

// note logs what has changed, one event per transition.
func (s *Sidecar) note(o ha.Observation) {
	st := &s.state
	if snap := s.Snapshot(); snap != nil {
		s.noteRole(snap.State.Role, o)
		if snap.State.Hears && !st.Hears && o.Consul.Record.Leader != o.Self {
			s.log.Warn("the primary is not heard any more", "leader", o.Consul.Record.Leader, "term", st.LostTerm)
			s.failover.lost(s.moment())
		}
		if st.Hears && !snap.State.Hears && o.Consul.Record.Leader != o.Self {
			s.failover.lost(moment{})
		}
		before := snap.Observation.Consul.Record
		if r := o.Consul.Record; r.Term != before.Term || r.Phase != before.Phase {
			s.noteRecord(&before, &r)
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
	now, j := s.opts.Now(), &s.journal
	switch {
	case problem == "" && j.problem != "":
		s.log.Info("requests to consul succeed again")
	case problem == j.problem || j.problem != "" && now.Sub(j.problemAt) < problemPause:
		return
	default:
		s.log.Warn("a request to consul failed", "error", problem)
		j.problemAt = now
	}
	j.problem = problem
}

func (s *Sidecar) noteRole(before ha.Role, o ha.Observation) {
	if before != s.state.Role {
		s.log.Info("role changed", "from", before, "to", s.state.Role, "term", o.Consul.Record.Term, "position", o.Server.Position.String())
	}
	if s.registration.firstRole() && s.opts.Ready != nil {
		s.opts.Ready()
	}
}

func (s *Sidecar) noteRecord(before, r *ha.Record) {
	s.log.Info("the cluster has changed", "term", r.Term, "leader", r.Leader, "phase", r.Phase, "reason", r.Reason)
	if r.Leader == s.opts.Member {
		s.stampLeader(before, r)
	}
}

// noteBlocks logs a block when it appears, changes or goes.
func (s *Sidecar) noteBlocks() {
	var b strings.Builder
	for _, block := range s.state.Blocks {
		b.WriteString(block.What + "; waiting for: " + block.Missing + "\n")
	}
	if b.String() == s.journal.blocks {
		return
	}
	s.journal.blocks = b.String()
	for _, block := range s.state.Blocks {
		s.log.Warn("waiting: "+block.What, "missing", block.Missing, "override", block.Override, "cost", block.Cost)
	}
	if s.journal.blocks == "" {
		s.log.Info("no longer blocked")
	}
}
