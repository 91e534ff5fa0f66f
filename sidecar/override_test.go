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
		n1.exitedAt = 0
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

// fullServer is one whose disk is full: it promises nothing.
type fullServer struct {
	fakeServer
	full            *atomic.Bool
	fences, setSync *atomic.Int64
}

func (s fullServer) Fence(ctx context.Context, term uint64, sync ha.SyncSetting) (ha.Position, error) {
	if s.full.Load() {
		time.Sleep(time.Millisecond)
		s.fences.Add(1)
		return ha.Position{}, fmt.Errorf("promise term %d: no space left on device", term)
	}
	return s.fakeServer.Fence(ctx, term, sync)
}

func (s fullServer) SetSync(ctx context.Context, set ha.SyncSetting) (ha.LSN, error) {
	if s.full.Load() {
		time.Sleep(time.Millisecond)
		s.setSync.Add(1)
		return 0, fmt.Errorf("set the synchronous standbys: no space left on device")
	}
	return s.fakeServer.SetSync(ctx, set)
}

func (m *member) rerun(srv sidecar.Server) {
	m.cancel()
	<-m.ended
	s, err := sidecar.New(sidecar.Options{
		Member: m.name, Postgres: m.name + ":5432", API: m.name + ":8008", Policy: sidecar.DefaultPolicy(),
		Cluster: fakeCluster{m}, Peers: fakePeers{m}, Guard: fakeGuard{m}, Server: srv,
		Now: m.w.now, Logger: testLogger(m.w.t, m.name),
	})
	if err != nil {
		m.w.t.Fatal(err)
	}
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(m.w.t.Context())
	m.sidecar, m.ended = s, make(chan error, 1)
	go func() { m.ended <- s.Run(ctx) }()
}

// A step that fails at once, as on a full disk, is not tried a thousand times a second.
func TestFenceFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		var full atomic.Bool
		var fences, sets atomic.Int64
		n3 := w.members["n3"]
		n3.rerun(fullServer{fakeServer{n3}, &full, &fences, &sets})
		w.settled("n1")
		full.Store(true)
		w.members["n1"].crash()
		time.Sleep(10 * time.Second)
		if n := fences.Load(); n > 200 {
			t.Errorf("%d fences in 10 s", n)
		}
	})
}

func TestSettingFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		var full atomic.Bool
		var fences, sets atomic.Int64
		n1 := w.members["n1"]
		n1.rerun(fullServer{fakeServer{n1}, &full, &fences, &sets})
		w.settled("n1")
		full.Store(true)
		w.members["n3"].kill()
		time.Sleep(10 * time.Second)
		if n := sets.Load(); n > 200 {
			t.Errorf("%d changes of the setting in 10 s, leader %s, %+v", n, w.record.Leader, w.record.Durability)
		}
	})
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
