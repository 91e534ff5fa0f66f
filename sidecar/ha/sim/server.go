package sim

import (
	"slices"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// running is how far a server's process is.
type running uint8

const (
	stopped  running = iota
	starting         // recovering; takes no connection
	up
)

// server is one PostgreSQL server: what is on its disk, and its process.
type server struct {
	// On disk.
	data     ha.DataDir
	half     bool // the files are not a whole server, whatever a marker says
	founding bool // made by Init, and no record names it yet
	systemID string
	log      []uint64 // ids of records; the first flushed of them survive a crash
	flushed  int
	born     uint32 // the life of this log: what was sent before it was of another
	standby  bool   // standby.signal
	clean    bool   // shut down as a primary
	before   int8   // what upstream was before the last fence
	upstream int8   // primary_conninfo; -1: cleared
	siteAt   string // where the other site's primary was when upstream was told to be that
	promise  uint64
	to       string // whom that was promised to
	fenced   bool
	seen     ha.RecordKept  // Files.Seen
	config   ha.SyncSetting // synchronous_standby_names as written
	onTLI    bool           // the last checkpoint is on the current timeline
	full     int8           // by how many faults nothing new can be written
	rewound  int8           // the member it was rewound to and has to receive from before it takes connections; -1: none
	needs    int            // how many records that takes
	inTerm   uint64         // Files.RewoundTerm
	odd      oddFiles

	// Process.
	run         running
	epoch       uint32 // of the process
	hung        int64  // until then its disk does not answer, and nothing that waits for it can be killed
	byHand      bool   // a person made it a primary
	startedAt   ha.Instant
	exitedAt    ha.Instant
	pausedUntil int64
	inRecovery  bool
	hidden      bool
	stopping    bool // clients are gone, walsenders ship the rest
	recoveryEnd int
	flushing    bool

	// As primary.
	term      uint64 // of its last promotion or of the record that names it
	defined   bool   // the checkpointer's sync_standbys_defined
	configGen uint32 // grows when the setting is reloaded
	kGen      uint32 // configGen at the last change of k
	adopted   uint32 // configGen that the checkpointer has taken up
	syncAt    int    // SyncAt as last seen
	waiting   []int32
	acked     int32 // index in check.acked of this primary's entry, or -1
	senders   [MaxMembers]walsender

	receiver receiver
}

// walsender is a primary's end of a stream.
type walsender struct {
	active    bool
	stream    uint32 // epoch of the connection
	streaming bool
	viewK     int
	sync      bool   // by its own view, as in shared memory (sync_priority)
	born      uint32 // configGen when it started
	flush     int
	sent      int
	heardAt   int64
}

// receiver is a standby's end.
type receiver struct {
	active     bool
	stream     uint32
	from       int8
	heardAt    int64
	connecting bool
}

// reset is an empty host.
func (s *server) reset() {
	*s = server{data: ha.DataAbsent, upstream: -1, rewound: -1, acked: -1, log: s.log[:0], waiting: s.waiting[:0]}
}

// lsn turns a count of records into a position; zero stays invalid.
func (w *World) lsn(n int) ha.LSN {
	if n == 0 {
		return 0
	}
	return ha.LSN(0x1000000 + n<<w.beyond.scale)
}

func timelineOf(id uint64) ha.TLI { return ha.TLI(id >> 40) }

// position is how much of s's log, up to n records, there is.
func (w *World) position(s *server, n int) ha.Position {
	if n == 0 {
		return ha.Position{}
	}
	t := timelineOf(s.log[n-1])
	if t >= handBranch {
		h := &w.beyond.hands[t-handBranch]
		return ha.Position{History: h.history, TLI: h.number, LSN: w.lsn(n), Mark: h.mark}
	}
	x := w.check.timeline(t)
	p := ha.Position{History: x.history, TLI: t, LSN: w.lsn(n), Mark: x.mark}
	if w.opt.Mutation == MutateMarks {
		p.History, p.Mark = slices.Clone(p.History), 0
		for i := range p.History {
			p.History[i].Mark = 0
		}
	}
	return p
}

// accepts says whether clients may write to m's server now.
func (w *World) accepts(m int) bool {
	s := &w.members[m].server
	return s.run == up && !s.inRecovery && !s.hidden && !s.stopping && w.serverRuns(m)
}

// serverRuns says whether the server's processes make progress now.
func (w *World) serverRuns(m int) bool {
	return w.members[m].server.pausedUntil <= w.now && w.hostRuns(m)
}

// receives says whether the server is so far that its walreceiver may run: one
// that was rewound has to receive before it is up.
func (s *server) receives() bool {
	return s.run == up && s.inRecovery || s.run == starting && s.rewound >= 0
}

// launch starts the postmaster.
func (w *World) launch(m int) {
	b := &w.members[m]
	s := &b.server
	s.run, s.epoch, s.startedAt = starting, w.life(), b.read(w.now)
	s.hidden, s.stopping, s.flushing = false, false, false
	s.pausedUntil = 0
	s.receiver = receiver{}
	s.syncAt = 0
	s.byHand, s.odd.part = false, 0
	w.replayAgain(m)
	b.sidecar.forget()
}

// recovered is the end of crash recovery: the server takes connections, but
// for one that was rewound, which begins to receive what it needs first.
func (w *World) recovered(m int, a *ha.Action) {
	if s := &w.members[m].server; s.odd.place.recovers {
		w.recovers(m, a)
	} else if s.rewound < 0 {
		w.ready(m, a.Primary, a.Hidden)
	} else if s.flushed >= s.needs {
		w.ready(m, false, false)
	} else {
		s.inRecovery = true
		w.connectSoon(m)
	}
}

// ready ends the start: the server takes connections.
func (w *World) ready(m int, primary, hidden bool) {
	b := &w.members[m]
	s := &b.server
	s.run, s.rewound = up, -1
	s.inRecovery = !primary
	s.hidden = hidden && w.opt.Mutation != MutateS9
	s.standby = !primary
	s.configGen++
	s.kGen, s.adopted = s.configGen, s.configGen
	s.defined = s.config.K > 0
	s.waiting = s.waiting[:0]
	s.acked = -1
	for j := range w.n {
		s.senders[j] = walsender{}
	}
	s.recoveryEnd = len(s.log)
	if w.opt.Mutation == MutateS2Disk && s.fenced {
		s.upstream = s.before
	}
	if s.half {
		w.fail("S10", m, "%s starts from half-made files", b.name)
	}
	if primary {
		if !s.clean {
			w.appendRecord(m, timelineOf(s.log[len(s.log)-1]))
			s.flushed = len(s.log)
		}
		if w.consul.record.Leader == b.name {
			s.term = w.consul.record.Term
		}
		if !s.hidden {
			w.visible(m)
		}
		w.checkWriters(m)
	} else {
		w.connectSoon(m)
	}
	s.clean = false
	w.aims(m)
	w.tell(m, "server is up: primary=%v hidden=%v, %d records", primary, s.hidden, len(s.log))
}

// crash is the sudden end of the server's process: what was not flushed is lost.
func (w *World) crash(m int) {
	b := &w.members[m]
	s := &b.server
	if s.run == stopped || w.unkillable(m) {
		return
	}
	s.log = s.log[:s.flushed]
	s.clean = false
	w.ended(m)
}

// ended is what any end of the process does.
func (w *World) ended(m int) {
	b := &w.members[m]
	s := &b.server
	s.run, s.epoch = stopped, w.life()
	s.exitedAt = b.read(w.now)
	s.hidden, s.stopping = false, false
	s.waiting = s.waiting[:0]
	s.acked = -1
	b.sidecar.forget()
	w.dropStreams(m)
	w.at(w.slow(m, w.odd.between(100*micro, 2*milli)), evLook, m)
}

// dropStreams closes m's ends of all its streams; the other ends learn of it
// quickly if m's host lives and can reach them, else by their time-outs.
func (w *World) dropStreams(m int) {
	s := &w.members[m].server
	if s.receiver.active {
		w.hangUp(m, int(s.receiver.from), s.receiver.stream)
	}
	s.receiver = receiver{}
	for j := range w.n {
		if s.senders[j].active {
			w.hangUp(m, j, s.senders[j].stream)
			s.senders[j] = walsender{}
		}
	}
}

func (w *World) hangUp(m, other int, stream uint32) {
	if w.members[m].hostUp && w.open(m, other) {
		w.push(w.travel(m, other), event{kind: evGone, m: int8(other), p: int8(m), epoch: stream})
	}
}

// gone is the other end's notice of a closed connection.
func (w *World) gone(m, p int, stream uint32) {
	s := &w.members[m].server
	if s.receiver.active && s.receiver.stream == stream {
		s.receiver = receiver{}
		w.endInside(s, p)
		w.connectSoon(m)
		w.at(w.slow(m, w.delay()), evLook, m)
	}
	if s.senders[p].active && s.senders[p].stream == stream {
		s.senders[p] = walsender{}
	}
}

// appendRecord inserts one record of timeline t; it is flushed later.
func (w *World) appendRecord(m int, t ha.TLI) {
	s := &w.members[m].server
	w.records++
	w.check.owned(w, m, t)
	s.log = append(s.log, uint64(t)<<40|w.records)
}

// sendOn lets the streams from a standby that was promoted begin anew on its new timeline.
func (w *World) sendOn(m int) {
	for j := range w.n {
		if w.members[m].server.senders[j].active {
			w.takeUp(m, j)
			w.pump(m, j)
		}
	}
}

// promoted is the moment a server leaves recovery on timeline t.
func (w *World) promoted(m int, a *ha.Action) {
	b := &w.members[m]
	s := &b.server
	w.stopReceiving(m)
	s.flushed, s.odd.part = len(s.log), 0
	if w.follows() && a.Term >= w.consul.record.Term {
		w.fail("site", m, "%s is promoted, and the cluster follows another site's", b.name)
	}
	w.checkPromotion(m, a)
	w.check.own(w, m, a.Timeline, w.position(s, len(s.log)))
	s.inRecovery, s.standby, s.clean, s.byHand = false, false, false, false
	w.madeHistory(m, a.Timeline)
	s.term, s.acked, s.onTLI = a.Term, -1, false
	s.odd.replay, s.odd.walGone, s.odd.strayed = replay{}, false, ""
	s.defined = s.config.K > 0
	w.records++
	s.log = append(s.log, uint64(a.Timeline)<<40|w.records)
	s.flushed = len(s.log)
	w.sendOn(m)
	w.res.Promotions++
	w.tell(m, "is promoted: term %d timeline %d at %d records, setting %d of %v", a.Term, a.Timeline, s.flushed, s.config.K, s.config.Names)
	w.checkWriters(m)
	w.checkSetting()
	w.at(w.slow(m, w.delay()), evLook, m)
}
