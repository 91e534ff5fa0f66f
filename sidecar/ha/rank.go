package ha

// Which member is to lead, of those that may.

// rank counts the better candidates that are in sight.
func (v *view) rank() int {
	better := 0
	me := candidate{member: v.o.Self, position: v.o.Server.Position, paused: v.o.Server.Paused != "", late: late(v.o.Server.Position, v.o.Server.Replayed),
		hidden: v.o.Consul.strandedAt() != 0, priority: v.o.Policy.Priority}
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		if !v.fresh(p) || !p.Report.Eligible || p.Report.Hears || v.strays(p) || v.rec.replaced(p.Report.Position) {
			continue
		}
		if p.candidate().better(me) {
			better++
		}
	}
	return better
}

// candidate is what the choice between members looks at.
type candidate struct {
	member   string
	position Position
	late     bool // it has much to replay before it takes writes
	// paused: it replays nothing, and may have to be restarted before it can. Another
	// that has less first fetches what it lacks.
	paused   bool
	silent   bool // its port answers nobody here, so that clients may not reach it either
	hidden   bool // clients do not find it by DNS
	priority int
}

func (p *Peer) candidate() candidate {
	r := &p.Report
	return candidate{member: p.Member, position: r.Position, paused: r.Paused != "", late: late(r.Position, r.Replay), silent: p.PortSilent, hidden: r.Agentless, priority: r.Priority}
}

// late reports whether a standby that has received the log up to at has much to
// replay before it takes writes.
func late(at Position, replayed LSN) bool { return replayed != 0 && replayed+maxHandoverLag < at.LSN }

func (c candidate) better(than candidate) bool {
	if c.paused != than.paused {
		return than.paused
	}
	if order := c.position.Compare(than.position); order != 0 {
		return order > 0
	}
	if c.silent != than.silent {
		return than.silent
	}
	if c.late != than.late {
		return than.late
	}
	if c.hidden != than.hidden {
		return than.hidden
	}
	if c.priority != than.priority {
		return c.priority > than.priority
	}
	return c.member < than.member
}
