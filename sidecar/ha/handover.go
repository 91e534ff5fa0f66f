package ha

import (
	"cmp"
	"slices"
	"time"
)

// handoverRules are a planned handover: a checkpoint, so that the stop is short;
// then the registration is withdrawn, by which proxies hold their clients; then
// the server is stopped, and the final position is the vote. A switchover that
// open transactions would not let happen is given up, and the registration comes
// back.
var handoverRules = [...]rule{
	// Nobody would be better off.
	{"handover-in-vain", func(v *view) bool {
		return !v.handoverAsked() && (v.unready() != "" || v.chosenSuccessor(true).Report.Agentless)
	}, nil, ends},
	{"handover-not-stopped", func(v *view) bool {
		return v.yields() && v.o.Busy.FailedKind == Stop && v.o.Busy.FailedAt > v.o.Intent.Since
	}, func(t *turn) { t.s.Refused = cmp.Or(t.o.Server.Problem, "the server was not stopped") }, ends},
	// It is not refused by what was seen before it was requested.
	{"handover-refused", func(v *view) bool {
		sv := &v.o.Server
		return v.handoverUnready() && (sv.SeenAt > v.o.Intent.Since || sv.FailingSince != 0)
	}, func(t *turn) { t.s.Refused = t.unready() }, ends},
	{"handover-unready", (*view).handoverUnready, nil, ends},
	// Where nobody can log in there is none to be had.
	{"handover-checkpoint", func(v *view) bool {
		return v.o.Server.LoginProblem == "" && v.o.Server.CheckpointAt < v.handoverSince() && !v.after(v.handoverSince(), checkpointPatience)
	}, func(t *turn) {
		t.do(Action{Kind: Checkpoint, Planned: true, Why: "the stop that follows is to be short"})
	}, ends},
	{"handover-without-consul", func(v *view) bool {
		return v.consulMissing() && v.after(v.withdrawnSince(), v.o.Policy.FailureTimeout)
	}, func(t *turn) { t.s.Refused = "Consul does not answer, and a handover needs it" }, ends},
	{"handover-await-consul", (*view).consulMissing, nil, ends}, // it may be for a moment only
	{"handover-withdraw", nil, func(t *turn) { t.tag, t.evict, t.leaves = "", nil, true }, goesOn},
	// The successor evicts what an agent does not withdraw.
	{"handover-await-withdrawal", func(v *view) bool {
		a := &v.o.Announced
		return (!a.Known || a.Tag == "primary") && v.o.Consul.AgentLostAt == 0 && !v.after(v.withdrawnSince(), v.o.Policy.FailureTimeout)
	}, nil, ends},
	{"handover-stop", nil, (*turn).stopToHandOver, ends},
}

// handoverDue reports whether this primary is to hand over, or to stop for a restart.
func (v *view) handoverDue() bool {
	stranded := v.agentGone()
	return v.handoverAsked() || stranded
}

func (v *view) handoverAsked() bool {
	intent := &v.o.Intent
	return intent.Switchover || intent.Shutdown || intent.Restart || intent.ReleaseSite
}

// yields reports whether the handover is given up where it would end transactions.
func (v *view) yields() bool { return v.o.Intent.Switchover && !v.shutdown() }

func (v *view) handoverUnready() bool {
	return !v.o.Intent.Restart && v.unready() != "" && !v.shutdown()
}

// handoverSince is when the handover was requested, or became due as nobody finds this member.
func (v *view) handoverSince() Instant {
	due := v.o.Consul.strandedAt()
	if due != 0 {
		due = due.Add(v.o.Policy.AgentTimeout)
	}
	return max(v.o.Intent.Since, due)
}

// withdrawnSince is when the registration could first be withdrawn: after the checkpoint.
func (v *view) withdrawnSince() Instant { return max(v.handoverSince(), v.o.Server.CheckpointAt) }

func (v *view) consulMissing() bool {
	return (v.yields() || v.o.Intent.ReleaseSite) && v.o.Consul.Reachable == No && v.o.Busy.Server != Stop
}

func (t *turn) stopToHandOver() {
	why := "hand over as asked"
	if t.agentGone() {
		why = "hand over: " + t.strandedWhy()
	}
	drain := t.o.Intent.Drain
	t.do(Action{Kind: Stop, Planned: true, Yield: t.yields() && drain == 0, Drain: drain, Why: why})
}

// strandedAt is since when nobody finds this member by DNS; zero: it is found.
func (c *Consul) strandedAt() Instant { return cmp.Or(c.AgentLostAt, c.HiddenAt) }

// strandedWhy says why not.
func (v *view) strandedWhy() string {
	if v.o.Consul.AgentLostAt == 0 {
		return "DNS hides " + v.o.Self + ": " + v.o.Consul.HiddenBy
	}
	return "the Consul agent of " + v.o.Self + " does not answer, and DNS hides the node"
}

// agentGone reports whether this primary has been hidden, by the loss of its own agent or by
// what Consul says of its node, so long that another member, which DNS does not hide, is to lead. Where all of Consul is away
// nothing can be handed over, and nobody would be better off.
func (v *view) agentGone() bool {
	at, policy := v.o.Consul.strandedAt(), &v.o.Policy
	return at != 0 && v.o.Consul.Reachable == Yes && policy.AgentTimeout > 0 && policy.Automatic && !policy.Paused && v.after(at, policy.AgentTimeout)
}

// checkpointPatience bounds the checkpoint before a planned stop, which then
// makes one that takes as long, with clients waiting.
const checkpointPatience = 30 * time.Second

// maxHandoverLag is how far the target of a switchover may be behind, in receiving
// and in replaying: what is left is sent while the server shuts down, and replayed
// before the target takes writes, and clients wait for it.
const maxHandoverLag = 16 << 20

// unready says why no switchover, or no change of sites, can begin.
func (v *view) unready() string {
	if v.o.Intent.ReleaseSite {
		return v.siteUnready()
	}
	p := v.chosenSuccessor(true)
	switch {
	case p == nil:
		return "no other member can lead now"
	case v.o.Intent.Target != "" && p.Member != v.o.Intent.Target:
		return v.cannotLead(v.o.Intent.Target)
	case p.PortSilent && v.anotherAnswers(p):
		return "the port of the server of " + p.Member + " does not answer here, so clients may not reach it either; is a firewall in front of it?"
	case p.candidate().late:
		return p.Member + " has more than 16 MiB to replay, and writes would wait for that; pgsidecar status shows its lag"
	}
	for i := range v.o.Server.Walsenders {
		w := &v.o.Server.Walsenders[i]
		if w.Member == p.Member && w.Streaming && w.Flush+maxHandoverLag >= v.o.Server.Position.LSN {
			return ""
		}
	}
	return p.Member + " does not stream, or is more than 16 MiB behind"
}

// anotherAnswers reports whether another than a member whose port is silent could lead. Where
// there is none, it may be this host that gets through to nobody, and then a handover is the way out.
func (v *view) anotherAnswers(silent *Peer) bool {
	return slices.ContainsFunc(v.o.Peers, func(p Peer) bool {
		return p.Member != silent.Member && !p.PortSilent && v.fresh(&p) && p.Link == LinkUp && p.Report.Eligible && p.Report.Role == RoleReplica
	})
}

// cannotLead says why a member cannot.
func (v *view) cannotLead(member string) string {
	p := v.peer(member)
	if !v.fresh(p) || p.Link != LinkUp {
		return member + " cannot lead now: it is not heard"
	}
	r, why := &p.Report, ""
	switch {
	case !slices.Contains(v.rec.Members, member):
		why = "it is not on the cluster's record yet; it joins when its server streams"
	case r.Strayed != "":
		why = "it has log that is none of this cluster's"
	case r.Blocked != "" && !r.Eligible:
		why = r.Blocked
	case r.Role == RoleStopped:
		why = "its server does not run"
	case r.Session == "":
		why = "it has no session in Consul"
	case slices.Contains(r.Tags, Tag{Name: "nofailover", Value: "true"}):
		why = "it has the tag nofailover"
	case !r.Eligible:
		why = "its data are made anew, or owe log, or it is about to end"
	default:
		why = "pgsidecar status shows its state"
	}
	return member + " cannot lead now: " + why
}

// siteUnready says why the writes cannot be given to the other site: only one that streams is
// sent what is left while the server shuts down.
func (v *view) siteUnready() string {
	for i := range v.o.Server.Walsenders {
		w := &v.o.Server.Walsenders[i]
		if OfOtherSite(w.Member) && w.Streaming && w.Flush+maxHandoverLag >= v.o.Server.Position.LSN {
			return ""
		}
	}
	return v.o.Policy.StandbyOf + " does not stream from this site yet, or is more than 16 MiB behind"
}
