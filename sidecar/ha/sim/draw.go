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
		if r.chance(110) {
			if r.chance(700) {
				w.drawCoup(t)
			} else {
				w.drawLateAnswer(t)
			}
			continue
		}
		switch f.kind {
		case loseAgent:
			f.lasts += 5 * second // for less nobody hands over
		case removeMember:
			// What is removed is gone first, and no voter any more.
			w.faults = append(w.faults, fault{at: t, kind: crashHost, lasts: r.between(6*second, 14*second), target: f.other})
			f.at, f.lasts, f.target, f.point = t+r.between(2*second, 5*second), 4*second, theLeader, atOnce
		}
		w.faults = append(w.faults, f)
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
