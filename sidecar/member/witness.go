package member

import (
	"context"
	"strconv"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// How often the leader's member renews its site's word at the witness, and looks whether
// the other site renews its own; and how often while it wants it and has not got it.
const (
	wordEvery = 3 * time.Second
	wordSoon  = 500 * time.Millisecond
)

// witness asks the third Consul that both sites name for its word. It is the goroutine's
// own.
type witness struct {
	name, systemID string // that it was set up for
	consul         wordKeeper
	problem        error // of the setting up

	index   uint64     // of the word that was read last
	since   ha.Instant // when it was first read with that index; zero: never
	askedAt ha.Instant
	wanted  bool
	held    bool
	awaits  bool // another has it: the next question is answered when that changes
	others  bool // the other site had it when this one last wished for it, and was answered
}

// wordKeeper is the key at the third Consul.
type wordKeeper interface {
	Read(ctx context.Context, after uint64) (word sessions.Word, index uint64, err error)
	Write(ctx context.Context, word sessions.Word, index uint64) (done bool, err error)
}

// keepWord asks the witness until ctx is done. A witness that hangs must not keep the other
// site from being heard.
func (s *site) keepWord(ctx context.Context, notify func()) {
	var k witness
	for {
		snap := s.member.sidecar.Snapshot()
		if snap != nil {
			before := s.Source().Witness
			word := k.ask(ctx, s.member, snap, before)
			s.set(func(src *ha.Source) { src.Witness = word })
			if word.AskedAt != before.AskedAt && (snap.State.Wish.Hold || word.Problem != before.Problem) {
				notify()
			}
		}
		if !k.awaits { // else the next question waits
			s.wishChanges(ctx, snap)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// wishChanges waits until the witness is to be told something else, but not for long.
func (s *site) wishChanges(ctx context.Context, before *sidecar.Snapshot) {
	ctx, cancel := context.WithTimeout(ctx, siteSoon)
	defer cancel()
	_, _ = s.member.sidecar.Await(ctx, func(now *sidecar.Snapshot) bool { // nothing came, or ctx is done: it is looked at either way
		return before != nil && now.State.Wish != before.State.Wish
	})
}

// ask asks once, if it is time, and returns what is known then.
func (k *witness) ask(ctx context.Context, m *Member, snap *sidecar.Snapshot, before ha.Witness) ha.Witness {
	o, wish := &snap.Observation, &snap.State.Wish
	if o.Policy.Witness == "" || o.Server.SystemID == "" {
		*k = witness{}
		return ha.Witness{}
	}
	if k.name != o.Policy.Witness || k.systemID != o.Server.SystemID {
		*k = witness{name: o.Policy.Witness, systemID: o.Server.SystemID}
		k.consul, k.problem = m.cluster.Witness(k.name, k.systemID) // consul is not used where there is a problem
	}
	now, pause := guard.Now(), wordEvery
	switch {
	case wish.Hold && k.awaits:
		pause = 0
	case wish.Hold && !k.held:
		pause = wordSoon
	}
	if k.wanted == wish.Hold && k.askedAt != 0 && now.Sub(k.askedAt) < pause {
		return before
	}
	k.askedAt, k.wanted, k.held = now, wish.Hold, false
	if k.problem != nil {
		before.Problem = k.problem.Error()
	} else {
		before.Problem = k.settle(ctx, sessions.Word{Cluster: m.config.Cluster, Member: m.config.Member}, wish, ha.WitnessPatience(max(o.Policy.Lease, o.Consul.Record.Lease)))
	}
	if !wish.Hold {
		before.HeldAt = 0
	}
	switch {
	case !k.others:
		before.OthersAt = 0
	case before.OthersAt == 0 || k.awaits:
		before.OthersAt = now
	}
	if k.held {
		before.HeldAt = now // when the first request was sent
	}
	before.AskedAt = guard.Now()
	return before
}

// settle takes, renews or gives back the word, as is wished, and says why it was not got.
// next is by whom.
func (k *witness) settle(ctx context.Context, next sessions.Word, wish *ha.WitnessWish, patience time.Duration) (problem string) {
	after := uint64(0)
	if wish.Hold && k.awaits {
		after = k.index
	}
	k.awaits = false
	word, index, err := k.consul.Read(ctx, after)
	if err != nil {
		return checks.Brief(err)
	}
	if now := guard.Now(); k.since == 0 || index != k.index {
		k.index, k.since = index, now
	}
	// Who was deposed, and does not know it, neither keeps nor gives back what his site has now.
	mine := index != 0 && !word.Free && word.Half == int(wish.Half) && word.Term <= wish.Term
	if wish.Hold {
		k.others = index != 0 && !word.Free && word.Half != int(wish.Half)
	}
	still := guard.Now().Sub(k.since)
	free := index != 0 && word.Free || index == 0 && wish.First || wish.Patient && still >= patience
	next.Half, next.Term, next.Epoch = int(wish.Half), wish.Term, wish.Epoch
	switch {
	case wish.Hold && !mine && !free && index == 0:
		return "no site has had its word yet, and the other may be about to"
	case wish.Hold && !mine && !free:
		k.awaits = true
		return "cluster " + word.Cluster + " has its word (epoch " + strconv.FormatUint(word.Epoch, 10) + "), and member " + word.Member +
			" renewed it, or this member began to look, " + still.Round(time.Second).String() + " ago"
	case wish.Free && mine:
		next.Free = true
	case !wish.Hold:
		return ""
	}
	done, err := k.consul.Write(ctx, next, index)
	switch {
	case err != nil:
		return checks.Brief(err)
	case !done:
		return "somebody else has changed its word just now"
	}
	if k.held = wish.Hold; k.held {
		k.others = false
	}
	return ""
}
