package sim

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// act begins one action, or skips it because it is under way.
func (w *World) act(m int, a *ha.Action) {
	b := &w.members[m]
	s := &b.sidecar
	switch {
	case a.Kind.OnServer():
		w.actOnServer(m, a)
	case a.Kind == ha.Commit:
		if !s.committing {
			w.poke(pointCommit, m)
			w.commit(m, &a.Change)
		}
	case a.Kind == ha.Checkpoint:
		if !s.checkpointing {
			s.checkpointing = true
			w.push(w.slow(m, w.odd.between(10*milli, 600*milli)), event{kind: evCheckpointed, m: int8(m), epoch: s.epoch, n: int32(b.server.epoch)})
		}
	case a.Kind == ha.Lease:
		w.arm(m, a.Until)
	case a.Kind == ha.Disarm:
		b.guard.armed = false
	case a.Kind == ha.Announce:
		w.announce(m, a)
	case a.Kind == ha.Exit:
		w.tell(m, "exits with %d: %s", a.Code, a.Why)
		if a.Code != 0 {
			w.check.exits++
			b.exitedFor = a.Why
			w.endServer(m)
		}
		leaving := s.intent.Shutdown
		w.stopSidecar(m)
		if !leaving {
			w.supervise(m, w.odd.between(500*milli, 2*second))
		}
	}
}

// announce registers the service; the agent answers soon, or not at all.
func (w *World) announce(m int, a *ha.Action) {
	s := &w.members[m].sidecar
	if s.announcing {
		return
	}
	s.announcing = true
	w.tell(m, "announces %q for term %d", a.Tag, a.Term)
	s.announce = ha.Announced{Known: true, Tag: a.Tag, Term: a.Term}
	w.push(w.slow(m, w.delay()), event{kind: evAnnounced, m: int8(m), epoch: s.epoch})
}

func (w *World) announced(m int) {
	s := &w.members[m].sidecar
	if !w.consulOpen(m) || w.members[m].agentLost > 0 {
		w.push(400*milli, event{kind: evAnnounced, m: int8(m), epoch: s.epoch})
		return
	}
	s.announcing = false
	s.announcedNow = s.announce
	w.register(m, s.announce.Tag)
	w.step(m)
}

// register puts the tag into Consul's catalog; a primary takes the others' away first.
func (w *World) register(m int, tag string) {
	for j := range w.n {
		if tag == "primary" && w.members[j].registered == tag {
			w.members[j].registered = ""
		}
	}
	w.members[m].registered = tag
}

// registeredPrimary is another member than m that the catalog names as the primary.
func (w *World) registeredPrimary(m int) string {
	for j := range w.n {
		if j != m && w.members[j].registered == "primary" {
			return names[j]
		}
	}
	return ""
}

// checkpointed is the end of a checkpoint, if the server lived to see it.
func (w *World) checkpointed(m int, running uint32) {
	b := &w.members[m]
	b.sidecar.checkpointing = false
	s := &b.server
	there := !s.inRecovery || w.follows() && s.receiver.active && w.members[s.receiver.from].server.onTLI // a restartpoint of one
	if s.epoch == running && s.run == up && there {
		b.server.onTLI = true
		b.sidecar.checkpointAt = b.read(w.now)
		w.lookNow(m)
	}
	w.step(m)
}

// actOnServer begins an exclusive operation at once: the shell looks no more
// often than it decides. A stop ends what is under way.
func (w *World) actOnServer(m int, a *ha.Action) {
	b := &w.members[m]
	busy := b.op.busy(b.sidecar.epoch)
	if busy != ha.NoAction && (a.Kind != ha.Stop || busy == ha.Stop) {
		return
	}
	if busy != ha.NoAction {
		w.abandon(m)
	}
	w.beginOp(m, a)
}

// supervise starts m's sidecar again after a while.
func (w *World) supervise(m int, delay int64) {
	b := &w.members[m]
	b.supervised = w.life()
	w.push(delay, event{kind: evSidecar, m: int8(m), epoch: b.supervised})
}
