package sim

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Outside is a set of faults that come from outside of the protocol: from
// people, from disks, from Consul's administrators. Each is off by default.
type Outside uint64

// The faults from outside, in the order of their names.
const (
	LoseHost       Outside = 1 << iota // a host does not come back
	LoseData                           // a data directory is lost: its member comes back empty
	LoseState                          // a state directory is lost: promise and fence are forgotten
	LoseDisk                           // both
	CloneReplica                       // lost data are cloned from a replica (tag clonefrom, reinit --from), which may lag
	PromoteByHand                      // pg_promote() on a replica
	StartByHand                        // a replica is started by hand as a primary, on the timeline that it has
	RecoveryGoal                       // a standby promotes itself at a recovery target
	LoseHistory                        // a leader's timeline history files are missing, as after a clone
	RestoreTerm                        // Consul is put back to a snapshot from before a failover
	RestoreVoters                      // or from before a change of voters, in the same term
	EmptyConsul                        // Consul's data are lost: keys and sessions
	DeleteKeys                         // somebody deletes the cluster's keys
	DeleteState                        // or only the state key
	DeleteLock                         // or only the lock
	DamageState                        // the state key is overwritten with something else
	EmptyWithHost                      // Consul's data are lost, and with them the primary's host
	OtherLease                         // one member is configured with another lease
	OtherTimeout                       // with another failure time-out
	OtherMode                          // with another mode, for a while
	OtherVersion                       // some members' program knows a field of the record that the others do not
	HungDisk                           // a disk does not answer: what waits for it cannot be killed
	ClockStops                         // a paused host's clock does not count the pause
	WildClocks                         // clocks are wrong by up to half
	MidRecord                          // what a standby has received may end inside a record
	SlowReplay                         // standbys have a minute or two to replay
	AcceptLoss                         // an operator types failover --accept-data-loss at any time
	LocalCommit                        // ALTER SYSTEM SET synchronous_commit = local
	CancelWait                         // sessions cancel their wait for a standby
	LoseWAL                            // the log that a standby needs is gone
	ForgetMember                       // a member leaves Consul's catalog, and lives
	RestoreInPlace                     // the cluster is restored from a backup, in place
	PortCut                            // nobody reaches a server, or any, while its sidecar is reached
	outsideEnd

	AllOutside = outsideEnd - 1
)

var outsideNames = [...]string{"lose-host", "lose-data", "lose-state", "lose-disk", "clone-replica", "promote-by-hand", "start-by-hand", "recovery-target",
	"lose-history", "restore-term", "restore-voters", "empty-consul", "delete-keys", "delete-state", "delete-lock", "damage-state", "empty-with-host",
	"other-lease", "other-timeout", "other-mode", "other-version", "hung-disk", "clock-stops", "wild-clocks", "mid-record", "slow-replay",
	"accept-loss", "local-commit", "cancel-wait", "lose-wal", "forget-member", "restore-in-place", "port-cut"}

// OutsideNames are the names of all faults from outside.
func OutsideNames() []string { return outsideNames[:] }

// ParseOutside reads names with commas between them, or "all"; a name with a minus before it
// takes that fault away, so that seeds of earlier sets can be run again. It returns an
// error that names what it does not know.
func ParseOutside(text string) (Outside, error) {
	set := Outside(0)
	for name := range strings.SplitSeq(text, ",") {
		if name == "all" {
			set |= AllOutside
			continue
		}
		name, without := strings.CutPrefix(name, "-")
		known := false
		for i := range outsideNames {
			switch known = known || outsideNames[i] == name; {
			case outsideNames[i] != name:
			case without:
				set &^= 1 << i
			default:
				set |= 1 << i
			}
		}
		if name != "" && !known {
			return 0, fmt.Errorf("no fault has the name %q; there are: %s", name, strings.Join(outsideNames[:], " "))
		}
	}
	return set, nil
}

// kind is the fault of which the set consists; the first, if of several.
func (o Outside) kind() faultKind {
	k := baseKinds + 1
	for ; o > 1; o >>= 1 {
		k++
	}
	return k
}

func (k faultKind) outside() Outside { return 1 << (k - baseKinds - 1) }

func (w *World) has(o Outside) bool { return w.opt.Outside&o != 0 }

// How long records are, as 1<<scale bytes: where they may end inside, and where it is seen
// how far a standby has replayed.
const (
	midScale    = 4
	replayScale = 8
)

// wholeRun are the faults that are there from the beginning to the end.
const wholeRun = OtherLease | OtherTimeout | OtherVersion | ClockStops | WildClocks | MidRecord

// beyond is what faults from outside have made of the world.
type beyond struct {
	outcome Outcome
	hands   []hand
	scale   uint8 // a record is 1<<scale bytes long

	midRecord bool // what a standby has received may end inside a record

	snapshots
	putBack  bool    // Consul has been put back, or emptied
	noRecord bool    // and its record says nothing of who holds what
	lastMode ha.Mode // of the newest record that was applied

	cloneReplica, clockStops, wildClocks bool
	cloneBackup                          bool   // copies are restored from a backup, and then lack log
	replays                              int64  // the longest that a server has had to replay
	version                              uint64 // by member: whose program is the newer one; zero: all have the same
	text                                 []byte // the state key, where programs of two versions write it
	unknown                              bool   // a field that only the newer program knows was written
	forgotten                            [MaxMembers]int8

	risk
	typedAt int64
	typed   []command
}

// risk is what people have taken upon themselves.
type risk struct {
	accepted     int    // what Outcome.Accepted was when a loss was accepted last
	acceptedTerm uint64 // the term of the newest promotion with an accepted loss
	replacedTerm uint64 // the term of the newest restore in place with which the cluster has gone on
	asyncTerm    uint64 // the newest term that ended in async mode
	accepting    bool   // an operator has accepted a loss, and it has not come yet
	restores     []saved
	// localAt is since when the server localOf, which was told not to wait, acknowledges
	// commits in one life.
	localAt int64
	localOf uint32
}

// Outcome is what came of faults from outside, beside broken promises.
type Outcome struct {
	Reason    string // of the newest of these: what was not done, and what was missing
	Commands  int    // that the simulated operator typed after the faults, as status named them
	NoLoss    int    // times that a loss was accepted, and nothing was lost by it
	Accepted  int    // commits (the newest of each primary's life) that were lost, and the loss had been accepted
	Cancelled int    // commits that were acknowledged although their wait had been cancelled
	Local     int    // commits acknowledged by a server that was told not to wait, or that a person had promoted
	Clock     int    // times that async mode had two writers, or no leader, as a clock had stopped or was wrong by more than S6 allows for
	Needless  int    // rewinds of servers that had nothing to rewind
	Restored  int    // restores in place with whose data the cluster went on
	Nothing   bool   // no member has any data left
}

func (b *beyond) reset() {
	*b = beyond{hands: b.hands[:0], snapshots: snapshots{b.past[:0], b.unread[:0]}, typed: b.typed[:0], risk: risk{restores: b.restores[:0]}}
}

// mode is the mode of durability that is in force, also while Consul has no
// record.
func (w *World) mode() ha.Mode {
	if m := w.consul.record.Durability.Mode; m != "" {
		return m
	}
	return w.beyond.lastMode
}

// misconfigured is how one member's configuration differs.
type misconfigured struct {
	lease, timeout int64 // nanoseconds; zero: as the others'
	mode           ha.Mode
}

// oddFiles is what is odd about a server's files or settings.
type oddFiles struct {
	part        uint8  // bytes of a record that was not received to its end
	walGone     bool   // no member keeps the log that it needs
	refused     bool   // for a history file, and that was told
	histories   uint64 // timeline history files that it has, by number
	aims        bool   // at its next start it promotes itself
	killed      bool   // and has not died, as its disk hangs
	localCommit bool
	strayed     string      // Files.Strayed: the shell finds it in the control data
	owed, owes  ha.Position // Files.Owed, and what it will be if the copy is not the leader's
	copy        string      // Files.Copy
	cancels     bool        // some sessions do not wait for standbys to the end
	replay      replay
	place       restoration
}

// outside is what a fault from outside does when it begins.
func (w *World) outside(f *fault, m int) {
	w.check.asked = true // who leads is left to no rule any more
	switch o := f.kind.outside(); o {
	case LoseHost, LoseData, LoseState, LoseDisk, CloneReplica, HungDisk, LoseHistory, LoseWAL:
		w.strikeDisk(f, m, o)
	case PromoteByHand, StartByHand, RecoveryGoal:
		w.strikeByHand(f, m, o)
	case RestoreTerm, RestoreVoters, EmptyConsul, DeleteKeys, DeleteState, DeleteLock, DamageState, EmptyWithHost:
		w.strikeConsul(f, m, o)
	case OtherLease:
		w.members[f.other].config.lease = [...]int64{2, 3, 10, 15}[f.how%4] * second
	case OtherTimeout:
		w.members[f.other].config.timeout = [...]int64{second / 2, second, 4 * second, 9 * second}[f.how%4]
	case OtherMode:
		w.members[m].config.mode = [...]ha.Mode{ha.ModeAsync, ha.ModeQuorum}[f.how%2]
	case OtherVersion:
		w.beyond.version = uint64(1+int(f.how)%(1<<w.n-2)) & (1<<w.n - 1)
	case ClockStops:
		w.beyond.clockStops = true
	case WildClocks:
		w.beyond.wildClocks = true
		for i := range w.n {
			w.members[i].drift = w.extra.between(-500_000, 500_001)
		}
	case MidRecord:
		w.beyond.midRecord, w.beyond.scale = true, max(w.beyond.scale, midScale)
	case SlowReplay:
		w.fallBehind(f)
	case AcceptLoss:
		w.typeFailover(m)
	case LocalCommit:
		w.members[m].server.odd.localCommit = true
		w.step(m)
	case CancelWait:
		w.cancelWaits(m)
	case ForgetMember:
		w.forget(m, 1)
	case RestoreInPlace:
		w.drawRestore(f.how)
	case PortCut:
		w.cutPort(m, f.how&15 == 0, 1)
	}
}

// outsideEnds takes back what can be taken back.
func (w *World) outsideEnds(f *fault, m int) {
	b := &w.members[m]
	switch f.kind.outside() {
	case LoseData, LoseDisk, LoseState, CloneReplica:
		w.bootHost(m)
	case HungDisk:
		if !b.gone {
			w.diskAnswers(m)
		}
	case OtherMode:
		b.config.mode = ""
		w.step(m)
	case LocalCommit:
		b.server.odd.localCommit, w.beyond.localAt = false, 0
	case CancelWait:
		b.server.odd.cancels = false
	case ForgetMember:
		if f.how&3 != 0 { // else it stays away
			w.forget(m, -1)
		}
	case PortCut:
		w.cutPort(m, f.how&15 == 0, -1)
	case RestoreInPlace:
		if f.how&96 == 0 {
			w.giveUpRestore()
		}
	}
}

// observeOutside is what the faults from outside change in what a member sees.
func (w *World) observeOutside(m int, o *ha.Observation) {
	c, v := &w.members[m].config, &w.members[m].server
	if c.lease != 0 {
		o.Policy.Lease = time.Duration(c.lease)
	}
	if c.timeout != 0 {
		o.Policy.FailureTimeout = time.Duration(c.timeout)
	}
	if c.mode != "" {
		o.Policy.Mode = c.mode
	}
	if v.odd.part > 0 && v.run == up && v.inRecovery && o.Server.Position.Known() {
		o.Server.Position.LSN += ha.LSN(v.odd.part)
	}
	for i := range w.n {
		if w.beyond.forgotten[i] > 0 {
			w.withoutForgotten(o)
			break
		}
	}
}

// withoutForgotten leaves out the members that Consul's catalog does not name.
func (w *World) withoutForgotten(o *ha.Observation) {
	peers := make([]ha.Peer, 0, len(o.Peers))
	for i := range o.Peers {
		if w.beyond.forgotten[w.index(o.Peers[i].Member)] == 0 {
			peers = append(peers, o.Peers[i])
		}
	}
	o.Peers = peers
}

// forget takes a member out of Consul's catalog, or puts it back: nobody dials
// it meanwhile, and what was known of it is forgotten.
func (w *World) forget(m int, by int8) {
	if keepsAddresses {
		return
	}
	w.beyond.forgotten[m] += by
	for i := range w.n {
		if i != m && w.members[i].sidecar.alive {
			*w.peer(i, m) = ha.Peer{Member: names[m]}
			w.step(i)
		}
	}
}

// ownRisk says whether what m's server acknowledges is at the risk of people
// who circumvent the protocol: it was promoted by hand, or told not to wait.
func (w *World) ownRisk(m int) bool {
	s := &w.members[m].server
	if s.byHand && !w.reigns(m) {
		w.beyond.outcome.Local++
		return true
	}
	if s.odd.localCommit && w.mode() == ha.ModeQuorum {
		w.beyond.outcome.Local++
		w.checkSaid(m)
		return true
	}
	return false
}

// reigns says whether m's term is known to have its server as primary, which a person has
// promoted onto the very timeline that the term had claimed.
func (w *World) reigns(m int) bool {
	s, r := &w.members[m].server, &w.consul.record
	return r.Leader == names[m] && r.Phase == ha.PhaseLeading && w.position(s, len(s.log)).TLI == r.Timeline
}

// saidWithin is how soon status must say that commits do not wait.
const saidWithin = 5 * second

// checkSaid: a primary that was told not to wait for standbys says so.
func (w *World) checkSaid(m int) {
	s := &w.members[m].sidecar
	life := w.members[m].server.epoch ^ uint32(w.members[m].server.term)<<20 ^ s.epoch<<10
	if w.beyond.localAt == 0 || w.beyond.localOf != life {
		w.beyond.localAt, w.beyond.localOf = w.now, life
	}
	if !w.sidecarRuns(m) {
		w.beyond.localAt = w.now // what stands still says nothing
		return
	}
	// Nor did it, also where nothing was acknowledged meanwhile.
	w.beyond.localAt = max(w.beyond.localAt, w.members[m].hostPaused, s.pausedUntil)
	for i := range s.state.Blocks {
		if b := &s.state.Blocks[i]; strings.Contains(b.What+b.Missing, "synchronous_commit") {
			w.beyond.localAt = w.now
			return
		}
	}
	if w.now-w.beyond.localAt < saidWithin {
		return
	}
	w.fail("unsaid", m, "%s acknowledges commits without any standby since %d s, and status does not say so", names[m], (w.now-w.beyond.localAt)/second)
}

// cancelWaits: a session that cancels its wait is told COMMIT, with a warning.
func (w *World) cancelWaits(m int) {
	s := &w.members[m].server
	w.beyond.outcome.Cancelled += len(s.waiting)
	s.waiting = s.waiting[:0]
	s.odd.cancels = true
}

// waits says whether the session that has committed last waits for standbys.
func (w *World) waits(s *server) bool {
	if s.odd.cancels && w.extra.chance(500) {
		w.beyond.outcome.Cancelled++
		return false
	}
	return true
}
