package sim

import (
	"slices"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// sidecar is the shell that is imitated: it observes, asks the core, acts and
// reports. All of it is lost when the process ends.
type sidecar struct {
	alive       bool
	epoch       uint32
	pausedUntil int64
	attached    bool // guard and data directory were found
	state       ha.State
	policy      int // index into World.policies
	tags        ha.Policy
	intent      ha.Intent

	refused        *ha.Position // as which the writes were given up that it refused to take; nil: none
	source         ha.Source    // as the other site's primary last answered
	siteAskedAt    int64        // when all of that one's servers were asked last
	wordAt         ha.Instant   // since when the witness's word is that of wordIndex
	wordIndex      uint64
	consul         ha.Consul
	watchSince     ha.Instant
	watching       bool
	reading        bool
	committing     bool
	commitFailedAt ha.Instant
	doubt          uint64     // index that a transaction of unknown outcome expected
	readAt         ha.Instant // when the newest answer of Consul was taken over

	// seen is the last look at the server; the guard's facts and the files are
	// not in it, they are read when asked.
	seen          look
	checkpointing bool
	checkpointAt  ha.Instant
	syncUnsure    bool // a change of the setting was begun, and no look since says what it is
	failedAt      ha.Instant
	failed        ha.ActionKind
	failures      int
	unserved      bool // the last failure was a rewind's, and its source's port is cut

	announcing   bool
	announce     ha.Announced // under way
	announcedNow ha.Announced

	wakeAt    ha.Instant
	wakeEvent uint32
	peers     []ha.Peer
	sent      []sentReport // a ring
	seq       uint64
	blocked   string
}

// look is what SQL said at one moment.
type look struct {
	at      ha.Instant
	failing ha.Instant
	faulty  ha.Instant // the first of the write probes in a row that failed
	life    uint32     // of the server process
	facts   ha.Server
	senders [MaxMembers + 1]ha.Walsender
}

// forget drops what was seen of a server process that is no more.
func (s *sidecar) forget() {
	s.seen = look{}
}

// reset is a new host with nothing on it.
func (b *member) reset(i int, drift int64) {
	*b = member{i: i, name: names[i], clock: clock{drift: drift}, hostUp: true, server: b.server, sidecar: b.sidecar}
	b.server.reset()
	b.sidecar.reset()
	b.sidecar.tags = ha.Policy{} // a restart leaves them, as they stand in a file
}

func (s *sidecar) reset() {
	if s.sent == nil {
		s.sent = make([]sentReport, reportRing)
	}
	for i := range s.sent {
		s.sent[i].seq = 0
	}
	*s = sidecar{peers: s.peers[:0], tags: s.tags, sent: s.sent}
}

// startSidecar starts a sidecar process, which knows nothing.
func (w *World) startSidecar(m int) {
	b := &w.members[m]
	s := &b.sidecar
	s.reset()
	s.alive, s.epoch = true, w.life()
	s.policy = len(w.policies) - 1
	s.seq = uint64(s.epoch) << 32
	for j := range w.n {
		if j != m {
			s.peers = append(s.peers, ha.Peer{Member: names[j]})
		}
	}
	s.watchSince = b.read(w.now)
	s.watching = true
	start := event{m: int8(m), epoch: s.epoch}
	for _, k := range [...]eventKind{evAttach, evRenew, evConfirm, evBeat, evWatch} {
		start.kind = k
		w.push(w.slow(m, w.odd.between(milli, 20*milli)), start)
	}
	for j := range w.n {
		if j != m {
			w.push(w.delay(), event{kind: evLink, m: int8(m), p: int8(j), epoch: s.epoch})
		}
	}
	w.tell(m, "sidecar starts")
}

// stopSidecar is the sudden end of the process; the guard and the server stay.
func (w *World) stopSidecar(m int) {
	b := &w.members[m]
	s := &b.sidecar
	if !s.alive {
		return
	}
	s.alive, s.epoch = false, w.life()
	w.abandon(m)
	for j := range w.n {
		if o := &w.members[j].sidecar; j != m && o.alive {
			w.push(w.travel(m, j), event{kind: evLink, m: int8(j), p: int8(m), epoch: o.epoch})
		}
	}
}

// sidecarRuns says whether m's sidecar makes progress now.
func (w *World) sidecarRuns(m int) bool {
	s := &w.members[m].sidecar
	return s.alive && s.pausedUntil <= w.now && w.hostRuns(m)
}

// step is one turn of the shell's loop: observe, decide, act.
func (w *World) step(m int) {
	b := &w.members[m]
	s := &b.sidecar
	if !w.sidecarRuns(m) || !s.attached || w.check.failed() {
		return
	}
	w.keepSeen(m)
	o := w.observe(m)
	w.mutate(&o)
	state, actions := w.core.Decide(s.state, o)
	s.state = state
	w.opt.pair.noteRefusal(s)
	w.res.Decisions++
	if w.opt.Story {
		w.tellBlocks(m)
	}
	for i := range actions {
		w.distort(m, &actions[i])
		w.act(m, &actions[i])
		if !s.alive {
			return
		}
	}
	w.report(m, &o)
	if state.WakeAt != s.wakeAt && state.WakeAt != 0 {
		s.wakeEvent = w.life()
		w.push(max(10*micro, b.when(state.WakeAt)-w.now), event{kind: evWake, m: int8(m), epoch: s.wakeEvent})
	}
	s.wakeAt = state.WakeAt
}

// keepSeen writes the record down that m knew at its last turn: not at once, as the shell does
// not wait for it.
func (w *World) keepSeen(m int) {
	s := &w.members[m].server
	if kept, news := w.members[m].sidecar.state.ToKeep(s.seen.RecordSeen); news && s.promise > 0 && s.full == 0 && s.hung <= w.now {
		if s.seen.System != kept.System {
			s.seen.Since = kept.Term
		}
		s.seen.RecordSeen = kept
	}
}

func (w *World) tellBlocks(m int) {
	s := &w.members[m].sidecar
	text := ""
	for i := range s.state.Blocks {
		text += s.state.Blocks[i].What + " (" + s.state.Blocks[i].Missing + ") "
	}
	if text != s.blocked && text != "" {
		w.tell(m, "blocked: %s", text)
	}
	s.blocked = text
}

// hasName says whether the setting counts the member.
func hasName(s *ha.SyncSetting, name string) bool { return slices.Contains(s.Names, name) }
