package sessions_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

func registration(name, tag string, port int) sessions.Registration {
	return sessions.Registration{
		Tag: tag, ExtraTags: []string{"blue"}, Address: "127.0.0.1", Port: port,
		Meta: map[string]string{"member": name, "api": "127.0.0.1:8008"},
		Checks: []sessions.Check{
			{ID: "server", Name: "PostgreSQL", Status: "passing", Text: "takes writes"},
			{ID: "replication", Name: "replication", Status: "warning", Text: "one standby of two"},
		},
	}
}

// answers waits until DNS at the agent gives exactly these ports.
func (a *agent) answers(within time.Duration, want ...int) {
	a.t.Helper()
	var texts []string
	for _, port := range want {
		texts = append(texts, strconv.Itoa(port))
	}
	eventually(a.t, within, "DNS", func() error {
		if got := a.primary(); !slices.Equal(got, texts) {
			return fmt.Errorf("primary.pg.service.consul answers %v, want %v", got, texts)
		}
		return nil
	})
}

func member1(v sessions.View, name string) (found sessions.Member) {
	for _, m := range v.Members {
		if m.Name == name {
			found = m
		}
	}
	return found
}

func TestRegister(t *testing.T) {
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	n1 := run(t, options("n1", server.http))
	n1.session(t)

	// Without the lock nobody is announced as primary.
	wantErr(t, n1.Register(ctx, registration("n1", "primary", 5001)), sessions.ErrConflict, "nobody holds the lock")
	must(t, n1.Register(ctx, registration("n1", "replica", 5001)))
	server.answers(2 * time.Second)

	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	start := time.Now()
	must(t, n1.Register(ctx, registration("n1", "primary", 5001)))
	server.answers(2*time.Second, 5001)
	t.Logf("in DNS %s after Register was called", time.Since(start).Round(10*time.Microsecond))
	v := n1.await(t, 2*time.Second, "itself in the view", func(v sessions.View) bool { return slices.Contains(member1(v, "n1").Tags, "primary") })
	m := member1(v, "n1")
	if got := v.Primary().Name; got != "n1" {
		t.Errorf("the view takes %q for the one that DNS answers with", got)
	}
	if m.Postgres != "127.0.0.1:5001" || m.API != "127.0.0.1:8008" || m.ServiceID != "pg-n1" || m.Node != "server" || m.Status != "warning" || !slices.Contains(m.Tags, "blue") {
		t.Fatalf("the view has %+v", m)
	}
	checks, _, err := server.api.Health().Checks("pg", nil)
	must(t, err)
	if len(checks) != 2 || checks[0].Notes == "" || checks[0].ServiceID != "pg-n1" {
		t.Fatalf("checks are %+v", checks)
	}

	// Someone removes it from the agent.
	must(t, server.api.Agent().ServiceDeregister("pg-n1"))
	server.answers(5*time.Second, 5001)

	// Withdrawn, then gone.
	must(t, n1.Register(ctx, registration("n1", "", 5001)))
	server.answers(2 * time.Second)
	must(t, n1.Deregister(ctx))
	must(t, n1.Deregister(ctx))
	n1.await(t, 2*time.Second, "the end of the registration", func(v sessions.View) bool { return len(v.Members) == 0 })

	bad := registration("n1", "replica", 5001)
	bad.Checks[0].Status = "splendid"
	if err := n1.Register(ctx, bad); err == nil {
		t.Fatal("a status that Consul does not know was accepted")
	}
}

// A dead sidecar, a living agent, and a new leader: does the old agent bring
// the old tag back while its check passes?
func TestEvictStays(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	// Anti-entropy every second instead of every minute: as many syncs as in
	// ten minutes happen within the ten seconds that the dead sidecar's check
	// still passes.
	host := newAgent(t, "host1", server.serf, `ae_interval = "1s"`)
	ctx := background(t)
	n1, n2 := run(t, options("n1", host.http)), run(t, options("n2", server.http))
	n1.session(t)
	n2.session(t)
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	must(t, n1.Register(ctx, registration("n1", "primary", 5001)))
	must(t, n2.Register(ctx, registration("n2", "replica", 5002)))
	server.answers(5*time.Second, 5001)

	n1.stop() // as dead: nobody updates the TTL check any more
	must(t, n2.Commit(ctx, ballot(n2, "n2")))
	start := time.Now()
	must(t, n2.Evict(ctx, []string{"n1"}))
	t.Logf("evicted in %s", time.Since(start).Round(10*time.Microsecond))
	server.answers(100 * time.Millisecond)
	must(t, n2.Register(ctx, registration("n2", "primary", 5002)))
	server.answers(2*time.Second, 5002)

	var back []string
	expired := false
	eventually(t, 20*time.Second, "the end of the old check", func() error {
		entries, _, err := server.api.Health().Service("pg", "", false, nil)
		must(t, err)
		for _, e := range entries {
			if e.Service.ID != "pg-n1" {
				continue
			}
			status := e.Checks.AggregatedStatus()
			if slices.Contains(e.Service.Tags, "primary") {
				back = append(back, status)
			}
			expired = status == api.HealthCritical
		}
		if got := server.primary(); !slices.Equal(got, []string{"5002"}) {
			t.Errorf("primary.pg.service.consul answers %v", got)
		}
		if !expired {
			return errors.New("still passing")
		}
		return nil
	})
	t.Logf("the tag came back %d times: %v", len(back), back)
}

// compares waits until the agent has compared itself with the catalog, and taken over what
// somebody had changed there. It does so soon after its start, and then each minute.
func (a *agent) compares() {
	a.t.Helper()
	other := &api.AgentServiceRegistration{ID: "other", Name: "other", EnableTagOverride: true}
	must(a.t, a.api.Agent().ServiceRegister(other))
	eventually(a.t, 20*time.Second, "a comparison", func() error {
		found, _, err := a.api.Catalog().Service("other", "", nil)
		if err != nil || len(found) != 1 {
			return fmt.Errorf("the catalog has %v, %v", found, err)
		}
		if len(found[0].ServiceTags) == 0 {
			_, err := a.api.Catalog().Register(&api.CatalogRegistration{Node: found[0].Node, SkipNodeUpdate: true,
				Service: &api.AgentService{ID: "other", Service: "other", Tags: []string{"taken"}, EnableTagOverride: true}}, nil)
			must(a.t, err)
		}
		info, _, err := a.api.Agent().Service("other", nil)
		if err != nil || !slices.Equal(info.Tags, []string{"taken"}) {
			return fmt.Errorf("the agent has %+v, %v", info, err)
		}
		return nil
	})
}

// TestNothingIsToldLate: an agent tells the catalog of an output that has changed without its
// status some minutes later, and of its old tags with it; when its member is dead and evicted
// by then, and its check has not run out, that would make a second primary. So outputs never
// change so: not with the role, not with a text, and not at the first registration.
func TestNothingIsToldLate(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	host := newAgent(t, "host1", server.serf, `check_update_interval = "4s"`) // told after 2 s to 6 s
	host.compares()
	ctx := background(t)
	n1, n2 := run(t, options("n1", host.http)), run(t, options("n2", server.http))
	n1.session(t)
	n2.session(t)
	must(t, n2.Register(ctx, registration("n2", "replica", 5002)))
	as := func(tag, status, text string) sessions.Registration {
		r := registration("n1", tag, 5001)
		for i := range r.Checks {
			r.Checks[i].Status, r.Checks[i].Text = status, text
		}
		return r
	}
	must(t, n1.Register(ctx, as("", "critical", "has no role yet")))
	must(t, n1.Register(ctx, as("replica", "passing", "streams")))
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	must(t, n1.Register(ctx, as("primary", "passing", "leads")))
	server.answers(5*time.Second, 5001)

	n1.stop() // as dead
	must(t, n2.Commit(ctx, ballot(n2, "n2")))
	must(t, n2.Evict(ctx, []string{"n1"}))
	eventually(t, 20*time.Second, "the end of the old check", func() error {
		entries, _, err := server.api.Health().Service("pg", "", false, nil)
		must(t, err)
		for _, e := range entries {
			if e.Service.ID != "pg-n1" {
				continue
			}
			if e.Checks.AggregatedStatus() == api.HealthCritical {
				return nil
			}
			if slices.Contains(e.Service.Tags, "primary") {
				t.Fatal("the tag came back while the check passed")
			}
		}
		return errors.New("still passing")
	})
}

// Whoever turns up with the tag while another is announced loses it.
func TestRival(t *testing.T) {
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	n1 := run(t, options("n1", server.http))
	n1.session(t)
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	must(t, n1.Register(ctx, registration("n1", "primary", 5001)))
	server.answers(2*time.Second, 5001)

	rival := &api.CatalogRegistration{Node: "elsewhere", Address: "127.0.0.9",
		Service: &api.AgentService{ID: "pg-n9", Service: "pg", Tags: []string{"red", "primary"}, Port: 5009, Meta: map[string]string{"member": "n9"}}}
	start := time.Now()
	_, err := server.api.Catalog().Register(rival, nil)
	must(t, err)
	v := n1.await(t, 5*time.Second, "the rival without the tag", func(v sessions.View) bool {
		m := member1(v, "n9")
		return m.Name != "" && !slices.Contains(m.Tags, "primary")
	})
	t.Logf("seen without the tag after %s", time.Since(start).Round(10*time.Microsecond))
	if m := member1(v, "n9"); !slices.Equal(m.Tags, []string{"red"}) || m.Postgres != "127.0.0.9:5009" || m.Node != "elsewhere" || m.Meta["member"] != "n9" {
		t.Errorf("the rest was not kept: %+v", m)
	}
	server.answers(time.Second, 5001)
}

// A paused old primary wakes up, and its reconciliation does not bring the tag
// back; nor does the agent of a killed one when it restarts from its disk.
func TestOldPrimaryReturns(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	host := newAgent(t, "host1", server.serf, "")
	ctx := background(t)
	n1, n2 := run(t, options("n1", host.http)), run(t, options("n2", server.http))
	n1.session(t)
	n2.session(t)
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	must(t, n1.Register(ctx, registration("n1", "primary", 5001)))
	server.answers(5*time.Second, 5001)
	must(t, n2.Commit(ctx, ballot(n2, "n2")))
	must(t, n2.Evict(ctx, []string{"n1"}))
	must(t, n2.Register(ctx, registration("n2", "primary", 5002)))
	server.answers(2*time.Second, 5002)

	// n1 still wants to be primary, and its agent is asked to sync.
	host.kill()
	host.start()
	seen := 0
	until := time.Now().Add(6 * time.Second)
	eventually(t, 20*time.Second, "six seconds", func() error {
		if got := server.primary(); len(got) > 1 || len(got) == 1 && got[0] != "5002" {
			t.Errorf("primary.pg.service.consul answers %v", got)
		}
		seen++
		if time.Now().Before(until) {
			return errors.New("not yet")
		}
		return nil
	})
	server.answers(time.Second, 5002)
	v := n1.View()
	if !errors.Is(v.Err, sessions.ErrConflict) {
		t.Errorf("n1 does not say that it may not be announced: %v", v.Err)
	}
	// It learns that it is a replica.
	must(t, n1.Register(ctx, registration("n1", "replica", 5001)))
	n2.await(t, 5*time.Second, "the replica", func(v sessions.View) bool { return slices.Contains(member1(v, "n1").Tags, "replica") })
}

// A primary that cannot see who holds the lock now may be deposed, and its agent's
// copy of the tag older than the catalog's: it tells the agent nothing that would put
// that into the catalog again.
func TestTagInDoubt(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	f := newFlaky(t, server.http)
	ctx := background(t)
	n1 := run(t, options("n1", f.host()))
	n1.session(t)
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	must(t, n1.Register(ctx, registration("n1", "primary", 5001)))
	server.answers(5*time.Second, 5001)

	f.fault.Store(int32(hideLock))
	better, later, bad := registration("n1", "primary", 5001), registration("n1", "primary", 5001), registration("n1", "primary", 5001)
	better.Checks[1].Status = "passing"
	later.Meta["term"] = "1"
	bad.Checks[0].Status, bad.Checks[0].Text = "critical", "does not answer"
	for _, c := range []struct {
		registration sessions.Registration
		told         []string // beside what keeps a check from its end
	}{{better, nil}, {later, nil}, {bad, []string{`pg-n1:server {"Status":"critical","Output":""}`}}} {
		f.told.Clear()
		err := n1.Register(ctx, c.registration)
		if c.told == nil {
			wantErr(t, err, sessions.ErrUnreachable, "announce as primary")
		}
		var told []string
		for what := range f.told.Range {
			if what != `pg-n1:server {"Status":"passing","Output":""}` && what != `pg-n1:replication {"Status":"warning","Output":""}` {
				told = append(told, what.(string))
			}
		}
		if !slices.Equal(told, c.told) {
			t.Errorf("the agent was told %q, want %q", told, c.told)
		}
	}
	server.answers(5 * time.Second)

	// The lock is seen again, and all is told.
	f.fault.Store(int32(healthy))
	must(t, n1.Register(ctx, better))
	server.answers(5*time.Second, 5001)
}

// The agent is told what it does not know, at once, and what it knows only so often
// that no check comes near its end.
func TestToldWhatIsNew(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	f := newFlaky(t, server.http)
	ctx := background(t)
	o := options("n1", f.host())
	o.TTL = 60 * time.Second // none ends meanwhile
	clock := now()
	o.Now = func() ha.Instant { return clock }
	n1, err := sessions.New(o) // it does not run: nobody else tells the agent
	must(t, err)

	const (
		serves = `pg-n1:server {"Status":"passing","Output":""}`
		kept   = `pg-n1:server {"Status":"passing","Output":"who knows"}`
		lacks  = `pg-n1:replication {"Status":"warning","Output":""}`
		whole  = `pg-n1:replication {"Status":"passing","Output":""}`
	)
	r := registration("n1", "replica", 5001)
	pass := func(d time.Duration) func() { return func() { clock = clock.Add(d) } }
	outside := func(output, status string) func() {
		return func() { must(t, server.api.Agent().UpdateTTL("pg-n1:server", output, status)) }
	}
	for _, c := range []struct {
		what   string
		before func()
		told   []string
	}{
		{"first", func() {}, []string{lacks, serves, "register"}},
		{"nothing has changed", func() {}, nil},
		{"a quarter of the TTL has passed", pass(o.TTL / 4), nil},
		{"more than that", pass(1), []string{lacks, serves}},
		{"nothing has changed since", pass(o.TTL / 4), nil},
		{"a new status", func() { r.Checks[1].Status = "passing" }, []string{whole}},
		{"each at its time", pass(1), []string{serves}},
		{"a new text", func() { r.Checks[1].Text = "both standbys" }, []string{whole, serves, "register"}},
		{"the agent has another status", outside("takes writes", "critical"), []string{serves}},
		{"the agent has another output", outside("who knows", "passing"), nil},
		{"nothing has changed again", func() {}, nil},
		{"new meta", func() { r.Meta["term"] = "7" }, []string{whole, kept, "register"}},
		{"the agent has lost the service", func() { must(t, server.api.Agent().ServiceDeregister("pg-n1")) }, []string{whole, serves, "register"}},
		{"all is known", func() {}, nil},
	} {
		c.before()
		f.told.Clear()
		must(t, n1.Register(ctx, r))
		var told []string
		for what := range f.told.Range {
			if text := what.(string); strings.HasPrefix(text, "register ") {
				told = append(told, "register")
			} else {
				told = append(told, text)
			}
		}
		if slices.Sort(told); !slices.Equal(told, c.told) {
			t.Errorf("%s: the agent was told %q, want %q", c.what, told, c.told)
		}
	}
}

func TestAgentLosesEverything(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	host := newAgent(t, "host1", server.serf, "")
	ctx := background(t)
	n1 := run(t, options("n1", host.http, server.http))
	old := n1.session(t)
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	n1.SetHolding(true, false)
	must(t, n1.Register(ctx, registration("n1", "primary", 5001)))
	server.answers(5*time.Second, 5001)

	// A clean leave takes the node, and with it the session, out of Consul.
	start := time.Now()
	host.Signal(syscall.SIGINT)
	<-host.Ended()
	v := n1.await(t, 60*time.Second, "a session through the next address", func(v sessions.View) bool {
		return v.Consul.Session != "" && v.Consul.Session != old
	})
	t.Logf("a new session %s after the agent was told to leave", time.Since(start).Round(time.Millisecond))
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	entry, _, err := server.api.Session().Info(v.Consul.Session, nil)
	must(t, err)
	if entry == nil || entry.Node != "server" {
		t.Fatalf("the new session is %+v", entry)
	}
	n1.await(t, 60*time.Second, "the error of the registration", func(v sessions.View) bool { return errors.Is(v.Err, sessions.ErrUnreachable) })

	// It comes back with nothing on its disk.
	must(t, os.RemoveAll(filepath.Join(host.Dir, "data")))
	host.start()
	server.answers(60*time.Second, 5001)
	n1.await(t, 5*time.Second, "no error", func(v sessions.View) bool { return v.Err == nil })
	if v := n1.View(); v.Consul.Session != entry.ID {
		t.Error("the session was not kept over the return of the first address")
	}
}

// Consul's servers come back with nothing, and with lower indexes.
func TestConsulLosesItsData(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	n1 := run(t, options("n1", server.http))
	old := n1.session(t)
	for range 30 {
		must(t, n1.Commit(ctx, ballot(n1, "n1")))
	}
	must(t, n1.PutSettings(ctx, []byte(`{}`), 0))
	must(t, n1.Register(ctx, registration("n1", "primary", 5001)))
	server.answers(2*time.Second, 5001)

	n1.await(t, 2*time.Second, "itself in the view", func(v sessions.View) bool { return len(v.Members) == 1 })

	server.kill()
	v := n1.await(t, 60*time.Second, "unreachable", func(v sessions.View) bool { return v.Consul.Reachable == ha.No })
	if v.Consul.Record.Term != 30 || len(v.Members) != 1 {
		t.Fatalf("the view lost what it knew: %+v", v)
	}
	must(t, os.RemoveAll(filepath.Join(server.Dir, "data")))
	server.start()
	n1.await(t, 60*time.Second, "the empty Consul", func(v sessions.View) bool {
		return !v.Consul.Record.Exists() && v.Consul.Lock.Index == 0 && v.SettingsIndex == 0 && v.Consul.Session != "" && v.Consul.Session != old
	})
	n1.await(t, 60*time.Second, "the registration, without the tag", func(v sessions.View) bool {
		return len(v.Members) == 1 && !slices.Contains(v.Members[0].Tags, "primary")
	})
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	server.answers(5*time.Second, 5001)
	n1.await(t, 5*time.Second, "no error", func(v sessions.View) bool { return v.Err == nil })
}

// TestPrimary: who asks DNS for the primary is led to a member if one has the tag and is
// not critical, and no other.
func TestPrimary(t *testing.T) {
	tagged := func(name, tag, status string) sessions.Member {
		return sessions.Member{Name: name, Tags: []string{"blue", tag}, Status: status}
	}
	for want, members := range map[string][]sessions.Member{
		"n2":             {tagged("n1", "replica", "passing"), tagged("n2", "primary", "warning"), tagged("n3", "primary", "critical")},
		"(two)":          {tagged("n1", "primary", "passing"), tagged("n2", "primary", "passing")},
		"(one critical)": {tagged("n1", "primary", "critical"), tagged("n2", "replica", "passing")},
		"(nobody)":       nil,
	} {
		if got := (sessions.View{Members: members}).Primary().Name; got != want && (got != "" || want[0] != '(') {
			t.Errorf("%s: %q", want, got)
		}
	}
}
