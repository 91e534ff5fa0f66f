package sidecar_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestForceIsForgotten: n2 was told to lead with loss accepted, and nothing came of it,
// as the primary was well. Nobody acts on that later, when the primary goes in a pause.
func TestForceIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		w.settled("n1")
		w.mu.Lock()
		w.set = `{"paused":{}}`
		w.wakeAll()
		w.mu.Unlock()
		w.members["n2"].sidecar.Force() // as control.Failover does
		time.Sleep(61 * time.Second)    // its client has been told "not done yet"
		w.members["n1"].kill()
		time.Sleep(30 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.record.Leader != "n1" || w.record.Term != 1 {
			t.Errorf("%s leads term %d: %s", w.record.Leader, w.record.Term, w.record.Reason)
		}
	})
}

// TestForceShowsTheHidden: the one command that a block of a hidden primary names.
func TestForceShowsTheHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		for _, name := range []string{"n1", "n2", "n3"} {
			w.members[name].kill()
		}
		time.Sleep(time.Minute)
		n1 := w.members["n1"]
		w.look(func() { n1.exitedAt = 0 })
		n1.run()
		w.until("n1 hidden", 30*time.Second, func() bool { return n1.running && n1.primary && n1.hidden })
		time.Sleep(time.Minute)
		n1.sidecar.Force()
		time.Sleep(10 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if n1.hidden {
			t.Error("the override that the block names changes nothing")
		}
	})
}

// TestForceWithoutRecord: whatever has become of the record in Consul, and of the primary,
// the one command that status names makes a member lead: with all sidecars as they were,
// and restarted.
func TestForceWithoutRecord(t *testing.T) {
	for name, spoil := range map[string]func(*world, ha.Record){
		"no record":             func(w *world, _ ha.Record) { w.record, w.lock = ha.Record{}, ha.Lock{} },
		"a broken record":       func(w *world, _ ha.Record) { w.broken = true; w.index++; w.record.Index = w.index },
		"an older record":       func(w *world, before ha.Record) { w.record = before; w.index++; w.record.Index = w.index },
		"a record that is well": func(*world, ha.Record) {},
	} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarted %v", name, restarted), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := three(t)
					defer w.stop()
					before := w.recorded()
					w.members["n1"].crash()
					w.until("term 2", time.Second, func() bool { return w.record.Phase == ha.PhaseLeading && w.record.Term == 2 })
					time.Sleep(10 * time.Second)
					leader := w.recorded().Leader
					left := map[string]string{"n2": "n3", "n3": "n2"}[leader]
					w.members["n1"].kill()
					w.members[leader].kill()
					w.mu.Lock()
					w.members[leader].tag = "" // its checks are critical before long, and DNS does not show it
					spoil(w, before)
					w.wakeAll()
					w.mu.Unlock()
					m := w.members[left]
					if restarted {
						m.cancel()
						<-m.ended
						m.run()
					}
					time.Sleep(time.Minute)
					w.mu.Lock()
					if w.record.Leader == left && !w.broken && w.record.Phase == ha.PhaseLeading && m.running && m.primary {
						t.Error("it leads without being told to")
					}
					w.mu.Unlock()
					m.sidecar.Force()
					w.until("the one that was told leads", 30*time.Second, func() bool {
						return w.record.Leader == left && w.record.Phase == ha.PhaseLeading && w.record.Term > 2 && m.primary && m.running && !m.hidden
					})
				})
			})
		}
	}
}

// fullServer is one whose disk is full: it promises nothing.
type fullServer struct {
	fakeServer
	full            *atomic.Bool
	fences, setSync *atomic.Int64
}

func (s fullServer) Do(ctx context.Context, a ha.Action) (sidecar.Learned, error) {
	counter := map[ha.ActionKind]*atomic.Int64{ha.Fence: s.fences, ha.SetSync: s.setSync}[a.Kind]
	if counter == nil || !s.full.Load() {
		return s.fakeServer.Do(ctx, a)
	}
	time.Sleep(time.Millisecond)
	counter.Add(1)
	return sidecar.Learned{}, fmt.Errorf("%s: no space left on device", a.Kind)
}

// Steps that fail at once, as on a full disk, are not tried a thousand times a second.
func TestFailsAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		full string
		gone func(w *world)
	}{
		"fences of a replica":     {"n3", func(w *world) { w.members["n1"].crash() }},
		"settings of the primary": {"n1", func(w *world) { w.members["n3"].kill() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := three(t)
				defer w.stop()
				var full atomic.Bool
				var fences, sets atomic.Int64
				m := w.members[c.full]
				m.cancel()
				<-m.ended
				m.runWith(fullServer{fakeServer{m}, &full, &fences, &sets}, fakeCluster{m})
				w.settled("n1")
				full.Store(true)
				c.gone(w)
				time.Sleep(10 * time.Second)
				if n := fences.Load() + sets.Load(); n == 0 || n > 200 {
					t.Errorf("%d tries in 10 s", n)
				}
			})
		})
	}
}

// Power maintenance: the standbys are stopped, then the primary; its host does not come back.
func TestPowerOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		for _, name := range []string{"n3", "n2", "n1"} {
			m := w.members[name]
			m.sidecar.Shutdown()
			if err := <-m.ended; err == nil {
				t.Fatal("no exit")
			}
			m.cancel()
			w.mu.Lock()
			m.report, m.sidecar, m.notify = ha.Report{}, nil, [3]func(){}
			w.mu.Unlock()
			time.Sleep(3 * time.Second)
		}
		w.members["n2"].run()
		w.members["n3"].run()
		time.Sleep(time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.record.Phase != ha.PhaseLeading || w.record.Leader == "n1" {
			t.Errorf("no primary, though both voters and Consul are well: %+v", w.record)
		}
	})
}
