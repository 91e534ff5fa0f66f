package templates_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgsidecar/pgsidecar/templates"
)

// standIn is an HAProxy that lacks servers until it has been reloaded so often.
type standIn struct {
	lacks []string
	takes int // with which reload it takes the file up

	mu      sync.Mutex
	reloads int
}

func (s *standIn) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
func (s *standIn) Offer(templates.Topology)      {}
func (s *standIn) Release()                      {}
func (s *standIn) Running(context.Context) bool  { return true }

func (s *standIn) Status() templates.ProxyStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reloads >= s.takes {
		return templates.ProxyStatus{Connected: true}
	}
	return templates.ProxyStatus{Connected: true, Missing: s.lacks}
}

func (s *standIn) Reload(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reloads++
	return nil
}

// A file that HAProxy has not taken up is wrong, and HAProxy is told again, ever more
// rarely, until it has. One that does not name what HAProxy lacks says nothing.
func TestFileIsTakenUp(t *testing.T) {
	const named, other = "server b 10.0.0.2:5432", "server b 10.0.0.9:5432"
	for _, test := range []struct {
		name, content string
		takes         int
		silent        bool // nobody is told of the file
		failed        bool // the file was in error meanwhile
		reloads       int  // within three minutes
	}{
		{"taken up at once", named, 1, false, false, 1},
		{"the first reload is lost", named, 2, false, true, 2},
		{"three reloads are lost", named, 4, false, true, 4},
		{"all are lost", named, 1000, false, true, 7}, // 0, 2, 7, 17, 37, 77, 157 s
		{"with another address", other, 1000, false, false, 1},
		{"nobody is told", named, 1000, true, true, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				h := &standIn{lacks: []string{"b 10.0.0.2:5432"}, takes: test.takes}
				f := templates.File{Name: "f", Template: parse(t, test.content+"\n"), Destination: filepath.Join(dir, "f"), Reload: h}
				if test.silent {
					f.Reload = nil
				}
				if err := os.WriteFile(f.Destination, nil, 0o600); err != nil { // so that it counts as read
					t.Fatal(err)
				}
				a, err := templates.NewAgent(templates.AgentOptions{Files: []templates.File{f}, Proxies: []templates.Proxy{h}})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); a.Run(ctx) }() //nolint:errcheck // ends with ctx
				defer func() { cancel(); <-done }()
				a.Update(top(t, "a"))
				failed := false
				for range 180 {
					time.Sleep(time.Second)
					synctest.Wait()
					e := a.Status().Files[0].Error
					failed = failed || e != ""
					if e != "" && !strings.Contains(e, "no server b 10.0.0.2:5432") {
						t.Fatalf("the error is %q", e)
					}
				}
				s := a.Status().Files[0]
				if s.Commands != test.reloads || failed != test.failed {
					t.Errorf("%d reloads, failed %v; want %d, %v", s.Commands, failed, test.reloads, test.failed)
				}
				if (s.Error == "") != (test.takes < 1000 || !test.failed) {
					t.Errorf("in the end %+v", s)
				}
			})
		})
	}
}

// A command that runs soon after itself runs once more: a program that reads its files
// may not have heard the second time.
func TestCommandRunsOnceMore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	f := templates.File{Name: "f", Template: parse(t, primaryText), Destination: filepath.Join(dir, "f"),
		Command: []string{"sh", "-c", "cat " + filepath.Join(dir, "f") + " >> " + log}}
	a, err := templates.NewAgent(templates.AgentOptions{Files: []templates.File{f}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }() //nolint:errcheck // ends with ctx
	t.Cleanup(func() { cancel(); <-done })
	ran := func() int { return a.Status().Files[0].Commands }
	a.Update(top(t, "a"))
	eventually(t, 10*time.Second, "the first run", func() bool { return ran() == 1 })
	a.Update(top(t, "b"))
	eventually(t, 10*time.Second, "one more", func() bool { return ran() == 3 })
	if got := strings.Fields(read(t, log)); !slices.Equal(got, []string{"primary=a", "primary=b", "primary=b"}) {
		t.Errorf("the runs saw %q", got)
	}
	if s := a.Status().Files[0]; s.Error != "" || entries(t, dir) != ".f.pgsidecar-old f log" {
		t.Errorf("in the end %+v, %s", s, entries(t, dir))
	}
}
