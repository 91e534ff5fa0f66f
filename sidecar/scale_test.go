package sidecar_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

const (
	// scaleWindow is how long the steady state is looked at: three of the longest waits
	// of a list's blocking query.
	scaleWindow = 30 * time.Second
	// scaleFaults is how many clusters fail over at once, if there are as many.
	scaleFaults = 50
	// scaleLimit bounds the making of all clusters, and the failovers.
	scaleLimit = 5 * time.Minute
	// fewAgents and manyAgents are how many client agents the members share, with up to a
	// hundred clusters and with more. In life each has that of its host, which tells the
	// catalog of nothing else: what is registered at one agent is told one by one.
	fewAgents, manyAgents = 10, 20
	// perProcess is how many members one process has: each has some eight connections, and
	// a process may have no more than its limit of open files.
	perProcess = 1500
)

// BenchmarkScale puts clusters on one Consul server, as many as SCALE says ("10 100
// 1x50": 10 of three members, then 100, then one of 50), and looks at what they cost it: in the steady state, and when 50 of them lose their
// primary at once. The sidecars and all that they say to Consul are real; servers,
// guards and the streams between members are stand-ins in this process. What the
// server alone does is measured apart from the client agents that speak for the
// members. A process of its own follows all clusters, as a proxy would.
//
// SCALEREPORT names the file that the table is written to. The whole is bounded by
// scaleLimit for each number of clusters.
func BenchmarkScale(b *testing.B) {
	sizes := strings.Fields(os.Getenv("SCALE"))
	if len(sizes) == 0 {
		b.Skip("SCALE says no number of clusters: make bench-scale")
	}
	var rows []scaleFigures
	for _, size := range sizes {
		clusters, members, is := strings.Cut(size, "x")
		if !is {
			members = "3"
		}
		n, err := strconv.Atoi(clusters)
		m, err2 := strconv.Atoi(members)
		if err := errors.Join(err, err2); err != nil || n < 1 || m < 3 {
			b.Fatalf("SCALE has %q, which is neither a number of clusters nor one x their members", size)
		}
		b.Run(size, func(b *testing.B) {
			rows = append(rows, measureScale(b, n, m))
			if path := os.Getenv("SCALEREPORT"); path != "" {
				if err := os.WriteFile(path, []byte(scaleReport(rows)), 0o644); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// fleet is many clusters on one Consul.
type fleet struct {
	b         testing.TB
	server    *labtest.Consul
	agents    []*labtest.Consul
	addresses []string // the agents'
	worlds    []*world // those of this process
	each      int      // members of a cluster
	asked     asked
	others    []*scaleProcess // that have the other clusters
}

// asked counts requests to Consul, without blocking queries, by operation.
type asked struct {
	mu    sync.Mutex
	times map[string]int
}

func (a *asked) add(operation string, _ time.Duration, _ error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times[operation]++
}

func (a *asked) now() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.times)
}

// measureScale measures one number of clusters.
func measureScale(b *testing.B, n, members int) scaleFigures {
	f := newFleet(b, n)
	f.each = members
	defer f.stop()
	here := min(n, max(perProcess/members, 1))
	f.found(0, here)
	for from := here; from < n; from += here {
		f.foundElsewhere(from, min(from+here, n))
	}
	proxy := f.follow(n)
	proxy.await(1, n)

	f.quiet()
	row := scaleFigures{Clusters: n, Members: members, Agents: len(f.agents)}
	f.steady(&row, proxy.cmd.Process.Pid)
	row.Faults = min(here, scaleFaults)
	row.LastTag, row.LastRecord = f.failOver(row.Faults, proxy)
	row.Phases = f.phases(row.Faults)
	row.report(b)
	return row
}

// newFleet starts Consul. What is not the members' doing is switched off: agents tell
// each other's distance, each time in a Raft write.
func newFleet(b *testing.B, n int) *fleet {
	f := &fleet{b: b, asked: asked{times: map[string]int{}}}
	const more = "disable_coordinates = true\nlimits { http_max_conns_per_client = 15000 }"
	start := func(name, join string) *labtest.Consul {
		return labtest.StartConsul(b, labtest.ConsulOptions{Name: name, Dir: b.TempDir(), Join: join, Quiet: true, Config: more})
	}
	f.server = start("server", "")
	agents := fewAgents
	if n > 100 {
		agents = manyAgents
	}
	for i := range agents {
		a := start("agent"+strconv.Itoa(i), f.server.Serf)
		f.agents, f.addresses = append(f.agents, a), append(f.addresses, a.Address)
	}
	return f
}

// foundElsewhere has a process of its own make the clusters from one number to another,
// and returns when they are there.
func (f *fleet) foundElsewhere(from, to int) {
	p := f.start("TestScaleMembers", "SCALEMEMBERS="+strings.Join(append([]string{strconv.Itoa(from), strconv.Itoa(to), strconv.Itoa(f.each)}, f.addresses...), " "))
	f.others = append(f.others, p)
	for line := range p.lines {
		if line == "ready" {
			return
		}
	}
	f.b.Fatalf("the process with the clusters from %d on has ended", from)
}

// TestScaleMembers is a process that BenchmarkScale starts, for some of the clusters.
func TestScaleMembers(t *testing.T) {
	words := strings.Fields(os.Getenv("SCALEMEMBERS"))
	if len(words) < 4 {
		t.Skip("it is a part of BenchmarkScale")
	}
	var number [3]int
	for i := range number {
		n, err := strconv.Atoi(words[i])
		if err != nil {
			t.Fatal(err)
		}
		number[i] = n
	}
	f := &fleet{b: t, each: number[2], addresses: words[3:], asked: asked{times: map[string]int{}}}
	f.found(number[0], number[1])
	fmt.Println("ready")
	<-t.Context().Done() // it is killed
}

// found makes the clusters from one number to another, some at a time.
func (f *fleet) found(from, to int) {
	f.worlds = make([]*world, to-from)
	var group errgroup.Group
	group.SetLimit(40)
	ctx, cancel := context.WithTimeout(f.b.Context(), scaleLimit)
	defer cancel()
	for i := from; i < to; i++ {
		w := newWorld(f.b)
		f.worlds[i-from] = w
		group.Go(func() error {
			for k := range f.each {
				if err := f.join(w, i, k); err != nil {
					return err
				}
				if k > 0 {
					continue
				}
				if err := w.member1("n1").awaitTag(ctx, "primary"); err != nil {
					return err
				}
			}
			for k := range f.each - 1 {
				if err := w.member1(fmt.Sprintf("n%d", k+2)).awaitTag(ctx, "replica"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		f.b.Fatal(err)
	}
}

func scaleName(i int) string { return fmt.Sprintf("c%04d", i) }

// join starts the member number k of the cluster number i.
func (f *fleet) join(w *world, i, k int) error {
	name := fmt.Sprintf("n%d", k+1)
	client, err := sessions.New(sessions.Options{
		Addresses: []string{f.addresses[(f.each*i+k)%len(f.addresses)]}, Cluster: scaleName(i), Member: name, Now: w.now, Requested: f.asked.add,
	})
	if err != nil {
		return err
	}
	m := w.member(name)
	m.runWith(fakeServer{m}, consulCluster{Client: client, member: m, read: new(settings.Reader)})
	return nil
}

func (w *world) member1(name string) *member {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.members[name]
}

// awaitTag waits until a member is registered with a tag, and the cluster is whole.
func (m *member) awaitTag(ctx context.Context, tag string) error {
	_, err := m.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool {
		a, d := s.Observation.Announced, s.Observation.Consul.Record.Durability
		return a.Known && a.Tag == tag && (tag == "primary" || d.K == 1 && len(d.Voters) == 2)
	})
	if err != nil {
		return fmt.Errorf("%s is not %s: %w", m.name, tag, err)
	}
	return nil
}

func (f *fleet) stop() {
	for _, w := range f.worlds {
		if w != nil {
			w.stop()
		}
	}
}

// quiet waits until the Raft log has been still for 3 s: agents and terms' records are
// through.
func (f *fleet) quiet() {
	last, since := f.raft(), time.Now()
	labtest.Until(f.b, scaleLimit, "a quiet Raft log", func() bool {
		if now := f.raft(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
}

// raft is the newest index of the server's Raft log.
func (f *fleet) raft() uint64 {
	f.b.Helper()
	resp, err := http.Get(f.server.URL() + "/v1/agent/self")
	if err != nil {
		f.b.Fatal(err)
	}
	defer resp.Body.Close()
	var self struct {
		Stats struct{ Raft map[string]string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&self); err != nil {
		f.b.Fatal(err)
	}
	index, err := strconv.ParseUint(self.Stats.Raft["last_log_index"], 10, 64)
	if err != nil {
		f.b.Fatal(err)
	}
	return index
}

// steady fills in what the steady state costs.
func (f *fleet) steady(row *scaleFigures, proxy int) {
	spent := func() (all [4]time.Duration) {
		all[0], all[1], all[2] = cpuOf(f.b, f.server.Cmd.Process.Pid), cpuOf(f.b, os.Getpid()), cpuOf(f.b, proxy)
		for _, p := range f.others {
			all[1] += cpuOf(f.b, p.cmd.Process.Pid)
		}
		for _, a := range f.agents {
			all[3] += cpuOf(f.b, a.Cmd.Process.Pid)
		}
		return all
	}
	cpu, raft, asked, begun := spent(), f.raft(), f.asked.now(), time.Now()
	select {
	case <-time.After(scaleWindow):
	case <-f.b.Context().Done():
	}
	took := time.Since(begun)
	after := spent()
	share := func(i int) float64 { return 100 * float64(after[i]-cpu[i]) / float64(took) }
	row.ServerCPU, row.OwnCPU, row.ProxyCPU, row.AgentsCPU = share(0), share(1), share(2), share(3)
	row.Raft = float64(f.raft()-raft) / took.Minutes()
	row.Asked = map[string]float64{}
	members := float64(f.each * len(f.worlds))
	for operation, times := range f.asked.now() {
		row.Asked[operation] = float64(times-asked[operation]) / took.Minutes() / members
	}
	row.ServerMB, row.ProxyMB, row.OwnMB = residentOf(f.b, f.server.Cmd.Process.Pid), residentOf(f.b, proxy), residentOf(f.b, os.Getpid())
	for _, p := range f.others {
		row.OwnMB += residentOf(f.b, p.cmd.Process.Pid)
	}
	row.Goroutines = float64(runtime.NumGoroutine()) / members
	row.Connections = float64(connectionsOf(f.b, os.Getpid())) / members
}

// failOver kills the servers of so many primaries at once, and returns how long it
// takes until the follower has seen the last new tag, and the last new record.
func (f *fleet) failOver(n int, proxy *scaleProxy) (tag, record time.Duration) {
	begun := time.Now()
	for _, w := range f.worlds[:n] {
		w.member1("n1").crash()
	}
	return proxy.await(2, n).Sub(begun), proxy.lastRecord(2, n).Sub(begun)
}

// phases are when half of the clusters, and the last, went through each phase, by their
// own account.
func (f *fleet) phases(n int) map[string][2]time.Duration {
	all := map[string][]time.Duration{}
	labtest.Until(f.b, scaleLimit, "the records of the failovers", func() bool {
		clear(all)
		whole := 0
		for _, w := range f.worlds[:n] {
			w.mu.Lock()
			if _, is := w.phases["promoted"]; is { // not the phases of the founding
				whole++
			}
			for phase, took := range w.phases {
				all[phase] = append(all[phase], took)
			}
			w.mu.Unlock()
		}
		return whole == n
	})
	figures := map[string][2]time.Duration{}
	for phase, took := range all {
		slices.Sort(took)
		figures[phase] = [2]time.Duration{took[len(took)/2], took[len(took)-1]}
	}
	return figures
}

// consulCluster is a member's place in a real Consul.
type consulCluster struct {
	*sessions.Client
	*member
	read *settings.Reader
}

// Run and View are the client's, as a member of the product has them.
func (c consulCluster) Run(ctx context.Context, notify func()) error {
	return c.Client.Run(ctx, notify)
}

func (c consulCluster) View() sidecar.ClusterView {
	v := c.Client.View()
	view := sidecar.ClusterView{Consul: v.Consul, Settings: c.read.Read(v.Settings, v.SettingsIndex), Err: v.Err}
	for _, m := range v.Believed() {
		view.Members = append(view.Members, sidecar.Instance{Member: m.Name, API: m.API, Postgres: m.Postgres})
	}
	if m := v.Primary(); m.Name == c.name {
		view.Named, _ = strconv.ParseUint(m.Meta["term"], 10, 64)
	}
	return view
}

func (c consulCluster) Commit(ctx context.Context, change ha.Change) error {
	err := c.Client.Commit(ctx, change)
	if errors.Is(err, sessions.ErrConflict) {
		return fmt.Errorf("%w: %w", sidecar.ErrConflict, err)
	}
	return err
}

func (c consulCluster) Register(ctx context.Context, r sidecar.Registration) error {
	meta := map[string]string{"member": c.name, "api": c.name + ":8008", "version": "scale"}
	for _, kv := range r.Meta {
		meta[kv[0]] = kv[1]
	}
	err := c.Client.Register(ctx, sessions.Registration{
		Tag: r.Tag, Address: c.name, Port: 5432, Meta: meta,
		Checks: []sessions.Check{
			{ID: "server", Name: "PostgreSQL", Status: r.Status, Text: r.Text},
			{ID: "replication", Name: "replication", Status: r.Replica.Status, Text: r.Replica.Text},
		},
	})
	if err == nil {
		c.w.mu.Lock()
		c.member.tag = r.Tag
		c.w.mu.Unlock()
	}
	return err
}

func (c consulCluster) Leave(ctx context.Context) error {
	return errors.Join(c.Deregister(ctx), c.ReleaseSession(ctx))
}
