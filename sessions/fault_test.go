package sessions_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// fault is what a flaky address does to a transaction that writes.
type fault int32

const (
	healthy      fault = iota
	refuseWrites       // answers 500 without asking Consul
	loseAnswers        // asks Consul, and closes the connection on its answer
	stall              // does not answer until the client has gone
	noLeader           // answers as a server that knows no leader
	hideLock           // so for transactions, and so for what reads the lock, alone
	limited            // answers 429, as Consul does beyond its limits
	webPage            // answers 200, as another program at this address does
	noPage             // answers 404, as a proxy that knows no Consul does
	nothing            // answers 200, and an empty object
)

// strange are answers that are not Consul's, or say nothing.
var strange = map[fault]struct {
	status int
	body   string
}{
	limited: {http.StatusTooManyRequests, "Your IP is issuing too many concurrent connections"},
	webPage: {http.StatusOK, "<html><body>Welcome</body></html>"},
	noPage:  {http.StatusNotFound, "404 page not found"},
	nothing: {http.StatusOK, "{}"},
}

// flaky is an address before a real agent.
type flaky struct {
	*httptest.Server
	fault   atomic.Int32
	writes  atomic.Int32
	asked   atomic.Int32 // how often it was asked anything
	told    sync.Map     // what the agent was told of registration and checks
	blocked sync.Map     // key and index of each blocking query
	closing chan struct{}
}

func newFlaky(t *testing.T, agent string) *flaky {
	f := &flaky{closing: make(chan struct{})}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		write := r.URL.Path == "/v1/txn" && !r.URL.Query().Has("consistent")
		mode := fault(f.fault.Load())
		// Only when the body has been read does the server notice that the
		// client has gone.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		f.asked.Add(1)
		if write {
			f.writes.Add(1)
		}
		if index := r.URL.Query().Get("index"); index != "" {
			f.blocked.Store(path.Base(r.URL.Path)+" "+index, nil)
		}
		if r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, "/v1/agent/") {
			f.told.Store(path.Base(r.URL.Path)+" "+strings.TrimSpace(string(body)), nil)
		}
		switch {
		case mode == stall:
			select {
			case <-r.Context().Done():
			case <-f.closing:
			}
			return
		case mode == noLeader, mode == hideLock && r.URL.Path == "/v1/txn":
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
			return
		case strange[mode].status != 0:
			w.WriteHeader(strange[mode].status)
			_, _ = io.WriteString(w, strange[mode].body)
			return
		case mode == refuseWrites && write:
			http.Error(w, "rpc error making call: EOF", http.StatusInternalServerError)
			return
		}
		ctx := r.Context()
		if mode == loseAnswers && write {
			ctx = context.WithoutCancel(ctx)
		}
		out, err := http.NewRequestWithContext(ctx, r.Method, "http://"+agent+r.URL.RequestURI(), bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		out.Header = r.Header
		resp, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		if mode == loseAnswers && write {
			panic(http.ErrAbortHandler)
		}
		if fault(f.fault.Load()) == hideLock && r.URL.Path == "/v1/txn" { // it was under way when that began
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
			return
		}
		for name, values := range resp.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(f.Close)
	t.Cleanup(f.CloseClientConnections)
	t.Cleanup(func() { close(f.closing) })
	return f
}

func (f *flaky) host() string { return strings.TrimPrefix(f.URL, "http://") }

// A write that failed, and one that failed but was applied, are told apart by
// reading again; neither is sent twice.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	f := newFlaky(t, server.http)
	ctx := background(t)
	n1 := run(t, options("n1", f.host()))
	session := n1.session(t)

	f.fault.Store(int32(loseAnswers))
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	if v := n1.View().Consul; v.Record.Term != 1 || v.Lock.Session != session || v.HeldTerm != 1 {
		t.Fatalf("applied, and the view is %+v", v)
	}
	must(t, n1.PutSettings(ctx, []byte(`{"a":1}`), 0))

	f.fault.Store(int32(refuseWrites))
	f.writes.Store(0)
	wantErr(t, n1.Commit(ctx, ballot(n1, "n1")), sessions.ErrUnknownOutcome)
	if v := n1.View().Consul; v.Record.Term != 1 || v.Lock.Session != session || f.writes.Load() != 1 {
		t.Fatalf("not applied, sent %d times, and the view is %+v", f.writes.Load(), v)
	}
	wantErr(t, n1.PutSettings(ctx, []byte(`{"a":2}`), n1.View().SettingsIndex), sessions.ErrUnknownOutcome)

	f.fault.Store(int32(noLeader))
	wantErr(t, n1.Commit(ctx, ballot(n1, "n1")), sessions.ErrUnreachable)
	n1.await(t, 5*time.Second, "unreachable", func(v sessions.View) bool { return v.Consul.Reachable == ha.No && v.Err != nil })
	f.fault.Store(int32(healthy))
	n1.await(t, 5*time.Second, "reachable again", func(v sessions.View) bool { return v.Consul.Reachable == ha.Yes && v.Err == nil })
}

// Patroni demotes its primary at an answer that it does not know (#3403, #3572), and
// asks again without a pause where it is refused. Here every answer that says nothing
// leaves what is known as it is, Consul counts as away, and it is asked at the pace of
// an address that fails.
func TestStrangeAnswers(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	for name, mode := range map[string]fault{"no leader": noLeader, "limited": limited, "a web page": webPage, "no such page": noPage, "nothing": nothing} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := background(t)
			f := newFlaky(t, server.http)
			o := options("n1", f.host())
			o.Cluster = strings.ReplaceAll(name, " ", "-")
			n1 := run(t, o)
			n1.session(t)
			must(t, n1.PutSettings(ctx, []byte(`{"a":1}`), 0))
			must(t, n1.Commit(ctx, ballot(n1, "n1")))
			reader := n1.NewReader(func() {})
			reading, end := context.WithCancel(ctx)
			ended := make(chan struct{})
			go func() { _ = reader.Run(reading); close(ended) }()
			t.Cleanup(func() { end(); <-ended })
			read := func() error {
				value, is, err := reader.Key("pgsidecar/" + o.Cluster + "/config")
				if err == nil && (!is || value != `{"a":1}`) {
					err = fmt.Errorf("the key is %q, there: %v", value, is)
				}
				return err
			}
			eventually(t, 5*time.Second, "the key", read)
			n1.SetHolding(true, false)
			before := n1.View()

			f.fault.Store(int32(mode))
			f.CloseClientConnections() // the queries that wait as well
			n1.await(t, 5*time.Second, "that Consul is away", func(v sessions.View) bool { return v.Consul.Reachable == ha.No && v.Err != nil })
			f.asked.Store(0)
			<-time.After(2 * time.Second)
			if n := f.asked.Load(); n > 200 {
				t.Errorf("asked %d times in two seconds", n)
			}
			v := n1.View()
			if v.Consul.Record.Term != before.Consul.Record.Term || v.Consul.Lock != before.Consul.Lock || string(v.Settings) != string(before.Settings) {
				t.Errorf("the view lost what it knew: %+v", v)
			}
			if err := read(); err != nil {
				t.Error(err)
			}
			if err := n1.Confirm(ctx); mode != nothing && !errors.Is(err, sessions.ErrUnreachable) {
				t.Errorf("a reading: %v", err)
			}
			if err := n1.Commit(ctx, keep(n1, "n1")); err == nil || mode == noPage && !errors.Is(err, sessions.ErrUnknownOutcome) {
				t.Errorf("a change: %v", err)
			}

			f.fault.Store(int32(healthy))
			n1.await(t, 10*time.Second, "that Consul is back", func(v sessions.View) bool {
				return v.Consul.Reachable == ha.Yes && v.Err == nil && v.Consul.Session != ""
			})
			must(t, n1.Commit(ctx, ballot(n1, "n1")))
		})
	}
}

// Patroni reads Consul's session_ttl_min where newer agents do not say it. Here the
// session is refused, whoever looks is told of the bound, and Consul does not count as
// away.
func TestSessionTooShortForConsul(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", `session_ttl_min = "30s"`)
	o := options("n1", server.http)
	refused := make(chan struct{}, 100)
	o.Requested = func(operation string, _ time.Duration, err error) {
		if operation == "session create" {
			refused <- struct{}{}
		}
	}
	n1 := run(t, o)
	v := n1.await(t, 5*time.Second, "the refusal", func(v sessions.View) bool { return v.Err != nil && v.Consul.SeenAt != 0 })
	wantErr(t, v.Err, v.Err, "create session", "consul.session_ttl", "30s")
	for range 3 {
		<-refused
		n1.await(t, time.Second, "the word of it", func(v sessions.View) bool { return v.Err != nil })
		if n1.View().Consul.Reachable == ha.No {
			t.Error("Consul counts as away, although it answers")
		}
	}
	o = options("n2", server.http)
	o.TTL = 30 * time.Second
	run(t, o).session(t)
}

// The lease counts from before the request was sent, and an address that
// swallows requests is left for the next; the first is used again when it is
// back.
func TestAddresses(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	f := newFlaky(t, server.http)
	ctx := background(t)
	n1 := run(t, options("n1", f.host(), server.http))
	n1.session(t)
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	n1.SetHolding(true, false)

	// Its open connections stay, as those of a stopped agent do.
	f.fault.Store(int32(stall))
	stalled := now()
	v := n1.await(t, 5*time.Second, "a confirmation by the second address", func(v sessions.View) bool { return v.Consul.HeldAt > stalled })
	t.Logf("the lease went on with a request sent after %s", v.Consul.HeldAt.Sub(stalled).Round(time.Millisecond))
	must(t, n1.Commit(ctx, keep(n1, "n1")))

	f.fault.Store(int32(healthy))
	f.writes.Store(0)
	eventually(t, 60*time.Second, "the first address", func() error {
		err := n1.Commit(ctx, keep(n1, "n1"))
		if err == nil && f.writes.Load() == 0 {
			err = net.ErrClosed
		}
		return err
	})

	// Both gone and back: the view says so, and nothing is lost.
	f.fault.Store(int32(noLeader))
	server.signal(syscall.SIGSTOP)
	n1.await(t, 60*time.Second, "unreachable", func(v sessions.View) bool { return v.Consul.Reachable == ha.No })
	stale := n1.View().Consul
	if stale.Record.Term != 1 || stale.Lock.Holder != "n1" {
		t.Fatalf("the view lost what it knew: %+v", stale)
	}
	server.signal(syscall.SIGCONT)
	f.fault.Store(int32(healthy))
	n1.await(t, 60*time.Second, "reachable", func(v sessions.View) bool { return v.Consul.Reachable == ha.Yes && v.Consul.HeldAt > stale.HeldAt })
}

// A local agent that is still gone when all of Consul comes back counts as lost from
// then on: for the time before, no member was better off than this one.
func TestAgentLostWithAllOfConsul(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	f := newFlaky(t, server.http)
	n1 := run(t, options("n1", f.host(), server.http))
	n1.session(t)
	n1.SetHolding(true, false)
	must(t, n1.Register(background(t), registration("n1", "replica", 5001)))
	f.fault.Store(int32(noLeader))
	lost := n1.await(t, 60*time.Second, "a local agent that is gone", func(v sessions.View) bool { return v.Consul.AgentLostAt != 0 }).Consul.AgentLostAt
	server.signal(syscall.SIGSTOP)
	n1.await(t, 60*time.Second, "unreachable", func(v sessions.View) bool { return v.Consul.Reachable == ha.No })
	back := now()
	server.signal(syscall.SIGCONT)
	v := n1.await(t, 60*time.Second, "reachable", func(v sessions.View) bool { return v.Consul.Reachable == ha.Yes })
	if at := v.Consul.AgentLostAt; lost >= back || at < back {
		t.Errorf("the agent is lost since %d, Consul was back after %d", at, back)
	}
}

// A slow answer dates the lease by when it was asked for.
func TestLeaseCountsFromSending(t *testing.T) {
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	n1 := run(t, options("n1", server.http))
	n1.session(t)
	must(t, n1.Commit(ctx, ballot(n1, "n1")))

	n1.stop() // so that nobody else asks

	server.signal(syscall.SIGSTOP)
	start := now()
	wakes := time.AfterFunc(700*time.Millisecond, func() { server.signal(syscall.SIGCONT) })
	t.Cleanup(func() { wakes.Stop() }) // a test that has failed sooner has no server any more
	must(t, n1.Confirm(ctx))
	took := now().Sub(start)
	if took < 500*time.Millisecond {
		t.Fatalf("the answer came after %s", took)
	}
	if v := n1.View().Consul; v.HeldAt < start || v.HeldAt.Sub(start) > 100*time.Millisecond {
		t.Fatalf("answered after %s, and dated %s after it was asked for", took, v.HeldAt.Sub(start))
	}
}

// now reads CLOCK_BOOTTIME.
func now() ha.Instant {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return ha.Instant(ts.Nano())
}

const root = "5a7ac9f1-5b9d-4bd4-9c40-5ffb0f3c1c11"

func TestPermissions(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", `acl { enabled = true  default_policy = "deny"  tokens { MANAGEMENT = "`+root+`"  agent = "`+root+`" } }`)
	server.authorize(root)
	ctx := background(t)
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		must(t, os.WriteFile(file+".new", []byte(token+"\n"), 0o600))
		must(t, os.Rename(file+".new", file))
	}
	o := options("n1", server.http)
	o.TokenFile = file

	write("00000000-1111-2222-3333-444444444444")
	n1 := run(t, o)
	v := n1.await(t, 60*time.Second, "the unknown token", func(v sessions.View) bool { return v.Err != nil })
	wantErr(t, v.Err, sessions.ErrPermission, "does not know this token")
	if strings.Contains(v.Err.Error(), "00000000-1111") {
		t.Fatalf("the token is in the error: %v", v.Err)
	}

	write(server.policy("nothing", `operator = "read"`))
	wantErr(t, n1.Confirm(ctx), sessions.ErrPermission, `key_prefix "pgsidecar/main/" { policy = "read" }`)
	if n1.View().Consul.Reachable != ha.No {
		t.Error("a member whose token is refused has reached Consul")
	}

	write(server.policy("read", `key_prefix "pgsidecar/main/" { policy = "read" }`))
	must(t, n1.Confirm(ctx))
	change := ha.Change{What: "ballot", Record: electing(1, "n1", 0), Lock: ha.LockTake, Session: "00000000-0000-0000-0000-000000000000", Holder: "n1"}
	wantErr(t, n1.Commit(ctx, change), sessions.ErrPermission, `key_prefix "pgsidecar/main/" { policy = "write" }`)
	wantErr(t, n1.PutSettings(ctx, []byte("{}"), 0), sessions.ErrPermission, `{ policy = "write" }`)
	wantErr(t, n1.PutHistory(ctx, 1, []byte("{}")), sessions.ErrPermission, `{ policy = "write" }`)
	n1.await(t, 60*time.Second, "the session's rule", func(v sessions.View) bool {
		return v.Err != nil && strings.Contains(v.Err.Error(), `session_prefix ""`)
	})

	rules := `key_prefix "pgsidecar/main/" { policy = "write" } session_prefix "" { policy = "write" }`
	write(server.policy("cluster", rules))
	n1.session(t)
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	wantErr(t, n1.Register(ctx, registration("n1", "primary", 5001)), sessions.ErrPermission, `service "pg" { policy = "write" }`)

	write(server.policy("all", rules+` service "pg" { policy = "write" } node_prefix "" { policy = "read" }`))
	must(t, n1.Register(ctx, registration("n1", "primary", 5001)))
	n1.await(t, 60*time.Second, "no error", func(v sessions.View) bool { return v.Err == nil && len(v.Members) == 1 })
	must(t, n1.Evict(ctx, []string{"n2"}))

	// The token is replaced and the old one deleted: the agent gets the new.
	old := server.deletable["all"]
	write(server.policy("next", rules+` service "pg" { policy = "write" } node_prefix "" { policy = "read" }`))
	must(t, n1.Confirm(ctx))
	_, err := server.api.ACL().TokenDelete(old, nil)
	must(t, err)
	sick := registration("n1", "primary", 5001)
	sick.Checks[0].Status = "critical"
	must(t, n1.Register(ctx, sick))
	n1.await(t, 60*time.Second, "the sick server", func(v sessions.View) bool {
		return len(v.Members) == 1 && v.Members[0].Status == "critical" && v.Err == nil
	})
}

// Consul restored from a snapshot has lower indexes: the query starts anew, and
// consistently.
func TestIndexGoesBackwards(t *testing.T) {
	var restored atomic.Bool
	consul := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		reply := func(index, value string) {
			w.Header().Set("X-Consul-Index", index)
			_, _ = fmt.Fprintf(w, `[{"Key":"pgsidecar/main/config","Value":%q,"ModifyIndex":%s}]`, value, index)
		}
		switch index := query.Get("index"); {
		case !strings.HasSuffix(r.URL.Path, "/config"):
			http.Error(w, "not here", http.StatusInternalServerError)
		case index == "100":
			restored.Store(true)
			reply("4", "c3RhbGU=") // stale
		case index == "" && restored.Load() && query.Has("consistent"):
			reply("5", "bmV3") // new
		case index == "":
			reply("100", "b2xk") // old
		default:
			<-r.Context().Done()
		}
	}))
	t.Cleanup(consul.Close)
	t.Cleanup(consul.CloseClientConnections)
	n1 := run(t, options("n1", strings.TrimPrefix(consul.URL, "http://")))
	v := n1.await(t, 5*time.Second, "the restored settings", func(v sessions.View) bool { return v.SettingsIndex != 0 && v.SettingsIndex < 100 })
	if string(v.Settings) != "new" || v.SettingsIndex != 5 {
		t.Errorf("the settings are %q with index %d", v.Settings, v.SettingsIndex)
	}
}
