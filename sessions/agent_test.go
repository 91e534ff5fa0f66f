package sessions_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	"github.com/miekg/dns"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
)

// agent is a real Consul agent of one test.
type agent struct {
	*labtest.Consul
	t    testing.TB
	http string // host:port
	serf string
	api  *api.Client

	deletable map[string]string // accessors of the tokens that policy made
}

// authorize makes the test itself a manager of an agent with ACLs.
func (a *agent) authorize(token string) {
	a.t.Helper()
	client, err := api.NewClient(&api.Config{Address: a.http, Token: token})
	if err != nil {
		a.t.Fatal(err)
	}
	a.api, a.deletable = client, map[string]string{}
	eventually(a.t, 60*time.Second, "the management token", func() error {
		_, _, err := a.api.ACL().TokenReadSelf(nil)
		return err
	})
}

// policy makes a token with these rules, and returns its secret.
func (a *agent) policy(name, rules string) string {
	a.t.Helper()
	if _, _, err := a.api.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil); err != nil {
		a.t.Fatal(err)
	}
	made, _, err := a.api.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{Name: name}}}, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	a.deletable[name] = made.AccessorID
	return made.SecretID
}

// newAgent starts an agent: a server, or a client that joins one. Extra is more
// configuration, in HCL.
func newAgent(t testing.TB, name, join, extra string) *agent {
	t.Helper()
	a := &agent{t: t, Consul: labtest.StartConsul(t, labtest.ConsulOptions{Name: name, Dir: t.TempDir(), Join: join, Config: extra})}
	a.http, a.serf = a.Address, a.Serf
	client, err := api.NewClient(&api.Config{Address: a.http})
	if err != nil {
		t.Fatal(err)
	}
	a.api = client
	return a
}

func (a *agent) start() {
	a.t.Helper()
	a.Start(a.t)
}

func (a *agent) kill() { a.Kill() }

// signal sends it, and returns when a process that is to stop does: a thread that runs
// on another processor at that moment may still answer.
func (a *agent) signal(s syscall.Signal) {
	a.Signal(s)
	if s != syscall.SIGSTOP {
		return
	}
	eventually(a.t, 10*time.Second, "the agent's stop", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", a.Cmd.Process.Pid))
		for _, path := range threads {
			stat, gone := os.ReadFile(path)
			if _, state, _ := bytes.Cut(stat, []byte(") ")); gone == nil && !bytes.HasPrefix(state, []byte("T")) {
				err = errors.New("a thread runs: " + string(stat))
			}
		}
		return err
	})
}

// primary asks DNS for primary.pg.service.consul and returns the ports of the
// answers.
func (a *agent) primary() []string {
	msg := new(dns.Msg)
	msg.SetQuestion("primary.pg.service.consul.", dns.TypeSRV)
	answer, _, err := (&dns.Client{Timeout: time.Second}).Exchange(msg, a.DNS)
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	for _, rr := range answer.Answer {
		if srv, ok := rr.(*dns.SRV); ok {
			found = append(found, fmt.Sprint(srv.Port))
		}
	}
	return found
}

// eventually polls a condition outside this process, that no event tells of.
func eventually(t testing.TB, within time.Duration, what string, check func() error) {
	t.Helper()
	labtest.Eventually(t, within, what, check)
}

// member is a running client.
type member struct {
	*sessions.Client
	changed chan struct{}
	stop    func()
}

func options(name string, addresses ...string) sessions.Options {
	return sessions.Options{Addresses: addresses, Cluster: "main", Member: name, Service: "pg", TTL: 10 * time.Second}
}

// run starts a member's client, and ends it with the test.
func run(t testing.TB, o sessions.Options) *member { return runAs(t, o, (*sessions.Client).Run) }

// runAs starts a client as a member's or, by Follow, as a proxy's.
func runAs(t testing.TB, o sessions.Options, as func(*sessions.Client, context.Context, func()) error) *member {
	t.Helper()
	if testing.Verbose() && os.Getenv("SESSIONS_LOG") != "" {
		o.Logger = hclog.New(&hclog.LoggerOptions{Name: o.Member, Level: hclog.Debug})
	}
	c, err := sessions.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{Client: c, changed: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	go func() {
		ended <- as(c, ctx, func() {
			select {
			case m.changed <- struct{}{}:
			default:
			}
		})
	}()
	stopped := false
	m.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Run has not ended")
		}
	}
	t.Cleanup(m.stop)
	return m
}

// await waits, by notifications, until the view is as wanted.
func (m *member) await(t testing.TB, within time.Duration, what string, check func(sessions.View) bool) sessions.View {
	t.Helper()
	deadline := time.After(within)
	for {
		v := m.View()
		if check(v) {
			return v
		}
		select {
		case <-m.changed:
		case <-deadline:
			t.Fatalf("%s did not come within %s: %+v", what, within, v)
		}
	}
}

func (m *member) session(t testing.TB) string {
	t.Helper()
	return m.await(t, 60*time.Second, "a session", func(v sessions.View) bool { return v.Consul.Session != "" && v.Consul.SeenAt != 0 }).Consul.Session
}

func background(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error, parts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Fatalf("error %q does not say %q", err, part)
		}
	}
}
