package ha

import (
	"strconv"
	"time"
)

// A primary that crashes soon after it was started would be followed by the next, at full
// speed and for ever, where what makes it crash follows the clients: a query, or more load
// than any of the members bears. Failovers cost more than restarts then: clients lose their
// connections all the same, and the replicas, which still answer reads, are pointed anew or
// rewound. A crash comes soon if the cluster was not whole again after the one before.

// maxCrashes is how many terms in a row may end by crashes soon after they began before
// the next primary that crashes is restarted in its place.
const maxCrashes = 3

// steadyTime is how long after its start a server's crash counts as another one where the
// cluster does not become whole.
const steadyTime = 10 * time.Second

// maxRestarts is how often in a row it is restarted before another is to try again: its
// machine may be the cause.
const maxRestarts = 3

// restartPause is how long after its crash such a primary is started again; it doubles with
// each restart.
const restartPause = time.Second

// noteCrash counts the crashes of this leader's server that came soon after the one before.
func (t *turn) noteCrash() {
	s, sv := &t.s, &t.o.Server
	if t.rec.Leader != t.o.Self || t.rec.Phase != PhaseLeading {
		s.Damped = false
		return
	}
	if s.CrashTerm != t.rec.Term {
		s.CrashTerm, s.Restarts, s.CrashAt, s.CrashedSoon, s.Whole = t.rec.Term, 0, 0, false, false
	}
	if t.stopped() && sv.ExitedAt != 0 && sv.ExitedAt != s.CrashAt {
		s.CrashAt, s.CrashedSoon = sv.ExitedAt, !s.Whole && !sv.CleanStop && sv.ExitedAt < max(s.PhaseAt, sv.StartedAt).Add(steadyTime)
		if s.Whole = false; s.CrashedSoon {
			s.Restarts++
		} else {
			s.Restarts = 0
		}
	}
	s.Whole = s.Whole || t.serving() && t.whole()
	s.Damped = t.damped()
}

// whole reports whether all members on record stream from this primary.
func (v *view) whole() bool {
	for _, m := range v.rec.Members {
		if m != v.o.Self && !v.streams(m) {
			return false
		}
	}
	return true
}

// damped reports whether this leader, whose server has crashed, is to start it in its place
// although another could lead.
func (v *view) damped() bool {
	return !v.serving() && v.rec.Crashes >= maxCrashes &&
		0 < v.s.Restarts && v.s.Restarts <= maxRestarts && !v.gaveUp(Start) && v.s.UnseenTerm != v.rec.Term &&
		!v.o.Intent.Shutdown && !v.o.Intent.Switchover && v.present() && v.o.Server.WasPrimary
}

// restsAfterCrash reports whether the server of such a leader is not started yet.
func (v *view) restsAfterCrash() bool {
	return v.s.Damped && !v.after(v.o.Server.ExitedAt, restartPause<<(v.s.Restarts-1))
}

// crashLoopBlock stands until a primary has lived for a while.
func (v *view) crashLoopBlock() Block {
	return Block{What: "failover after a crash is held back", Missing: "a primary that runs for a while: those of the last " +
		strconv.Itoa(v.rec.Crashes) + " terms crashed soon after they began. What makes them crash comes with the clients: a query, or more load than a server bears. " +
		"postgresql.log in postgres.state_dir says why"}
}

func (v *view) restsBlock() Block {
	return Block{What: "the primary is not started yet", Missing: "a moment's rest after its crash"}
}

// crashes is Record.Crashes of the term after this leader's, whose server is down.
func (v *view) crashes() int {
	switch {
	case v.o.Intent.Shutdown || v.o.Intent.Switchover || v.o.Server.CleanStop || v.o.Server.ExitedAt == 0 || v.rec.Phase != PhaseLeading:
		return v.rec.Crashes
	case v.s.CrashedSoon:
		return v.rec.Crashes + 1
	}
	return 0
}

// steady reports whether the crashes of this primary's predecessors say nothing of it.
func (v *view) steady() bool {
	return v.rec.Crashes > 0 && v.lockMine() && (v.s.Whole || v.after(max(v.s.PhaseAt, v.o.Server.StartedAt), steadyTime))
}

func (t *turn) recordSteady() {
	r := t.rec
	r.Crashes = 0
	t.commit(Change{What: "steady", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "the primary has not crashed soon")
}

// patience is how long a server may not answer before another takes over: the longer the
// more primaries have failed soon, as load that follows the clients fails the next one too.
func (v *view) patience() time.Duration {
	return v.o.Policy.FailureTimeout << min(max(v.rec.Crashes-maxCrashes+1, 0), 3)
}
