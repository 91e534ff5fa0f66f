package sim

import (
	"fmt"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// MaxMembers is the largest cluster that can be simulated.
const MaxMembers = 7

var names = [MaxMembers]string{"n1", "n2", "n3", "n4", "n5", "n6", "n7"}

// Core is what is driven: the product's own, or in tests a broken one.
type Core struct {
	Decide func(ha.State, ha.Observation) (ha.State, []ha.Action)
	Report func(ha.State, ha.Observation) ha.Report
}

// Options say which run to make.
type Options struct {
	Seed    uint64
	Members int  // 3 by default
	Core    Core // the product's by default
	Mutation
	Story bool // keep the last events in words

	// Follower makes the members a cluster that follows another site's, from the beginning.
	Follower bool
	pair     *Pair // the two sites that this world is one of
	// Outside are the faults from outside of the protocol that may happen besides;
	// none by default.
	Outside Outside

	// Length is how long faults go on, in virtual nanoseconds; zero: drawn
	// from the seed. Drop names faults that do not happen. Shrink sets both.
	Length int64
	Drop   []bool
	// Calm has no faults and no odd delays at all.
	Calm bool

	// Zoned puts the members into zones, and asks for commits in two of them.
	Zoned Zoned

	// Sparse has few faults, so that what people ask for in two sites is often done.
	Sparse bool

	fixed *shape // a script draws nothing
}

// Result is what came of a run.
type Result struct {
	Seed    uint64
	Members int
	// Violation says in words which promise was broken; empty: none.
	Violation string
	// Rule is the short name of the broken promise, for tables.
	Rule   string
	At     int64  // the world's time of the violation or of the end, in nanoseconds
	Digest uint64 // of every event of the run

	Steps, Decisions, Faults     int
	Commits, Promotions, Ballots int
	Length                       int64 // of the time with faults
	Recovered                    int64 // from the end of the faults until a commit, in nanoseconds
	Fresh                        bool  // the run began without a cluster
	FaultNames                   []string
	Outcome
	Story []string
}

// World is a simulated cluster. Its buffers are used again from run to run; it
// must not be used by two goroutines at once.
type World struct {
	opt   Options
	core  Core
	now   int64
	queue queue
	rnd   random // what happens
	odd   random // what else is drawn: delays and losses
	extra random // what Options.Outside adds, so that the rest of a run is drawn as without it
	n     int
	shape shape

	members [MaxMembers]member
	net     network
	consul  consul
	calls   []call
	free    []int32
	lives   uint32 // source of epochs
	records uint64 // source of log records' ids

	faults   []fault
	policies []ha.Policy
	calm     bool // faults are over
	beyond   beyond

	site site
	// How often something was fetched from the other site as a whole, or by a rewind, and how
	// often any server was copied.
	fromSite, copies int
	given            []ackedUpTo // what had been acknowledged when this site last gave up the writes
	check            check
	res              Result
}

// shape is what a seed draws once for the whole run.
type shape struct {
	mode     ha.Mode
	k        int
	strict   bool
	fresh    bool // no cluster exists yet
	lossy    int  // permille of messages that are lost or late without a fault
	opFail   int  // permille of an operation's steps that fail
	writeGap int64
	lookGap  int64
	walTime  int64 // wal_receiver_timeout and wal_sender_timeout
	lease    int64
	agent    time.Duration // Policy.AgentTimeout
	length   int64
}

// member is one host with its sidecar, guard and server.
type member struct {
	i    int
	name string
	clock
	hostUp bool
	gone   bool // for good: its host, or its disk, does not come back
	config misconfigured
	// The member's own Consul agent; calls go to others meanwhile.
	agentLost   int8 // by how many faults
	agentLostAt ha.Instant
	hostPaused  int64 // until then nothing on the host runs
	slowUntil   int64
	sidecar     sidecar
	server      server
	guard       guard
	op          operation
	late        ha.Action // what evLate does
	lateIn      uint32    // the life of the server that it was sent to
	supervised  uint32    // epoch of the pending evSidecar
	exitedFor   string    // why its sidecar last ended by itself, if a person has to do something
	registered  string    // the tag that Consul's catalog has for it
}

// NewWorld makes a world; nothing happens in it before Run.
func NewWorld() *World { return &World{} }

// Run makes one run and says what came of it.
func Run(o Options) Result { return NewWorld().Run(o) }

// Run makes one run and says what came of it.
func (w *World) Run(o Options) Result {
	w.reset(o)
	for w.next() {
	}
	w.finish()
	return w.res
}

// next lets the next event happen. It reports whether the run goes on.
func (w *World) next() bool {
	if w.check.failed() || len(w.queue.heap) == 0 {
		return false
	}
	e := w.queue.pop()
	w.now = e.at
	w.res.Steps++
	w.res.Digest = (w.res.Digest ^ uint64(e.at) ^ uint64(e.kind)<<56 ^ uint64(e.m)<<48 ^ uint64(e.n)) * 0x100000001b3
	if e.kind == evEnd {
		return false
	}
	w.happen(&e)
	return !w.calm || !w.check.settled
}

func (w *World) reset(o Options) {
	if o.Members == 0 {
		o.Members = 3
	}
	if o.Core.Decide == nil {
		o.Core.Decide = new(ha.Rules).Decide
	}
	if o.Core.Report == nil {
		o.Core.Report = ha.MakeReport
	}
	w.opt, w.core, w.n = o, o.Core, o.Members
	w.now, w.lives, w.records, w.calm = 0, 0, 0, false
	w.queue.heap, w.queue.seq = w.queue.heap[:0], 0
	w.calls, w.free = w.calls[:0], w.free[:0]
	w.rnd = random{o.Seed*0x9e3779b97f4a7c15 + uint64(o.Members)}
	w.odd = random{w.rnd.next()}
	w.extra = random{o.Seed*0x9e3779b97f4a7c15 ^ 0x6f757473696465}
	w.beyond.reset()
	if w.has(SlowReplay) {
		w.beyond.scale = replayScale
	}
	w.site, w.given = site{}, w.given[:0]
	w.fromSite, w.copies = 0, 0
	w.res = Result{Seed: o.Seed, Members: o.Members}
	w.check.reset()
	w.net = network{}
	w.shape = w.draw()
	if o.fixed != nil {
		w.shape = *o.fixed
	}
	if o.Follower || o.pair != nil {
		w.shape.fresh = o.Follower
	}
	w.consul.reset()
	w.policies = append(w.policies[:0], w.firstPolicy())
	for i := range w.n {
		w.members[i].reset(i, w.drift())
		if o.fixed != nil {
			w.members[i].drift = 0
		}
	}
	w.drawFaults()
	if o.Follower || o.pair != nil {
		w.beginSite()
	}
	w.begin()
}

// draw decides what kind of run the seed is.
func (w *World) draw() shape {
	r := &w.rnd
	s := shape{mode: ha.ModeQuorum, k: 1, strict: r.chance(500)}
	if r.chance(300) {
		s.mode = ha.ModeAsync
	}
	if w.n > 3 && r.chance(400) {
		s.k = 2
	}
	s.fresh = r.chance(120)
	s.lossy = [...]int{0, 2, 20, 80}[r.below(4)]
	s.opFail = [...]int{0, 10, 60}[r.below(3)]
	s.writeGap = [...]int64{40, 120, 250}[r.below(3)] * milli
	s.lookGap = [...]int64{150, 400, 900}[r.below(3)] * milli
	s.walTime = r.between(1500*milli, 6*second)
	s.lease = 5 * second
	s.agent = [...]time.Duration{0, 2 * time.Second, 6 * time.Second}[r.below(3)]
	s.length = [...]int64{r.between(3*second, 9*second), r.between(8*second, 16*second), r.between(16*second, 30*second)}[[...]int{0, 0, 0, 0, 0, 0, 1, 1, 1, 2}[r.below(10)]]
	if w.opt.Length != 0 {
		s.length = w.opt.Length
	}
	if w.opt.Calm {
		s.lossy, s.opFail = 0, 0
	}
	return s
}

func (w *World) firstPolicy() ha.Policy {
	other := ""
	if w.twoSites() {
		other = siteName
	}
	witness := ""
	if p := w.opt.pair; p != nil && p.witness.named {
		witness = "dc3"
	}
	return ha.Policy{Sites: ha.Sites{StandbyOf: other, Witness: witness, ClosedAlone: witness != ""},
		Mode: w.shape.mode, Standbys: w.shape.k, Strict: w.shape.strict, Automatic: true,
		FailureTimeout: 2e9, Lease: 5e9, StopTimeout: 3e9, HandoverTimeout: 8e9, AgentTimeout: w.shape.agent,
	}
}

// drift is a clock's rate in parts per million away from the world's.
func (w *World) drift() int64 {
	worst := [...]int64{100, 1000, 10_000}[w.rnd.below(3)]
	return w.rnd.between(-worst, worst+1)
}

func (w *World) finish() {
	w.res.At = w.now
	w.res.Length, w.res.Fresh = w.shape.length, w.shape.fresh
	if !w.check.failed() {
		w.checkEnd()
	}
	w.res.Violation, w.res.Rule = w.check.violation, w.check.rule
	w.res.Story = w.check.story
	w.res.Outcome = w.beyond.outcome
	w.res.FaultNames = nil
	if w.opt.Story {
		for i := range w.faults {
			if i >= len(w.opt.Drop) || !w.opt.Drop[i] {
				w.res.FaultNames = append(w.res.FaultNames, w.faults[i].String())
			}
		}
	}
}

func (w *World) at(delay int64, kind eventKind, m int) { w.push(delay, event{kind: kind, m: int8(m)}) }

func (w *World) push(delay int64, e event) {
	e.at = w.now + delay
	w.queue.push(e)
}

// life returns a new epoch.
func (w *World) life() uint32 {
	w.lives++
	return w.lives
}

// tell adds a line to the story. Callers in hot paths ask w.opt.Story first,
// so that nothing is formatted when nobody will read it.
func (w *World) tell(m int, format string, args ...any) {
	if !w.opt.Story {
		return
	}
	who := "world"
	if m >= 0 {
		who = w.members[m].name
	}
	w.check.story = append(w.check.story, fmt.Sprintf("%9.4f %-5s %s", float64(w.now)/float64(second), who, fmt.Sprintf(format, args...)))
}

// index is the place of a member's name, or -1.
func (w *World) index(name string) int {
	if name == siteName && w.twoSites() {
		return w.n
	}
	for i := range w.n {
		if names[i] == name {
			return i
		}
	}
	return -1
}
