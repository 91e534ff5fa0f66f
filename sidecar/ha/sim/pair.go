package sim

import (
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Pair is two sites, each a whole world of its own: the second begins as a cluster that
// follows the first. Each has a copy of the server of the other that takes writes, while
// the two can hear each other.
type Pair struct {
	worlds  [2]*World
	rnd     random
	cut     bool
	orders  []order
	broken  PairMutation
	heard   int64 // since when they can hear each other
	gave    [2]given
	taken   [2]int // whose writes a side takes that were given up; -1: nobody's
	passed  int    // how often the second of two took all that the first had
	witness witness
	rule    string
	words   string
}

// PairMutation breaks one rule about two sites.
type PairMutation uint8

// What can be broken.
const (
	PairWhole    PairMutation = iota
	PairOneHalf               // both sites take the same half of an epoch
	PairDeaf                  // a site that was superseded does not see it
	PairNoFinal               // a site takes the writes without all that the other had
	PairNoEpochs              // a site that takes the writes begins the next timeline alone
	PairForgets               // the record does not keep what was given up for this site
	PairHasty                 // the witness gives its word although the other site may still renew it
	PairOpen                  // a primary keeps its clients without the witness's word
	PairWordless              // who is given the writes takes them without the witness's word
	PairStandbys              // a site opens where the other's standbys answer, whatever the witness says
	PairLate                  // so does one that has long been without a primary, before the witness has said anything
	PairRewound               // who is elected as it is rewound keeps the election, and waits for a primary
	PairMutations
)

// order is what people or the network do to two sites.
type order struct {
	at   int64
	what orderKind
	side int
}

type orderKind uint8

const (
	cutSites orderKind = iota
	healSites
	promoteThere  // somebody types site promote --accept-data-loss
	releaseThere  // somebody types site switch
	promoteFinal  // which asks the other site to take the writes
	takeBackThere // or takes them back, as the other has refused them
	forgetThere   // the one who typed it gives up
	cutWitness    // the witness cannot be heard at a site
	healWitness
)

// PairOptions say which run to make.
type PairOptions struct {
	Seed    uint64
	Members [2]int
	Witness bool // both sites name one
	Broken  PairMutation
	// Parted: nothing goes wrong but that the sites cannot hear each other for a while, and
	// people let the second take the writes meanwhile.
	Parted bool
	Core   Core
	Story  bool
}

// PairResult is what came of a run.
type PairResult struct {
	Violation, Rule            string
	Promotions, Cuts, Planned  int
	Steps, Commits, Superseded int
	FromSite, Copies           int // rewinds and copies from the other site, and copies
	Story                      []string
}

// NewPair makes two worlds; nothing happens in them before Run.
func NewPair() *Pair { return &Pair{worlds: [2]*World{NewWorld(), NewWorld()}} }

// Run makes one run.
func (p *Pair) Run(o PairOptions) PairResult {
	p.begin(o)
	res := PairResult{}
	for p.next(&res) {
	}
	res.Violation, res.Rule = p.words, p.rule
	for side, w := range p.worlds {
		if w.check.failed() && res.Rule == "" {
			res.Violation, res.Rule = "site "+string(rune('1'+side))+": "+w.check.violation, w.check.rule
		}
		res.Promotions += w.res.Promotions
		res.Steps += w.res.Steps
		res.Commits += w.res.Commits
		res.FromSite, res.Copies = res.FromSite+w.fromSite, res.Copies+w.copies
		for _, line := range w.check.story {
			res.Story = append(res.Story, line[:9]+" site "+string(rune('1'+side))+line[9:])
		}
	}
	slices.SortStableFunc(res.Story, func(a, b string) int { return strings.Compare(a[:9], b[:9]) })
	res.Planned = p.passed
	return res
}

func (p *Pair) begin(o PairOptions) {
	p.rnd = random{o.Seed*0x9e3779b97f4a7c15 ^ 0x7061697273}
	p.cut, p.heard, p.broken, p.passed, p.rule, p.words = false, 0, o.Broken, 0, "", ""
	p.gave, p.taken = [2]given{}, [2]int{-1, -1}
	p.witness = witness{named: o.Witness, holder: nobody}
	length := p.rnd.between(8*second, 40*second)
	if o.Witness {
		length = p.rnd.between(40*second, 120*second)
	}
	if o.Parted {
		length = 40 * second
	}
	for side, w := range p.worlds {
		w.reset(Options{Seed: o.Seed*2 + uint64(side), Members: o.Members[side], Core: o.Core, Story: o.Story, Follower: side == 1, Length: length, Sparse: o.Seed%3 == 0, Calm: o.Parted, pair: p})
	}
	if p.draw(length); o.Parted {
		p.orders = append(p.orders[:0], order{length / 4, cutSites, 0}, order{length / 2, promoteThere, 1}, order{length * 3 / 4, healSites, 0})
	}
}

// draw decides what people do, and when the sites cannot hear each other.
func (p *Pair) draw(length int64) {
	r := &p.rnd
	p.orders = p.orders[:0]
	add := func(at int64, what orderKind, side int) { p.orders = append(p.orders, order{at, what, side}) }
	for range 1 + r.below(3) {
		from := r.between(3*second, length)
		lasts := r.between(500*milli, 20*second)
		if p.witness.named {
			lasts = r.between(5*second, 80*second)
		}
		add(from, cutSites, 0)
		add(from+lasts, healSites, 0)
		for side := range 2 {
			if r.chance(400) {
				at := from + r.between(0, lasts)
				add(at, promoteThere, side)
				add(at+r.between(second, 8*second), forgetThere, side)
			}
			if p.witness.named && r.chance(400) {
				at := from + r.between(0, lasts) - 3*second
				add(at, cutWitness, side)
				add(at+r.between(second, 60*second), healWitness, side)
			}
		}
	}
	if p.witness.named && length > 50*second && r.chance(200) {
		p.drawAlone(length, add)
	}
	for i := range r.below(4) {
		at, side := r.between(3*second, length), r.below(2)
		if i == 0 {
			side = 0
		}
		add(at, releaseThere, side)
		add(at+r.between(second, 6*second), promoteFinal, side)
		for range r.below(12) {
			add(at+r.between(second, 12*second), takeBackThere, side)
		}
		if r.chance(300) { // no answer came
			add(at+r.between(3*second, 12*second), promoteThere, side)
		}
		add(at+15*second, forgetThere, side)
		add(at+16*second, forgetThere, 1-side)
	}
	add(length, healSites, 0)
	add(length, healWitness, 0)
	add(length, healWitness, 1)
}

// drawAlone cuts a site off from the other and from the witness, until the other may take the
// writes: about then they hear each other again, and the witness is heard later.
func (p *Pair) drawAlone(length int64, add func(at int64, what orderKind, side int)) {
	r := &p.rnd
	from, side := r.between(3*second, length-46*second), r.below(2)
	add(from, cutWitness, side)
	add(from, cutSites, side)
	for at := from + 36*second; at < from+45*second; at += r.between(second, 3*second) {
		add(at, promoteThere, 1-side)
	}
	add(from+r.between(36*second, 46*second), healSites, side)
	add(from+r.between(46*second, 60*second), healWitness, side)
}

// next lets the next event of either world, or the next order, happen.
func (p *Pair) next(res *PairResult) bool {
	side, at := p.first()
	if side < 0 || p.rule != "" {
		return false
	}
	if i := p.due(at); i >= 0 {
		o := p.orders[i]
		p.orders = append(p.orders[:i], p.orders[i+1:]...)
		if o.what == cutSites {
			res.Cuts++
		}
		p.carryOut(o)
	} else {
		before := p.worlds[side].consul.record
		if !p.worlds[side].next() {
			return false
		}
		p.recorded(side, &before, res)
	}
	for _, w := range p.worlds {
		w.mirror()
	}
	if w := p.worlds[side]; p.witness.named && p.worlds[0].takesWrites() && p.worlds[1].takesWrites() {
		p.rule, p.words = "two", "both sites take writes, and name a witness"
		w.tell(-1, "VIOLATION %s", p.words)
	}
	return true
}

// first is the world whose next event is due, and when it is.
func (p *Pair) first() (side int, at int64) {
	side = -1
	for i, w := range p.worlds {
		if len(w.queue.heap) > 0 && (side < 0 || w.queue.heap[0].at < at) {
			side, at = i, w.queue.heap[0].at
		}
	}
	return side, at
}

// due is the first of the orders before then; -1: none.
func (p *Pair) due(at int64) int {
	best := -1
	for i := range p.orders {
		if p.orders[i].at <= at && (best < 0 || p.orders[i].at < p.orders[best].at) {
			best = i
		}
	}
	return best
}

// leads is who leads a site, and its record.
func (p *Pair) leads(side int) (*member, *ha.Record) {
	w := p.worlds[side]
	if i := w.index(w.consul.record.Leader); i >= 0 && i < w.n {
		return &w.members[i], &w.consul.record
	}
	return nil, &w.consul.record
}

func (p *Pair) carryOut(o order) {
	w := p.worlds[o.side]
	leader, r := p.leads(o.side)
	switch o.what {
	case cutSites:
		p.cut = true
		w.tell(-1, "THE SITES CANNOT HEAR EACH OTHER")
	case healSites:
		p.cut, p.heard = false, w.now
		w.tell(-1, "the sites can hear each other")
	case cutWitness, healWitness:
		p.witness.away[o.side] = o.what == cutWitness
		w.tell(-1, "THE WITNESS IS AWAY: %v", p.witness.away[o.side])
	case forgetThere:
		for i := range w.n {
			in := &w.members[i].sidecar.intent
			in.PromoteSite, in.ReleaseSite, in.SiteFinal = false, false, nil
		}
	case promoteThere:
		p.ask(o.side, leader, ha.Intent{PromoteSite: true})
	case releaseThere:
		if r.StandbyOf == "" && r.Phase == ha.PhaseLeading {
			p.ask(o.side, leader, ha.Intent{ReleaseSite: true})
		}
	case promoteFinal:
		if r.Released != nil && r.StandbyOf != "" && !p.cut {
			there, _ := p.leads(1 - o.side)
			p.ask(1-o.side, there, ha.Intent{PromoteSite: true, SiteFinal: r.Released})
		}
	case takeBackThere:
		if r.Released != nil && r.StandbyOf != "" && p.refused(1-o.side, r.Released) {
			p.ask(o.side, leader, ha.Intent{PromoteSite: true, SiteFinal: r.Released})
		}
	}
}

// noteRefusal lets who asked a member to take the writes hear that it does not. p may be nil.
func (p *Pair) noteRefusal(s *sidecar) {
	x := &s.state.Promotion
	if p == nil || x.Refused == "" || x.Since != s.intent.Since || !s.intent.PromoteSite {
		return
	}
	s.refused = s.intent.SiteFinal
	s.intent.PromoteSite, s.intent.SiteFinal = false, nil
}

// refused reports whether a site has answered that it does not take the writes given up.
func (p *Pair) refused(side int, final *ha.Position) bool {
	w := p.worlds[side]
	for i := range w.n {
		if f := w.members[i].sidecar.refused; f != nil && f.Compare(*final) == 0 {
			return true
		}
	}
	return false
}

// ask is what somebody types at a site.
func (p *Pair) ask(side int, leader *member, in ha.Intent) {
	w := p.worlds[side]
	if leader == nil || !leader.sidecar.alive {
		return
	}
	w.tell(leader.i, "ASKED: promote=%v release=%v final=%v", in.PromoteSite, in.ReleaseSite, in.SiteFinal)
	if p.broken == PairNoFinal && in.SiteFinal != nil {
		in.SiteFinal = &ha.Position{TLI: in.SiteFinal.TLI, LSN: 1}
	}
	in.Since = leader.read(w.now)
	leader.sidecar.intent = in
	w.step(leader.i)
}

// distort breaks the number that a site takes the writes with.
func (p *Pair) distort(w *World, r *ha.Record) {
	switch p.broken {
	case PairOneHalf:
		r.Timeline -= r.Timeline % ha.EpochTimelines
		r.Half = 1
	case PairForgets:
		r.Given = nil
	case PairNoEpochs:
		r.Timeline = w.consul.record.Timeline
	}
}

// recorded looks at a change of a site's record.
func (p *Pair) recorded(side int, before *ha.Record, res *PairResult) {
	w := p.worlds[side]
	r := &w.consul.record
	switch {
	case r.StandbyOf != "" && before.StandbyOf == "" && before.Exists() && r.Released != nil:
		p.gave[side] = given{*r.Released, slices.Clone(w.given)}
	case r.StandbyOf != "" && before.StandbyOf == "" && before.Exists():
		p.taken[side] = -1
		res.Superseded++
	case r.StandbyOf == "" && before.StandbyOf != "":
		p.taken[side] = -1
		leader, _ := p.leads(side)
		for from := range p.gave {
			if f := leader.sidecar.intent.SiteFinal; f != nil && f.TLI == p.gave[from].final.TLI {
				p.taken[side] = from
			}
		}
		w.tell(-1, "the site takes the writes in epoch %d", r.Epoch)
		if p.cut && p.rnd.chance(300) { // before it serves
			p.orders = append(p.orders, order{w.now + p.rnd.between(0, 1500*milli), healSites, side})
		}
	}
	if r.Phase != ha.PhaseLeading || before.Phase == ha.PhaseLeading || r.StandbyOf != "" {
		return
	}
	leader, _ := p.leads(side)
	if p.taken[side] < 0 {
		return
	}
	p.passed++
	for _, a := range p.gave[p.taken[side]].acked {
		if s := &leader.server; len(s.log) < a.n || s.log[a.n-1] != a.id {
			w.fail("lost", leader.i, "%s takes the writes that were given up, without commit %d, acknowledged in term %d there", leader.name, a.n, a.term)
		}
	}
	p.taken[side] = -1
}

// given is the final position that a site gave up the writes with, and the commits that it
// had acknowledged then.
type given struct {
	final ha.Position
	acked []ackedUpTo
}

// standbysHeard reports whether any server of the other site answers w's.
func (p *Pair) standbysHeard(w *World) bool {
	if p.cut {
		return false
	}
	o := p.other(w)
	for i := range o.n {
		if o.members[i].server.run == up && o.serverRuns(i) {
			return true
		}
	}
	return false
}

func (p *Pair) other(w *World) *World {
	if p.worlds[0] == w {
		return p.worlds[1]
	}
	return p.worlds[0]
}

// settle looks, after the faults, whether one site takes the writes and the other follows.
func (p *Pair) settle(w *World) {
	o := p.other(w)
	if !w.calm || !o.calm || p.cut {
		return
	}
	since := w.now - max(w.check.calmAt, o.check.calmAt, p.heard)
	why := p.unsettled(since)
	if why == "" {
		w.check.settled, o.check.settled = true, true
	} else if since > settledWithin {
		p.rule, p.words = "sites", why
		w.tell(-1, "VIOLATION %s", why)
	}
}

// unsettled says what is not yet as it should be.
func (p *Pair) unsettled(since int64) string {
	takes := -1
	for side, w := range p.worlds {
		r := &w.consul.record
		switch {
		case r.StandbyOf != "" || !r.Exists():
		case takes >= 0:
			return "both sites take writes, and have heard each other"
		default:
			takes = side
		}
	}
	if takes < 0 { // a person sees it, and decides
		if since > 20*second {
			p.decide(int(since / (5 * second) % 2))
		}
		return "no site takes writes"
	}
	if why := p.worlds[1-takes].unsettledSite(); why != "" {
		return "the site that follows: " + why
	}
	if l := p.worlds[takes].index(p.worlds[takes].consul.record.Leader); l < 0 || !p.worlds[takes].accepts(l) {
		return "the site that takes the writes has no primary"
	}
	return ""
}

// decide is a person who lets a site take the writes whose leader has data: the one, or else
// the other.
func (p *Pair) decide(first int) {
	for _, side := range [...]int{first, 1 - first} {
		leader, r := p.leads(side)
		if r.Phase != ha.PhaseLeading || leader == nil || !leader.sidecar.alive || leader.server.run != up {
			continue
		}
		if in := &leader.sidecar.intent; !in.PromoteSite && leader.read(p.worlds[side].now).Sub(in.Since) > 2*time.Second {
			p.ask(side, leader, ha.Intent{PromoteSite: true})
		}
		return
	}
}
