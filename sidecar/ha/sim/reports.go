package sim

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// reportRing is how many of its newest reports a sidecar can still match an
// echo to, and the network can still deliver.
const reportRing = 64

// sentReport is a report as it was sent.
type sentReport struct {
	seq    uint64
	at     ha.Instant
	report ha.Report
	echo   [MaxMembers]ha.Echo // what report.Echo is a part of
}

const heartbeat = 500 * milli

// report sends the member's report to the others if it changed.
func (w *World) report(m int, o *ha.Observation) {
	s := &w.members[m].sidecar
	r := w.core.Report(s.state, *o)
	last := &s.sent[s.seq%reportRing]
	if last.seq == s.seq && same(&last.report, &r) {
		return
	}
	w.sendReport(m, &r)
}

// same compares two reports as a shell does that does not send one for every
// byte of log.
func same(a, b *ha.Report) bool {
	if a.Voted && a.Position.LSN != b.Position.LSN {
		return false
	}
	return a.Term == b.Term && a.Role == b.Role && a.Leader == b.Leader && a.Voted == b.Voted && a.Hears == b.Hears &&
		a.Streaming == b.Streaming && a.Writable == b.Writable && a.Serving == b.Serving && a.Down == b.Down &&
		a.Checkpointed == b.Checkpointed && a.Eligible == b.Eligible && a.Priority == b.Priority && a.NoSync == b.NoSync &&
		a.Session == b.Session && a.Record == b.Record && a.Position.TLI == b.Position.TLI && a.ServerID == b.ServerID &&
		a.Stopping == b.Stopping && a.Passing == b.Passing && a.Strayed == b.Strayed && a.Copy == b.Copy
}

func (w *World) sendReport(m int, r *ha.Report) {
	b := &w.members[m]
	s := &b.sidecar
	s.seq++
	x := &s.sent[s.seq%reportRing]
	echo := x.echo[:0]
	x.seq, x.at, x.report = s.seq, b.read(w.now), *r
	x.report.Seq, x.report.Postgres = s.seq, b.name
	if w.opt.Zoned != Unzoned {
		x.report.Tags = zoneTags[zoneOf(m)][:]
	}
	for i := range s.peers {
		if p := &s.peers[i]; p.Report.Seq != 0 {
			echo = append(echo, ha.Echo{Member: p.Member, Seq: p.Report.Seq})
		}
	}
	x.report.Echo = echo
	if r.Voted && b.server.half {
		w.fail("S10", m, "%s votes with a half-made data directory", b.name)
	}
	if x := w.savedAs(b.server.odd.place.of); r.Voted && x != nil && !x.goneOn {
		w.fail("restore", m, "%s votes with the data of restore %s, with which the cluster has not gone on", names[m], b.server.odd.place.of)
	}
	if w.opt.Story {
		w.tell(m, "reports term=%d %s voted=%v serving=%v hears=%v down=%v pos=%v", r.Term, r.Role, r.Voted, r.Serving, r.Hears, r.Down, r.Position)
	}
	for j := range w.n {
		if j != m && w.open(m, j) && w.members[j].sidecar.alive && !w.lost() {
			w.push(w.travel(m, j), event{kind: evReport, m: int8(j), p: int8(m), n: int32(uint32(s.seq)), epoch: s.epoch})
		}
	}
}

// beat is the heartbeat: the newest report once more.
func (w *World) beat(m int) {
	s := &w.members[m].sidecar
	w.push(heartbeat, event{kind: evBeat, m: int8(m), epoch: s.epoch})
	if x := &s.sent[s.seq%reportRing]; x.seq == s.seq && s.attached {
		o := w.observe(m)
		r := w.core.Report(s.state, o)
		w.sendReport(m, &r)
	}
}

// arriveReport is p's report at m. It may come from a process that is no more,
// but never after a newer one of the same process.
func (w *World) arriveReport(m, p int, seq uint64, epoch uint32) {
	s, from := &w.members[m].sidecar, &w.members[p].sidecar
	x := &from.sent[seq%reportRing]
	if from.epoch != epoch || x.seq != seq || !w.open(p, m) || w.beyond.forgotten[p] > 0 {
		return
	}
	e := w.peer(m, p)
	if e.Report.Seq >= seq {
		return
	}
	before := e.EchoSentAt
	e.Link, e.ReceivedAt, e.Report, e.PostgresRefused, e.Unreachable = ha.LinkUp, w.members[m].read(w.now), x.report, ha.Unknown, false
	for i := range x.report.Echo {
		if k := &x.report.Echo[i]; k.Member == w.members[m].name {
			if mine := &s.sent[k.Seq%reportRing]; mine.seq == k.Seq {
				e.EchoSentAt = max(before, mine.at)
				if w.opt.Mutation == MutateS5Sent {
					e.EchoSentAt = e.ReceivedAt
				}
			}
		}
	}
	w.step(m)
}

func (w *World) peer(m, p int) *ha.Peer {
	if p > m {
		p--
	}
	return &w.members[m].sidecar.peers[p]
}

// link is m's look at its stream to p: it learns at once when the process is
// gone and the host lives, and only by silence otherwise.
func (w *World) link(m, p int) {
	s, o := &w.members[m].sidecar, &w.members[p]
	e := w.peer(m, p)
	w.push(w.odd.between(400*milli, 700*milli), event{kind: evLink, m: int8(m), p: int8(p), epoch: s.epoch})
	if w.beyond.forgotten[p] > 0 {
		return
	}
	link, refused, unreachable := e.Link, e.PostgresRefused, e.Unreachable
	now := w.members[m].read(w.now)
	w.suspect(m, p)
	switch {
	case !w.both(m, p) || !o.hostUp || o.hostPaused > w.now:
		if e.Link == ha.LinkRefused || e.ReceivedAt == 0 || now.Sub(e.ReceivedAt) > 1500e6 {
			e.Link, e.PostgresRefused = ha.LinkSilent, ha.Unknown
		}
	case !o.sidecar.alive:
		e.Link = ha.LinkRefused
		if e.PostgresRefused = ha.Unknown; w.portOpen(p) {
			e.PostgresRefused = ha.Known(o.server.run == stopped)
		}
	case e.Link == ha.LinkRefused:
		e.Link, e.PostgresRefused = ha.LinkUnknown, ha.Unknown
	}
	silent := e.PortSilent
	mine := &w.members[m].server
	follows := int(mine.upstream) == p && !mine.receiver.active
	e.PortSilent = !w.portOpen(p) && e.Link == ha.LinkUp && (follows || mine.run == up && !mine.inRecovery)
	if w.opt.Mutation == MutateS6 && e.Link == ha.LinkSilent {
		e.Link, e.PostgresRefused = ha.LinkRefused, ha.Yes
	}
	if link != e.Link || refused != e.PostgresRefused || unreachable != e.Unreachable || silent != e.PortSilent {
		if w.opt.Story {
			w.tell(m, "link to %s: %d, postgres refused: %s, unreachable: %v", o.name, e.Link, e.PostgresRefused, e.Unreachable)
		}
		w.step(m)
	}
}

// suspect is m's judgement of whether anything at p's host answers. It may be wrong about one
// that is slow, or to which packets are lost: until the next report comes.
func (w *World) suspect(m, p int) {
	e, o := w.peer(m, p), &w.members[p]
	silent := w.members[m].read(w.now).Sub(e.ReceivedAt)
	switch {
	case e.ReceivedAt == 0 || e.Link == ha.LinkRefused || silent < 800e6:
		e.Unreachable = false
	case !w.both(m, p) || !o.hostUp || o.hostPaused > w.now:
		e.Unreachable = true
	case !e.Unreachable:
		if e.Unreachable = !w.calm && !w.opt.Calm && w.odd.chance(100); e.Unreachable {
			w.check.doubted[m][p] = w.now
		}
	default:
		e.Unreachable = w.odd.chance(500)
	}
}
