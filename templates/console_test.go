package templates_test

import (
	"bufio"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/templates"
)

// fakeConsole is PgBouncer's console: it notes the commands.
type fakeConsole struct {
	addr string
	mu   sync.Mutex
	said []string
	at   []time.Time
	hook func(command string) string // an error to answer, or nothing
	deaf bool                        // answers nobody
}

func newFakeConsole(t *testing.T) *fakeConsole {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f := &fakeConsole{addr: l.Addr().String()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(c)
		}
	}()
	return f
}

func (f *fakeConsole) serve(c net.Conn) {
	defer c.Close()
	f.mu.Lock()
	deaf := f.deaf
	f.mu.Unlock()
	if deaf {
		buf := make([]byte, 1000)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	}
	b := pgproto3.NewBackend(c, c)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	b.Flush()
	for {
		m, err := b.Receive()
		if err != nil {
			return
		}
		q, ok := m.(*pgproto3.Query)
		if !ok {
			return
		}
		answer := ""
		f.mu.Lock()
		if f.hook != nil {
			answer = f.hook(q.String)
		}
		if !strings.HasPrefix(q.String, "SHOW") {
			f.said, f.at = append(f.said, q.String), append(f.at, time.Now())
		}
		f.mu.Unlock()
		if answer != "" {
			b.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "08P01", Message: answer})
		} else {
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte(q.String)})
		}
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		b.Flush()
	}
}

func (f *fakeConsole) commands() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string{}, f.said...)
}

func (f *fakeConsole) when(command string) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.said) - 1; i >= 0; i-- {
		if f.said[i] == command {
			return f.at[i]
		}
	}
	return time.Time{}
}

func (f *fakeConsole) set(deaf bool, hook func(string) string) {
	f.mu.Lock()
	f.deaf, f.hook = deaf, hook
	f.mu.Unlock()
}

func wanted(within time.Duration, f func() bool) bool {
	for end := time.Now().Add(within); time.Now().Before(end); <-time.After(5 * time.Millisecond) {
		if f() {
			return true
		}
	}
	return f()
}

func count(list []string, s string) (n int) {
	for _, x := range list {
		if x == s {
			n++
		}
	}
	return n
}

const iniText = "{{ with .Primary }}host={{ .Host }}{{ else }}{{ wait \"no primary\" }}{{ end }}\n"

func iniFile(t *testing.T, dir string) templates.File {
	return templates.File{Name: "pgbouncer", Template: parse(t, iniText), Destination: filepath.Join(dir, "pgbouncer.ini")}
}

func started(t *testing.T, o templates.AgentOptions) (*templates.Agent, func()) {
	t.Helper()
	a, err := templates.NewAgent(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); a.Run(ctx) }()
	end := sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(end)
	return a, end
}

func fakeBouncer(t *testing.T, f *fakeConsole, o templates.PgBouncerOptions) *templates.PgBouncer {
	t.Helper()
	o.Address = f.addr
	b, err := templates.NewPgBouncer(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// term 2, leader b.
func top2(t *testing.T, phase ha.Phase) templates.Topology {
	t.Helper()
	r := leading(2, "b")
	r.Phase = phase
	tp, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: r, Registered: []templates.Registration{registered("a", "", "1"), registered("b", "primary", "2")}})
	if err != nil {
		t.Fatal(err)
	}
	return tp
}

// The leader's registration has gone out of the catalog (its agent left cleanly).
func TestLeaderMissingIsNotHeld(t *testing.T) {
	t.Parallel()
	src := templates.Source{Cluster: "main", Service: "pg", Record: leading(2, "a"), Registered: []templates.Registration{
		registered("a", "primary", "2"), registered("b", "replica", "2")}}
	before, err := templates.Build(src)
	if err != nil {
		t.Fatal(err)
	}
	src.Prior, src.Registered = before, src.Registered[1:]
	after, err := templates.Build(src)
	if err != nil {
		t.Fatal(err)
	}
	if after.Held {
		t.Errorf("held, though the primary has withdrawn nothing: %+v", after.Primary)
	}
}

// A member that has moved to another node.
func TestMovedMember(t *testing.T) {
	t.Parallel()
	dead, alive := registered("a", "replica", "1"), registered("a", "primary", "2")
	dead.Status, dead.Postgres = "critical", "old-node:5432"
	top, _ := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: leading(2, "a"), Registered: []templates.Registration{dead, alive}})
	if top.Primary.Host != "a.example" {
		t.Errorf("clients are sent to %s", top.Primary.Address())
	}
}

// RELOAD fails once.
func TestPgBouncerReloadFails(t *testing.T) {
	t.Parallel()
	f := newFakeConsole(t)
	dir := t.TempDir()
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{iniFile(t, dir)}, Retry: 200 * time.Millisecond,
		Bouncers: []*templates.PgBouncer{fakeBouncer(t, f, templates.PgBouncerOptions{HoldFor: 2 * time.Second})}})
	a.Update(top(t, "a"))
	wanted(time.Second, func() bool { return count(f.commands(), "RESUME") == 1 })
	reloads := count(f.commands(), "RELOAD")
	once := sync.OnceValue(func() string { return "RELOAD failed, see logs" })
	failed := false
	f.set(false, func(c string) string {
		if c == "RELOAD" && !failed {
			failed = true
			return once()
		}
		return ""
	})
	a.Update(top2(t, ha.PhasePromoting))
	if !wanted(time.Second, func() bool { return count(f.commands(), "PAUSE") == 1 }) {
		t.Fatal(f.commands())
	}
	begun := time.Now()
	a.Update(top2(t, ha.PhaseLeading))
	wanted(4*time.Second, func() bool { return f.when("RESUME").After(begun) })
	t.Logf("resumed after %v", f.when("RESUME").Sub(begun))
	for range 5 {
		a.Refresh()
		<-time.After(100 * time.Millisecond)
	}
	if n := count(f.commands(), "RELOAD"); n < reloads+2 {
		t.Errorf("the RELOAD that failed was never tried again; PgBouncer keeps the old primary: %v", f.commands())
	}
	if took := f.when("RESUME"); took.Sub(begun) > time.Second && count(f.commands(), "RESUME") == 2 {
		t.Errorf("clients were held until the expiry")
	}
}

// Killed between the file and RELOAD.
func TestKilledBeforePgBouncerReload(t *testing.T) {
	t.Parallel()
	f := newFakeConsole(t)
	dir := t.TempDir()
	// What the killed process did: the file is of b, PgBouncer was never told.
	if err := os.WriteFile(filepath.Join(dir, "pgbouncer.ini"), []byte("host=b.example\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{iniFile(t, dir)}, Bouncers: []*templates.PgBouncer{fakeBouncer(t, f, templates.PgBouncerOptions{})}})
	a.Update(top2(t, ha.PhaseLeading))
	wanted(time.Second, func() bool { return count(f.commands(), "RESUME") > 0 })
	<-time.After(200 * time.Millisecond)
	if count(f.commands(), "RELOAD") == 0 {
		t.Errorf("PgBouncer was never told of the file: %v", f.commands())
	}
}

// RESUME is lost while the console does not answer for longer than the expiry.
func TestResumeLost(t *testing.T) {
	t.Parallel()
	f := newFakeConsole(t)
	dir := t.TempDir()
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{iniFile(t, dir)}, Retry: 200 * time.Millisecond, Bouncers: []*templates.PgBouncer{
		fakeBouncer(t, f, templates.PgBouncerOptions{HoldFor: time.Second, Timeout: 200 * time.Millisecond, Rescue: rescueCommand()})}})
	a.Update(top(t, "a"))
	wanted(time.Second, func() bool { return count(f.commands(), "RESUME") == 1 })
	a.Update(top2(t, ha.PhasePromoting))
	if !wanted(2*time.Second, func() bool { return a.Status().Bouncers[0].Paused }) {
		t.Fatal(f.commands())
	}
	f.set(true, nil) // cut off, for 3 s
	a.Update(top2(t, ha.PhaseLeading))
	<-time.After(3 * time.Second)
	f.set(false, nil) // it answers again
	before := len(f.commands())
	if !wanted(5*time.Second, func() bool { return count(f.commands()[before:], "RESUME") > 0 }) {
		t.Errorf("PgBouncer answers again for 5 s and is left paused: %v, %+v", f.commands(), a.Status().Bouncers[0])
	}
}

// Clients are let go before PgBouncer's file has the new primary.
func TestLetGoAfterFile(t *testing.T) {
	t.Parallel()
	f := newFakeConsole(t)
	dir := t.TempDir()
	ini := iniFile(t, dir)
	var mu sync.Mutex
	var resumedWith []string
	slow := templates.File{Name: "slow", Template: parse(t, "{{ .Term }} {{ .Phase }}\n"), Destination: filepath.Join(dir, "slow"), Check: []string{"sleep", "0.1"}}
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{ini, slow}, Bouncers: []*templates.PgBouncer{fakeBouncer(t, f, templates.PgBouncerOptions{})}})
	a.Update(top(t, "a"))
	wanted(time.Second, func() bool { return count(f.commands(), "RESUME") == 1 })
	f.set(false, func(c string) string {
		if c == "RESUME" || c == "RELOAD" {
			b, _ := os.ReadFile(ini.Destination)
			mu.Lock()
			resumedWith = append(resumedWith, c+" "+strings.TrimSpace(string(b)))
			mu.Unlock()
		}
		return ""
	})
	a.Update(top2(t, ha.PhasePromoting))
	<-time.After(30 * time.Millisecond) // the time that promotion takes
	a.Update(top2(t, ha.PhaseLeading))
	<-time.After(time.Second)
	mu.Lock()
	defer mu.Unlock()
	for _, r := range resumedWith {
		if strings.Contains(r, "host=a.example") {
			t.Errorf("let go to the old primary: %q", resumedWith)
			break
		}
	}
}

// A slow command of another file holds PgBouncer's clients.
func TestSlowCommandHoldsNobody(t *testing.T) {
	t.Parallel()
	f := newFakeConsole(t)
	dir := t.TempDir()
	slow := templates.File{Name: "slow", Template: parse(t, "{{ .Phase }}\n"), Destination: filepath.Join(dir, "slow"), Command: []string{"sleep", "3"}}
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{iniFile(t, dir), slow}, Bouncers: []*templates.PgBouncer{fakeBouncer(t, f, templates.PgBouncerOptions{})}})
	a.Update(top(t, "a"))
	if !wanted(20*time.Second, func() bool { return a.Status().Files[1].Commands == 1 }) {
		t.Fatal("the first command has not ended")
	}
	a.Update(top2(t, ha.PhasePromoting))
	<-time.After(50 * time.Millisecond)
	begun := time.Now()
	a.Update(top2(t, ha.PhaseLeading))
	wanted(10*time.Second, func() bool { return f.when("RESUME").After(begun) })
	if took := f.when("RESUME").Sub(begun); took > time.Second {
		t.Errorf("PgBouncer's clients were held %v longer than there was a primary", took)
	}
}

// What an operator paused.
func TestOperatorsPause(t *testing.T) {
	t.Parallel()
	f := newFakeConsole(t)
	dir := t.TempDir()
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{iniFile(t, dir)}, Bouncers: []*templates.PgBouncer{fakeBouncer(t, f, templates.PgBouncerOptions{})}})
	a.Update(top(t, "a"))
	wanted(time.Second, func() bool { return count(f.commands(), "RESUME") == 1 })
	for range 3 { // a value in Consul changes
		a.Refresh()
		<-time.After(100 * time.Millisecond)
	}
	if n := count(f.commands(), "RESUME"); n > 1 {
		t.Errorf("%d RESUMEs, though nothing was paused by us", n)
	}
}

// The expiry of a pause is followed by the next.
func TestPausedOnce(t *testing.T) {
	t.Parallel()
	f := newFakeConsole(t)
	a, _ := started(t, templates.AgentOptions{Bouncers: []*templates.PgBouncer{fakeBouncer(t, f, templates.PgBouncerOptions{HoldFor: 300 * time.Millisecond})}})
	held := top(t, "a")
	a.Update(held)
	wanted(time.Second, func() bool { return count(f.commands(), "RESUME") == 1 })
	held.Held = true
	for range 3 { // a replica's lag, or its check, changes now and then
		a.Update(held)
		<-time.After(500 * time.Millisecond)
	}
	if n := count(f.commands(), "PAUSE"); n > 1 {
		t.Errorf("%d pauses in one hold that does not end: %v", n, f.commands())
	}
}

// HAProxy is not reloaded while clients wait for a primary.
func TestNoReloadWhileWaiting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	master := filepath.Join(dir, "master")
	l, err := net.Listen("unix", master)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var mu sync.Mutex
	var reloads int
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				line, _ := bufio.NewReader(c).ReadString('\n')
				mu.Lock()
				defer mu.Unlock()
				if strings.HasPrefix(line, "reload") {
					reloads++
					c.Write([]byte("Success=1\n--\n"))
				} else {
					c.Write([]byte("#<PID>          <type>          <reloads>       <uptime>        <version>\n1             master          0               0d00h00m07s     2.7\n2            worker          0               0d00h00m07s     2.7\n"))
				}
			}()
		}
	}()
	h, err := templates.NewHAProxy(templates.HAProxyOptions{Socket: filepath.Join(dir, "h"), AgentSocket: filepath.Join(dir, "a"), MasterSocket: master,
		PrimaryBackend: "primary", ReplicaBackend: "replicas"})
	if err != nil {
		t.Fatal(err)
	}
	first := templates.File{Name: "first", Template: parse(t, "{{ .Term }}\n"), Destination: filepath.Join(dir, "first"), Command: []string{"sleep", "1"}}
	cfg := templates.File{Name: "cfg", Template: parse(t, "{{ .Term }}\n"), Destination: filepath.Join(dir, "cfg"), Reload: h}
	if err := os.WriteFile(cfg.Destination, nil, 0o644); err != nil { // so that it counts as read
		t.Fatal(err)
	}
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{first, cfg}, Proxies: []*templates.HAProxy{h}})
	a.Update(top(t, "a"))
	<-time.After(500 * time.Millisecond) // first's command runs
	a.Update(top2(t, ha.PhasePromoting))
	<-time.After(1500 * time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	if reloads > 0 {
		t.Error("HAProxy was reloaded while clients wait in it for a primary")
	}
}

// A cluster founded anew under the same name.
func TestClusterFoundedAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h, err := templates.NewHAProxy(templates.HAProxyOptions{Socket: filepath.Join(dir, "h"), AgentSocket: filepath.Join(dir, "a"), PrimaryBackend: "primary", ReplicaBackend: "replicas"})
	if err != nil {
		t.Fatal(err)
	}
	old := top2(t, ha.PhaseLeading)
	h.Apply(t.Context(), old) //nolint:errcheck // nobody listens
	fresh := top(t, "a")
	fresh.SystemID = "8"
	if err := h.Apply(t.Context(), fresh); err == nil {
		t.Error("the new cluster's topology was ignored: no command was sent, no word said")
	}
}
