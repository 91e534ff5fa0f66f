package sim

// What goes wrong in a run is drawn before it begins, so that it can be left out.

func (w *World) drawFaults() {
	w.faults = w.faults[:0]
	if w.opt.Calm {
		w.push(w.shape.length, event{kind: evCalm})
		return
	}
	r := &w.rnd
	gap := [...]int64{400 * milli, 1200 * milli, 3 * second}[r.below(3)]
	if w.opt.Sparse {
		gap = 10 * second
	}
	total := 0
	for _, x := range weights {
		total += x
	}
	for t := r.between(300*milli, 2*second); t < w.shape.length; t += r.between(gap/8, 2*gap) {
		f := fault{at: t, kind: drawKind(r.below(total)), lasts: w.drawLength(), target: int8(r.below(w.n)), other: int8(r.below(w.n)), how: uint8(r.below(256))}
		if r.chance(450) {
			f.target = theLeader
		}
		if r.chance(450) {
			f.point, f.delay = point(1+r.below(int(points)-1)), 0
			if r.chance(700) {
				f.delay = r.between(0, 60*milli)
			}
			if r.chance(600) {
				f.target = theActor
			}
		}
		if f.kind >= cutConsul && f.kind <= partition && r.chance(500) {
			f.until = [...]point{pointBallot, pointFence, pointFence, pointPromote}[r.below(4)]
			f.lasts = max(f.lasts, 4*second)
			if r.chance(500) {
				f.delay = r.between(0, 60*milli)
			}
		}
		if !w.drawPlot(t) {
			w.drawPrepared(&f, t)
		}
	}
	w.drawOutside()
	for i := range w.faults {
		dropped := i < len(w.opt.Drop) && w.opt.Drop[i]
		if !dropped {
			w.push(w.faults[i].at, event{kind: evFault, n: int32(i)})
		}
	}
	w.push(w.shape.length, event{kind: evCalm})
}

// drawPlot draws, now and then, faults that go together in the place of a single one.
func (w *World) drawPlot(t int64) bool {
	switch r := &w.rnd; {
	case !r.chance(110):
		return false
	case r.chance(700):
		w.drawCoup(t)
	default:
		w.drawLateAnswer(t)
	}
	return true
}

// drawPrepared adds a fault, with what has to come before it, or to last, for it to tell.
func (w *World) drawPrepared(f *fault, t int64) {
	r := &w.rnd
	switch f.kind {
	case loseAgent:
		f.lasts += 5 * second // for less nobody hands over
	case removeMember:
		// What is removed is gone first, and no voter any more.
		w.faults = append(w.faults, fault{at: t, kind: crashHost, lasts: r.between(6*second, 14*second), target: f.other})
		f.at, f.lasts, f.target, f.point = t+r.between(2*second, 5*second), 4*second, theLeader, atOnce
	}
	w.faults = append(w.faults, *f)
}

// drawCoup draws faults that together depose a primary which does not notice:
// its sidecar stands still, its streams break for just so long that the others
// elect, and then its server can be reached again. Perhaps a voter restarts.
func (w *World) drawCoup(t int64) {
	r := &w.rnd
	end := [...]point{pointFence, pointFence, pointPromote}[r.below(3)]
	w.faults = append(w.faults,
		fault{at: t + r.between(0, 500*milli), kind: pauseSidecar, lasts: r.between(4*second, 8*second), target: theLeader},
		fault{at: t, kind: isolate, lasts: 6 * second, target: theLeader, until: end, delay: r.between(0, 20*milli)})
	if v := int8(r.below(w.n)); r.chance(700) {
		w.faults = append(w.faults, fault{at: t, kind: crashServer, lasts: second, point: pointFence, delay: r.between(10*milli, 60*milli), target: v},
			fault{at: t, kind: pauseSidecar, lasts: r.between(500*milli, 3*second), point: pointStart, delay: r.between(0, 15*milli), target: v})
	}
	if r.chance(600) {
		w.faults = append(w.faults, fault{at: t, kind: pauseSidecar, lasts: r.between(200*milli, 2*second), point: pointPromote, delay: r.between(0, 2*milli), target: int8(r.below(w.n))})
	}
}

// drawLateAnswer draws faults by which a primary learns that it held the lock
// when it does not any more: its question reached Consul, then its host stands
// still and is cut off, and the answer is there when it goes on.
func (w *World) drawLateAnswer(t int64) {
	r := &w.rnd
	w.faults = append(w.faults,
		fault{at: t, kind: pauseSidecar, lasts: r.between(2*second, 5*second), point: pointRead, delay: r.between(150*micro, milli), target: theActor},
		fault{at: t, kind: isolate, lasts: r.between(8*second, 14*second), point: pointRead, delay: r.between(milli, 2*milli), target: theActor, how: 24})
}

// drawOutside draws faults from outside. They come after all others, so that
// Options.Drop names those as before.
func (w *World) drawOutside() {
	if w.has(RestoreInPlace) {
		w.drawRestoreInPlace()
	}
	if w.has(PortCut) {
		w.drawPortCut()
	}
	var kinds []Outside
	for o := Outside(1); o < outsideEnd; o <<= 1 {
		if o&(RestoreInPlace|PortCut) == 0 && w.has(o) {
			kinds = append(kinds, o)
		}
	}
	if len(kinds) == 0 {
		return
	}
	r := &w.extra
	for range 1 + r.below(1+min(2, len(kinds))) {
		o := kinds[r.below(len(kinds))]
		f := fault{at: r.between(300*milli, max(w.shape.length, second)), kind: o.kind(), lasts: r.between(second, 12*second),
			target: int8(r.below(w.n)), other: int8(r.below(w.n)), how: uint8(r.below(256))}
		if r.chance(400) {
			f.target = theLeader
		}
		if r.chance(300) {
			f.point, f.delay = point(1+r.below(int(points)-1)), r.between(0, 60*milli)
		}
		if o&wholeRun != 0 {
			f.at, f.point, f.lasts = 0, atOnce, w.shape.length
		}
		w.drawBeside(o, &f)
		w.faults = append(w.faults, f)
	}
}

// drawRestoreInPlace draws a restore, and what may go wrong in it; beside other faults from
// outside only in a third of the runs. Those others are drawn as without it.
func (w *World) drawRestoreInPlace() {
	r := &random{w.opt.Seed*0x9e3779b97f4a7c15 ^ 0x726573746f7265}
	if w.opt.Outside != RestoreInPlace && !r.chance(333) {
		return
	}
	f := fault{at: r.between(300*milli, max(w.shape.length, second)), kind: RestoreInPlace.kind(), target: theLeader, lasts: r.between(300*milli, 7*second), how: uint8(r.below(256))}
	w.faults = append(w.faults, f)
	if r.chance(700) {
		kind := [...]faultKind{crashHost, crashSidecar, crashServer, isolate, cutConsul, loseSession, pauseHost}[r.below(7)]
		w.faults = append(w.faults, fault{at: f.at + r.between(0, 6*second), kind: kind, lasts: r.between(500*milli, 9*second), target: theLeader, how: uint8(r.below(256))})
	}
}

// drawPortCut draws a port that answers nobody, mostly the primary's, and what may go wrong beside;
// beside other faults from outside as a restore is.
func (w *World) drawPortCut() {
	r := &random{w.opt.Seed*0x9e3779b97f4a7c15 ^ 0x706f7274637574}
	if w.opt.Outside != PortCut && !r.chance(333) {
		return
	}
	f := fault{at: r.between(300*milli, max(w.shape.length, second)), kind: PortCut.kind(), target: theLeader, lasts: r.between(2*second, 16*second), how: uint8(r.below(256))}
	if r.chance(250) {
		f.target = int8(r.below(w.n))
	}
	if r.chance(300) {
		f.point, f.delay = point(1+r.below(int(points)-1)), r.between(0, 60*milli)
	}
	w.faults = append(w.faults, f)
	for range r.below(3) {
		kind := [...]faultKind{crashHost, crashSidecar, crashServer, isolate, loseSession, pauseHost, switchover, PortCut.kind()}[r.below(8)]
		w.faults = append(w.faults, fault{at: f.at + r.between(0, 9*second), kind: kind, lasts: r.between(500*milli, 9*second), target: theLeader, how: uint8(r.below(256))})
	}
}

// drawBeside draws what makes a fault from outside tell.
func (w *World) drawBeside(o Outside, f *fault) {
	r := &w.extra
	add := func(after int64, g fault) {
		g.at = max(milli, f.at+after)
		w.faults = append(w.faults, g)
	}
	switch o {
	case CloneReplica:
		f.point, f.target = atOnce, int8(r.below(w.n))
		for i := range int8(w.n) {
			if i != f.target && r.chance(700) {
				add(-r.between(0, 300*milli), fault{kind: cutPair, lasts: r.between(second, 6*second), target: theLeader, other: i}) // it lags
			}
		}
		add(r.between(2*second, 5*second), fault{kind: isolate, lasts: r.between(4*second, 9*second), target: theLeader})
	case PromoteByHand, StartByHand, RecoveryGoal:
		if r.chance(600) {
			add(r.between(-second, second), fault{kind: crashHost, lasts: r.between(3*second, 12*second), target: theLeader})
		}
		if r.chance(500) {
			f.target, f.point = int8(1+r.below(w.n-1)), atOnce
			add(-r.between(0, second), fault{kind: cutPair, lasts: r.between(second, 4*second), target: theLeader, other: f.target})
		}
	case LoseHistory:
		away := int8(r.below(w.n))
		f.point, f.target = atOnce, theLeader
		add(-300*milli, fault{kind: crashHost, lasts: r.between(9*second, 14*second), target: away})
		add(-200*milli, fault{kind: switchover, lasts: 3 * second, target: theLeader})
		f.at += 4 * second
		add(-second, fault{kind: switchover, lasts: 3 * second, target: theLeader})
	case ClockStops:
		add(r.between(500*milli, max(second, w.shape.length)), fault{kind: pauseHost, lasts: r.between(3*second, 9*second), target: theLeader})
	case SlowReplay:
		add(r.between(100*milli, 2*second), fault{kind: crashHost, lasts: r.between(4*second, 20*second), target: theLeader})
	}
}

func drawKind(x int) faultKind {
	for k := range baseKinds {
		if x -= weights[k]; x < 0 {
			return k
		}
	}
	return crashServer
}

func (w *World) drawLength() int64 {
	r := &w.rnd
	switch r.below(3) {
	case 0:
		return r.between(10*milli, 800*milli)
	case 1:
		return r.between(800*milli, 5*second)
	}
	return r.between(4*second, 20*second)
}
