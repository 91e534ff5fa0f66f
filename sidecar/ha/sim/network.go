package sim

// network says who can reach whom. Cuts are counted, because faults overlap.
type network struct {
	cut      [MaxMembers][MaxMembers]int8 // [from][to]
	port     [MaxMembers]int8             // nobody reaches its server, while its sidecar is reached
	toConsul [MaxMembers]int8
	ofConsul [MaxMembers]int8
	lossy    int8
}

// open says whether messages from i reach j.
func (w *World) open(i, j int) bool { return w.net.cut[i][j] == 0 }

// both says whether a connection between i and j can be made.
func (w *World) both(i, j int) bool { return w.open(i, j) && w.open(j, i) }

// alone says whether m reaches no other member's sidecar.
func (w *World) alone(m int) bool {
	for j := range w.n {
		if j != m && w.both(m, j) && w.sidecarRuns(j) {
			return false
		}
	}
	return true
}

// portOpen says whether packets to and from the port of m's server come through, as far as its host
// can be reached.
func (w *World) portOpen(m int) bool { return w.net.port[m] == 0 }

// cutPort puts a firewall before the port of a server, or before all, or takes it away.
func (w *World) cutPort(m int, all bool, by int8) {
	for i := range w.n {
		if all || i == m {
			w.net.port[i] += by
		}
	}
}

// slow multiplies a delay on a member that is slow now.
func (w *World) slow(m int, d int64) int64 {
	if w.members[m].slowUntil > w.now {
		return min(d*20, d+second)
	}
	return d
}

// travel is how long a message needs from i to j.
func (w *World) travel(i, j int) int64 {
	return w.slow(i, w.delay()) + w.slow(j, 1)
}

// delay is one way through the network: mostly short, at times long.
func (w *World) delay() int64 {
	r := &w.odd
	d := r.between(150*micro, 1500*micro)
	if w.opt.Calm || w.calm {
		return d
	}
	switch x := r.below(1000); {
	case x < 3:
		return d + r.between(100*milli, 900*milli)
	case x < 40:
		return d + r.between(2*milli, 60*milli)
	}
	return d
}

// lost says whether a message is lost, or its sender never learns of it.
func (w *World) lost() bool {
	p := w.shape.lossy
	if w.net.lossy > 0 {
		p += 250
	}
	return p > 0 && !w.calm && w.odd.chance(p)
}

// hostRuns says whether anything runs on m's host now.
func (w *World) hostRuns(m int) bool {
	b := &w.members[m]
	return b.hostUp && b.hostPaused <= w.now
}
