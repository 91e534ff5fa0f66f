package hooks

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// generous bounds what a test waits for on a machine that stands still at times.
const generous = 30 * time.Second

// results is a Recorder that hands on what came of each delivery.
type results chan result

type result struct {
	name string
	err  error
}

func (r results) Hook(name string, _ time.Duration, err error) { r <- result{name, err} }

func (r results) next(t *testing.T) error {
	t.Helper()
	select {
	case got := <-r:
		return got.err
	case <-time.After(generous):
		t.Fatal("nothing was delivered")
		return nil
	}
}

func dispatcher(t *testing.T) (*Dispatcher, results) {
	t.Helper()
	r := make(results, 100)
	d := New(Options{Cluster: "pg", Member: "n1", Recorder: r, Logger: hclog.NewNullLogger()})
	d.pause = time.Millisecond
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		d.Close(ctx)
	})
	return d, r
}

func shell(name, script string, on ...Kind) Hook {
	return Hook{Name: name, On: on, Command: []string{"/bin/sh", "-c", script}, Timeout: generous}
}

func set(t *testing.T, d *Dispatcher, all ...Hook) {
	t.Helper()
	if err := d.Set(all, nil); err != nil {
		t.Fatal(err)
	}
}

// pipe is a named pipe that a command writes to when it has come so far.
func pipe(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// line waits for a command to write a line to a pipe.
func lineOf(t *testing.T, path string) string {
	t.Helper()
	got := make(chan string, 1)
	go func() {
		f, err := os.Open(path)
		if err != nil {
			got <- err.Error()
			return
		}
		defer f.Close()
		text, _ := bufio.NewReader(f).ReadString('\n')
		got <- strings.TrimSpace(text)
	}()
	select {
	case text := <-got:
		return text
	case <-time.After(generous):
		t.Fatal("the command wrote nothing")
		return ""
	}
}

func TestCommandIsTold(t *testing.T) {
	d, r := dispatcher(t)
	out := filepath.Join(t.TempDir(), "out")
	t.Setenv("PGPASSWORD", "secret of the sidecar")
	set(t, d, shell("h", `{ cat; echo "$PGSIDECAR_EVENT $PGSIDECAR_ROLE $PGSIDECAR_TERM [$PGPASSWORD]"; } >`+out, Primary))
	d.Tell(Event{Kind: Replica, Role: "replica"}) // not asked for
	d.Tell(Event{Kind: Primary, Role: "primary", Term: 7, Leader: "n1", Summary: "n1 is the primary"})
	if err := r.next(t); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	first, second, _ := strings.Cut(string(text), "\n")
	var e Event
	if err := json.Unmarshal([]byte(first), &e); err != nil || e.Member != "n1" || e.Cluster != "pg" || e.ID == "" || e.At.IsZero() || e.Term != 7 {
		t.Errorf("%v: %s", err, first)
	}
	if second != "primary primary 7 []\n" {
		t.Errorf("environment: %q", second)
	}
}

// TestNewestRole: a command that hangs for a role that is over is ended by the next
// role, also if nobody asked to be told of that, and one that waits is never run.
func TestNewestRole(t *testing.T) {
	d, r := dispatcher(t)
	began := pipe(t)
	set(t, d, shell("vip", `echo $PGSIDECAR_EVENT >`+began+`; [ $PGSIDECAR_TERM = 9 ] || sleep 1000`, Primary, Replica))
	d.Tell(Event{Kind: Primary, Term: 1})
	if got := lineOf(t, began); got != "primary" {
		t.Fatal(got)
	}
	d.Tell(Event{Kind: Replica, Term: 2})
	if err := r.next(t); !errors.Is(err, ErrOvertaken) {
		t.Fatalf("the first ended with %v", err)
	}
	if got := lineOf(t, began); got != "replica" {
		t.Fatal(got)
	}
	d.Tell(Event{Kind: Stopped, Term: 3}) // not asked for, but replica is over
	if err := r.next(t); !errors.Is(err, ErrOvertaken) {
		t.Fatalf("the second ended with %v", err)
	}
	d.Tell(Event{Kind: Primary, Term: 9})
	if got := lineOf(t, began); got != "primary" {
		t.Fatal(got)
	}
	if err := r.next(t); err != nil {
		t.Fatal(err)
	}
}

// TestNothingOfACommandIsLeft: what it forked is killed with it.
func TestNothingOfACommandIsLeft(t *testing.T) {
	child := filepath.Join(t.TempDir(), "child")
	h := shell("h", `sleep 1000 & echo $! >`+child+`; echo "so far" ; wait`, Primary)
	h.Timeout = 300 * time.Millisecond
	err := h.run(t.Context(), &Event{Kind: Primary}, nil)
	if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), "so far") {
		t.Fatal(err)
	}
	text, err := os.ReadFile(child)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(generous); ; {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(state), ") Z ") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("its child lives: %s", state)
		}
	}
}

// TestCommandThatLeavesADaemon: a daemon that keeps the output open is no failure, and
// does not hold up the next event.
func TestCommandThatLeavesADaemon(t *testing.T) {
	d, r := dispatcher(t)
	set(t, d, shell("h", `setsid sleep 3 & exit 0`, Failover))
	d.Tell(Event{Kind: Failover})
	if err := r.next(t); err != nil {
		t.Fatal(err)
	}
}

func TestFailedCommand(t *testing.T) {
	d, r := dispatcher(t)
	set(t, d, shell("h", `head -c 5000 /dev/zero | tr '\0' x; echo; echo no such address >&2; exit 3`, Primary))
	d.Tell(Event{Kind: Primary})
	err := r.next(t)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no such address") || len(err.Error()) > told+200 {
		t.Fatal(err)
	}
	gone := Hook{Name: "gone", On: []Kind{Primary}, Command: []string{"/no/such/program"}, Timeout: generous}
	set(t, d, gone)
	d.Tell(Event{Kind: Primary})
	if err := r.next(t); err == nil {
		t.Fatal("a program that is not there ran")
	}
}

// TestEventsKeepTheirOrder: of those that are no roles none is left out, up to the
// length of the line; then the oldest goes.
func TestEventsKeepTheirOrder(t *testing.T) {
	l := &line{on: []Kind{Failover, Primary}, newestRole: true, wake: make(chan struct{}, 1)}
	for i := range lineLength {
		if dropped := l.push(&Event{Kind: Failover, Term: uint64(i)}); dropped != "" {
			t.Fatal("dropped one too early")
		}
	}
	if dropped := l.push(&Event{Kind: Failover, Term: 1000}); dropped != Failover {
		t.Fatalf("dropped %q", dropped)
	}
	e, _, done := l.next(t.Context())
	done()
	if e.Term != 1 {
		t.Errorf("the oldest is of term %d", e.Term)
	}
	l.close()
	if l.push(&Event{Kind: Failover}); len(l.waiting) != lineLength-1 {
		t.Errorf("a line that is closed took one more: %d", len(l.waiting))
	}
}

func TestBefore(t *testing.T) {
	d, r := dispatcher(t)
	ask := func(kind Kind, hooks ...Hook) error {
		t.Helper()
		set(t, d, hooks...)
		return d.Before(t.Context(), Event{Kind: kind})
	}
	bad := shell("bad", "exit 1", BeforePromote, BeforeStop)
	if err := ask(BeforePromote, bad); err != nil {
		t.Errorf("a failure that may go on: %v", err)
	}
	r.next(t) //nolint:errcheck // looked at in TestFailedCommand
	bad.Abort = true
	if err := ask(BeforePromote, bad); !errors.Is(err, ErrAborted) {
		t.Errorf("a failure that aborts: %v", err)
	}
	r.next(t) //nolint:errcheck // as above
	if err := ask(BeforeStop, bad); err != nil {
		t.Errorf("a stop was forbidden: %v", err)
	}
	r.next(t) //nolint:errcheck // as above
	hangs := shell("hangs", "sleep 1000", BeforeStop)
	hangs.Timeout = 50 * time.Millisecond
	if err := ask(BeforeStop, hangs, shell("after", "exit 0", BeforeStop)); err != nil {
		t.Errorf("a hook that hangs: %v", err)
	}
	if err := r.next(t); !errors.Is(err, ErrTimeout) {
		t.Errorf("it ended with %v", err)
	}
	if err := r.next(t); err != nil {
		t.Errorf("the one after it: %v", err)
	}
	if err := ask(BeforeStop); err != nil {
		t.Errorf("no hook: %v", err)
	}
}

// TestSet: a hook that is as it was goes on with what it does; one that is gone ends.
func TestSet(t *testing.T) {
	d, r := dispatcher(t)
	began, end := pipe(t), pipe(t)
	slow := shell("slow", `echo began >`+began+`; read x <`+end, Failover)
	set(t, d, slow, shell("gone", "exit 0", Failover))
	d.Tell(Event{Kind: Failover})
	lineOf(t, began)
	r.next(t) //nolint:errcheck // of gone
	set(t, d, slow)
	d.Tell(Event{Kind: Failover})
	if err := os.WriteFile(end, []byte("go on\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := r.next(t); err != nil {
		t.Fatalf("it was ended: %v", err)
	}
	lineOf(t, began) // the second event
	if err := d.Set([]Hook{{Name: "h", User: "no-such-user"}}, nil); !errors.Is(err, ErrUser) {
		t.Fatalf("an unknown user: %v", err)
	}
	if len(d.lines) != 1 {
		t.Error("a refused change has changed something")
	}
	if err := os.WriteFile(end, []byte("go on\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := r.next(t); err != nil {
		t.Fatal(err)
	}
}

// TestClose tells what waits, and no longer than it may.
func TestClose(t *testing.T) {
	d, r := dispatcher(t)
	out := filepath.Join(t.TempDir(), "out")
	set(t, d, shell("h", "echo $PGSIDECAR_EVENT >>"+out, Failover, Stopped))
	d.Tell(Event{Kind: Failover})
	d.Tell(Event{Kind: Stopped})
	ctx, cancel := context.WithTimeout(t.Context(), generous)
	defer cancel()
	d.Close(ctx)
	if text, err := os.ReadFile(out); err != nil || string(text) != "failover\nstopped\n" {
		t.Errorf("%v: %q", err, text)
	}
	d.Tell(Event{Kind: Stopped}) // nobody is there any more
	<-r
	<-r

	d, r = dispatcher(t)
	began := pipe(t)
	set(t, d, shell("h", "echo began >"+began+"; sleep 1000", Failover))
	d.Tell(Event{Kind: Failover})
	lineOf(t, began)
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	d.Close(ctx)
	if err := r.next(t); err == nil {
		t.Error("a command that hangs was waited for")
	}
}
