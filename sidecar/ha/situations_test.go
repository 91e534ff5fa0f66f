package ha_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

// says reports whether status says this, and names the command.
func says(s ha.State, missing, command string) bool {
	return slices.ContainsFunc(s.Blocks, func(b ha.Block) bool {
		return strings.Contains(b.Missing, missing) && strings.Contains(b.Override, command) && (command == "" || b.Cost != "")
	})
}

// The moment of every observation here; its facts were seen just then.
const now = sim.FactsNow

func leading() ha.Observation { return sim.Leading() }

func following() ha.Observation { return sim.Following() }

// asked returns the first action of the kind that is decided on.
func asked(o ha.Observation, kind ha.ActionKind) (*ha.Action, ha.State) {
	s, actions := ha.Decide(ha.State{}, o)
	for i := range actions {
		if actions[i].Kind == kind {
			return &actions[i], s
		}
	}
	return nil, s
}

// unanswered is a server that has been up for a minute and has not answered since.
func unanswered(o ha.Observation, why string, refused bool) ha.Observation {
	o.Server.SQL = ha.SQL{}
	o.Server.Probes = ha.Probes{FailingSince: now.Add(-3 * time.Second), LoginProblem: why, LoginRefused: refused}
	o.Server.StartedAt = now.Add(-4 * time.Second)
	return o
}

// longAgo decides for a member to which all that it observes has been so for a minute.
func longAgo(o ha.Observation) (ha.State, []ha.Action) {
	then := now.Add(-time.Minute)
	return ha.Decide(ha.State{LostAt: then, LostTerm: o.Consul.Record.Term, PhaseAt: then, PhaseTerm: o.Consul.Record.Term, Phase: o.Consul.Record.Phase,
		AdvancedAt: then, AdvancedTLI: 3, AdvancedLSN: 100}, o)
}

// committed is what transaction is asked for.
func committed(actions []ha.Action) string {
	for _, a := range actions {
		if a.Kind == ha.Commit {
			return a.Change.What
		}
	}
	return "nothing"
}

var forked = []ha.Fork{{TLI: 2, End: 90}}

func electing() ha.Observation { return sim.Electing() }

func promoting() ha.Observation { return sim.Promoting() }

// vote sets what a peer's vote says.
func vote(o *ha.Observation, peer int, p ha.Position) { o.Peers[peer].Report.Position = p }

// lonely is n2 that hears n1 no more.
func lonely() ha.Observation {
	o := following()
	o.Server.Receiving = ha.No
	o.Peers[0].Link, o.Peers[0].ReceivedAt = ha.LinkSilent, now.Add(-time.Minute)
	o.Peers[1].Report.Hears = false
	return o
}

// diverged is n2 with what n1, which leads, does not have.
func diverged() ha.Observation {
	o := following()
	o.Server.Receiving, o.Server.Upstream, o.Server.Settled, o.Server.Position = ha.No, "", true, at(2, 99)
	o.Peers[0].Report.Position, o.Peers[0].Report.Checkpointed = at(3, 100, forked...), true
	return o
}

// stopped is an observation's server after somebody stopped it by hand.
func stopped(o *ha.Observation) {
	o.Server.Process, o.Server.ExitedAt, o.Server.InRecovery, o.Server.Receiving = ha.ProcessStopped, now.Add(-time.Minute), ha.Unknown, ha.No
}

// silent makes a peer silent since a minute.
func silent(o *ha.Observation, peer int) {
	o.Peers[peer].Link, o.Peers[peer].ReceivedAt, o.Peers[peer].EchoSentAt = ha.LinkSilent, now.Add(-time.Minute), now.Add(-time.Minute)
}

// step is what is decided: the first transaction's name and whose the record is
// then, or the first action on the server, or the first block.
func step(o ha.Observation) string {
	state, actions := ha.Decide(ha.State{LostAt: now.Add(-time.Minute), LostTerm: o.Consul.Record.Term,
		PhaseAt: now.Add(-time.Minute), PhaseTerm: o.Consul.Record.Term, Phase: o.Consul.Record.Phase}, o)
	for i := range actions {
		switch a := &actions[i]; {
		case a.Kind == ha.Commit && a.Change.What == "claim":
			return fmt.Sprintf("claim timeline %d", a.Change.Record.Timeline)
		case a.Kind == ha.Commit:
			return a.Change.What + " to " + a.Change.Record.Leader
		case a.Kind == ha.Start && a.Primary:
			return "start as primary"
		case a.Kind == ha.Exit:
			return "exit"
		case a.Kind.OnServer():
			return strings.TrimSpace(a.Kind.String() + " " + a.From)
		}
	}
	if len(state.Blocks) > 0 {
		return "blocked: " + state.Blocks[0].Missing
	}
	return "nothing"
}

// settled decides for a member to which all that it observes has been so for a minute, and
// which remembers what it knew before.
func settled(before ha.State, o ha.Observation) (ha.State, []ha.Action) {
	then := o
	then.Now = now.Add(-time.Minute)
	s, _ := ha.Decide(before, then)
	s.LostAt, s.FollowedAt = now.Add(-time.Minute), now // it was asked all the time
	return ha.Decide(s, o)
}
