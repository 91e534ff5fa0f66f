package templates_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/templates"
)

func parse(t *testing.T, text string) *templates.Template {
	t.Helper()
	tmpl, err := templates.ParseTemplate("test", text, templates.Delimiters{})
	if err != nil {
		t.Fatal(err)
	}
	return tmpl
}

func once(t *testing.T, top templates.Topology, files ...templates.File) (*templates.Agent, error) {
	t.Helper()
	a, err := templates.NewAgent(templates.AgentOptions{Files: files})
	if err != nil {
		t.Fatal(err)
	}
	a.Update(top)
	return a, a.Once(t.Context())
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func eventually(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	labtest.Until(t, d, what, ok)
}

// entries are the names in a directory.
func entries(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func top(t *testing.T, leader string) templates.Topology {
	t.Helper()
	var members []templates.Registration
	for _, name := range []string{"a", "b"} {
		role := "replica"
		if name == leader {
			role = "primary"
		}
		members = append(members, registered(name, role, "1"))
	}
	top, err := templates.Build(templates.Source{Cluster: "main", Service: "pg", Record: leading(1, leader), Registered: members})
	if err != nil {
		t.Fatal(err)
	}
	return top
}

const primaryText = "primary={{ .Primary.Name }}\n"

func TestFileWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	f := templates.File{Name: "f", Template: parse(t, primaryText), Destination: path}
	if _, err := once(t, top(t, "a"), f); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path); got != "primary=a\n" {
		t.Errorf("got %q", got)
	}
	if got := entries(t, dir); got != "f" {
		t.Errorf("a new file leaves %q", got)
	}
	// Mode and owner are kept, the file before as well.
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 1234, 2345
		if err := os.Chown(path, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := once(t, top(t, "b"), f); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != 0o640 || int(st.Uid) != uid || int(st.Gid) != gid {
		t.Errorf("mode %v, owner %d:%d", info.Mode(), st.Uid, st.Gid)
	}
	if got := read(t, path) + read(t, filepath.Join(dir, ".f.pgsidecar-old")); got != "primary=b\nprimary=a\n" {
		t.Errorf("new and old: %q", got)
	}
	if got := entries(t, dir); got != ".f.pgsidecar-old f" {
		t.Errorf("the directory has %q", got)
	}
	// Equal: not touched.
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	a, err := once(t, top(t, "b"), f)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) || a.Status().Files[0].Writes != 0 {
		t.Errorf("an equal file was written again: %v", err)
	}
	// So does what somebody has made of it since (a file that PgBouncer was to read).
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	f.NewPerms = 0o640
	if _, err := once(t, top(t, "a"), f); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	fresh := f
	fresh.Destination = filepath.Join(dir, "fresh")
	if _, err := once(t, top(t, "a"), fresh); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(fresh.Destination); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// What is configured counts.
	f.Perms = 0o600
	if _, err := once(t, top(t, "b"), f); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A killed process's half-written file and a symbolic link planted in its
// place do no harm.
func TestFileLeftBehind(t *testing.T) {
	dir := t.TempDir()
	path, victim := filepath.Join(dir, "f"), filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, ".f.pgsidecar-new")); err != nil {
		t.Fatal(err)
	}
	if _, err := once(t, top(t, "a"), templates.File{Name: "f", Template: parse(t, primaryText), Destination: path}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, victim); got != "precious" {
		t.Errorf("the link was followed: %q", got)
	}
	if got := read(t, path); got != "primary=a\n" {
		t.Errorf("got %q", got)
	}
	// A destination that is a link stays one.
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := once(t, top(t, "b"), templates.File{Name: "f", Template: parse(t, primaryText), Destination: link}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 || read(t, path) != "primary=b\n" {
		t.Errorf("the destination is no link any more: %v", err)
	}
}

// Whatever goes wrong, the last good file stays, the reason shows, and other
// files are written.
func TestFileErrors(t *testing.T) {
	gap := top(t, "a")
	gap.Primary, gap.Phase = nil, ha.PhaseElecting
	for _, test := range []struct {
		name string
		file templates.File
		want string
	}{
		{"execution", templates.File{Template: parse(t, "{{ (index .Members 9).Name }}")}, "index out of range"},
		{"missing key", templates.File{Template: parse(t, `{{ key "x" }}`)}, "data not there yet"},
		{"no primary", templates.File{Template: parse(t, `{{ with .Primary }}{{ .Name }}{{ else }}{{ wait "no primary" }}{{ end }}`)}, "no primary"},
		{"checker", templates.File{Template: parse(t, "new"), Check: []string{"sh", "-c", "echo bad line 7 >&2; exit 1", "{}"}}, "bad line 7"},
		{"no checker", templates.File{Template: parse(t, "new"), Check: []string{"/does/not/exist"}}, "checker refused"},
		{"checker hangs", templates.File{Template: parse(t, "new"), Check: []string{"sh", "-c", "sleep 100 & sleep 100"}, Timeout: 50 * time.Millisecond}, "did not end"},
		{"no such user", templates.File{Template: parse(t, "new"), User: "nobody-of-that-name"}, "find the file's user"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			bad := test.file
			bad.Name, bad.Destination = "bad", filepath.Join(dir, "bad")
			if err := os.WriteFile(bad.Destination, []byte("last good\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			good := templates.File{Name: "good", Template: parse(t, "good"), Destination: filepath.Join(dir, "good")}
			a, err := once(t, gap, bad, good)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if got := read(t, bad.Destination); got != "last good\n" {
				t.Errorf("the last good file is now %q", got)
			}
			if got := read(t, good.Destination); got != "good" {
				t.Errorf("the other file is %q", got)
			}
			if got := entries(t, dir); got != "bad good" {
				t.Errorf("left behind: %q", got)
			}
			s := a.Status()
			if s.Files[0].Error == "" || s.Files[0].ErrorAt.IsZero() || s.Files[1].Error != "" || s.Files[1].OKAt.IsZero() {
				t.Errorf("status %+v", s.Files)
			}
		})
	}
	if _, err := once(t, gap, templates.File{Name: "f", Template: parse(t, "x"), Destination: filepath.Join(t.TempDir(), "no", "such", "f")}); err == nil {
		t.Error("a file in a missing directory was written")
	}
}

// A command that hangs is killed with all that it started.
func TestCommandKilledWhole(t *testing.T) {
	dir := t.TempDir()
	child := filepath.Join(dir, "pid")
	f := templates.File{Name: "f", Template: parse(t, "x"), Destination: filepath.Join(dir, "f"), Timeout: 300 * time.Millisecond,
		Command: []string{"sh", "-c", "sleep 1000 & echo $! > " + child + "; wait"}}
	if _, err := once(t, top(t, "a"), f); err == nil || !strings.Contains(err.Error(), "did not end") {
		t.Errorf("error %v", err)
	}
	number, err := strconv.Atoi(strings.TrimSpace(read(t, child)))
	if err != nil {
		t.Fatal(err)
	}
	// Killed, it stays a zombie where nobody adopts it: that is dead enough.
	eventually(t, 5*time.Second, "the child's end", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", number))
		return err != nil || strings.Contains(string(b), ") Z ")
	})
}

// Equal commands run once in a pass; one that fails is tried again until it
// succeeds, also by the next process.
func TestCommands(t *testing.T) {
	dir := t.TempDir()
	log, ok := filepath.Join(dir, "log"), filepath.Join(dir, "ok")
	command := []string{"sh", "-c", "echo ran >> " + log + "; test -e " + ok}
	var files []templates.File
	for _, name := range []string{"f", "g"} {
		files = append(files, templates.File{Name: name, Template: parse(t, primaryText), Destination: filepath.Join(dir, name), Command: command})
	}
	if _, err := once(t, top(t, "a"), files...); err == nil {
		t.Error("the failing command shows nowhere")
	}
	if got := read(t, log); got != "ran\n" {
		t.Errorf("equal commands ran %q", got)
	}
	if got := read(t, files[0].Destination); got != "primary=a\n" {
		t.Errorf("the file is %q", got)
	}
	if err := os.WriteFile(ok, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // another process: nothing changed, but the command is owed; then no more
		if _, err := once(t, top(t, "a"), files...); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, log); got != "ran\nran\n" {
		t.Errorf("the commands ran %q", got)
	}
	if got := entries(t, dir); got != "f g log ok" {
		t.Errorf("left behind: %q", got)
	}
}

// What goes wrong in a running agent leaves the last good file, shows its reason
// in status and log, once, and goes away by itself with its cause. Beside these:
// a template that does not parse, TestTemplateErrors; a key that is missing or
// has a line too many, TestTemplatesReadConsul in sidecar/proxy; HAProxy's socket
// missing, TestHAProxyErrors.
func TestAgentRecoversFromEach(t *testing.T) {
	for _, test := range []struct {
		name    string
		change  func(f *templates.File, gate string) // what goes wrong until there is a directory gate
		want    string
		written bool // the new file is there, but not taken up
	}{
		{"template fails", func(f *templates.File, gate string) {
			f.Template = parse(t, `{{ with mustEnv "GATE" }}{{ end }}`+primaryText)
		}, "GATE", false},
		{"checker refuses", func(f *templates.File, gate string) { f.Check = []string{"test", "-e", gate} }, "checker refused", false},
		{"checker hangs", func(f *templates.File, gate string) {
			f.Check, f.Timeout = []string{"sh", "-c", "test -e " + gate + " || sleep 100"}, 50*time.Millisecond
		}, "did not end", false},
		{"destination not writable", func(f *templates.File, gate string) { f.Destination = filepath.Join(gate, "f") }, "no such file", false},
		{"command fails", func(f *templates.File, gate string) { f.Command = []string{"test", "-e", gate} }, "command failed", true},
		{"command hangs", func(f *templates.File, gate string) {
			f.Command, f.Timeout = []string{"sh", "-c", "test -e " + gate + " || sleep 100"}, 50*time.Millisecond
		}, "did not end", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			gate := filepath.Join(dir, "gate")
			f := templates.File{Name: "f", Template: parse(t, primaryText), Destination: filepath.Join(dir, "f")}
			test.change(&f, gate)
			inGate := filepath.Dir(f.Destination) == gate
			if !inGate {
				if err := os.WriteFile(f.Destination, []byte("last good\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var log lockedBuffer
			a, err := templates.NewAgent(templates.AgentOptions{Files: []templates.File{f}, Retry: 20 * time.Millisecond,
				Env: templates.Env{Getenv: func(string) string {
					if _, err := os.Stat(gate); err != nil {
						return ""
					}
					return "there"
				}},
				Logger: hclog.New(&hclog.LoggerOptions{Output: &log})})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() { defer close(done); a.Run(ctx) }() //nolint:errcheck // ends with ctx
			t.Cleanup(func() { cancel(); <-done })
			a.Update(top(t, "a"))
			eventually(t, 10*time.Second, "two failures", func() bool { return a.Status().Files[0].Failures >= 2 })
			if s := a.Status().Files[0]; !strings.Contains(s.Error, test.want) || s.Since.IsZero() {
				t.Errorf("status %+v, want %q", s, test.want)
			}
			if n := strings.Count(log.String(), "template failed"); n != 1 || !strings.Contains(log.String(), test.want) {
				t.Errorf("told %d times:\n%s", n, log.String())
			}
			if !inGate && !test.written && read(t, f.Destination) != "last good\n" {
				t.Errorf("the last good file is now %q", read(t, f.Destination))
			}
			if err := os.Mkdir(gate, 0o700); err != nil {
				t.Fatal(err)
			}
			eventually(t, 10*time.Second, "recovery", func() bool { s := a.Status().Files[0]; return s.Error == "" && !s.OKSince.IsZero() })
			if got := read(t, f.Destination); got != "primary=a\n" {
				t.Errorf("got %q", got)
			}
			if n := strings.Count(log.String(), "template recovered"); n != 1 {
				t.Errorf("the recovery was told %d times:\n%s", n, log.String())
			}
		})
	}
}

// A running agent recovers by itself; a hanging command delays no proxy and no
// end.
func TestAgentRecovers(t *testing.T) {
	dir := t.TempDir()
	gate := filepath.Join(dir, "gate")
	f := templates.File{Name: "f", Template: parse(t, primaryText), Destination: filepath.Join(dir, "f"), Check: []string{"test", "-e", gate}}
	a, err := templates.NewAgent(templates.AgentOptions{Files: []templates.File{f}, Retry: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	a.Update(top(t, "a"))
	eventually(t, 5*time.Second, "two failures", func() bool { return a.Status().Files[0].Failures >= 2 })
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "recovery", func() bool { return a.Status().Files[0].Error == "" })
	if got := read(t, f.Destination); got != "primary=a\n" {
		t.Errorf("got %q", got)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// lockedBuffer is what a logger writes to and a test reads.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
