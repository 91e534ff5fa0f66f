package sim

import (
	"strconv"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Consul's session limits: a TTL of ten seconds is the least it takes, and it
// ends a session anywhere between one and two TTLs after its last renewal.
const sessionTTL = 10 * second

// session is one Consul session.
type session struct {
	id       string
	member   int
	alive    bool
	expireAt int64
}

// consul is the store: linearizable, one record and one lock.
type consul struct {
	record   ha.Record
	broken   string // why the record cannot be read
	lock     ha.Lock
	index    uint64
	sessions []session
	away     int8 // no leader: nothing is answered, nothing expires
}

func (c *consul) reset() {
	*c = consul{sessions: c.sessions[:0]}
}

// session returns the live session with that id, or nil.
func (c *consul) session(id string) *session {
	for i := len(c.sessions) - 1; i >= 0; i-- {
		if c.sessions[i].id == id {
			if !c.sessions[i].alive {
				return nil
			}
			return &c.sessions[i]
		}
	}
	return nil
}

func (w *World) newSession(m int) string {
	c := &w.consul
	id := names[m] + "-" + strconv.Itoa(len(c.sessions)+1)
	c.sessions = append(c.sessions, session{id: id, member: m, alive: true})
	w.renewed(len(c.sessions) - 1)
	w.push(w.consul.sessions[len(c.sessions)-1].expireAt-w.now, event{kind: evExpiry, n: int32(len(c.sessions) - 1)})
	return id
}

// renewed starts a session's timer again.
func (w *World) renewed(i int) {
	w.consul.sessions[i].expireAt = w.now + w.odd.between(sessionTTL, 2*sessionTTL)
}

// expiry ends a session whose timer ran out; a renewed one is looked at later.
func (w *World) expiry(i int) {
	s := &w.consul.sessions[i]
	switch {
	case !s.alive:
	case w.consul.away > 0:
		w.push(second, event{kind: evExpiry, n: int32(i)})
	case s.expireAt > w.now:
		w.push(s.expireAt-w.now, event{kind: evExpiry, n: int32(i)})
	default:
		w.endSession(i, "expired")
	}
}

func (w *World) endSession(i int, why string) {
	c := &w.consul
	s := &c.sessions[i]
	if !s.alive {
		return
	}
	s.alive = false
	if w.opt.Story {
		w.tell(-1, "consul: session %s %s", s.id, why)
	}
	if c.lock.Session == s.id {
		c.lock.Session = ""
		c.index++
		c.lock.Index = c.index
		w.notify()
	}
}

// leaderChange makes Consul start every session's timer again.
func (w *World) leaderChange() {
	for i := range w.consul.sessions {
		if w.consul.sessions[i].alive {
			w.renewed(i)
		}
	}
}

// notify wakes every member's blocking query.
func (w *World) notify() {
	for i := range w.n {
		if c := &w.members[i].sidecar; c.alive && !c.watching {
			c.watching = true
			w.push(w.travel(i, i), event{kind: evWatch, m: int8(i), epoch: c.epoch})
		}
	}
}

// apply is one transaction: all of it or nothing.
func (w *World) apply(m int, ch *ha.Change) bool {
	c := &w.consul
	free := w.opt.Mutation == MutateS1 && ch.Lock == ha.LockTake && ch.Record.Index != 0
	if ch.Record.Index != c.record.Index && !free {
		return false
	}
	w.keepSnapshot()
	lock := c.lock
	switch ch.Lock {
	case ha.LockKeep:
		if c.session(ch.Session) == nil || lock.Session != ch.Session {
			return false
		}
	case ha.LockRelease:
		if lock.Session != ch.Session || ch.Session == "" {
			return false
		}
		lock.Session = ""
	case ha.LockTake:
		if !free && !takeable(&lock, ch) || c.session(ch.Session) == nil {
			return false
		}
		lock.Session, lock.Holder = ch.Session, ch.Holder
	}
	old, broken := c.record, c.broken != ""
	c.index++
	if lock != c.lock || ch.Lock == ha.LockTake {
		lock.Index = c.index
	}
	c.lock = lock
	c.record, c.broken = ch.Record, ""
	c.record.Index = c.index
	w.beyond.lastMode = c.record.Durability.Mode
	w.passThrough(m, &c.record)
	if w.opt.Story {
		w.tell(m, "consul: %s applied: term %d %s %s k=%d of %v timeline %d members %v origin %v final %v lock %s", ch.What, c.record.Term, c.record.Leader, c.record.Phase,
			c.record.Durability.K, c.record.Durability.Voters, c.record.Timeline, c.record.Members, c.record.Origin, c.record.Final != nil, c.lock.Session)
	}
	w.checkRecord(m, &old, broken)
	w.notify()
	return true
}

// takeable follows Consul's verbs: what Prior names as held is removed by
// delete-cas, then lock succeeds if nobody else holds the key.
func takeable(lock *ha.Lock, ch *ha.Change) bool {
	if ch.Prior.Index != 0 && ch.Prior.Session != "" {
		return lock.Index == ch.Prior.Index
	}
	return lock.Session == "" || lock.Session == ch.Session
}
