package drill_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

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
	scenario, flags := "member-killed", []string{"--members", "2", "--mode", "async"}
	if os.Geteuid() == 0 {
		// As much to leave behind as there can be: namespaces, mounts, a stopped host.
		scenario, flags = "host-paused", append(flags, "--isolated", "--breakable")
	}
	program := binary(t)
	folder := labFolder(t, program)
	d := drillProgram{binary: program, folder: folder, flags: flags}

	before := lookAround(t)
	first := d.interrupt(t, scenario, syscall.SIGINT)
	nothingLeft(t, before, first)
	second := d.interrupt(t, scenario, syscall.SIGKILL)
	if _, err := os.Stat(folder); err != nil {
		t.Fatalf("kill -9 left no folder: %v; the test is no test", err)
	}
	if left := leftBehind(t, before, second); len(left) < 10 {
		t.Fatalf("kill -9 left only %q; the test is no test", left)
	}
	out, err := d.command("sidecar-restarted", "switchover").CombinedOutput()
	if err != nil {
		t.Fatalf("the next drills: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "2 passed, 0 failed; 0 of ") {
		t.Errorf("no table of two drills at the end:\n%s", out)
	}
	nothingLeft(t, before, second)
}

// drillProgram is `pgsidecar drill` in one folder.
type drillProgram struct {
	binary, folder string
	flags          []string
}

func (d drillProgram) command(scenarios ...string) *exec.Cmd {
	args := append([]string{"drill", "--dir", d.folder, "--pause-only", "--route", "haproxy"}, d.flags...)
	return exec.Command(d.binary, append(args, scenarios...)...)
}

// interrupt starts a drill, sends the signal as soon as the fault is injected,
// and waits for the end. It returns the lab.
func (d drillProgram) interrupt(t *testing.T, scenario string, sig syscall.Signal) made {
	t.Helper()
	return d.interruptWhen(t, scenario, sig, moment{after: "waiting until writes go on"})
}

// moment is when a drill is to be interrupted.
type moment struct {
	after string // what it says
	wait  func() // and for what then; nil: nothing
}

func (d drillProgram) interruptWhen(t *testing.T, scenario string, sig syscall.Signal, when moment) made {
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
	var seen made
	for lines := bufio.NewScanner(progress); lines.Scan(); {
		said = append(said, lines.Text())
		if seen.Plan == nil && strings.Contains(lines.Text(), when.after) {
			seen = labIn(t, d.folder)
			if when.wait != nil {
				when.wait()
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	t.Logf("%v: %v", sig, err)
	if seen.Plan == nil {
		t.Fatalf("no fault was injected: %s", strings.Join(said, "\n"))
	}
	return seen
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

// TestPossible refuses what a lab cannot play, before anything is changed.
func TestPossible(t *testing.T) {
	hosts := func(kind lab.Kind, n int) (all []lab.Host) {
		for range n {
			all = append(all, lab.Host{Kind: kind})
		}
		return all
	}
	loopback := &lab.Plan{Mode: "quorum", Standbys: 1, Hosts: append(hosts(lab.KindConsul, 1), hosts(lab.KindMember, 3)...)}
	whole := &lab.Plan{Mode: "quorum", Standbys: 1, Isolated: true, Breakable: true, Hangable: true, Sited: lab.Sited{Site: new(lab.Site)}, Hosts: append(hosts(lab.KindConsul, 3), hosts(lab.KindMember, 3)...)}
	small, witnessed := *whole, *whole
	small.Hosts = append(hosts(lab.KindConsul, 3), hosts(lab.KindMember, 2)...)
	witnessed.Hosts = append(hosts(lab.KindWitness, 1), whole.Hosts...)
	seen := map[string]bool{}
	for _, s := range drill.Scenarios() {
		if seen[s.Name] || s.Name == "" || s.Why == "" || s.Fault == nil || s.Expect == "" {
			t.Errorf("scenario %q: twice, or without a part", s.Name)
		}
		seen[s.Name] = true
		needs := s.Isolated || s.Breakable || s.Servers > 1 || s.Sites
		if err := s.Possible(loopback); (err != nil) != needs {
			t.Errorf("%s on loopback: %v", s.Name, err)
		}
		if err := s.Possible(whole); err != nil && !(s.Witness && errors.Is(err, drill.ErrWitness)) {
			t.Errorf("%s in a whole lab: %v", s.Name, err)
		}
		if err := s.Possible(&witnessed); errors.Is(err, drill.ErrWitnessed) != s.Split {
			t.Errorf("%s with a witness: %v", s.Name, err)
		}
		if err := s.Possible(&small); errors.Is(err, drill.ErrMembers) != s.Away {
			t.Errorf("%s with two members: %v", s.Name, err)
		}
	}
}
