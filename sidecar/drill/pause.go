package drill

import (
	"slices"
	"time"
)

// Pause is a time in which nothing was answered.
type Pause struct {
	From time.Time `json:"from"` // the last answer before it, or the start
	To   time.Time `json:"to"`   // the first after it, or the stop
	Open bool      `json:"open,omitempty"`
}

// Length returns how long the pause was.
func (p Pause) Length() time.Duration { return p.To.Sub(p.From) }

// shortestPause is what is not remembered as a pause: a busy machine's jitter.
const shortestPause = 10 * time.Millisecond

// pauses remembers the times without an answer. It is not for several
// goroutines at once.
type pauses struct {
	all     []Pause
	last    time.Time // the last answer, or the start
	stopped time.Time // zero: it goes on
}

func (p *pauses) start(at time.Time) { *p = pauses{last: at} }

// answer takes an answer into account. After the stop none counts.
func (p *pauses) answer(at time.Time) {
	if !p.stopped.IsZero() {
		return
	}
	if pause := (Pause{From: p.last, To: at}); pause.Length() >= shortestPause {
		p.all = append(p.all, pause)
	}
	if at.After(p.last) {
		p.last = at
	}
}

// stop ends a pause that goes on.
func (p *pauses) stop(at time.Time) {
	if !p.stopped.IsZero() {
		return
	}
	p.stopped = at
	if pause := (Pause{From: p.last, To: at, Open: true}); pause.Length() >= shortestPause {
		p.all = append(p.all, pause)
	}
}

// longest returns the longest pause that ended after from, and not after to.
// The zero to is no limit, and then a pause that still goes on counts too.
func (p *pauses) longest(from, to time.Time) Pause {
	var longest Pause
	all := p.all
	if p.stopped.IsZero() && to.IsZero() {
		all = append(slices.Clone(all), Pause{From: p.last, To: time.Now(), Open: true})
	}
	for _, pause := range all {
		if pause.To.After(from) && (to.IsZero() || !pause.To.After(to)) && pause.Length() > longest.Length() {
			longest = pause
		}
	}
	return longest
}
