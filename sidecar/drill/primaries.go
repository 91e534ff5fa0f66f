package drill

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Ack is one acknowledged write.
type Ack struct {
	Member   string    // whose server acknowledged it
	Timeline uint32    // on which timeline it wrote
	Sent     time.Time // before it was sent
	Acked    time.Time // after the answer was read
}

// Reign is the time in which one server took writes on one timeline.
type Reign struct {
	Member    string    `json:"member"`
	Timeline  uint32    `json:"timeline"`
	FirstSent time.Time `json:"first_sent"`
	First     time.Time `json:"first"`     // the first write was acknowledged
	LastSent  time.Time `json:"last_sent"` // the last acknowledged write was sent
}

// Primaries judges acknowledged writes: who was primary, when, and whether two
// were at once. The zero value is ready.
type Primaries struct {
	mu     sync.Mutex
	reigns []Reign
}

// Add takes an acknowledged write into account. It reports whether it is the
// first of its server on its timeline.
func (p *Primaries) Add(a Ack) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.reigns {
		r := &p.reigns[i]
		if r.Member != a.Member || r.Timeline != a.Timeline {
			continue
		}
		// Workers report out of order.
		if a.Acked.Before(r.First) {
			r.FirstSent, r.First = a.Sent, a.Acked
		}
		if a.Sent.After(r.LastSent) {
			r.LastSent = a.Sent
		}
		return false
	}
	p.reigns = append(p.reigns, Reign{Member: a.Member, Timeline: a.Timeline, FirstSent: a.Sent, First: a.Acked, LastSent: a.Sent})
	return true
}

// Reigns returns who took writes, in the order of the first write.
func (p *Primaries) Reigns() []Reign {
	p.mu.Lock()
	defer p.mu.Unlock()
	reigns := slices.Clone(p.reigns)
	slices.SortFunc(reigns, func(a, b Reign) int { return a.First.Compare(b.First) })
	return reigns
}

// Overlaps returns, in words, each pair of servers that took writes at once: the
// one acknowledged a write that was sent after the other had acknowledged its
// first, and the other the same. A server that leads twice does so on two
// timelines, so a legitimate return is no overlap.
func (p *Primaries) Overlaps() (found []string) {
	for _, o := range p.overlaps() {
		found = append(found, o.String())
	}
	return found
}

// overlap is a pair of servers that took writes at once.
type overlap struct{ before, after Reign }

func (o overlap) String() string {
	return fmt.Sprintf("%s (timeline %d) still took writes %v after %s (timeline %d) had taken its first",
		o.before.Member, o.before.Timeline, o.lasted().Round(time.Millisecond), o.after.Member, o.after.Timeline)
}

func (o overlap) lasted() time.Duration { return o.before.LastSent.Sub(o.after.First) }

func (p *Primaries) overlaps() (found []overlap) {
	reigns := p.Reigns()
	for i, a := range reigns {
		for _, b := range reigns[i+1:] {
			// b's first write lies wholly between a's first and one more of a's.
			if b.FirstSent.After(a.First) && b.First.Before(a.LastSent) {
				found = append(found, overlap{a, b})
			}
		}
	}
	return found
}
