package postgres

import (
	"errors"
	"sync/atomic"
)

// The bounds of a program's attempt to connect to the source of a copy or rewind, in
// seconds (libpq's connect_timeout). A source that is gone is to be noticed soon; one
// that is overloaded accepts late, and an attempt that is always cut off at the same
// moment never succeeds there, while each costs the source a process.
const firstReach, longestReach = 5, 60

// reach is how long the next attempt to connect to a source may take: longer after
// each that got no connection.
type reach struct{ failed atomic.Int32 }

// seconds is what the next attempt is given.
func (r *reach) seconds() int {
	return min(firstReach<<min(r.failed.Load(), 4), longestReach)
}

// learn takes in what came of an attempt.
func (r *reach) learn(err error) {
	if errors.Is(err, ErrUnreachable) {
		r.failed.Add(1)
		return
	}
	r.failed.Store(0)
}
