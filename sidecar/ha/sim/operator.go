package sim

import (
	"slices"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// operator is what people ask for while things go wrong.
func (w *World) operator(f *fault, m int) {
	b := &w.members[m]
	s := &b.sidecar
	now := b.read(w.now)
	p := w.policies[len(w.policies)-1]
	switch f.kind {
	case switchover:
		s.intent = ha.Intent{Switchover: true, Since: now}
		if f.how&1 != 0 && int(f.other) != m {
			s.intent.Target = names[f.other]
		}
	case restart:
		s.intent = ha.Intent{Restart: true, Since: now}
	case reinit:
		s.intent = ha.Intent{Reinit: true, Since: now}
	case shutdown:
		s.intent = ha.Intent{Shutdown: true, Since: now}
	case tagMember:
		s.tags.NoFailover, s.tags.NoSync, s.tags.Priority = f.how&1 != 0, f.how&2 != 0, int(f.how>>4)
		if f.how&12 == 12 {
			s.tags.ReplicateFrom = names[f.other]
		}
	case removeMember:
		s.intent = ha.Intent{Remove: names[w.lostMember(int(f.other))], Since: now}
	case pausePolicy:
		p.Paused = true
		w.setPolicy(p)
	case changeMode:
		p.Mode = ha.ModeQuorum
		if f.how&1 != 0 {
			p.Mode = ha.ModeAsync
		}
		w.setPolicy(p)
	case changeK:
		p.Standbys = 1 + int(f.how)%max(1, w.n/2)
		w.setPolicy(p)
	case changeStrict:
		if w.opt.Zoned == Unzoned { // an earlier setting says nothing of zones
			p.Strict = f.how&1 != 0
		}
		w.setPolicy(p)
	}
	w.step(m)
}

// operatorDone ends what was requested, done or not.
func (w *World) operatorDone(f *fault, m int) {
	b := &w.members[m]
	s := &b.sidecar
	switch f.kind {
	case switchover, restart, reinit, removeMember:
		s.intent = ha.Intent{}
	case shutdown:
		s.intent = ha.Intent{}
		if b.hostUp && !s.alive {
			w.supervise(m, w.odd.between(10*milli, 100*milli))
		}
	case tagMember:
		s.tags = ha.Policy{}
	case pausePolicy:
		p := w.policies[len(w.policies)-1]
		p.Paused = false
		w.setPolicy(p)
	}
}

// lostMember is a member whose host is down, or else the one proposed: people
// remove what they believe to be gone, and are wrong at times.
func (w *World) lostMember(proposed int) int {
	for i := range w.n {
		if !w.members[i].hostUp {
			return i
		}
	}
	return proposed
}

// setPolicy changes the cluster's settings; each member hears of it in its own
// time.
func (w *World) setPolicy(p ha.Policy) {
	w.policies = append(w.policies, p)
	for i := range w.n {
		if s := &w.members[i].sidecar; s.alive {
			w.push(w.odd.between(milli, 300*milli), event{kind: evPolicy, m: int8(i), n: int32(len(w.policies) - 1), epoch: s.epoch})
		}
	}
}

// intents ends an operator's wish that was fulfilled.
func (w *World) intents(m int) {
	s := &w.members[m].sidecar
	v := &w.members[m].server
	in := &s.intent
	w.forceLapses(m)
	switch {
	case in.Switchover && (s.consul.Record.Leader != "" && s.consul.Record.Leader != names[m]),
		in.Restart && v.run == up && v.startedAt > in.Since,
		in.Reinit && v.run == up && v.startedAt > in.Since,
		in.ReleaseSite && s.consul.Record.StandbyOf != "",
		in.PromoteSite && s.consul.Record.Exists() && s.consul.Record.StandbyOf == "",
		in.Remove != "" && !slices.Contains(s.consul.Record.Members, in.Remove):
		s.intent = ha.Intent{}
	}
}
