package sim

import (
	"fmt"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// faultKind is something that goes wrong, or that an operator asks for.
type faultKind uint8

const (
	crashServer faultKind = iota
	crashSidecar
	crashHost
	pauseSidecar
	pauseServer
	pauseHost // SIGSTOP of everything, or suspend: CLOCK_BOOTTIME counts both
	slowHost
	cutConsul // requests, answers, or both
	cutPair   // one way or both
	isolate   // from all members, and perhaps from Consul
	partition // two sides, Consul on one or on both
	loseSession
	consulLeader
	consulAway
	lossyNetwork
	loseAgent // the member's own Consul agent: its registration cannot change, DNS hides it
	fullDisk  // nothing new can be written
	switchover
	pausePolicy
	changeMode
	changeK
	changeStrict
	tagMember
	reinit
	restart
	shutdown
	removeMember
	baseKinds // those after it come from outside of the protocol, and only if Options.Outside has them
)

var faultNames = [...]string{"crash server", "crash sidecar", "crash host", "pause sidecar", "pause server", "pause host", "slow host",
	"cut Consul", "cut pair", "isolate", "partition", "lose session", "Consul leader change", "Consul away", "lossy network",
	"lose agent", "full disk", "switchover", "pause policy", "change mode", "change k", "change strict", "tag", "reinit", "restart", "shutdown", "remove"}

// name is the fault in words.
func (k faultKind) name() string {
	if k > baseKinds {
		return outsideNames[k-baseKinds-1]
	}
	return faultNames[k]
}

// weights say how often a kind is drawn.
var weights = [baseKinds]int{10, 8, 8, 6, 5, 6, 3, 6, 6, 7, 7, 4, 2, 3, 2, 2, 3, 5, 1, 3, 2, 2, 3, 1, 2, 2, 1}

// point is a moment worth breaking: a fault may wait for one.
type point uint8

const (
	atOnce point = iota
	pointBallot
	pointCommit
	pointFence
	pointFollow
	pointPromote
	pointRewind
	pointClone
	pointSetSync
	pointStart
	pointStop
	pointFiles // a data directory is made, or removed
	pointUnhide
	pointRead // who may hold the lock asks Consul whether it does
	points
)

var pointNames = [...]string{"", "a ballot", "a transaction", "a fence", "a follow", "a promotion", "a rewind", "a clone", "a set-sync", "a start", "a stop", "an init or a discard", "an unhide", "a read"}

func pointOf(k ha.ActionKind) point {
	switch k {
	case ha.Fence:
		return pointFence
	case ha.Follow:
		return pointFollow
	case ha.Promote:
		return pointPromote
	case ha.Rewind:
		return pointRewind
	case ha.Clone:
		return pointClone
	case ha.SetSync:
		return pointSetSync
	case ha.Start:
		return pointStart
	case ha.Stop:
		return pointStop
	case ha.Init, ha.Discard, ha.Restore:
		return pointFiles
	case ha.Unhide:
		return pointUnhide
	}
	return atOnce
}

// Whom a fault is for, where it is not a fixed member.
const (
	theLeader = -1 // of the record when it happens
	theActor  = -2 // who came to the point
)

// fault is drawn from the seed before the run, so that it can be left out.
type fault struct {
	at, lasts, delay int64
	kind             faultKind
	point            point // it begins there
	until            point // a fault of the network ends there, if not sooner
	target, other    int8
	how              uint8
	waiting, active  bool
	m                int8 // whom it hit
}

// String is a fault in words.
func (f *fault) String() string {
	when := ""
	if f.point != atOnce {
		when = " at " + pointNames[f.point]
	}
	if f.until != atOnce {
		when += " until " + pointNames[f.until]
	}
	return fmt.Sprintf("%.3f %s%s target=%d other=%d how=%d for %.3f", float64(f.at)/1e9, f.kind.name(), when, f.target, f.other, f.how, float64(f.lasts)/1e9)
}

// poke lets faults happen that wait for this point.
func (w *World) poke(p point, m int) {
	if w.calm || p == atOnce {
		return
	}
	for i := range w.faults {
		f := &w.faults[i]
		if f.active && f.until == p {
			w.push(f.delay, event{kind: evHeal, n: int32(i)})
		}
		if !f.waiting || f.point != p {
			continue
		}
		f.waiting = false
		if f.target == theActor {
			f.target = int8(m)
		}
		w.push(f.delay, event{kind: evFault, n: int32(i), p: 1})
	}
}

// faultComes begins fault i, or lets it wait for its point.
func (w *World) faultComes(i int, now bool) {
	f := &w.faults[i]
	if w.calm {
		return
	}
	if f.point != atOnce && !now {
		f.waiting = true
		return
	}
	m := int(f.target)
	if m < 0 {
		m = max(0, w.index(w.consul.record.Leader))
	}
	f.m, f.active = int8(m), true
	w.res.Faults++
	if w.opt.Story {
		w.tell(m, "FAULT %s how=%d other=%d for %.3f s", f.kind.name(), f.how, f.other, float64(f.lasts)/1e9)
	}
	w.harm(f, w.now+f.lasts)
	w.push(f.lasts, event{kind: evHeal, n: int32(i)})
	switch {
	case f.kind > baseKinds:
		w.outside(f, m)
	case f.kind >= switchover:
		w.operator(f, m)
	default:
		w.strike(f, m)
	}
}

// harm notes whom a fault touches, for what must not happen to the untouched.
func (w *World) harm(f *fault, until int64) {
	c, m := &w.check, int(f.m)
	switch f.kind {
	case loseSession, consulLeader:
	case crashServer, crashSidecar, crashHost:
		c.crashHarm[m] = max(c.crashHarm[m], until)
	case cutPair:
		c.linkHarm[m][f.other], c.linkHarm[f.other][m] = until, until
	case partition, consulAway, lossyNetwork:
		for i := range w.n {
			c.lastHarm[i] = max(c.lastHarm[i], until)
		}
	default:
		c.lastHarm[m] = max(c.lastHarm[m], until)
	}
	if f.kind >= switchover {
		c.asked = true
	}
}

// strike is what a fault does when it begins.
func (w *World) strike(f *fault, m int) {
	b := &w.members[m]
	switch f.kind {
	case crashServer:
		w.crash(m)
	case crashSidecar:
		w.stopSidecar(m)
		w.supervise(m, max(f.lasts/4, 20*milli))
	case crashHost:
		w.crashHost(m)
	case pauseSidecar:
		b.sidecar.pausedUntil = max(b.sidecar.pausedUntil, w.now+f.lasts)
	case pauseServer:
		b.server.pausedUntil = max(b.server.pausedUntil, w.now+f.lasts)
	case pauseHost:
		w.stopClock(m, f.lasts)
		b.hostPaused = max(b.hostPaused, w.now+f.lasts)
	case slowHost:
		b.slowUntil = max(b.slowUntil, w.now+f.lasts)
	case loseAgent:
		if b.agentLost++; b.agentLost == 1 {
			b.agentLostAt = b.read(w.now)
		}
	case fullDisk:
		b.server.full++
	case loseSession:
		w.loseSession(m)
	case consulLeader:
		w.leaderChange()
	default:
		w.cut(f, m, 1)
	}
}

// cut applies a fault of the network, or takes it back.
func (w *World) cut(f *fault, m int, by int8) {
	n := &w.net
	switch f.kind {
	case cutConsul:
		w.cutConsul(m, f.how%3, by)
	case cutPair:
		w.cutPair(m, int(f.other), f.how%3, by)
	case isolate:
		for j := range w.n {
			w.cutPair(m, j, f.how%3, by)
		}
		if f.how&8 != 0 {
			w.cutConsul(m, f.how%3, by)
		}
	case partition:
		for i := range w.n {
			for j := range i {
				if f.how>>i&1 != f.how>>j&1 {
					w.cutPair(i, j, 0, by)
				}
			}
			if f.how&128 != 0 && f.how>>i&1 == 0 {
				w.cutConsul(i, 0, by)
			}
		}
	case consulAway:
		w.consul.away += by
		if by < 0 {
			w.leaderChange()
		}
	case lossyNetwork:
		n.lossy += by
	}
}

func (w *World) cutPair(i, j int, how uint8, by int8) {
	if i == j {
		return
	}
	if how != 1 {
		w.net.cut[i][j] += by
	}
	if how != 2 {
		w.net.cut[j][i] += by
	}
}

func (w *World) cutConsul(m int, how uint8, by int8) {
	if how != 1 {
		w.net.toConsul[m] += by
	}
	if how != 2 {
		w.net.ofConsul[m] += by
	}
}

func (w *World) loseSession(m int) {
	for i := range w.consul.sessions {
		if s := &w.consul.sessions[i]; s.alive && s.member == m {
			w.endSession(i, "is destroyed")
		}
	}
}

// crashHost ends everything on a host, without a word to anybody.
func (w *World) crashHost(m int) {
	b := &w.members[m]
	if !b.hostUp {
		return
	}
	b.hostUp = false
	b.server.hung = 0 // with the host
	b.supervised = 0
	w.crash(m)
	b.guard = guard{}
	b.sidecar.alive, b.sidecar.epoch = false, w.life()
	b.op.id = 0
}

// bootHost starts the host again: its clock begins anew.
func (w *World) bootHost(m int) {
	b := &w.members[m]
	if b.hostUp || b.gone {
		return
	}
	b.hostUp, b.hostPaused = true, 0
	b.bootedAt = w.now
	if b.agentLost > 0 {
		b.agentLostAt = b.read(w.now)
	}
	b.server.exitedAt, b.server.startedAt = 0, 0
	w.tell(m, "host boots")
	w.supervise(m, w.odd.between(50*milli, 800*milli))
}

// faultGoes ends fault i.
func (w *World) faultGoes(i int) {
	f := &w.faults[i]
	if !f.active {
		return
	}
	f.active = false
	m := int(f.m)
	w.harm(f, w.now)
	if w.opt.Story {
		w.tell(m, "fault ends: %s", f.kind.name())
	}
	if f.kind > baseKinds {
		w.outsideEnds(f, m)
		return
	}
	switch f.kind {
	case crashHost:
		w.bootHost(m)
	case pauseSidecar, pauseServer, pauseHost, crashServer, crashSidecar, slowHost, loseSession, consulLeader:
		w.resume(m)
	case cutConsul, cutPair, isolate, partition, consulAway, lossyNetwork:
		w.cut(f, m, -1)
	case loseAgent:
		if w.members[m].agentLost--; w.members[m].agentLost == 0 {
			w.members[m].agentLostAt = 0
		}
	case fullDisk:
		w.members[m].server.full--
	default:
		w.operatorDone(f, m)
	}
}

// resume lets the guard look first, then the rest goes on.
func (w *World) resume(m int) {
	w.guardLooks(m)
	w.checkWriters(m)
}

// calmDown ends all faults: what is left must mend itself.
func (w *World) calmDown() {
	for i := range w.faults {
		w.faults[i].waiting = false
		w.faultGoes(i)
	}
	w.calm = true
	w.check.calmAt, w.check.settled = w.now, false
	w.tell(-1, "all faults have ceased")
	for m := range w.n {
		b := &w.members[m]
		if w.beyond.clockStops && b.hostPaused > w.now {
			b.bootedAt -= b.hostPaused - w.now // its clock goes on as soon as it does
		}
		b.hostPaused, b.slowUntil, b.server.pausedUntil, b.sidecar.pausedUntil = 0, 0, 0, 0
		b.sidecar.tags = ha.Policy{}
		w.resume(m)
		w.bootHost(m)
		if !b.sidecar.alive && b.supervised == 0 {
			w.supervise(m, w.odd.between(50*milli, 800*milli))
		}
		b.sidecar.intent = ha.Intent{}
	}
	w.queue.bringForward(w.now)
	p := w.policies[len(w.policies)-1]
	if p.Paused {
		p.Paused = false
		w.setPolicy(p)
	}
	w.at(second, evSettle, 0)
	w.at(w.endsWithin(), evEnd, 0)
}
