package sim

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// mirror brings the copy of the other site's primary up to date.
func (w *World) mirror() {
	p := w.opt.pair
	o, s := p.other(w), &w.members[w.n].server
	from := o.primaryHeard()
	if p.stops(w) {
		from = w.site.address
	}
	if from < 0 || p.cut {
		if s.run == up {
			w.dropStreams(w.n)
			s.run, s.epoch = stopped, w.life()
		}
		return
	}
	v := &o.members[from].server
	n := len(s.log)
	if s.run != up || w.site.life != v.epoch || v.flushed < n || timelineOf(v.log[v.flushed-1]) != w.site.timeline {
		w.dropStreams(w.n)
		s.log = s.log[:0]
		s.data, s.systemID, s.run, s.epoch, s.pausedUntil = ha.DataPresent, v.systemID, up, w.life(), 0
		s.born = s.epoch
		w.site.life, w.site.address, w.site.timeline = v.epoch, from, timelineOf(v.log[v.flushed-1])
		w.learn(o)
	}
	s.onTLI, s.term = v.onTLI, v.term
	if s.log = append(s.log, v.log[len(s.log):v.flushed]...); len(s.log) == n {
		return
	}
	s.flushed = len(s.log)
	for j := range w.n {
		if s.senders[j].active {
			w.pump(w.n, j)
		}
	}
}

// stops reports whether the other site's server that w's copy is of is being stopped: it takes
// no more sessions, and sends what it has.
func (p *Pair) stops(w *World) bool {
	o, c := p.other(w), &w.members[w.n].server
	v := &o.members[w.site.address].server
	return c.run == up && v.run == up && v.stopping && v.epoch == w.site.life && o.serverRuns(w.site.address)
}

// sends reports whether m, which is being stopped, has still to send log to the other site.
func (p *Pair) sends(w *World, m int) bool {
	o := p.other(w)
	if p.cut || o.site.address != m || !p.stops(o) {
		return false
	}
	for j := range o.n {
		if x := &o.members[o.n].server.senders[j]; x.active && x.flush < w.members[m].server.flushed {
			o.pump(o.n, j)
			return true
		}
	}
	return false
}

// flushed is how much of m's log the other site says that it has; 0: it does not stream.
func (p *Pair) flushed(w *World, m int) int {
	o := p.other(w)
	if p.cut || o.site.address != m || o.members[o.n].server.run != up || o.site.life != w.members[m].server.epoch {
		return 0
	}
	for j := range o.n {
		if x := &o.members[o.n].server.senders[j]; x.active {
			return x.flush
		}
	}
	return 0
}

// primaryHeard is who answers as a primary at this site: of two, the one on the later
// timeline; -1: nobody.
func (w *World) primaryHeard() int {
	best, newest := -1, ha.TLI(0)
	for i := range w.n {
		s := &w.members[i].server
		if !w.accepts(i) || s.flushed == 0 {
			continue
		}
		if t := timelineOf(s.log[s.flushed-1]); t > newest {
			best, newest = i, t
		}
	}
	return best
}

// learn takes over how the other site's timelines began: one number, one history.
func (w *World) learn(o *World) {
	for t := range o.check.timelines {
		theirs := &o.check.timelines[t]
		if theirs.owner < 0 || int(theirs.owner) >= o.n {
			continue // nobody's, or learnt from here
		}
		for t >= len(w.check.timelines) {
			w.check.timelines = append(w.check.timelines, timeline{owner: -1})
		}
		x := &w.check.timelines[t]
		if x.owner >= 0 && int(x.owner) < w.n {
			w.fail("timeline", -1, "timeline %d is of both sites", t)
			return
		}
		*x = *theirs
		x.owner = int8(w.n)
	}
}
