package drill

import (
	"math/rand/v2"
	"time"
)

// pace is how one client of a drill goes on while it gets no answers. A client that
// tries again at once, and gives each attempt up after the same time, keeps a slow
// machine from ever coming back: each attempt costs the server a process, which is
// begun for a client that has gone before it is ready. So both the wait before an
// attempt and the patience with it grow with the time since the last answer, and stay
// a small part of it, so that what is measured stays true: 1 % and an eighth.
type pace struct {
	answered time.Time
	crowd    time.Duration // Route.Crowd
}

// pace returns that of a new client.
func (r Route) pace() pace { return pace{answered: time.Now(), crowd: r.Crowd} }

// paceFrom is how long a client is as impatient as it was told to be: in a failover that
// takes as long as it should, nothing is stretched.
const paceFrom = 4 * time.Second

// The bounds of both.
const longestWait, longestPatience = time.Second, 10 * time.Second

// answer notes an answer.
func (p *pace) answer() { p.answered = time.Now() }

// before returns how long to wait before the next attempt.
func (p *pace) before() time.Duration {
	return max(time.Millisecond+rand.N(2*time.Millisecond), min(p.silence()/100, longestWait))
}

// patience returns how long an attempt is given that is given least at first.
func (p *pace) patience(least time.Duration) time.Duration {
	least = max(least, p.crowd)
	if p.silence() < paceFrom {
		return least
	}
	return max(least, min(p.silence()/8, longestPatience))
}

func (p *pace) silence() time.Duration { return time.Since(p.answered) }
