package ha

import "time"

// view is what the rules' conditions look at. It decides nothing: all that a
// condition leaves behind is when time alone may change its answer.
type view struct {
	s    State
	o    Observation
	rec  Record
	seen RecordSeen // the newest record heard of, from Consul or a peer

	// putBack: Consul has an earlier record than this process has read, or none; rec is
	// what was read (noteRecord).
	putBack bool

	// Set by a row for the rows below it.
	tag      string      // what the service registration should say
	evict    []string    // whose primary tag must be gone first
	keepTag  bool        // leave the registration as it is
	inTime   bool        // the lease allows to begin or go on serving (extendLease)
	leaves   bool        // the primary hands over, and is to do nothing else (handoverRules)
	want     SyncSetting // the setting that the policy asks for, given who streams (chooseVoters)
	mode     Mode        // the mode that goes with want
	short    int         // how many standbys a strict policy asks for, where fewer of shortOf stream (0: enough do)
	shortOf  []string
	fewZones bool // too few members of other zones may be voters (chooseZones)
}

// wake asks to be called again at the instant at the latest.
func (v *view) wake(at Instant) {
	if at > v.o.Now && (v.s.WakeAt == 0 || at < v.s.WakeAt) {
		v.s.WakeAt = at
	}
}

// after reports whether wait has passed since the instant, and asks to be woken
// then if not.
func (v *view) after(since Instant, wait time.Duration) bool {
	at := since.Add(wait)
	if v.o.Now >= at {
		return true
	}
	v.wake(at)
	return false
}

func (v *view) peer(member string) *Peer {
	for i := range v.o.Peers {
		if v.o.Peers[i].Member == member {
			return &v.o.Peers[i]
		}
	}
	return nil
}

// fresh reports whether the peer was heard within the failure time-out, and is not known to
// be out of reach before that.
func (v *view) fresh(p *Peer) bool {
	if p == nil || p.ReceivedAt == 0 || p.Link == LinkRefused || v.unreachable(p) {
		return false
	}
	until := p.ReceivedAt.Add(v.o.Policy.FailureTimeout)
	if v.o.Now > until {
		return false
	}
	v.wake(until + 1)
	return true
}

// unreachable reports whether the peer is taken for gone before its silence has lasted for
// the failure time-out.
func (v *view) unreachable(p *Peer) bool {
	return p.Unreachable && v.rec.Durability.Mode == ModeQuorum && !v.follower()
}

// hears reports whether this member hears the primary of the newest term: by
// that primary's own report, or by the log it streams (S8).
func (v *view) hears() bool {
	o := &v.o
	if v.seen.Phase != PhaseLeading || v.seen.Leader == "" {
		return false
	}
	if v.seen.Leader == o.Self {
		return v.serving() || v.relays()
	}
	p := v.peer(v.seen.Leader)
	if p != nil && v.fresh(p) && p.Link != LinkSilent && p.Report.Term == v.seen.Term {
		if p.Report.leads() || p.Report.Restarting {
			return true
		}
		if p.Report.Down || p.Report.Stopping || p.Report.Voted && p.Report.Record.Term == v.seen.Term && p.Report.Record.Phase == PhaseLeading {
			return false // as a standby it sends what it has, and is no primary
		}
	}
	if p != nil && v.unreachable(p) {
		return false // its server's port does not answer either: what it sent is all there is
	}
	sv := &o.Server
	if sv.Process != ProcessRunning || sv.Receiving != Yes || sv.Upstream != v.seen.Leader || sv.Promise != v.seen.Term {
		return false
	}
	until := sv.SeenAt.Add(o.Policy.FailureTimeout)
	v.wake(until + 1)
	return o.Now <= until
}

// serving reports whether the local server may acknowledge commits.
func (v *view) serving() bool {
	return v.o.Server.Process == ProcessRunning && v.o.Server.InRecovery == No
}

// leaderPeer is the newest term's leader if it is heard as one that can be followed.
func (v *view) leaderPeer() *Peer {
	p := v.peer(v.seen.Leader)
	if v.seen.Phase != PhaseLeading || p == nil || !v.fresh(p) || !p.Report.leads() || p.Report.Term != v.seen.Term || v.leadsElsewhere(p) {
		return nil
	}
	return p
}

// leadsElsewhere reports whether the newest term's leader is a primary on an earlier timeline
// than its term has claimed: a person, or a recovery target, has promoted it, and the number
// may be that of another's log.
func (v *view) leadsElsewhere(p *Peer) bool {
	at := &p.Report.Position
	return p.Report.Serving && v.rec.Term == v.seen.Term && at.Known() && at.TLI < v.rec.Timeline && !v.follower()
}

// others are the members on record but this one.
func (v *view) others() []string {
	others := make([]string, 0, len(v.rec.Members))
	for _, m := range v.rec.Members {
		if m != v.o.Self {
			others = append(others, m)
		}
	}
	return others
}

// What many rules ask.

func (v *view) shutdown() bool { return v.o.Intent.Shutdown }
func (v *view) forced() bool   { return v.o.Intent.Force }
func (v *view) paused() bool   { return v.o.Policy.Paused }
func (v *view) stopped() bool  { return v.o.Server.Process == ProcessStopped }
func (v *view) running() bool  { return v.o.Server.Process == ProcessRunning }
func (v *view) armed() bool    { return v.o.Server.Armed }
func (v *view) present() bool  { return v.o.Server.DataDir == DataPresent }
func (v *view) absent() bool   { return v.o.Server.DataDir == DataAbsent }
func (v *view) halfMade() bool { return v.o.Server.DataDir == DataHalfMade }
func (v *view) standby() bool  { return v.o.Server.InRecovery == Yes }
func (v *view) primary() bool  { return v.o.Server.InRecovery == No }

// lockMine reports whether this process's session was last seen to hold the
// leader lock.
func (v *view) lockMine() bool {
	c := &v.o.Consul
	return c.Session != "" && c.Lock.Session == c.Session
}

// inDoubt reports whether the record may be changed at any moment, or may have
// been, by a transaction of this member's own, or of its process before: what
// makes more commits possible must not rest on it (S4).
func (v *view) inDoubt() bool {
	return v.o.Busy.Commit || v.stray() || !v.lockMine()
}

// stray reports whether a transaction whose outcome is not known may still be
// applied: the record has not moved on. Nor is it known where Consul has lost the record that
// this member has read: the next may have been the transaction's.
func (v *view) stray() bool {
	return v.o.Busy.Doubt != 0 && (v.rec.Index <= v.o.Busy.Doubt || v.putBack)
}

// gaveUp reports whether the operation failed so often that another is due.
func (v *view) gaveUp(kind ActionKind) bool { return v.o.Busy.gaveUp(kind) }

func (b *Busy) gaveUp(kind ActionKind) bool { return b.FailedKind == kind && b.Failures >= cloneAfter }

// rested reports whether the operation may be tried (again).
func (v *view) rested(kind ActionKind) bool {
	b := &v.o.Busy
	return b.FailedAt == 0 || b.FailedKind != kind || v.after(b.FailedAt, b.pause())
}

// pause is how long after a failure the same is tried again. A copy begins from zero, so
// each in a row that fails waits twice as long as the one before.
func (b *Busy) pause() time.Duration {
	if b.FailedKind != Clone && b.FailedKind != Init && b.FailedKind != Restore {
		return retryPause
	}
	return min(retryPause<<min(max(b.Failures-1, 0), 8), copyPause)
}

// copyPause bounds the time between two tries of a copy.
const copyPause = 30 * time.Second

// cloneAfter is how many times in a row an operation that can be repeated for
// ever (a start, a rewind) may fail before the data directory is cloned anew.
const cloneAfter = 2

// retryPause is the time between two tries of an operation that failed.
const retryPause = time.Second

// againPause is how long after a failed operation on the server the same is tried
// again; it doubles with each failure, up to retryPause.
const againPause = 5 * time.Millisecond

// commitPause is how long after a failed transaction the next is tried: long
// enough not to press on a Consul that elects its own leader, short beside any
// time-out.
const commitPause = 20 * time.Millisecond

// unseen reports whether the server runs and has not said what it is.
func (v *view) unseen() bool { return v.running() && v.o.Server.InRecovery == Unknown }
