package sim

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// guard is the small process that is the postmaster's parent. It lives as long
// as its host; what it holds is lost with it.
type guard struct {
	armed bool
	until ha.Instant
	dueAt int64 // the world's time at which its clock is to show until, if it runs
}

// arm tells m's guard to stop the server at until.
func (w *World) arm(m int, until ha.Instant) {
	g := &w.members[m].guard
	if g.armed && g.until == until {
		return
	}
	g.armed, g.until = true, until
	g.dueAt = max(w.now, w.members[m].when(until))
	w.push(g.dueAt-w.now, event{kind: evGuard, m: int8(m), epoch: uint32(w.members[m].bootedAt / milli)})
}

// guardLooks stops the server if the lease has ended. A paused server is
// killed like any other; a sleeping host's guard is late, but first to wake.
func (w *World) guardLooks(m int) {
	b := &w.members[m]
	g := &b.guard
	if !g.armed || !b.hostUp || w.opt.Mutation == MutateS5 {
		return
	}
	if b.hostPaused > w.now {
		return // looked at again when the host wakes, before anything else
	}
	if b.server.run == stopped {
		return
	}
	if b.read(w.now) < g.until {
		if w.now >= g.dueAt { // its clock stood still meanwhile
			g.dueAt = b.when(g.until)
			w.push(g.dueAt-w.now, event{kind: evGuard, m: int8(m)})
		}
		return
	}
	w.tell(m, "guard: the lease has ended, the server is killed")
	w.crash(m)
}
