package sidecar

import (
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// calmAfter is how long nothing must have happened for a member to be calm.
const calmAfter = 5 * time.Second

// calm reports whether this member only sees, again and again, that all is well:
// it leads or follows a leader, hears everybody, and has had nothing to do but to
// extend its lease. It belongs to the loop.
func (s *Sidecar) calm(o *ha.Observation, actions []ha.Action) bool {
	asked := o.Intent
	asked.Since = 0 // it stays when what was asked for has come about
	well := o.Server.Process == ha.ProcessRunning && o.Server.FailingSince == 0 && o.Consul.Record.Phase == ha.PhaseLeading &&
		len(s.state.Blocks) == 0 && o.Busy.Server == ha.NoAction && !o.Busy.Commit && asked == (ha.Intent{}) &&
		(o.Server.InRecovery == ha.No && s.state.Role == ha.RolePrimary || o.Server.Receiving == ha.Yes)
	for i := range o.Peers {
		well = well && o.Peers[i].Link == ha.LinkUp
	}
	for i := range actions {
		well = well && actions[i].Kind == ha.Lease
	}
	if !well || s.stirredAt == 0 {
		s.stirredAt = o.Now
	}
	return !s.stirredAt.Within(calmAfter, o.Now)
}
