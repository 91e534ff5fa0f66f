package ha

import (
	"cmp"
	"time"
)

// A witness is a third Consul that both sites name. It keeps which of them may take writes.
// None takes them without its word, in a planned change neither: a person may ask the one
// that gave them up to take them again while the other, which was asked to, is about to.
// It keeps who may:
// that one renews its word there, and the other is given the word only after it was not
// renewed for longer than a primary may keep its clients then. So two sites that name one are
// never both primary, unless people have told a site to stay open alone.

// Witness is what is known of the witness (Policy.Witness).
type Witness struct {
	AskedAt Instant // when it last answered, or did not; zero: it was not asked
	// HeldAt is when the newest request was sent by which this site took or kept the word;
	// zero: never.
	HeldAt Instant
	// OthersAt is when a request was sent by whose answer the other site had the word, as far as
	// is known; zero: by the newest answer it had not.
	OthersAt Instant
	Problem  string // for people: why this site has not got it
}

// WitnessWish is what a member's witness is to be told.
type WitnessWish struct {
	Hold, Free bool // this site takes the writes, or wants to; or it does not any more
	// First: it may be taken where nobody ever had it. Patient: it may be taken where it was
	// not renewed for WitnessPatience.
	First, Patient bool
	Half           TLI    // which of the two sites this one is
	Term           uint64 // by whose leader: what one of a later term has said of this site stays
	Epoch          uint64 // for people
}

// How long a primary goes on after the witness has last confirmed its word, or after a
// server of the other site has last answered.
const (
	witnessLease = 10 * time.Second
	siteHeard    = 5 * time.Second
)

// givingTime is how long, in a planned change, the site that gave up the writes may take to
// give back the word.
const givingTime = 5 * time.Second

// WitnessPatience is how long the word must not have been renewed, and the other site not
// have been heard, until this one is given it: a primary's sidecar may start anew
// meanwhile, and then be stopped with its host, so that only the guard's lease ends.
func WitnessPatience(lease time.Duration) time.Duration {
	return 2*witnessLease + siteHeard + 2*lease
}

// witnessHeld reports whether this site has the word of the witness.
func (v *view) witnessHeld() bool {
	at := v.o.Source.Witness.HeldAt
	return at != 0 && !v.after(at, witnessLease)
}

// wordGiven reports whether the witness has given its word since a person asked for the
// writes, and since this member leads: one from before that may have been given back, by
// the leader of a term between.
func (v *view) wordGiven() bool {
	return v.witnessHeld() && v.o.Source.Witness.HeldAt > v.wordWanted()
}

// wordWanted is from when on an answer of the witness counts for what a person asked for.
func (v *view) wordWanted() Instant { return max(v.o.Intent.Since, v.s.PhaseAt) }

// heardNow reports whether a server of the other site has answered just now, as whatever it is.
func (v *view) heardNow() bool {
	at := v.o.Source.HeardAt
	return at != 0 && !v.after(at, siteHeard)
}

// reigned reports whether this site has a primary, or had one just now: what answers at the
// other site as a standby was not given the word since, as it has not been silent, and this
// site's has not been old, for long enough. A site that has been without one for longer may not
// know that the other is about to be promoted.
func (v *view) reigned() bool {
	return v.serving() || v.s.ReignedAt != 0 && !v.after(v.s.ReignedAt, witnessLease)
}

// wordElsewhere reports whether the witness has said that the other site has its word: what
// answers there as a standby may be about to be promoted.
func (v *view) wordElsewhere() bool {
	w := &v.o.Source.Witness
	return w.OthersAt > w.HeldAt
}

// takenThere reports whether a primary of the other site was heard since this one, which takes
// no writes yet, was to take them. (Where the other gave them up, it was heard before.)
func (v *view) takenThere() bool {
	return !v.serving() && v.sourceServes() && v.o.Source.SeenAt > v.s.PhaseAt && v.o.Source.SystemID == v.rec.SystemID
}

// wordDecides reports whether this site, which lets nobody write now, gives way to the other as
// that one has the word: its primary is heard since, and the witness says so. So a person has
// let that one take the writes, and this one may have them no more, whatever it has written and
// although its timeline may be the later one: neither had heard of the other's. Each would else
// wait for the other, as that primary sees no later one that it were to give way to.
func (v *view) wordDecides() bool {
	return v.o.Policy.Witness != "" && v.o.Policy.StandbyOf != "" && !v.follower() && !v.forced() && v.rec.Phase != PhaseBootstrap &&
		v.o.Busy.Server == NoAction && !v.witnessHeld() && v.wordElsewhere() && v.takenThere()
}

// unwitnessed reports whether the other site may take the writes in the place of this one,
// as neither it nor the witness is heard.
func (v *view) unwitnessed() bool {
	p := &v.o.Policy
	if p.Witness == "" || !p.ClosedAlone || p.StandbyOf == "" || v.follower() || v.rec.Phase == PhaseBootstrap || v.forced() {
		return false
	}
	if !v.takenThere() && (v.witnessHeld() || v.heardNow() && !v.wordElsewhere() && v.reigned()) {
		return false
	}
	return !v.serving() || v.after(v.s.WitnessAt, witnessLease)
}

// unwitnessedRules keep such a site closed.
var unwitnessedRules = [...]rule{
	{"unwitnessed-stop", func(v *view) bool { return v.running() && !v.standby() }, stopNow("the other site may take the writes: the witness says so, or neither of them is heard"), ends},
	{"unwitnessed-exit", (*view).shutdown, (*turn).stopAndExit, ends},
	{"unwitnessed-closed", nil, blocked(func(v *view) Block {
		b := Block{What: "this site takes no writes", Override: failoverTo(v.o.Self), Cost: "if it does, both sites take writes, and one of them will lose them"}
		if b.Missing = "the end of the primary of " + v.o.Policy.StandbyOf + " at " + v.o.Source.Address + ", which takes them"; !v.takenThere() {
			b.Missing = "the word of the witness " + v.o.Policy.Witness + " (" + cmp.Or(v.o.Source.Witness.Problem, "it has not answered yet") + ")"
			if v.reigned() {
				b.Missing += ", or an answer of " + v.o.Policy.StandbyOf + ", which may take writes in its place"
			}
		}
		return b
	}), ends},
}

// noteWitness dates since when this site's primary is to have the witness's word, and says
// what the witness is to be told.
func (t *turn) noteWitness() {
	s := &t.s
	if !t.follower() && (s.Hears || t.rec.Leader == t.o.Self && t.serving()) {
		s.ReignedAt = t.o.Now
	}
	s.Wish = WitnessWish{}
	if t.o.Policy.Witness == "" || t.o.Policy.StandbyOf == "" {
		s.WitnessAt = 0
		return
	}
	s.WitnessAt = cmp.Or(s.WitnessAt, t.o.Now)
	if t.rec.Leader != t.o.Self || !t.lockMine() || t.rec.Phase == PhaseBootstrap {
		return
	}
	takes := !t.follower() || t.o.Intent.PromoteSite && t.promotionBarred() == "" && !t.promotionOver()
	s.Wish = WitnessWish{Hold: takes, Free: !takes, First: t.serving() || t.takesAlone(), Patient: t.tooSoon() == "", Half: t.ownHalf(), Term: t.rec.Term, Epoch: t.rec.Epoch}
}

// takesAlone reports whether this site is to take the writes, and the other answers and does
// not take them: it may take a word that nobody ever had.
func (v *view) takesAlone() bool { return !v.follower() && v.heardNow() && !v.sourceServes() }

// tooSoon says why this site may not be given a word yet that the other has and does not
// renew: a primary that hears this site keeps it, renewed or not. Empty: it may be.
func (v *view) tooSoon() string {
	wait, since := WitnessPatience(max(v.o.Policy.Lease, v.rec.Lease)), max(v.o.Source.HeardAt, v.s.BegunAt)
	if v.after(since, wait) {
		return ""
	}
	left := wait - v.o.Now.Sub(since)
	return "; what the other does not give back is given to this site when the other was not heard for " + wait.String() + ": try again in " + left.Round(time.Second).String()
}

// witnessRefuses says that the witness was asked since the person asked, and has not given
// its word; empty: it has, or is still to answer.
func (v *view) witnessRefuses() string {
	w := &v.o.Source.Witness
	switch {
	case v.o.Policy.Witness == "" || v.wordGiven() || w.AskedAt <= v.wordWanted():
		return ""
	case v.o.Intent.SiteFinal != nil && !v.after(v.o.Intent.Since, givingTime): // who gave up the writes is just giving it back
		return ""
	}
	return "the witness " + v.o.Policy.Witness + " does not let this site take the writes: " + w.Problem + v.tooSoon()
}
