package ha

import (
	"cmp"
	"slices"
)

// A primary whose server does not answer, or takes no writes by the fault of its machine.
// Another takes over by itself if it surely has all that was acknowledged, or can get it; else
// status names who could, and a person decides.

// serverHangs reports whether a server that did answer has been silent so long that
// another should take over, and one can.
func (v *view) serverHangs() bool {
	return (v.o.Policy.Automatic && !v.paused() && v.silent(v.hangsEarly()) && v.chosenSuccessor(false) != nil) || v.silentLong() && v.leftByPerson()
}

// silent reports whether the server does not answer, and for how long it has not.
func (v *view) silent(early bool) bool {
	sv := &v.o.Server
	return !sv.ServesOthers() && (sv.SeenAt != 0 || sv.LoginProblem != "" || sv.SessionsUsed) && sv.FailingSince != 0 && (early || v.after(sv.FailingSince, v.patience()))
}

// ServesOthers reports whether the server answers its clients, and refuses this program alone.
func (sv *Server) ServesOthers() bool {
	return sv.LoginRefused && (sv.Writable == Yes || sv.SessionsUsed) && !sv.Hidden
}

func (v *view) silentLong() bool { return v.silent(false) }

// hangsEarly reports whether the server is taken for one that hangs before its silence has
// lasted for the failure time-out. In quorum mode a wrong guess costs a short pause, and no
// commit; after crashes in a row it would cost one pause after the other.
func (v *view) hangsEarly() bool { return v.o.Server.Hangs && v.guessIsCheap() }

// guessIsCheap reports whether a handover that was not needed costs a short pause and no more.
func (v *view) guessIsCheap() bool {
	return v.rec.Durability.Mode == ModeQuorum && !v.follower() && v.patience() == v.o.Policy.FailureTimeout
}

// faulty reports whether the server takes no writes by the fault of its machine.
func (v *view) faulty() bool {
	sv := &v.o.Server
	return sv.Writable == No && (sv.FaultyAt != 0 && v.after(sv.FaultyAt, v.o.Policy.FailureTimeout) || sv.WritesHang && v.guessIsCheap())
}

// machineFault reports whether that is so, and another can take over.
func (v *view) machineFault() bool {
	return v.faulty() && (v.o.Policy.Automatic && !v.paused() && v.chosenSuccessor(false) != nil || v.leftByPerson())
}

// leftByPerson reports whether a person asks for a handover to a member that is heard and has
// data, on record or not: a server that cannot hand over is stopped then, and what comes of it
// says whether that member may lead.
func (v *view) leftByPerson() bool { return v.o.Intent.Switchover && v.couldLead() != "" }

// couldLead is who could lead in the place of this primary, if a person accepts the loss; a member
// that has just been cloned may not be on record yet. Empty: nobody is heard.
func (v *view) couldLead() string {
	if p := v.chosenSuccessor(true); p != nil {
		return p.Member
	}
	if to := v.bestHeard(); to != "" {
		return to
	}
	best := candidate{} // one that is to be cloned anew, say, from this primary
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		c := p.candidate()
		if v.fresh(p) && p.Link == LinkUp && p.Report.Role == RoleReplica && c.position.Known() && !v.strays(p) &&
			!slices.Contains(p.Report.Tags, Tag{Name: "nofailover", Value: "true"}) && (best.member == "" || c.better(best)) {
			best = c
		}
	}
	return best.member
}

// namesSuccessor completes the block of a primary that takes no writes, where nobody takes over by
// itself, as no standby surely holds each commit.
func (v *view) namesSuccessor(b Block) Block {
	switch to := v.couldLead(); {
	case to == "":
	case v.chosenSuccessor(false) != nil && v.paused():
		b.Override, b.Cost = "pgsidecar resume", to+" takes over"
	case v.chosenSuccessor(false) == nil || v.rec.Phase == PhasePromoting: // in which nobody takes over from one that is heard
		b.Override, b.Cost = failoverTo(to), "every commit that "+to+" does not have"
	}
	return b
}

func (v *view) silentBlock() Block {
	return v.namesSuccessor(Block{What: "the server of " + v.o.Self + " does not answer", Missing: "an answer to a query: its disk, or the server, may hang"})
}

func (v *view) noWritesBlock() Block {
	b := Block{What: "the primary takes no writes", Missing: cmp.Or(v.o.Server.WriteProblem, "a write that succeeds")}
	if v.o.Server.FaultyAt != 0 {
		b = v.namesSuccessor(b)
	}
	return b
}
