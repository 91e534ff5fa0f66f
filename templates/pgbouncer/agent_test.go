package pgbouncer_test

import (
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
	"github.com/pgsidecar/pgsidecar/templates/pgbouncer"
)

// fakeConsole is PgBouncer's console: it notes the commands.
type fakeConsole struct {
	addr string
	mu   sync.Mutex
	said []string
	at   []time.Time
	hook func(command string) string // an error to answer, or nothing
	deaf bool                        // answers nobody
	// goesTo is what SHOW DATABASES says of the database app; nil: there is none.
	goesTo func() (host, port string)
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
			if q.String == "SHOW DATABASES" && f.goesTo != nil {
				host, port := f.goesTo()
				var columns []pgproto3.FieldDescription
				for _, name := range []string{"name", "host", "port"} {
					columns = append(columns, pgproto3.FieldDescription{Name: []byte(name), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1})
				}
				b.Send(&pgproto3.RowDescription{Fields: columns})
				b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte("app"), []byte(host), []byte(port)}})
			}
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

func fakeBouncer(t *testing.T, f *fakeConsole, o pgbouncer.Options) *pgbouncer.Pooler {
	t.Helper()
	o.Address = f.addr
	b, err := pgbouncer.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RELOAD fails once.
func TestPgBouncerReloadFails(t *testing.T) {
	t.Parallel()
	f := newFakeConsole(t)
	dir := t.TempDir()
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{iniFile(t, dir)}, Retry: 200 * time.Millisecond,
		Bouncers: []templates.Pooler{fakeBouncer(t, f, pgbouncer.Options{HoldFor: 2 * time.Second})}})
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

// A PgBouncer that cannot read its file answers RELOAD all the same, and keeps the old
// primary: that is an error until it leads to the new one. A database that never led to a
// primary may be for replicas, unless it is the one that the file is for.
func TestPgBouncerNotTaken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		database string // Options.Database
		before   string // where it leads while a is the primary
		noticed  bool
	}{
		{"any database, which led to the primary", "", "a.example", true},
		{"any database, which never did", "", "b2.example", false},
		{"the database of the file", "app", "a.example", true},
		{"another program's", "other", "elsewhere.example", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFakeConsole(t)
			var mu sync.Mutex
			host := c.before
			f.goesTo = func() (string, string) { mu.Lock(); defer mu.Unlock(); return host, "5432" }
			a, _ := started(t, templates.AgentOptions{Files: []templates.File{iniFile(t, t.TempDir())}, Retry: 200 * time.Millisecond,
				Bouncers: []templates.Pooler{fakeBouncer(t, f, pgbouncer.Options{Database: c.database, Timeout: 200 * time.Millisecond})}})
			a.Update(top(t, "a"))
			wanted(2*time.Second, func() bool {
				return count(f.commands(), "RESUME \""+c.database+"\"")+count(f.commands(), "RESUME") >= 1
			})
			a.Update(top2(t, ha.PhasePromoting))
			a.Update(top2(t, ha.PhaseLeading))
			failed := func() bool {
				s := a.Status().Bouncers[0]
				return strings.Contains(s.Error, "still goes to a, and b is the primary")
			}
			if got := wanted(2*time.Second, failed); got != c.noticed {
				t.Fatalf("noticed: %v; %+v", got, a.Status().Bouncers[0])
			}
			reloads := count(f.commands(), "RELOAD")
			if c.noticed && !wanted(2*time.Second, func() bool { return count(f.commands(), "RELOAD") > reloads }) {
				t.Errorf("it is not told again: %v", f.commands())
			}
			mu.Lock()
			host = "b.example"
			mu.Unlock()
			if !wanted(2*time.Second, func() bool { return a.Status().Bouncers[0].Error == "" }) {
				t.Errorf("%+v", a.Status().Bouncers[0])
			}
		})
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
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{iniFile(t, dir)}, Bouncers: []templates.Pooler{fakeBouncer(t, f, pgbouncer.Options{})}})
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
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{iniFile(t, dir)}, Retry: 200 * time.Millisecond, Bouncers: []templates.Pooler{
		fakeBouncer(t, f, pgbouncer.Options{HoldFor: time.Second, Timeout: 200 * time.Millisecond, Watchdog: watchdogCommand()})}})
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
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{ini, slow}, Bouncers: []templates.Pooler{fakeBouncer(t, f, pgbouncer.Options{})}})
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
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{iniFile(t, dir), slow}, Bouncers: []templates.Pooler{fakeBouncer(t, f, pgbouncer.Options{})}})
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
	a, _ := started(t, templates.AgentOptions{Files: []templates.File{iniFile(t, dir)}, Bouncers: []templates.Pooler{fakeBouncer(t, f, pgbouncer.Options{})}})
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
	a, _ := started(t, templates.AgentOptions{Bouncers: []templates.Pooler{fakeBouncer(t, f, pgbouncer.Options{HoldFor: 300 * time.Millisecond})}})
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
