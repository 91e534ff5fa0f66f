package member

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// What is planned for a time stands in the cluster's settings, so that it outlives
// the sidecar that took the request.
const (
	// planPause is how long a plan that could not be taken off the list waits for the
	// next try.
	planPause = time.Second
	// tooLate is how long after its time a plan is still carried out.
	tooLate = time.Minute
	// plannedSwitchoverTime and plannedRestartTime are how long either may take,
	// to say how it went.
	plannedSwitchoverTime = time.Minute
	plannedRestartTime    = 10 * time.Minute
)

// keepPlans carries out what was planned when its time has come, until ctx ends.
func (m *Member) keepPlans(ctx context.Context) {
	for {
		snap, err := m.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool { return m.switchoverDue(s) || m.restartDue() })
		if err != nil {
			return
		}
		done := true
		if m.switchoverDue(snap) {
			done = m.plannedSwitchover(ctx)
		}
		if m.restartDue() {
			done = m.plannedRestart(ctx) && done
		}
		if !done && !waited(ctx, planPause) {
			return
		}
	}
}

func waited(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// switchoverDue reports whether a planned switchover's time has come, and this member
// is to do it.
func (m *Member) switchoverDue(s *sidecar.Snapshot) bool {
	p := m.stored().Switchover
	return p != nil && s.State.Role == ha.RolePrimary && !time.Now().Before(p.At)
}

// plannedSwitchover does the planned switchover: it is tried until it succeeds or its
// window ends, then taken off the list. It reports whether it is.
func (m *Member) plannedSwitchover(ctx context.Context) (taken bool) {
	set := m.stored()
	if set.Switchover == nil {
		return true
	}
	p := *set.Switchover
	until := p.Until
	if until.IsZero() {
		until = p.At.Add(tooLate)
	}
	why := ""
	switch r := m.cluster.View().Consul.Record; {
	case !time.Now().Before(until):
		m.mu.Lock()
		why = cmp.Or(m.planFailed, "its time is long past")
		m.mu.Unlock()
	case p.From != "" && p.From != r.Leader:
		why = p.From + " was to hand over, and " + r.Leader + " leads"
	default:
		return m.trySwitchover(ctx, p, until)
	}
	m.log.Warn("the planned switchover is dropped", "at", p.At, "to", p.To, "reason", why)
	if leader := m.cluster.View().Consul.Record.Leader; p.From == leader || p.To != "" && p.To != leader { // else it was done
		m.failPlan("the switchover planned for " + p.At.Format(time.RFC3339) + " was not done: " + strings.TrimPrefix(why, planPrefix(p)))
	}
	return m.dropPlan(ctx)
}

// planPrefix begins what status says of a planned switchover that is not done yet.
func planPrefix(p settings.PlannedSwitchover) string {
	return "the switchover planned for " + p.At.Format(time.RFC3339) + " is tried again: "
}

func (m *Member) failPlan(why string) {
	m.mu.Lock()
	m.planFailed = why
	m.mu.Unlock()
}

// dropPlan takes the planned switchover off the list.
func (m *Member) dropPlan(ctx context.Context) bool {
	err := m.unplan(ctx, func(ctx context.Context) error { return (control{m}).plan(ctx, nil) })
	if err != nil {
		m.log.Warn("cannot take the planned switchover off the list; it is tried again", "error", err)
	}
	return err == nil
}

// retrySwitchover is how long clients are left alone between two tries: each holds them
// for a moment.
const retrySwitchover = 10 * time.Second

// trySwitchover tries the planned switchover once. While its window is open the list still
// has it; once it is done a new leader finds that it is not the one to hand over.
func (m *Member) trySwitchover(ctx context.Context, p settings.PlannedSwitchover, until time.Time) bool {
	m.log.Info("planned switchover", "to", p.To)
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), plannedSwitchoverTime)
	defer cancel()
	drain, _ := time.ParseDuration(p.Drain) // empty: none
	leader, err := (control{m}).Switchover(work, api.Switchover{Candidate: p.To, Drain: drain})
	if err != nil {
		m.log.Warn("the planned switchover was not done", "to", p.To, "until", until, "error", err)
		m.failPlan(planPrefix(p) + err.Error())
		return waited(ctx, min(retrySwitchover, max(time.Until(until), 0)))
	}
	if p.To != "" && leader != p.To {
		m.log.Warn("the planned switchover ended with another member: it won the election", "to", p.To, "leader", leader)
		m.failPlan("the switchover planned for " + p.At.Format(time.RFC3339) + " went to " + leader + ", and not to " + p.To)
		return m.dropPlan(ctx)
	}
	m.log.Info("planned switchover done", "leader", leader)
	m.failPlan("")
	return m.dropPlan(ctx)
}

// planTimeout bounds the change that takes a plan off the list.
const planTimeout = 5 * time.Second

func (m *Member) unplan(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	return f(ctx)
}

// restartDue reports whether the time of this member's planned restart has come.
func (m *Member) restartDue() bool {
	p, planned := m.stored().Restarts[m.config.Member]
	return planned && !time.Now().Before(p.At)
}

// plannedRestart does this member's planned restart, once, if its conditions hold. It
// reports whether it is off the list.
func (m *Member) plannedRestart(ctx context.Context) (taken bool) {
	p := m.stored().Restarts[m.config.Member]
	if err := m.unplan(ctx, func(ctx context.Context) error { return (control{m}).planRestart(ctx, nil) }); err != nil {
		m.log.Warn("cannot take the planned restart off the list; it is tried again", "error", err)
		return false
	}
	if time.Since(p.At) > tooLate {
		m.log.Warn("the planned restart is dropped: its time is long past", "at", p.At)
		return true
	}
	m.log.Info("planned restart")
	work, cancel := context.WithTimeout(ctx, plannedRestartTime)
	defer cancel()
	again := asked(p)
	again.At = time.Time{} // now
	if err := (control{m}).Restart(work, again); err != nil {
		m.log.Warn("the planned restart was not done", "error", err)
	}
	return true
}

// plan stores (or, with nil, removes) a planned switchover.
func (c control) plan(ctx context.Context, p *settings.PlannedSwitchover) error {
	return c.storePatch(ctx, map[string]any{"switchover": switchoverPatch(p)})
}

// switchoverPatch makes a plan of what is stored: what it has not is null, so that nothing of
// an earlier one stays.
func switchoverPatch(p *settings.PlannedSwitchover) map[string]any {
	if p == nil {
		return nil
	}
	return map[string]any{"at": p.At, "from": orNull(p.From), "to": orNull(p.To), "until": orNull(p.Until), "drain": orNull(p.Drain)}
}

// durationText writes a duration; empty: there is none.
func durationText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// planRestart stores (or, with nil, removes) a planned restart of this member.
func (c control) planRestart(ctx context.Context, p *settings.PlannedRestart) error {
	restarts := map[string]any{c.config.Member: restartPatch(p)}
	if _, own := c.stored().Restarts[c.config.Member]; p == nil && own && len(c.stored().Restarts) == 1 {
		restarts = nil // nothing empty is left
	}
	return c.storePatch(ctx, map[string]any{"restarts": restarts})
}

// restartPatch is switchoverPatch of a restart.
func restartPatch(p *settings.PlannedRestart) map[string]any {
	if p == nil {
		return nil
	}
	return map[string]any{"at": p.At, "role": orNull(p.Role), "pending": orNull(p.Pending), "postgres_version": orNull(p.PostgresVersion),
		"timeout": orNull(p.Timeout)}
}

// orNull is null in place of a value that says nothing.
func orNull[T comparable](v T) any {
	if v == *new(T) {
		return nil
	}
	return v
}

func (c control) storePatch(ctx context.Context, patch map[string]any) error {
	text, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = c.PatchConfig(ctx, api.ConfigChange{Patch: text})
	return err
}

// CancelSwitchover forgets a planned switchover.
func (c control) CancelSwitchover(ctx context.Context) error {
	if c.stored().Switchover == nil {
		return api.Refuse(http.StatusNotFound, "no switchover is scheduled")
	}
	return c.plan(ctx, nil)
}

// CancelRestart forgets the planned restart of this member.
func (c control) CancelRestart(ctx context.Context) error {
	if _, planned := c.stored().Restarts[c.config.Member]; !planned {
		return api.Refuse(http.StatusNotFound, "no restarts are scheduled")
	}
	return c.planRestart(ctx, nil)
}
