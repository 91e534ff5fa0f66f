package drill_test

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// TestInterrupted stops `pgsidecar drill` in the middle of a fault, by Ctrl-C and
// by kill -9. After Ctrl-C nothing is left; after kill -9 the next drill in the
// same folder removes what was left, passes, and leaves nothing either.
func TestInterrupted(t *testing.T) {
	if testing.Short() {
		t.Skip("takes three clusters")
	}
	scenario, flags := "member-killed", []string{"--members", "2"}
	if os.Geteuid() == 0 {
		// As much to leave behind as there can be: namespaces, mounts, a stopped host.
		scenario, flags = "host-paused", append(flags, "--isolated", "--breakable")
	}
	dir, err := os.MkdirTemp("", "interrupted") // short, and open to PostgreSQL's user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "lab")
	d := drillProgram{binary: binary(t), folder: folder, flags: flags}
	t.Cleanup(func() { d.down(t) })

	first := d.interrupt(t, scenario, syscall.SIGINT)
	nothingLeft(t, first)
	if _, err := os.Stat(folder); err == nil {
		t.Errorf("%s is left after Ctrl-C", folder)
	}
	second := d.interrupt(t, scenario, syscall.SIGKILL)
	if _, err := os.Stat(folder); err != nil {
		t.Fatalf("kill -9 left no folder: %v; the test is no test", err)
	}
	out, err := d.command("sidecar-restarted").CombinedOutput()
	if err != nil {
		t.Fatalf("the next drill: %v\n%s", err, out)
	}
	nothingLeft(t, second)
	if _, err := os.Stat(folder); err == nil {
		t.Errorf("%s is left after a drill", folder)
	}
}

// drillProgram is `pgsidecar drill` in one folder.
type drillProgram struct {
	binary, folder string
	flags          []string
}

func (d drillProgram) command(scenario string) *exec.Cmd {
	args := append([]string{"drill", "--dir", d.folder, "--pause-only", "--route", "haproxy"}, d.flags...)
	return exec.Command(d.binary, append(args, scenario)...)
}

// interrupt starts a drill, sends the signal as soon as the fault is injected,
// and waits for the end. It returns the lab's plan.
func (d drillProgram) interrupt(t *testing.T, scenario string, sig syscall.Signal) *lab.Plan {
	t.Helper()
	cmd := d.command(scenario)
	progress, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	var plan *lab.Plan
	for lines := bufio.NewScanner(progress); lines.Scan(); {
		said = append(said, lines.Text())
		if plan == nil && strings.Contains(lines.Text(), "waiting until writes go on") {
			b, err := os.ReadFile(filepath.Join(d.folder, "lab.json"))
			if err != nil {
				t.Fatal(err)
			}
			plan = new(lab.Plan)
			if err := json.Unmarshal(b, plan); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	t.Logf("%v: %v", sig, err)
	if plan == nil {
		t.Fatalf("no fault was injected: %s", strings.Join(said, "\n"))
	}
	return plan
}

// down removes what a failed test leaves.
func (d drillProgram) down(t *testing.T) {
	if _, err := os.Stat(d.folder); err != nil {
		return
	}
	if out, err := exec.Command(d.binary, "lab", "down", "--dir", d.folder).CombinedOutput(); err != nil {
		t.Errorf("lab down: %v: %s", err, out)
	}
}

// nothingLeft looks for processes, namespaces and mounts of a lab. A process
// that was just killed may take a moment to go.
func nothingLeft(t *testing.T, p *lab.Plan) {
	t.Helper()
	if names, err := filepath.Glob("/run/netns/pgl" + p.ID + "*"); err != nil || len(names) > 0 {
		t.Errorf("namespaces are left: %v %v", names, err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), p.Dir+"/") {
		t.Errorf("something is left mounted in %s", p.Dir)
	}
	var left []string
	for range 50 {
		if left = processesOf(t, p); len(left) == 0 {
			return
		}
		<-time.After(100 * time.Millisecond)
	}
	t.Errorf("processes are left: %v", left)
}

// processesOf finds a lab's processes by their mark, and by where they work.
func processesOf(t *testing.T, p *lab.Plan) []string {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, process := range processes {
		environ, _ := os.ReadFile(filepath.Join(process, "environ"))
		cwd, _ := os.Readlink(filepath.Join(process, "cwd"))
		if strings.Contains(string(environ), lab.EnvMark+"="+p.ID+"/") || strings.HasPrefix(cwd, p.Dir+"/") {
			line, _ := os.ReadFile(filepath.Join(process, "cmdline"))
			found = append(found, process+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// TestPossible refuses what a lab cannot play, before anything is changed.
func TestPossible(t *testing.T) {
	loopback := &lab.Plan{Hosts: []lab.Host{{Name: "c1", Kind: lab.KindConsul}}}
	whole := &lab.Plan{Isolated: true, Breakable: true, Hosts: []lab.Host{{Name: "c1", Kind: lab.KindConsul}, {Name: "c2", Kind: lab.KindConsul}, {Name: "c3", Kind: lab.KindConsul}}}
	seen := map[string]bool{}
	for _, s := range drill.Scenarios() {
		if seen[s.Name] || s.Name == "" || s.Why == "" || s.Fault == nil || s.Expect == "" {
			t.Errorf("scenario %q: twice, or without a part", s.Name)
		}
		seen[s.Name] = true
		needs := s.Isolated || s.Breakable || s.Servers > 1
		if err := s.Possible(loopback); (err != nil) != needs {
			t.Errorf("%s on loopback: %v", s.Name, err)
		}
		if err := s.Possible(whole); err != nil {
			t.Errorf("%s in a whole lab: %v", s.Name, err)
		}
	}
}
