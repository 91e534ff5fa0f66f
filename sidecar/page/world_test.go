package page_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/availability"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

const token = "letmein"

// world is a member's API with a cluster that a test changes.
type world struct {
	api.Control // nil: what is not faked is not asked for

	mu    sync.Mutex
	view  *api.View
	next  chan struct{}
	now   ha.Instant
	asked []string // what was requested of the member

	routes    []api.RouteElsewhere // nil: other hosts are not asked
	routesErr error
}

// newWorld is a cluster of three, which the first leads; its names are the test's.
func newWorld(cluster string, names ...string) *world {
	w := &world{next: make(chan struct{}), now: ha.Instant(1000 * time.Second)}
	w.view = w.of(cluster, names, names[0], 7)
	return w
}

func (w *world) of(cluster string, names []string, leader string, term uint64) *api.View {
	v := &api.View{Cluster: cluster, Service: cluster, Config: json.RawMessage(`{"durability":{"standbys":1},"parameters":{"work_mem":"64MB"}}`)}
	o := &v.Observation
	o.Now, o.Self = w.now, names[0]
	record := ha.Record{Version: 1, SystemID: "7412345678901234567", Term: term, Leader: leader, Timeline: 3, Phase: ha.PhaseLeading, Members: names, Index: 42}
	record.Durability = ha.Durability{Mode: ha.ModeQuorum, K: 1}
	for _, n := range names {
		if n != leader {
			record.Durability.Voters = append(record.Durability.Voters, n)
		}
	}
	o.Policy = ha.Policy{Mode: ha.ModeQuorum, Standbys: 1, FailureTimeout: 2 * time.Second, Lease: 5 * time.Second}
	o.Consul = ha.Consul{SeenAt: w.now, Record: record, Reachable: ha.Yes, Lock: ha.Lock{Holder: leader, Session: "s1", Index: 5}, Session: "s1"}
	o.Server = ha.Server{Postmaster: ha.Postmaster{Process: ha.ProcessRunning, StartedAt: 1},
		Files: ha.Files{DataDir: ha.DataPresent, SystemID: record.SystemID},
		SQL:   ha.SQL{SeenAt: w.now, Position: ha.Position{TLI: 3, LSN: 0x3000000}, InRecovery: ha.Yes}}
	if leader == names[0] {
		o.Server.InRecovery, o.Server.Writable, o.Server.Armed, o.Server.LeaseUntil = ha.No, ha.Yes, true, w.now+ha.Instant(5*time.Second)
		v.State.Role, v.State.LeaseUntil = ha.RolePrimary, w.now+ha.Instant(4500*time.Millisecond)
	}
	for i, n := range names {
		r := ha.Report{Member: n, Term: term, Position: ha.Position{TLI: 3, LSN: 0x3000000 - ha.LSN(i)*2048}, Eligible: true, Lease: 5 * time.Second,
			Postgres: fmt.Sprintf("10.0.0.%d:5432", i+1), API: fmt.Sprintf("10.0.0.%d:8008", i+1), Version: "0.1.0", Role: ha.RoleReplica, Streaming: true}
		if n == leader {
			r.Role, r.Serving, r.Writable, r.Streaming = ha.RolePrimary, true, true, false
		}
		v.Registered = append(v.Registered, api.Registration{Member: n, Address: r.Postgres, Tags: []string{string(r.Role)}, Status: "passing"})
		if i == 0 {
			v.Report = r
			continue
		}
		o.Peers = append(o.Peers, ha.Peer{Member: n, Link: ha.LinkUp, ReceivedAt: w.now, Report: r})
	}
	lost := time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)
	for t := range term {
		r := failover.Record{Term: t + 1, Leader: leader, Reason: "the member was lost", Timeline: 3, Detected: lost, Elected: lost.Add(31 * time.Millisecond),
			Fenced: lost.Add(52 * time.Millisecond), Promoted: lost.Add(81 * time.Millisecond), Writable: lost.Add(105 * time.Millisecond), Announced: lost.Add(111 * time.Millisecond),
			Routed: lost.Add(126 * time.Millisecond)}
		if t > 0 {
			r.From = names[len(names)-1]
		}
		v.History = append(v.History, r)
	}
	v.Outages = []availability.Outage{{From: lost, To: lost.Add(105 * time.Millisecond), Kind: availability.Failover, Cause: "the member was lost", Term: 7, Leader: leader}}
	v.Changes = []json.RawMessage{json.RawMessage(`{"at":"2026-11-28T09:00:00Z","member":"n1","by":"token","diff":"- parameters.work_mem = \"4MB\"\n+ parameters.work_mem = \"64MB\""}`)}
	return v
}

// change puts another view in its place, as a decision does.
func (w *world) change(change func(v *api.View)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := *w.view
	change(&v)
	w.view = &v
	close(w.next)
	w.next = make(chan struct{})
}

// lead makes another member lead in the next term.
func (w *world) lead(leader string) {
	w.change(func(v *api.View) {
		r := v.Observation.Consul.Record
		*v = *w.of(v.Cluster, r.Members, leader, r.Term+1)
	})
}

func (w *world) Switchover(_ context.Context, req api.Switchover) (string, error) {
	w.note("switchover to " + req.Candidate)
	w.lead(req.Candidate)
	return req.Candidate, nil
}

func (w *world) Pause(_ context.Context, req api.Pause) error {
	w.note(fmt.Sprintf("pause for %v: %s", req.For, req.Reason))
	w.change(func(v *api.View) {
		v.Observation.Policy.Paused, v.PausedReason = true, req.Reason
	})
	return nil
}

func (w *world) Resume(context.Context, api.Resume) error {
	w.note("resume")
	w.change(func(v *api.View) { v.Observation.Policy.Paused = false })
	return nil
}

func (w *world) Restart(context.Context, api.Restart) error { w.note("restart"); return nil }
func (w *world) Reload(context.Context) error               { w.note("reload"); return nil }
func (w *world) Reinitialize(context.Context, api.Reinitialize) error {
	w.note("reinit")
	return nil
}

func (w *world) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, what)
}

func (w *world) notes() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string{}, w.asked...)
}

func (w *world) clusters(context.Context) ([]api.ClusterInConsul, error) {
	name := w.view.Cluster
	return []api.ClusterInConsul{{Cluster: name, Service: name, Members: 3, Healthy: 3, Primary: "n1", API: "10.0.0.1:8008"},
		{Cluster: "billing" + name, Service: "billing", Members: 2, Healthy: 1, API: "10.0.0.9:8008"}}, nil
}

// drills are of a cluster in which a drill was done.
type drills struct{ api.Drills }

func (drills) LastDrill(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{"scenario":"postgres-killed","at":"2026-11-20T10:00:00Z","passed":true,"rto_ms":105,"rpo_rows":0,"rpo_bytes":0,"objective":{},
		"before":[{"scenario":"host-lost","at":"2026-10-20T10:00:00Z","passed":false,"rto_ms":2200,"rpo_rows":3,"failures":["3 rows are lost"]}]}`), nil
}

// serve runs the API until the test ends, and returns the page's address.
func (w *world) serve(t testing.TB, change func(*api.Options)) string {
	t.Helper()
	o := api.Options{Member: w.view.Observation.Self, Cluster: w.view.Cluster, Version: "0.1.0", Listen: "127.0.0.1:0", Control: w, Drills: drills{},
		View: func() *api.View {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.view
		},
		Now: func() ha.Instant { return w.now }, Token: func() (string, error) { return token, nil },
		Page: &api.PageOptions{Clusters: w.clusters, Next: func() <-chan struct{} {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.next
		}}}
	if w.routes != nil {
		o.Page.Elsewhere = func(context.Context) ([]api.RouteElsewhere, error) { return w.routes, w.routesErr }
	}
	if change != nil {
		change(&o)
	}
	s, err := api.New(o)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := s.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error)
	go func() { ran <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	return "http://" + addr.String()
}

func nowOf(w *world) func() ha.Instant { return func() ha.Instant { return w.now } }

// get asks for a path.
func get(t testing.TB, url string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}
