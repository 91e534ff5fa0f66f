package sim

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// witness is a third Consul that both sites name: one key, changed by compare-and-swap.
type witness struct {
	named  bool
	away   [2]bool // from a site
	holder int     // the side whose word it keeps, or nobody
	term   uint64  // of that side, in which it was renewed or given back last
	index  uint64
}

// nobody has the word: it was given back. Before anybody had it nothing says so.
const nobody = -1

// askWitness is one question of m's sidecar to the witness, as the shell asks it.
func (p *Pair) askWitness(w *World, m int) {
	if !p.witness.named {
		return
	}
	side := 0
	if p.worlds[1] == w {
		side = 1
	}
	b, k := &w.members[m], &p.witness
	s, now := &b.sidecar, b.read(w.now)
	x := &s.source.Witness
	x.AskedAt = now
	if k.away[side] || p.broken == PairOpen && s.state.Wish.Hold {
		x.Problem = "it does not answer"
		if p.broken == PairOpen && s.consul.Record.StandbyOf == "" {
			x.HeldAt = now
		}
		return
	}
	if s.wordIndex != k.index || s.wordAt == 0 {
		s.wordIndex, s.wordAt = k.index, now
	}
	if p.broken == PairWordless && s.intent.SiteFinal != nil {
		x.HeldAt = now
		return
	}
	patience := ha.WitnessPatience(w.policies[s.policy].Lease)
	if p.broken == PairHasty {
		patience = 0
	}
	wish := &s.state.Wish
	mine := k.holder == side && k.term <= wish.Term
	switch {
	case wish.Hold && (mine || k.holder == nobody && (k.index > 0 || wish.First) || (wish.Patient || patience == 0) && now.Sub(s.wordAt) >= patience):
		k.holder, x.HeldAt, x.OthersAt, x.Problem = side, now, 0, ""
	case wish.Hold:
		x.Problem = "the other site has it"
		if x.OthersAt = 0; k.holder == 1-side {
			x.OthersAt = now
		}
		return
	case wish.Free && mine:
		k.holder, x.HeldAt = nobody, 0
	default:
		return
	}
	k.index++
	k.term = wish.Term
	s.wordIndex, s.wordAt = k.index, now
}

// takesWrites reports whether clients of this site can write now: at a primary that its
// record names, or, where commits wait for nobody, at any.
func (w *World) takesWrites() bool {
	r := &w.consul.record
	for m := range w.n {
		if w.accepts(m) && (w.mode() == ha.ModeAsync || r.Leader == names[m] && r.StandbyOf == "") {
			return true
		}
	}
	return false
}
