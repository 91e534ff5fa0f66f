package sidecar

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// intents is what people asked this member to do, until it is done or given up.
type intents struct {
	mu     sync.Mutex // guards what follows
	intent ha.Intent
	// switchoverIn is the term in which the switchover was requested: a leader of a
	// later one has done it.
	switchoverIn uint64
	// siteIn is the term in which a change of sites was requested, likewise.
	siteIn uint64
	// restartAt is when the restart was requested: a server started since has done it.
	restartAt ha.Instant
}

// Shutdown asks the member to hand over, stop its server and end. Run returns
// when it is done.
func (s *Sidecar) Shutdown() {
	s.ask(func(i *intents) { i.intent.Shutdown = true })
}

// Switchover asks the primary to hand over to the target, or to the best
// member. The answer is in the snapshots: the leader of a later term, or
// State.Refused. Transactions that are open after drain are ended; zero: for them it
// is given up.
func (s *Sidecar) Switchover(target string, drain time.Duration) {
	term := s.opts.Cluster.View().Consul.Record.Term
	s.ask(func(i *intents) {
		i.intent.Switchover, i.intent.Target, i.intent.Drain, i.switchoverIn = true, target, drain, term
	})
}

// PromoteSite asks the leader of a standby cluster to let it take writes itself, once it
// has all up to final; nil: the other site is gone. The answer is in the snapshots: a
// record of a later term that follows nobody, or a State.Promotion of the time returned that
// was refused, and then is not carried out later.
func (s *Sidecar) PromoteSite(final *ha.Position) (asked ha.Instant) {
	term := s.opts.Cluster.View().Consul.Record.Term
	return s.ask(func(i *intents) { i.intent.PromoteSite, i.intent.SiteFinal, i.siteIn = true, final, term })
}

// ReleaseSite asks the primary to stop, and its cluster to follow the other site's from
// then on. The answer is in the snapshots, likewise.
func (s *Sidecar) ReleaseSite(drain time.Duration) {
	term := s.opts.Cluster.View().Consul.Record.Term
	s.ask(func(i *intents) { i.intent.ReleaseSite, i.intent.Drain, i.siteIn = true, drain, term })
}

// WithdrawSite takes back a requested change of sites.
func (s *Sidecar) WithdrawSite() {
	s.intend(func(i *intents) {
		i.intent.PromoteSite, i.intent.ReleaseSite, i.intent.SiteFinal = false, false, nil
	})
}

// Restart asks for a restart of the local server.
func (s *Sidecar) Restart() {
	s.ask(func(i *intents) { i.intent.Restart, i.restartAt = true, s.opts.Now() })
}

// Reinit asks for a new clone of a replica.
func (s *Sidecar) Reinit() { s.ask(func(i *intents) { i.intent.Reinit = true }) }

// Restore asks the primary to restore a backup in place. The answer is in the snapshots:
// a record of that restore.
func (s *Sidecar) Restore(r ha.Restoring) { s.ask(func(i *intents) { i.intent.Restore = r }) }

// GiveUpRestore asks for the end of a restore that is under way.
func (s *Sidecar) GiveUpRestore() { s.ask(func(i *intents) { i.intent.GiveUp = true }) }

// WithdrawRestore takes back both.
func (s *Sidecar) WithdrawRestore() {
	s.intend(func(i *intents) { i.intent.Restore, i.intent.GiveUp = ha.Restoring{}, false })
}

// Remove asks the primary to take a member off the record. The answer is in the
// snapshots: a record without it, or State.Refused.
func (s *Sidecar) Remove(member string) { s.ask(func(i *intents) { i.intent.Remove = member }) }

// Force lets this member lead without the votes that safety asks for.
func (s *Sidecar) Force() { s.ask(func(i *intents) { i.intent.Force = true }) }

// WithdrawSwitchover takes back a requested switchover, and nothing that
// somebody else has asked for meanwhile.
func (s *Sidecar) WithdrawSwitchover() {
	s.intend(func(i *intents) { i.intent.Switchover, i.intent.Target, i.intent.Drain = false, "", 0 })
}

// WithdrawRemoval takes back a removal, likewise.
func (s *Sidecar) WithdrawRemoval() { s.intend(func(i *intents) { i.intent.Remove = "" }) }

// WithdrawForce takes back what Force allowed.
func (s *Sidecar) WithdrawForce() { s.intend(func(i *intents) { i.intent.Force = false }) }

func (s *Sidecar) ask(change func(*intents)) (at ha.Instant) {
	s.intend(func(i *intents) {
		change(i)
		at = s.opts.Now()
		i.intent.Since = at
	})
	return at
}

// intend changes what is requested, and has it decided on.
func (s *Sidecar) intend(change func(*intents)) {
	s.intents.change(change)
	s.notify()
	s.lookNow() // who streams decides whether a handover can begin
}

func (i *intents) change(f func(*intents)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f(i)
}

// cloned forgets that a new clone was requested.
func (i *intents) cloned() { i.change(func(i *intents) { i.intent.Reinit = false }) }

// switchoverPatience is how long a requested switchover is tried. Later
// it would surprise the person who asked. It is longer than the checkpoint before it
// may take, and as long as the API lets a client wait.
const switchoverPatience = time.Minute

// fulfil forgets what is done, and a switchover or a forced failover that was not
// done in time: a server that was stopped for it starts again. It returns what is
// still asked for.
func (i *intents) fulfil(o *ha.Observation, log hclog.Logger) ha.Intent {
	i.mu.Lock()
	defer i.mu.Unlock()
	r, v, now := &o.Consul.Record, &o.Server, &i.intent
	late := !now.Since.Within(switchoverPatience, o.Now)
	if now.Switchover && late && r.Term <= i.switchoverIn {
		log.Warn("the switchover was not done in time, and is given up", "target", now.Target)
	}
	if now.Switchover && (late || r.Term > i.switchoverIn) {
		now.Switchover, now.Target, now.Drain = false, "", 0
	}
	if (now.PromoteSite || now.ReleaseSite) && (late || r.Term > i.siteIn) {
		now.PromoteSite, now.ReleaseSite, now.SiteFinal = false, false, nil
	}
	if id := now.Restore.ID; id != "" && (late || r.Restore.ID == id || r.Restored == id) {
		now.Restore = ha.Restoring{}
	}
	now.GiveUp = now.GiveUp && !late && r.Phase == ha.PhaseRestoring
	if now.Remove != "" && r.Exists() && !slices.Contains(r.Members, now.Remove) {
		now.Remove = ""
	}
	if r.Leader == o.Self && r.Phase == ha.PhaseLeading {
		now.Reinit = false // a person has decided that it leads since
	}
	if now.Restart && v.StartedAt > i.restartAt && v.InRecovery != ha.Unknown {
		now.Restart = false
	}
	if now.Force && (late || r.Leader == o.Self && r.Phase == ha.PhaseLeading && v.InRecovery == ha.No && !v.Hidden) {
		now.Force = false
	}
	return *now
}
