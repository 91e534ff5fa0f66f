package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// An operator looks at a cluster that faults from outside have left, and types
// what status names: State.Blocks of some member. He is patient first.
const (
	operatorPatience = 30 * second
	operatorPause    = 15 * second  // from one command to the next
	operatorGivesUp  = 270 * second // and the run has failed
)

// command is what the operator has typed, and how often.
type command struct {
	text  string
	times int
}

// endsWithin is how long a run may go on after the faults.
func (w *World) endsWithin() int64 {
	if w.opt.Outside != 0 {
		return operatorGivesUp + w.longestReplay() + operatorPause
	}
	return writableWithin + settledWithin
}

// longestReplay is how long a server of this run may have had to replay; one that has done
// it, or was promoted, has taken the time.
func (w *World) longestReplay() int64 { return w.beyond.replays }

// rescue looks, after faults from outside, whether the cluster is whole, and
// types a command if it does not mend itself.
func (w *World) rescue() {
	why := w.unsettled()
	since := w.now - w.check.calmAt - w.longestReplay()
	switch {
	case why == "":
		w.check.settled = true
	case w.nothingLeft():
		w.beyond.outcome.Nothing, w.check.settled = true, true
	case since > operatorGivesUp && w.beyond.wildClocks && w.mode() == ha.ModeAsync:
		// A candidate whose clock is slow by half waits for the lease's end for longer than the
		// others wait for it: S6 is of clocks that run alike within one part in twenty.
		w.beyond.outcome.Clock++
		w.check.settled = true
	case since > operatorGivesUp && len(w.beyond.typed) == 0:
		w.fail(w.stuckRule("no command"), -1, "%d s after the faults ceased %s, and status names no command", since/second, w.stuckAs(why))
	case since > operatorGivesUp:
		w.fail(w.stuckRule("stuck"), -1, "%d s after the faults ceased %s, and what status names did not help: %s", since/second, w.stuckAs(why), w.typedText())
	case since > operatorPatience && w.now >= w.beyond.typedAt+operatorPause:
		w.typeNamed(why)
	}
}

// stuckRule tells a cluster without writes from one that only lacks a standby.
func (w *World) stuckRule(rule string) string {
	if w.served() && w.res.Recovered != 0 {
		return "standby " + rule
	}
	return rule
}

// served says whether there is a primary on record that takes writes.
func (w *World) served() bool {
	l := w.index(w.consul.record.Leader)
	return l >= 0 && w.accepts(l) && w.members[l].server.hung <= w.now
}

// stuckAs says what is wrong, and what the members say of it.
func (w *World) stuckAs(why string) string {
	if w.res.Recovered == 0 {
		why = "no commit was possible; " + why
	}
	for m := range w.n {
		if s := &w.members[m].sidecar; s.alive && len(s.state.Blocks) > 0 {
			why += fmt.Sprintf("; %s: %s (%s)", names[m], s.state.Blocks[0].What, s.state.Blocks[0].Missing)
		}
	}
	return why
}

func (w *World) typedText() string {
	all := ""
	for i := range w.beyond.typed {
		all += fmt.Sprintf("%d times %q ", w.beyond.typed[i].times, w.beyond.typed[i].text)
	}
	return all
}

// nothingLeft says whether no member has data from which a cluster could go on.
func (w *World) nothingLeft() bool {
	for m := range w.n {
		b := &w.members[m]
		if s := &b.server; !b.gone && s.data == ha.DataPresent && !s.half && !s.founding && s.rewound < 0 && len(s.log) > 0 {
			return false
		}
	}
	return true
}

// moveAway is what a person does with a directory that its member leaves untouched.
const moveAway = "mv away the data directory of "

// typeNamed types the command that was typed least often of those that status
// names; nobody accepts a loss only to have one more standby, but that what others have and the
// primary lacks is none.
func (w *World) typeNamed(why string) {
	best, reason, times := "", "", 0
	for m := range w.n {
		s := &w.members[m].sidecar
		if text := moveAway + names[m]; strings.Contains(w.members[m].exitedFor, "Move it away") && w.typedTimes(text) == 0 {
			best, reason = text, names[m]+" exits: "+w.members[m].exitedFor
			break
		}
		for i := range s.state.Blocks {
			text := s.state.Blocks[i].Override
			if !s.alive || text == "" || w.res.Recovered != 0 && strings.Contains(text, "--accept-data-loss") && w.served() && !strings.Contains(text, " "+w.consul.record.Leader+" ") {
				continue
			}
			n := w.typedTimes(text)
			if best == "" || n < times || n == times && strings.Contains(best, "--accept-data-loss") && !strings.Contains(text, "--accept-data-loss") {
				best, times = text, n
				reason = names[m] + ": " + s.state.Blocks[i].What + ": " + s.state.Blocks[i].Missing
			}
		}
	}
	if best == "" {
		return
	}
	w.beyond.typedAt, w.beyond.outcome.Reason = w.now, reason
	w.beyond.outcome.Commands++
	if i := slices.IndexFunc(w.beyond.typed, func(c command) bool { return c.text == best }); i >= 0 {
		w.beyond.typed[i].times++
	} else {
		w.beyond.typed = append(w.beyond.typed, command{best, 1})
	}
	w.tell(-1, "%s; OPERATOR TYPES %s", why, best)
	w.typeCommand(best)
}

func (w *World) typedTimes(text string) int {
	for i := range w.beyond.typed {
		if w.beyond.typed[i].text == text {
			return w.beyond.typed[i].times
		}
	}
	return 0
}

// typeCommand does what the command line does.
func (w *World) typeCommand(text string) {
	word := strings.Fields(text)
	p := w.policies[len(w.policies)-1]
	switch {
	case text == "pgsidecar resume":
		p.Paused = false
		w.setPolicy(p)
	case text == "pgsidecar settings set durability.strict=false":
		p.Strict = false
		w.setPolicy(p)
	case text == "pgsidecar restore --give-up":
		w.giveUpRestore()
	case strings.HasPrefix(text, moveAway):
		w.loseDisk(&fault{}, w.index(strings.TrimPrefix(text, moveAway)), false)
	case strings.HasPrefix(text, "pgsidecar reinit ") && w.index(word[2]) >= 0:
		m := w.index(word[2])
		w.members[m].sidecar.intent = ha.Intent{Reinit: true, Since: w.members[m].read(w.now)}
		w.step(m)
	case strings.HasPrefix(text, "pgsidecar failover --to ") && strings.HasSuffix(text, " --accept-data-loss") && w.index(word[3]) >= 0:
		w.typeFailover(w.index(word[3]))
	default:
		w.fail("unknown command", -1, "status names %q, and the simulated operator does not know how to type it", text)
	}
}

// typeFailover is `pgsidecar failover --to m --accept-data-loss`: a switchover
// while there is a primary that is heard, and whose record Consul has.
func (w *World) typeFailover(m int) {
	s := &w.members[m].sidecar
	if !s.alive {
		return
	}
	r, last := &s.consul.Record, &s.state.Last
	lost := last.Term != 0 && (r.Term != last.Term || r.Index != last.Index)
	if leader := w.index(r.Leader); s.state.Hears && leader != m && leader >= 0 && r.Phase == ha.PhaseLeading && !lost {
		l := &w.members[leader]
		l.sidecar.intent = ha.Intent{Switchover: true, Target: names[m], Since: l.read(w.now)}
		w.step(leader)
		return
	}
	w.beyond.accepting, w.beyond.accepted = true, w.beyond.outcome.Accepted
	s.intent = ha.Intent{Force: true, Since: w.members[m].read(w.now)}
	w.step(m)
}

// forceLapses withdraws an accepted loss when it has done its work, or after
// the time that the command waits.
func (w *World) forceLapses(m int) {
	s, v := &w.members[m].sidecar, &w.members[m].server
	if !w.beyond.accepting {
		return
	}
	r := &s.consul.Record
	if s.intent.Force && (!s.intent.Since.Within(60e9, w.members[m].read(w.now)) || r.Leader == names[m] && r.Phase == ha.PhaseLeading && v.run == up && !v.inRecovery && !v.hidden) {
		s.intent.Force = false
	}
	if s.state.Forced.Spent {
		s.intent.Force = false
	}
	for i := range w.n {
		if b := &w.members[i]; b.sidecar.intent.Force || b.op.id != 0 && b.op.action.Kind == ha.Unhide {
			return // it shows what an operator has decided to show
		}
	}
	if w.consul.record.Phase == ha.PhaseLeading {
		w.beyond.accepting = false
		if w.beyond.outcome.Accepted == w.beyond.accepted {
			w.beyond.outcome.NoLoss++
		}
	}
}

// acceptedLoss says whether a commit that is lacked by who is promoted may be
// lost, as an operator has accepted it.
func (w *World) acceptedLoss() bool {
	if w.beyond.accepting {
		w.beyond.outcome.Accepted++
	}
	return w.beyond.accepting
}

// forcedTo says whether a person has decided that m is to lead, whatever it lacks.
func (w *World) forcedTo(m int) bool { return w.beyond.accepting && w.members[m].sidecar.intent.Force }

// checkPrice: what a member has that has voted, as the candidate knows, is not
// in the price of an accepted loss.
func (w *World) checkPrice(m int, ch *ha.Change) {
	if !w.beyond.accepting || ch.What != "claim" {
		return
	}
	mine := &w.members[m].server
	if mine.odd.strayed != "" {
		return // all that came since its log left the cluster's is in the price
	}
	for i := range w.members[m].sidecar.peers {
		p := &w.members[m].sidecar.peers[i]
		s := &w.members[w.index(p.Member)].server
		if !p.Report.Voted || p.Report.Term != ch.Record.Term || p.Link != ha.LinkUp || !w.heardOfLate(m, p) || !w.consul.record.Claimed(p.Report.Position) {
			continue // a log on a timeline that no term began is no vote, and what one has that is not heard is in the price
		}
		if w.members[m].sidecar.state.ChosenTerm == ch.Record.Term && !p.Report.Position.Contains(w.position(mine, len(mine.log))) {
			continue // of two logs that each acknowledged something a person has chosen one
		}
		for k := range w.check.acked {
			a := &w.check.acked[k]
			if a.term < ch.Record.Term && s.has(a) && !mine.has(a) { // it may have more since, in a term that this one has not heard of
				w.fail("price", m, "%s claims a timeline without commit %d, which %s has, and it has voted: that was not named", names[m], a.n, p.Member)
			}
		}
	}
}

// heardOfLate says whether the member has heard the peer within the failure time-out.
func (w *World) heardOfLate(m int, p *ha.Peer) bool {
	timeout := w.policies[len(w.policies)-1].FailureTimeout
	if own := w.members[m].config.timeout; own != 0 {
		timeout = time.Duration(own)
	}
	return p.ReceivedAt.Add(timeout) >= w.members[m].read(w.now) && !p.Unreachable
}

// has says whether the server's log holds an acknowledged commit.
func (s *server) has(a *ackedUpTo) bool { return len(s.log) >= a.n && s.log[a.n-1] == a.id }
