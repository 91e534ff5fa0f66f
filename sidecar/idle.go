package sidecar

import (
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// idleAfter is how long nothing must have happened for a member to be idle.
const idleAfter = 5 * time.Second

// idleClock knows since when this member only sees, again and again, that all is
// well: it leads or follows a leader, hears everybody, and has had nothing to do
// but to extend its lease. It belongs to the loop.
type idleClock struct {
	stirredAt ha.Instant // something else was last decided or seen then; zero: nothing was decided yet
}

// note takes over a decision, and reports whether the member is idle.
func (c *idleClock) note(o *ha.Observation, state *ha.State, actions []ha.Action) bool {
	asked := o.Intent
	asked.Since = 0 // it stays when the request is done
	well := o.Server.Process == ha.ProcessRunning && o.Server.FailingSince == 0 && o.Consul.Record.Phase == ha.PhaseLeading &&
		len(state.Blocks) == 0 && o.Busy.Server == ha.NoAction && !o.Busy.Commit && asked == (ha.Intent{}) &&
		(o.Server.InRecovery == ha.No && state.Role == ha.RolePrimary || o.Server.Receiving == ha.Yes)
	for i := range o.Peers {
		well = well && o.Peers[i].Link == ha.LinkUp
	}
	for i := range actions {
		well = well && actions[i].Kind == ha.Lease
	}
	if !well || c.stirredAt == 0 {
		c.stirredAt = o.Now
	}
	return !c.stirredAt.Within(idleAfter, o.Now)
}
