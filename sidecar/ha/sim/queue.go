package sim

import (
	"cmp"
	"slices"
)

// eventKind says what happens at an event.
type eventKind uint8

// The kinds of event. m and p are member indexes, n is a count or an index.
const (
	_ eventKind = iota
	// Sidecar.
	evAttach       // a started sidecar has found guard and data directory
	evWake         // State.WakeAt
	evBeat         // heartbeat
	evLook         // a look at the server is answered
	evReport       // p's report n arrives at m
	evLink         // m looks at its stream to p again
	evOp           // the operation under way comes to its next stage
	evPolicy       // m learns of the policy in force
	evCheckpointed // m's checkpoint is done
	evAnnounced    // the registration was made
	evLate         // an operation whose sidecar died takes effect all the same
	evSidecar      // the supervisor starts m's sidecar again
	// Consul.
	evArrive  // call n reaches Consul
	evReply   // its answer reaches m
	evTimeout // or m gives up
	evExpiry  // a session may have expired
	evRenew   // m renews its session
	evConfirm // m reads record and lock consistently
	evWatch   // m's blocking query sees a change
	// Server.
	evWrite   // the writer beside m
	evFlush   // m's log is flushed up to n
	evConnect // m's walreceiver tries to connect
	evData    // log up to n arrives at m from p
	evAck     // p's reply n arrives at m's walsender
	evTick    // keepalive and time-out of m's stream from p
	evGone    // one end of a stream sees that it ended
	evAdopt   // m's walsender for p (or its checkpointer) re-reads the setting
	evGuard   // m's lease may have ended
	// World.
	evFault  // fault n begins
	evHeal   // fault n ends
	evCalm   // all faults end
	evSettle // is the cluster whole again
	evEnd    // the time is up
	evSite   // the other site writes, fails over, or is lost
	evSelf   // a standby promotes itself, at its recovery target
)

// event is one thing that happens. epoch ties it to a life of what it happens
// to (a process, a stream, an operation): it is dropped when that ended.
type event struct {
	at    int64
	seq   uint64
	n     int32
	epoch uint32
	kind  eventKind
	m, p  int8
	off   bool // it was put off until what it is for goes on
}

func (e *event) before(f *event) bool {
	return e.at < f.at || e.at == f.at && e.seq < f.seq
}

// queue is a binary heap of events, ordered by time and then by sequence.
type queue struct {
	heap heap
	seq  uint64
}

type heap []event

func (q *queue) push(e event) {
	q.seq++
	e.seq = q.seq
	q.heap = append(q.heap, e)
	q.heap.rise(len(q.heap)-1, e)
}

// bringForward lets what was put off happen now, in its order: the pause that it waited for has
// ended before its time.
func (q *queue) bringForward(now int64) {
	all := slices.Clone(q.heap)
	slices.SortFunc(all, func(a, b event) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.seq, b.seq)) })
	q.heap = q.heap[:0]
	for _, e := range all {
		if e.off {
			e.at, e.off = min(e.at, now+1), false
		}
		q.push(e)
	}
}

// rise puts e into the hole at i, or above it.
func (h heap) rise(i int, e event) {
	for i > 0 {
		up := (i - 1) / 2
		if !e.before(&h[up]) {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = e
}

func (q *queue) pop() event {
	h := q.heap
	top := h[0]
	n := len(h) - 1
	last := h[n]
	h = h[:n]
	q.heap = h
	if n == 0 {
		return top
	}
	// The last event is late as a rule: the hole goes down to a leaf, and the
	// event then rises from there, which takes half the comparisons.
	i := 0
	for c := 1; c < n; c = 2*i + 1 {
		if c+1 < n && h[c+1].before(&h[c]) {
			c++
		}
		h[i] = h[c]
		i = c
	}
	h.rise(i, last)
	return top
}
