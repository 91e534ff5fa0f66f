package sim

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Decider is ha.Decide, or that of a broken core.
type Decider func(ha.State, ha.Observation) (ha.State, []ha.Action)

// Decision is what a core makes of Facts.
type Decision struct {
	State   ha.State
	Actions []ha.Action
	now     ha.Instant
}

// Decide asks a core. Where all has been so for long, it was asked a minute ago
// as well.
func (f *Facts) Decide(decide Decider, long bool) Decision {
	s := f.State
	if long {
		then := f.Observation
		then.Now = f.Now.Add(-time.Minute)
		s, _ = decide(s, then)
		s.FollowedAt = f.Now // it has been asked since
		if f.State.LostAt == 0 {
			s.LostAt = then.Now
		}
	}
	s, actions := decide(s, f.Observation)
	return Decision{State: s, Actions: actions, now: f.Now}
}

// String is the decision in words: what people read of it in logs and status.
func (d *Decision) String() string {
	var b strings.Builder
	for i := range d.Actions {
		a := &d.Actions[i]
		fmt.Fprintf(&b, "%s: %s\n", actionText(a), a.Why)
	}
	for i := range d.State.Blocks {
		x := &d.State.Blocks[i]
		fmt.Fprintf(&b, "blocked: %s\n  missing: %s\n", x.What, x.Missing)
		if x.Override != "" {
			fmt.Fprintf(&b, "  to go on: %s\n", x.Override)
		}
		if x.Cost != "" {
			fmt.Fprintf(&b, "  cost: %s\n", x.Cost)
		}
	}
	if d.State.Refused != "" {
		fmt.Fprintf(&b, "refused: %s\n", d.State.Refused)
	}
	if at := d.State.WakeAt; at != 0 {
		fmt.Fprintf(&b, "looks again in %v\n", at.Sub(d.now).Round(time.Millisecond))
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

// Path are the rows that held, in their order.
func (d *Decision) Path() string { return "by " + strings.Join(d.State.Rules, ", ") + "\n" }

// actionText is one action with what it is of.
func actionText(a *ha.Action) string {
	text := a.Kind.String()
	add := func(so bool, format string, args ...any) {
		if so {
			text += " " + fmt.Sprintf(format, args...)
		}
	}
	add(a.Primary, "as primary")
	add(a.Hidden, "without clients")
	add(a.Immediate, "at once")
	add(a.Yield, "unless transactions are open")
	add(a.From != "", "from %s", a.From)
	add(a.Kind == ha.Announce, "%q", a.Tag)
	add(a.Sync.K > 0, "%d of %v", a.Sync.K, a.Sync.Names)
	if a.Kind != ha.Commit {
		return text
	}
	c, r := &a.Change, &a.Change.Record
	add(true, "%s: term %d %s %s, %s k=%d of %v, timeline %d, members %v", c.What, r.Term, r.Leader, r.Phase, r.Durability.Mode, r.Durability.K,
		r.Durability.Voters, r.Timeline, r.Members)
	add(len(r.Diverged) > 0, "diverged %v", r.Diverged)
	add(r.Base > 0, "the log began anew with timeline %d", r.Base)
	add(r.Final != nil, "with the final position")
	add(r.StandbyOf != "", "follows %s", r.StandbyOf)
	add(r.Epoch > 0, "epoch %d", r.Epoch)
	add(true, "lease %v", r.Lease)
	return text
}
