package member

import (
	"context"
	"net/http"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// way is how a failover that a person asked for is done.
type way uint8

const (
	handOver way = iota // a switchover: the primary is well, and loses nothing
	askThere            // the candidate's own member does it
	explain             // refused: a rule says what is missing
	wait                // the members elect by themselves
	force               // without the votes that are missing: the loss is accepted
)

// wayOf chooses how to do a failover.
//
// Only a primary that works, and whose record Consul has, can hand over. One whose stop
// hangs, or whose record is gone, cannot: there the loss that was accepted counts.
func wayOf(s *sidecar.Snapshot, req api.Failover) way {
	leads := req.Candidate == s.State.Last.Leader || req.Candidate == s.Observation.Consul.Record.Leader
	switch {
	case s.State.Hears && !req.AcceptDataLoss, handsOver(s) && !leads:
		return handOver
	case req.Candidate != s.Observation.Self:
		return askThere
	case req.AcceptDataLoss:
		return force
	case len(s.State.Blocks) > 0:
		return explain
	}
	return wait
}

// handsOver reports whether there is a primary that can hand over: it is heard, no stop
// of it hangs, and Consul has its record.
func handsOver(s *sidecar.Snapshot) bool {
	r := &s.Observation.Consul.Record
	return s.State.Hears && !s.Report.Stopping && !recordLost(s) && r.Phase == ha.PhaseLeading
}

// recordLost reports whether Consul has no record, a broken one, or an earlier one than
// this process has read: Consul was put back, or somebody has changed its keys by hand.
func recordLost(s *sidecar.Snapshot) bool {
	r, last := &s.Observation.Consul.Record, &s.State.Last
	return last.Term != 0 && (r.Term != last.Term || r.Index != last.Index)
}

// leadsNow reports whether this member leads the newest term that it knows of, with its
// clients let in.
func leadsNow(s *sidecar.Snapshot) bool {
	r, v := &s.Observation.Consul.Record, &s.Observation.Server
	return r.Phase == ha.PhaseLeading && r.Leader == s.Observation.Self && !recordLost(s) && s.State.Hears && v.InRecovery == ha.No && !v.Hidden
}

// Failover makes the candidate lead. While there is a primary that can hand over it is a
// switchover; else the candidate's own member continues without the votes that are missing,
// if that is accepted.
func (c control) Failover(ctx context.Context, req api.Failover) (string, error) {
	snap := c.sidecar.Snapshot()
	switch {
	case snap == nil:
		return "", api.Refuse(http.StatusServiceUnavailable, "nothing is decided yet; try again in a second")
	case req.Candidate == "":
		return "", api.Refuse(http.StatusBadRequest, "say which member takes over")
	}
	switch wayOf(snap, req) {
	case handOver:
		return c.Switchover(ctx, api.Switchover{Candidate: req.Candidate})
	case askThere:
		return c.forward(ctx, req.Candidate, "/failover", map[string]any{"candidate": req.Candidate, "accept_data_loss": req.AcceptDataLoss})
	case explain:
		b := snap.State.Blocks[0]
		return "", api.Refuse(http.StatusPreconditionFailed, "%s; waiting for: %s; to continue without it, accept the loss of %s", b.What, b.Missing, b.Cost)
	case force:
		c.log.Warn("failover with data loss accepted", "candidate", req.Candidate, "record_lost", recordLost(snap))
		c.sidecar.Force()
	}
	after, err := c.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool {
		// A primary may have come to be heard meanwhile, or its record to be there again.
		return leadsNow(s) || s.State.Last.Leader != req.Candidate && wayOf(s, req) == handOver
	})
	if err != nil || !leadsNow(after) {
		c.sidecar.WithdrawForce() // or it would be acted on later, against a primary that is well
	}
	switch {
	case err != nil:
		return "", notYet(c.sidecar.Snapshot())
	case leadsNow(after):
		return req.Candidate, nil
	}
	return c.Switchover(ctx, api.Switchover{Candidate: req.Candidate})
}

// notYet says why a failover was not done in the time that its client waits.
func notYet(s *sidecar.Snapshot) error {
	self := s.Observation.Self
	switch leader := s.State.Last.Leader; {
	case s.State.Hears && leader != self:
		return api.Refuse(http.StatusServiceUnavailable, "not done: %s hears the primary, %s, and does not depose it. Stop %s, or wait until it has written its record to Consul again; see pgsidecar status", self, leader, leader)
	case len(s.State.Blocks) > 0:
		b := &s.State.Blocks[0]
		return api.Refuse(http.StatusServiceUnavailable, "not done yet, and given up: %s; waiting for: %s; see pgsidecar status", b.What, b.Missing)
	case !s.Report.Eligible:
		return api.Refuse(http.StatusServiceUnavailable, "not done: %s cannot lead now (its server is not a standby that runs, it has the tag nofailover, or it has no session in Consul); see pgsidecar status", self)
	}
	return api.Refuse(http.StatusServiceUnavailable, "not done yet, and given up; see pgsidecar status --why")
}
