package sidecar_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	log "github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// world is a cluster in memory, in virtual time: one Consul, a mesh without
// delay, and servers whose log is a number. Faults are the simulation's matter
// (package ha/sim); here the shell is shown to do what the core decides.
type world struct {
	t       testing.TB
	begun   time.Time
	mu      sync.Mutex
	record  ha.Record
	lock    ha.Lock
	broken  bool // the record cannot be read
	index   uint64
	history []failover.Record
	asked   int        // changes of record and registrations, and evictions
	unnamed bool       // the catalog does not take up who is registered
	finals  []ha.Final // of all changes of the record
	members map[string]*member
	set     string                   // the cluster-wide settings
	rules   map[string]int           // how many actions each has begun
	phases  map[string]time.Duration // of the newest term that was recorded
}

type member struct {
	w       *world
	name    string
	sidecar *sidecar.Sidecar
	cancel  context.CancelFunc
	ended   chan error
	notify  [3]func() // cluster, peers, guard
	tag     string
	named   uint64        // the term in which the catalog leads to it; 0: it does not
	refused bool          // registrations fail, and are made up for later
	owed    string        // the tag of the last of those
	told    string        // the settings that the last registration was made from
	slow    chan struct{} // unless nil: a registration that has begun goes on when it is closed
	holding bool          // what SetHolding was last told
	vouched bool
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
	upstreamAt string // the address that it has for it
	address    string // where others reach the server
	position   ha.Position
	sync       ha.SyncSetting
	hidden     bool
	probe      error  // of write probes
	unreadable int    // so many looks at the files fail
	file       int    // the version of the configuration file
	configured [2]int // the version that was begun to be taken up, and that was
	ops        []string
}

func newWorld(t testing.TB) *world {
	return &world{t: t, begun: time.Now(), members: make(map[string]*member), rules: make(map[string]int), phases: make(map[string]time.Duration)}
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
	m := w.member(name)
	m.run()
	return m
}

// member is one that does not run yet.
func (w *world) member(name string) *member {
	m := &member{w: w, name: name, address: name + ":5432", dir: ha.DataAbsent, echoed: make(map[string]uint64)}
	w.mu.Lock() // those that were added before run already
	w.members[name] = m
	w.mu.Unlock()
	return m
}

func (m *member) run() { m.runWith(fakeServer{m}, fakeCluster{m}) }

func (m *member) runWith(server sidecar.Server, cluster sidecar.Cluster) {
	policy := settings.Default()
	s, err := sidecar.New(sidecar.Options{
		Member: m.name, Postgres: m.address, API: m.name + ":8008", Policy: policy,
		Cluster: cluster, Peers: fakePeers{m}, Guard: fakeGuard{m}, Server: server,
		Now: m.w.now, Logger: testLogger(m.w.t, m.name), Recorder: fakeRecorder{m},
	})
	if err != nil {
		m.w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(m.w.t.Context())
	ended := make(chan error, 1)
	m.w.mu.Lock()
	m.sidecar, m.cancel, m.ended = s, cancel, ended
	m.w.mu.Unlock()
	go func() { ended <- s.Run(ctx) }()
}

func testLogger(t testing.TB, name string) log.Logger {
	if _, is := t.(*testing.B); is || !testing.Verbose() {
		return log.NewNullLogger()
	}
	return log.New(&log.LoggerOptions{Name: name, Level: log.Debug, Output: writer{t}, DisableTime: true})
}

type writer struct{ t testing.TB }

func (w writer) Write(p []byte) (int, error) {
	w.t.Log(time.Now().Format("05.000 ") + string(p[:len(p)-1]))
	return len(p), nil
}

// look looks at the world while its members stand still. They run on between a test's
// own steps, so whatever they write as well is read in here, or in until.
func (w *world) look(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// recorded is the record that Consul has now.
func (w *world) recorded() (r ha.Record) {
	w.look(func() { r = w.record })
	return r
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
		var ok bool
		w.look(func() { ok = f() })
		if ok {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not within %s; record %+v", what, within, w.recorded())
		}
		time.Sleep(time.Millisecond)
	}
}

func (w *world) running() int {
	n := 0
	for _, m := range w.members {
		if m.running {
			n++
		}
	}
	return n
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

// fakeRecorder counts what each rule has begun.
type fakeRecorder struct{ *member }

func (r fakeRecorder) Rule(rule string) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	r.w.rules[rule]++
}

func (fakeRecorder) Action(string, time.Duration, error) {}
func (fakeRecorder) Check(string, error)                 {}
func (fakeRecorder) LeaderChange(string)                 {}

func (r fakeRecorder) FailoverPhase(phase string, took time.Duration) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	r.w.phases[phase] = took
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
	s := sidecar.GuardStatus{Postmaster: ha.Postmaster{Process: ha.ProcessStopped, StartedAt: g.startedAt, ExitedAt: g.exitedAt, Armed: g.armed, LeaseUntil: g.leaseUntil}}
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

func (s fakeServer) Inspect(context.Context) (ha.Files, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.unreadable > 0 {
		s.unreadable--
		return ha.Files{}, errFake
	}
	f := ha.Files{DataDir: s.dir, SystemID: s.systemID, WasPrimary: s.primary, Promise: s.promise, Fenced: s.fenced, CleanStop: s.clean}
	if s.clean {
		f.End = s.position
	}
	return f, nil
}

func (s fakeServer) Read(context.Context) (ha.SQL, error) {
	time.Sleep(time.Millisecond)
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if !s.running {
		return ha.SQL{}, errFake
	}
	v := ha.SQL{InRecovery: ha.Known(!s.primary), Upstream: s.upstream, UpstreamAt: s.upstreamAt, Sync: s.sync, Hidden: s.hidden, RecoveryEnd: 1}
	up := s.w.members[s.upstream]
	v.Receiving = ha.Known(up != nil && up.running && !s.primary && s.upstreamAt == up.address)
	if s.primary {
		s.position.LSN++
		for _, name := range slices.Sorted(maps.Keys(s.w.members)) {
			m := s.w.members[name]
			if m != nil && m.running && !m.primary && m.upstream == s.name {
				m.position = s.position
				v.Walsenders = append(v.Walsenders, ha.Walsender{Member: name, Streaming: true, Sync: slices.Contains(s.sync.Names, name), Flush: s.position.LSN, Fresh: true})
			}
		}
	}
	v.Position, v.Settled = s.position, v.Receiving == ha.No && s.upstream == ""
	return v, nil
}

func (s fakeServer) Probe(context.Context) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.member.probe
}

func (s fakeServer) SyncInEffect(context.Context) (ha.LSN, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.position.LSN, nil
}

// steps are how long each operation takes, in virtual time.
var steps = map[ha.ActionKind]time.Duration{
	ha.Init: time.Second, ha.Clone: time.Second, ha.Rewind: time.Second, ha.Start: 50 * time.Millisecond, ha.Stop: 20 * time.Millisecond,
	ha.Fence: 8 * time.Millisecond, ha.Follow: 8 * time.Millisecond, ha.SetSync: 3 * time.Millisecond, ha.Promote: 35 * time.Millisecond,
	ha.Unhide: time.Millisecond,
}

func (s fakeServer) Do(_ context.Context, a ha.Action) (l sidecar.Learned, err error) {
	took, known := steps[a.Kind]
	if !known {
		return l, nil
	}
	s.did(strings.TrimSpace(a.Kind.String()+" "+a.From), took)
	defer s.w.mu.Unlock()
	switch a.Kind {
	case ha.Init:
		s.dir, s.systemID, s.primary, s.clean, s.position = ha.DataPresent, "7", true, true, ha.Position{TLI: 1, LSN: 100}
	case ha.Clone:
		src := s.w.members[a.From]
		s.dir, s.systemID, s.primary, s.clean, s.position = ha.DataPresent, src.systemID, false, false, src.position
	case ha.Rewind:
		s.running, s.primary, s.clean = false, false, false
		s.position = s.w.members[a.From].position
	case ha.Start:
		s.running, s.primary, s.hidden, s.clean, s.upstream = true, a.Primary, a.Hidden, false, ""
		s.startedAt, s.exitedAt = s.w.now(), 0
	case ha.Stop:
		s.running, s.clean, s.exitedAt = false, !a.Immediate && s.primary, s.w.now()
	case ha.Fence:
		if !s.running {
			return l, errFake
		}
		s.promise, s.fenced, s.upstream = a.Term, true, ""
		if a.Sync.K > 0 {
			s.sync = a.Sync
		}
		l.Position = s.position
	case ha.Follow:
		s.promise, s.fenced, s.upstream = a.Term, false, a.From
		s.upstreamAt = a.Address
	case ha.SetSync:
		s.sync = a.Sync
	case ha.Promote:
		if !s.running || !s.armed {
			return l, errFake
		}
		s.position.History = append(slices.Clone(s.position.History), ha.Fork{TLI: s.position.TLI, End: s.position.LSN})
		s.primary, s.position.TLI = true, a.Timeline
		l.Position = s.position
	case ha.Unhide:
		s.hidden = false
	}
	return l, nil
}

// Configure takes up the member's own configuration as it is when it begins. It takes
// time only once that was read again, when no operation waits for the server.
func (s fakeServer) Configure(context.Context, settings.Settings) error {
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

func (s fakeServer) Maintain(context.Context, []string, bool) (bool, error) { return false, nil }
func (s fakeServer) Diagnose() (string, bool)                               { return "", false }
