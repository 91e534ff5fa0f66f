package sim

import (
	"encoding/json"
	"slices"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// snapshot is what Consul was at one moment.
type snapshot struct {
	record   ha.Record
	lock     ha.Lock
	sessions int         // how many had been made
	acked    []ackedUpTo // under records until this one
}

// keepSnapshot notes what Consul is before a transaction.
func (w *World) keepSnapshot() {
	c := &w.consul
	if w.has(RestoreTerm|RestoreVoters) && c.record.Exists() {
		w.beyond.past = append(w.beyond.past, snapshot{c.record, c.lock, len(c.sessions), slices.Clone(w.check.acked)})
	}
}

// snapshots are those that there are, and those to which Consul was put back.
type snapshots struct {
	past   []snapshot
	unread []unread
}

// strikeConsul is what an administrator, or a disaster, does to Consul's data.
func (w *World) strikeConsul(f *fault, m int, o Outside) {
	c := &w.consul
	switch o {
	case RestoreTerm, RestoreVoters:
		w.restore(f, o)
		return
	case EmptyConsul, EmptyWithHost:
		if o == EmptyWithHost {
			w.loseHost(max(0, w.index(c.record.Leader)))
		}
		for i := range c.sessions {
			w.endSession(i, "is lost with Consul's data")
		}
		c.record, c.lock, c.index = ha.Record{}, ha.Lock{}, 10
		for i := range w.n {
			w.members[i].registered = "" // an agent that lives says it again, in its time
		}
	case DeleteKeys:
		c.record, c.lock = ha.Record{}, ha.Lock{}
	case DeleteState:
		c.record = ha.Record{}
	case DeleteLock:
		c.lock = ha.Lock{}
	case DamageState:
		if !c.record.Exists() {
			return
		}
		c.broken = "cluster record cannot be used: it is not a record in JSON"
		c.record.Index = c.index + 1
	}
	w.wentBack(o != DeleteLock && o != DamageState, "CONSUL: "+o.kind().name())
}

// restore puts Consul back to a snapshot: its keys, and its sessions.
func (w *World) restore(f *fault, o Outside) {
	c := &w.consul
	from := -1
	for i := range w.beyond.past {
		p := &w.beyond.past[i].record
		if o == RestoreTerm && p.Term < c.record.Term || o == RestoreVoters && p.Term == c.record.Term && !p.Durability.Equal(c.record.Durability) {
			if from < 0 || w.extra.chance(500) {
				from = i
			}
		}
	}
	if from < 0 || o == RestoreTerm && w.promisedBy(c.record.Term) < 2 {
		return // nobody but its leader would know of the newest term: that is in no promise
	}
	s := w.beyond.past[from]
	if s.record.Term == c.record.Term && s.record.Phase != ha.PhaseElecting {
		w.beyond.unread = append(w.beyond.unread, unread{snapshot: s})
	}
	for i := range c.sessions {
		x := &c.sessions[i]
		switch {
		case i >= s.sessions:
			x.alive = false
		case x.id == s.lock.Session && !x.alive:
			x.alive = true
			w.renewed(i)
			w.push(x.expireAt-w.now, event{kind: evExpiry, n: int32(i)})
		}
	}
	c.record, c.lock, c.broken = s.record, s.lock, ""
	w.wentBack(true, "CONSUL IS PUT BACK")
	w.tell(-1, "consul: term %d %s %s k=%d of %v lock %s", c.record.Term, c.record.Leader, c.record.Phase, c.record.Durability.K, c.record.Durability.Voters, c.lock.Session)
}

// promisedBy is how many members have promised the term on their disks, and are not gone.
func (w *World) promisedBy(term uint64) int {
	n := 0
	for i := range w.n {
		if w.members[i].server.promise >= term && !w.members[i].gone {
			n++
		}
	}
	return n
}

// wentBack tells every member's blocking query.
func (w *World) wentBack(record bool, what string) {
	w.consul.index++
	w.beyond.putBack = true
	w.beyond.noRecord = w.beyond.noRecord || record
	w.beyond.text, w.beyond.unknown = w.beyond.text[:0], false
	w.tell(-1, "%s", what)
	w.notify()
}

// sawBack takes over an answer whose indexes are lower than those known: one
// that was requested after the last answer came is newer all the same, as keys
// may be deleted and Consul be put back; else the keys are read again. It
// reports whether the answer may be taken over.
func (w *World) sawBack(m int, c *call) bool {
	s := &w.members[m].sidecar
	if w.beyond.putBack && c.kind != callWatch && c.sentAt >= s.readAt {
		return true
	}
	if w.beyond.putBack {
		w.readNow(m)
	}
	return false
}

// futureField is what only the newer of two programs knows.
const futureField = "of_a_newer_version"

// passThrough writes and reads the record as the member's program does, where
// two versions are at work: what is lost on the way is lost. Fields that the member's
// program does not know are kept, as in the key that it has read (sessions, encode).
func (w *World) passThrough(m int, r *ha.Record) {
	b := &w.beyond
	if b.version == 0 {
		return
	}
	text, err := json.Marshal(r)
	if err != nil {
		w.fail("record", m, "a record cannot be written: %v", err)
		return
	}
	fields := map[string]any{}
	if err := json.Unmarshal(text, &fields); err != nil {
		w.fail("record", m, "a record cannot be read: %v", err)
		return
	}
	known := map[string]any{}
	if len(b.text) > 0 {
		if err := json.Unmarshal(b.text, &known); err != nil {
			w.fail("record", m, "a record cannot be read: %v", err)
			return
		}
	}
	if value, has := known[futureField]; has && w.opt.Mutation != MutateKeep {
		fields[futureField] = value
	}
	if _, has := fields[futureField]; b.unknown && !has && b.version>>m&1 == 0 {
		w.fail("unknown field", m, "%s drops a field of the record that a newer program wrote", names[m])
		return
	}
	if b.version>>m&1 == 1 {
		b.unknown, fields[futureField] = true, 1
	}
	if b.text, err = json.Marshal(fields); err != nil {
		w.fail("record", m, "a record cannot be written: %v", err)
	}
}

// readThrough is the record as a program reads it out of its text.
func (w *World) readThrough(m int, r *ha.Record) {
	b := &w.beyond
	if b.version == 0 || len(b.text) == 0 || !r.Exists() {
		return
	}
	index := r.Index
	*r = ha.Record{}
	if err := json.Unmarshal(b.text, r); err != nil {
		w.fail("record", m, "a record cannot be read: %v", err)
	}
	r.Index = index
}
