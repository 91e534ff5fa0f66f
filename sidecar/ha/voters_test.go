package ha_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// voterWorld is a primary, n1, whose voters change: Consul, PostgreSQL and the
// standbys do what they can at any moment, the sidecar is killed between any two
// steps, and after each of them every acknowledged commit must be held by K of the
// recorded voters (S4).
type voterWorld struct {
	o ha.Observation
	s ha.State

	lsn     ha.LSN            // n1's log
	flushed map[string]ha.LSN // what each standby has on disk
	inForce []ha.SyncSetting  // by each of them some walsender may release commits now
	acked   ha.LSN            // the newest acknowledged commit

	change *ha.Change     // the transaction under way
	stray  *ha.Change     // one whose outcome is not known; it may be applied yet
	sync   ha.SyncSetting // the setting that is being made
	done   map[string]int // how often each kind of step was taken
}

var standbys = []string{"n2", "n3", "n4", "n5"}

func newVoterWorld(done map[string]int) *voterWorld {
	o := leading()
	for _, m := range []string{"n4", "n5"} {
		p, w := o.Peers[0], o.Server.Walsenders[0]
		p.Member, p.Report.Member, p.Report.Session, p.Report.Postgres = m, m, "session of "+m, m+":5432"
		w.Member, w.Sync = m, false
		o.Peers = append(o.Peers, p)
		o.Server.Walsenders = append(o.Server.Walsenders, w)
		o.Consul.Record.Members = append(o.Consul.Record.Members, m)
	}
	w := &voterWorld{o: o, lsn: 100, flushed: map[string]ha.LSN{}, inForce: []ha.SyncSetting{o.Server.Sync}, done: done}
	for _, m := range standbys {
		w.flushed[m] = 100
	}
	w.release()
	return w
}

// release acknowledges whatever any setting in force lets n1 acknowledge.
func (w *voterWorld) release() {
	for _, set := range w.inForce {
		if set.K == 0 {
			w.acked = w.lsn
			continue
		}
		var flushes []ha.LSN
		for i := range w.o.Server.Walsenders {
			if m := &w.o.Server.Walsenders[i]; slices.Contains(set.Names, m.Member) {
				flushes = append(flushes, m.Flush)
			}
		}
		slices.Sort(flushes)
		if len(flushes) >= set.K {
			w.acked = max(w.acked, flushes[len(flushes)-set.K])
		}
	}
}

// check holds the world to S4.
func (w *voterWorld) check(t *rapid.T) {
	dur, holders := &w.o.Consul.Record.Durability, 0
	for _, m := range dur.Voters {
		if m == "n1" || w.flushed[m] >= w.acked {
			holders++
		}
	}
	if holders < dur.K {
		t.Fatalf("commit %d is acknowledged and on %d of the recorded %d of %v; in force %v, flushed %v",
			w.acked, holders, dur.K, dur.Voters, w.inForce, w.flushed)
	}
}

// decide lets the sidecar decide, and begins what it asks for.
func (w *voterWorld) decide(*rapid.T) {
	var actions []ha.Action
	w.s, actions = ha.Decide(w.s, w.o)
	for i := range actions {
		switch a := &actions[i]; {
		case a.Kind == ha.Commit && w.change == nil:
			w.change, w.o.Busy.Commit = &a.Change, true
			w.done[a.Change.What]++
		case a.Kind == ha.SetSync && w.o.Busy.Server == ha.NoAction:
			w.sync, w.o.Busy.Server = a.Sync, ha.SetSync
			w.o.Server.SyncUnsure = true
			w.inForce = append(w.inForce, a.Sync) // from now on, for some
			w.done["set-sync"]++
		}
	}
	w.release()
}

// transact ends the transaction: applied, refused, or nobody knows, and then it may
// be applied as long as the record is as it was. The shell forgets its doubt when the
// record has changed.
func (w *voterWorld) transact(t *rapid.T) {
	if w.change == nil {
		return
	}
	outcome := rapid.SampledFrom([]string{"applied", "refused", "unknown"}).Draw(t, "outcome")
	w.done[outcome]++
	w.o.Busy.Commit = false
	switch outcome {
	case "unknown":
		w.stray, w.o.Busy.Doubt = w.change, w.o.Consul.Record.Index
	case "applied":
		w.apply(w.change)
	}
	w.change = nil
}

func (w *voterWorld) apply(c *ha.Change) {
	index := w.o.Consul.Record.Index
	w.o.Consul.Record = c.Record
	w.o.Consul.Record.Index = index + 1
	w.stray, w.o.Busy.Doubt = nil, 0
	for i := range w.o.Peers {
		w.o.Peers[i].Report.Record.Index = index + 1
	}
}

// late applies the transaction whose outcome nobody knew.
func (w *voterWorld) late(*rapid.T) {
	if w.stray != nil {
		w.apply(w.stray)
		w.done["late"]++
	}
}

// settle ends the change of the setting: in effect everywhere, or cut short.
func (w *voterWorld) settle(t *rapid.T) {
	if w.o.Busy.Server != ha.SetSync {
		return
	}
	w.o.Busy.Server = ha.NoAction
	if rapid.Bool().Draw(t, "in effect") {
		w.inEffect(w.sync)
	}
}

// look is what the server shows after a change that was cut short: any of the
// settings that may be in force, in effect everywhere or not yet.
func (w *voterWorld) look(t *rapid.T) {
	if w.o.Busy.Server == ha.SetSync {
		return
	}
	set := rapid.SampledFrom(w.inForce).Draw(t, "setting")
	if rapid.Bool().Draw(t, "everywhere") {
		w.inEffect(set)
		return
	}
	w.o.Server.Sync, w.o.Server.SyncAt, w.o.Server.SyncUnsure = set, 0, false
}

// inEffect is the moment in which every walsender uses the setting.
func (w *voterWorld) inEffect(set ha.SyncSetting) {
	w.release()
	w.inForce = []ha.SyncSetting{set}
	v := &w.o.Server
	v.Sync, v.SyncAt, v.SyncUnsure = set, w.lsn, false
	for i := range v.Walsenders {
		v.Walsenders[i].Sync = slices.Contains(set.Names, v.Walsenders[i].Member)
	}
}

func (w *voterWorld) write(t *rapid.T) {
	w.lsn += ha.LSN(rapid.IntRange(1, 9).Draw(t, "bytes"))
	w.o.Server.Position.LSN = w.lsn
	w.release()
}

func (w *voterWorld) flush(t *rapid.T) {
	if len(w.o.Server.Walsenders) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.o.Server.Walsenders)-1).Draw(t, "walsender")
	s := &w.o.Server.Walsenders[i]
	s.Flush = ha.LSN(rapid.Uint64Range(uint64(s.Flush), uint64(w.lsn)).Draw(t, "flush"))
	w.flushed[s.Member] = s.Flush
	w.release()
}

// stream begins or ends a standby's stream.
func (w *voterWorld) stream(t *rapid.T) {
	v := &w.o.Server
	m := rapid.SampledFrom(standbys).Draw(t, "standby")
	gone := slices.DeleteFunc(slices.Clone(v.Walsenders), func(s ha.Walsender) bool { return s.Member == m })
	if len(gone) == len(v.Walsenders) {
		gone = append(gone, ha.Walsender{Member: m, Streaming: true, Sync: slices.Contains(v.Sync.Names, m), Flush: w.flushed[m], Fresh: true})
		slices.SortFunc(gone, func(a, b ha.Walsender) int { return int(a.Member[1]) - int(b.Member[1]) })
	}
	v.Walsenders = gone
	w.release()
}

func (w *voterWorld) wait(t *rapid.T) {
	o := &w.o
	o.Now = o.Now.Add(time.Duration(rapid.IntRange(1, 30).Draw(t, "tenths")) * 100 * time.Millisecond)
	o.Consul.SeenAt, o.Consul.HeldAt, o.Server.SeenAt, o.Server.LeaseUntil = o.Now, o.Now, o.Now, o.Now.Add(o.Policy.Lease)
	for i := range o.Peers {
		o.Peers[i].ReceivedAt, o.Peers[i].EchoSentAt = o.Now, o.Now
	}
}

func (w *voterWorld) configure(t *rapid.T) {
	p := &w.o.Policy
	p.Mode = rapid.SampledFrom([]ha.Mode{ha.ModeQuorum, ha.ModeQuorum, ha.ModeQuorum, ha.ModeAsync}).Draw(t, "mode")
	p.Standbys = rapid.IntRange(1, 3).Draw(t, "standbys")
	p.MaxVoters = rapid.SampledFrom([]int{0, 3, 4}).Draw(t, "voters")
	p.Strict = rapid.Bool().Draw(t, "strict")
	m := rapid.IntRange(0, len(w.o.Peers)-1).Draw(t, "member")
	w.o.Peers[m].Report.NoSync = rapid.Bool().Draw(t, "nosync")
	w.o.Peers[m].Report.SyncPriority = rapid.IntRange(0, 3).Draw(t, "priority")
}

// kill is kill -9 and a new sidecar: it remembers nothing, and does not know what
// became of the setting. Its session is another, so what was under way is over.
func (w *voterWorld) kill(t *rapid.T) {
	if w.change != nil && rapid.Bool().Draw(t, "applied") {
		w.apply(w.change)
	}
	w.s, w.change, w.stray, w.o.Busy = ha.State{}, nil, nil, ha.Busy{}
	set := rapid.SampledFrom(w.inForce).Draw(t, "setting")
	w.o.Server.Sync, w.o.Server.SyncAt, w.o.Server.SyncUnsure = set, 0, len(w.inForce) > 1
	w.done["kill"]++
}

// TestVotersChangeInterrupted: whatever standbys come, go and lag, however often the
// policy changes, and wherever a change of voters is cut short, each acknowledged
// commit is on K of the recorded voters.
func TestVotersChangeInterrupted(t *testing.T) {
	done := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		w := newVoterWorld(done)
		steps := map[string]func(*rapid.T){
			"decide": w.decide, "transact": w.transact, "late": w.late, "settle": w.settle, "look": w.look,
			"write": w.write, "flush": w.flush, "stream": w.stream, "wait": w.wait, "configure": w.configure, "kill": w.kill,
		}
		// What brings a change on is drawn more often than what disturbs it.
		names := rapid.SampledFrom([]string{"decide", "decide", "decide", "decide", "transact", "transact", "transact", "late",
			"settle", "settle", "look", "write", "flush", "flush", "stream", "wait", "wait", "configure", "kill"})
		for _, name := range rapid.SliceOfN(names, 200, 200).Draw(t, "steps") {
			steps[name](t)
			w.check(t)
		}
	})
	for _, step := range []string{"widen", "set-sync", "narrow", "settle", "applied", "refused", "unknown", "late", "kill"} {
		if done[step] == 0 {
			t.Errorf("no run had a %s: the test shows nothing of it", step)
		}
	}
	t.Log(fmt.Sprint(done))
}

// TestSyncPriority: of more replicas than may be voters the higher are, and among equals
// those that are already.
func TestSyncPriority(t *testing.T) {
	for _, c := range []struct {
		name       string
		priorities map[string]int
		want       []string
	}{
		{"none is set", nil, []string{"n2", "n3"}},
		{"a newcomer as high as the others", map[string]int{"n4": 1}, []string{"n2", "n3"}},
		{"a newcomer is higher", map[string]int{"n4": 2}, []string{"n2", "n4"}},
		{"two are", map[string]int{"n4": 2, "n5": 7}, []string{"n4", "n5"}},
		{"one that may not vote is", map[string]int{"n4": 2, "n5": -1}, []string{"n2", "n4"}},
	} {
		w := newVoterWorld(map[string]int{})
		w.o.Policy.Standbys, w.o.Policy.MaxVoters = 1, 2
		for i := range w.o.Peers {
			r := &w.o.Peers[i].Report
			r.SyncPriority = c.priorities[r.Member]
			r.NoSync = r.SyncPriority < 0
		}
		for range 20 {
			w.decide(nil)
			if change := w.change; change != nil {
				w.change = nil
				w.apply(change)
			}
			if w.o.Busy.Server == ha.SetSync {
				w.inEffect(w.sync)
			}
			w.o.Busy = ha.Busy{}
		}
		if got := w.o.Consul.Record.Durability.Voters; !slices.Equal(got, c.want) {
			t.Errorf("%s: the voters are %v, want %v", c.name, got, c.want)
		}
	}
}
