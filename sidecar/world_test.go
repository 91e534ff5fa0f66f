package sidecar_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	log "github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// world is a cluster in memory, in virtual time: one Consul, a mesh without
// delay, and servers whose log is a number. Faults are the simulation's matter
// (package ha/sim); here the shell is shown to do what the core decides.
type world struct {
	t       *testing.T
	begun   time.Time
	mu      sync.Mutex
	record  ha.Record
	lock    ha.Lock
	index   uint64
	history []uint64
	finals  []ha.Final // of all changes of the record
	members map[string]*member
	set     string // the cluster-wide settings
}

type member struct {
	w       *world
	name    string
	sidecar *sidecar.Sidecar
	cancel  context.CancelFunc
	ended   chan error
	notify  [3]func() // cluster, peers, guard
	tag     string
	refused bool          // registrations fail, and are made up for later
	owed    string        // the tag of the last of those
	told    string        // the settings that the last registration was made from
	slow    chan struct{} // unless nil: a registration that has begun goes on when it is closed
	report  ha.Report
	seq     uint64
	sentAt  []ha.Instant
	echoed  map[string]uint64

	// The guard and the server.
	lost       bool // there is no connection to the guard
	dir        ha.DataDir
	systemID   string
	running    bool
	primary    bool
	clean      bool
	startedAt  ha.Instant
	exitedAt   ha.Instant
	armed      bool
	leaseUntil ha.Instant
	promise    uint64
	fenced     bool
	upstream   string
	position   ha.Position
	sync       ha.SyncSetting
	hidden     bool
	probe      error  // of write probes
	file       int    // the version of the configuration file
	configured [2]int // the version that was begun to be taken up, and that was
	ops        []string
}

func newWorld(t *testing.T) *world {
	return &world{t: t, begun: time.Now(), members: make(map[string]*member)}
}

func (w *world) now() ha.Instant { return ha.Instant(time.Since(w.begun)) + 1 }

// wakeAll tells every member that something has changed.
func (w *world) wakeAll() {
	for _, m := range w.members {
		for _, f := range m.notify {
			if f != nil {
				f()
			}
		}
	}
}

func (w *world) add(name string) *member {
	m := &member{w: w, name: name, dir: ha.DataAbsent, echoed: make(map[string]uint64)}
	w.members[name] = m
	m.run()
	return m
}

func (m *member) run() { m.runWith(fakeServer{m}) }

func (m *member) runWith(server sidecar.Server) {
	policy := sidecar.DefaultPolicy()
	s, err := sidecar.New(sidecar.Options{
		Member: m.name, Postgres: m.name + ":5432", API: m.name + ":8008", Policy: policy,
		Cluster: fakeCluster{m}, Peers: fakePeers{m}, Guard: fakeGuard{m}, Server: server,
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

func testLogger(t *testing.T, name string) log.Logger {
	if !testing.Verbose() {
		return log.NewNullLogger()
	}
	return log.New(&log.LoggerOptions{Name: name, Level: log.Debug, Output: writer{t}, DisableTime: true})
}

type writer struct{ t *testing.T }

func (w writer) Write(p []byte) (int, error) {
	w.t.Log(time.Now().Format("05.000 ") + string(p[:len(p)-1]))
	return len(p), nil
}

// primaryIs waits, in virtual time, until the member is the announced primary.
func (w *world) primaryIs(name string, within time.Duration) {
	w.t.Helper()
	w.until("primary "+name, within, func() bool {
		return w.record.Phase == ha.PhaseLeading && w.record.Leader == name && w.members[name].tag == "primary"
	})
}

func (w *world) until(what string, within time.Duration, f func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(within)
	for {
		synctest.Wait()
		w.mu.Lock()
		ok := f()
		w.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not within %s; record %+v", what, within, w.record)
		}
		time.Sleep(time.Millisecond)
	}
}

// crash ends the postmaster as kill -9 does.
func (m *member) crash() {
	m.w.mu.Lock()
	m.running, m.clean, m.exitedAt = false, false, m.w.now()
	m.w.wakeAll()
	m.w.mu.Unlock()
}

// kill ends the sidecar, the guard and the server at once.
func (m *member) kill() {
	m.cancel()
	<-m.ended
	m.w.mu.Lock()
	m.running, m.clean, m.report = false, false, ha.Report{}
	m.sidecar, m.notify = nil, [3]func(){}
	m.w.wakeAll()
	m.w.mu.Unlock()
}

func (w *world) stop() {
	for _, m := range w.members {
		if m.sidecar != nil {
			m.cancel()
			<-m.ended
		}
	}
}

type fakeGuard struct{ *member }

func (g fakeGuard) Notify(f func()) {
	g.w.mu.Lock()
	defer g.w.mu.Unlock()
	g.notify[2] = func() { go f() }
}

func (g fakeGuard) Status() sidecar.GuardStatus {
	g.w.mu.Lock()
	defer g.w.mu.Unlock()
	s := sidecar.GuardStatus{Process: ha.ProcessStopped, StartedAt: g.startedAt, ExitedAt: g.exitedAt, Armed: g.armed, LeaseUntil: g.leaseUntil}
	switch {
	case g.lost:
		s.Process = ha.ProcessUnknown
	case g.running:
		s.Process = ha.ProcessRunning
	}
	return s
}

func (g fakeGuard) Lease(_ context.Context, until ha.Instant) error {
	g.w.mu.Lock()
	defer g.w.mu.Unlock()
	g.armed, g.leaseUntil = true, until
	return nil
}

func (g fakeGuard) Disarm(context.Context) error {
	g.w.mu.Lock()
	defer g.w.mu.Unlock()
	g.armed, g.leaseUntil = false, 0
	return nil
}

// fakeServer is a server whose log grows by one with each look at a primary.
type fakeServer struct{ *member }

var errFake = errors.New("not now")

func (s fakeServer) did(op string, took time.Duration) {
	time.Sleep(took)
	s.w.mu.Lock()
	s.ops = append(s.ops, op)
}

func (s fakeServer) Inspect(_ context.Context, v *ha.Server) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	v.DataDir, v.SystemID, v.WasPrimary, v.Promise, v.Fenced = s.dir, s.systemID, s.primary, s.promise, s.fenced
	v.CleanStop, v.Position = s.clean, ha.Position{}
	if s.clean {
		v.Position = s.position
	}
	return nil
}

func (s fakeServer) Look(_ context.Context, v *ha.Server) error {
	time.Sleep(time.Millisecond)
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if !s.running {
		return errFake
	}
	v.InRecovery, v.Upstream, v.Sync, v.Hidden = ha.Known(!s.primary), s.upstream, s.sync, s.hidden
	v.RecoveryEnd = 1
	up := s.w.members[s.upstream]
	v.Receiving = ha.Known(up != nil && up.running && !s.primary)
	if s.primary {
		s.position.LSN++
		v.Walsenders = nil
		for _, name := range []string{"n1", "n2", "n3"} {
			m := s.w.members[name]
			if m != nil && m.running && !m.primary && m.upstream == s.name {
				m.position = s.position
				v.Walsenders = append(v.Walsenders, ha.Walsender{Member: name, Streaming: true, Sync: slices.Contains(s.sync.Names, name), Flush: s.position.LSN, Fresh: true})
			}
		}
	}
	v.Position, v.Settled = s.position, v.Receiving == ha.No && s.upstream == ""
	return nil
}

func (s fakeServer) Probe(context.Context) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.member.probe
}

func (s fakeServer) Starved() bool { return false }

func (s fakeServer) SyncInEffect(context.Context) (ha.LSN, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.position.LSN, nil
}

func (s fakeServer) Init(context.Context) error {
	s.did("init", time.Second)
	defer s.w.mu.Unlock()
	s.dir, s.systemID, s.primary, s.clean, s.position = ha.DataPresent, "7", true, true, ha.Position{TLI: 1, LSN: 100}
	return nil
}

func (s fakeServer) Clone(_ context.Context, from sidecar.Source) error {
	s.did("clone "+from.Member, time.Second)
	defer s.w.mu.Unlock()
	src := s.w.members[from.Member]
	s.dir, s.systemID, s.primary, s.clean, s.position = ha.DataPresent, src.systemID, false, false, src.position
	return nil
}

func (s fakeServer) Rewind(_ context.Context, from sidecar.Source) error {
	s.did("rewind "+from.Member, time.Second)
	defer s.w.mu.Unlock()
	s.running, s.primary, s.clean = false, false, false
	s.position = s.w.members[from.Member].position
	return nil
}

func (s fakeServer) Discard(context.Context) error { return nil }

func (s fakeServer) Start(_ context.Context, how sidecar.Start) error {
	s.did("start", 50*time.Millisecond)
	defer s.w.mu.Unlock()
	s.running, s.primary, s.hidden, s.clean, s.upstream = true, how.Primary, how.Hidden, false, ""
	s.startedAt, s.exitedAt = s.w.now(), 0
	return nil
}

func (s fakeServer) Stop(_ context.Context, how sidecar.Stop) error {
	s.did("stop", 20*time.Millisecond)
	defer s.w.mu.Unlock()
	s.running, s.clean, s.exitedAt = false, !how.Immediate && s.primary, s.w.now()
	return nil
}

func (s fakeServer) Fence(_ context.Context, term uint64, sync ha.SyncSetting) (ha.Position, error) {
	s.did("fence", 8*time.Millisecond)
	defer s.w.mu.Unlock()
	if !s.running {
		return ha.Position{}, errFake
	}
	s.promise, s.fenced, s.upstream = term, true, ""
	if sync.K > 0 {
		s.sync = sync
	}
	return s.position, nil
}

func (s fakeServer) Follow(_ context.Context, how sidecar.Follow) error {
	s.did("follow "+how.From.Member, 8*time.Millisecond)
	defer s.w.mu.Unlock()
	s.promise, s.fenced, s.upstream = how.Term, false, how.From.Member
	return nil
}

func (s fakeServer) SetSync(_ context.Context, set ha.SyncSetting) (ha.LSN, error) {
	s.did("set-sync", 3*time.Millisecond)
	defer s.w.mu.Unlock()
	s.sync = set
	return 0, nil
}

func (s fakeServer) Promote(_ context.Context, timeline ha.TLI) (ha.Position, error) {
	s.did("promote", 35*time.Millisecond)
	defer s.w.mu.Unlock()
	if !s.running || !s.armed {
		return ha.Position{}, errFake
	}
	s.position.History = append(slices.Clone(s.position.History), ha.Fork{TLI: s.position.TLI, End: s.position.LSN})
	s.primary, s.position.TLI = true, timeline
	return s.position, nil
}

func (s fakeServer) Unhide(context.Context) error {
	s.did("unhide", time.Millisecond)
	defer s.w.mu.Unlock()
	s.hidden = false
	return nil
}

// Configure takes up the member's own configuration as it is when it begins. It takes
// time only once that was read again, when no operation waits for the server.
func (s fakeServer) Configure(context.Context, sidecar.Settings) error {
	s.w.mu.Lock()
	file := s.file
	s.configured[0] = file
	s.w.mu.Unlock()
	if file == 0 {
		return nil
	}
	s.did("configure", 100*time.Millisecond)
	defer s.w.mu.Unlock()
	s.configured[1] = file
	return nil
}

func (s fakeServer) Outgrown(context.Context) bool                { return false }
func (s fakeServer) Diagnose() (string, bool)                     { return "", false }
func (s fakeServer) Checkpoint(context.Context, bool) error       { return nil }
func (s fakeServer) Upkeep(context.Context, []string, bool) error { return nil }
func (s fakeServer) Close()                                       {}
