package pgbouncer_test

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsidecar/pgsidecar/templates"
	"github.com/pgsidecar/pgsidecar/templates/pgbouncer"
)

// gate is between PgBouncer and its server; while it is shut, new connections are
// accepted and nothing of them goes on.
type gate struct {
	listener net.Listener
	server   string

	mu      sync.Mutex
	open    chan struct{} // closed: open
	waiting chan struct{} // gets one for each connection that waits
}

func newGate(t *testing.T, server int) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	g := &gate{listener: listener, server: net.JoinHostPort("127.0.0.1", strconv.Itoa(server)), waiting: make(chan struct{}, 100)}
	g.set(true)
	go g.accept(t.Context())
	return g
}

func (g *gate) port() int { return g.listener.Addr().(*net.TCPAddr).Port }

// set opens or shuts it.
func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !open || g.open == nil {
		g.open = make(chan struct{})
	}
	if open {
		close(g.open)
	}
}

// accept forwards connections until the listener is closed.
func (g *gate) accept(ctx context.Context) {
	for {
		c, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		go func() {
			defer c.Close()
			g.waiting <- struct{}{}
			select {
			case <-open:
			case <-ctx.Done():
				return
			}
			s, err := net.Dial("tcp", g.server)
			if err != nil {
				return
			}
			defer s.Close()
			go func() { defer s.Close(); io.Copy(s, c) }() //nolint:errcheck // either side may end it
			io.Copy(c, s)                                  //nolint:errcheck // either side may end it
		}()
	}
}

// TestPauseDuringLogin: PgBouncer is logging in at the server when clients are to be
// held. PAUSE would cut the login off, and after RESUME new queries would be answered
// by an error; so it comes after the login.
func TestPauseDuringLogin(t *testing.T) {
	var g *gate
	p := newPoolBefore(t, func(server int) int { g = newGate(t, server); return g.port() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	clients := make([]*pgconn.PgConn, 2)
	for i := range clients {
		c, err := p.connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(ctx)
		clients[i] = c
	}
	b := p.bouncer(pgbouncer.Options{LoginWait: 20 * time.Second})
	for range 3 {
		// No connection to the server is left over.
		if err := b.Pause(ctx, time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := b.Resume(ctx); err != nil {
			t.Fatal(err)
		}
		for len(g.waiting) > 0 {
			<-g.waiting
		}
		g.set(false)
		first := make(chan error, 1)
		go func() {
			_, err := clients[0].Exec(ctx, "select 1").ReadAll()
			first <- err
		}()
		<-g.waiting // PgBouncer logs in
		paused := make(chan error, 1)
		go func() { paused <- b.Pause(ctx, time.Minute) }()
		select {
		case err := <-paused:
			t.Fatalf("paused during a login: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		g.set(true)
		if err := <-paused; err != nil {
			t.Fatal(err)
		}
		g.set(false)
		if err := b.Resume(ctx); err != nil {
			t.Fatal(err)
		}
		second := make(chan error, 1)
		go func() {
			_, err := clients[1].Exec(ctx, "select 1").ReadAll()
			second <- err
		}()
		<-g.waiting
		g.set(true)
		for i, done := range []chan error{first, second} {
			if err := <-done; err != nil {
				t.Fatalf("client %d: %v", i, err)
			}
		}
	}
}

// idleProxy stands for an HAProxy that is to hold clients after PgBouncer does.
type idleProxy struct{}

func (idleProxy) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
func (idleProxy) Offer(templates.Topology)      {}
func (idleProxy) Release()                      {}
func (idleProxy) Status() templates.ProxyStatus { return templates.ProxyStatus{} }

// TestPgBouncerFirst: in a planned switchover HAProxy holds new clients when PgBouncer
// does already: a login of PgBouncer's that waits in HAProxy would be cut off. A
// PgBouncer that does not answer is not waited for.
func TestPgBouncerFirst(t *testing.T) {
	p := newPool(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	agent := func(b *pgbouncer.Pooler) (a *templates.Agent, end func()) {
		var err error
		if a, err = templates.NewAgent(templates.AgentOptions{Bouncers: []templates.Pooler{b}, Proxies: []templates.Proxy{idleProxy{}}}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); a.Run(ctx) }() //nolint:errcheck // ends with ctx
		return a, func() { cancel(); <-ended }
	}
	steady := top(t, "a")
	held := steady
	held.Held = true

	c, err := p.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background()) //nolint:errcheck // the test is over
	a, end := agent(p.bouncer(pgbouncer.Options{}))
	defer end()
	for range 3 {
		a.Update(steady)
		if _, err := c.Exec(t.Context(), "select 1").ReadAll(); err != nil {
			t.Fatal(err)
		}
		a.Update(held)
		done := make(chan error, 1)
		go func() {
			_, err := c.Exec(context.Background(), "select 1").ReadAll()
			done <- err
		}()
		select {
		case err := <-done:
			t.Fatalf("PgBouncer was not told yet: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		a.Update(steady)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}

	b, err := pgbouncer.New(pgbouncer.Options{Address: silent.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	mute, end := agent(b)
	defer end()
	mute.Update(steady)
	begun := time.Now()
	mute.Update(held)
	if took := time.Since(begun); took > time.Second {
		t.Errorf("HAProxy waited %v for a PgBouncer that does not answer", took)
	}
}
