package guard_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestLeaseEnd shows that nothing of the server runs when its lease ends,
// whatever state its processes are in.
func TestLeaseEnd(t *testing.T) {
	for _, c := range []struct {
		name, manner string
		stop         func(pids []int) []int // which of the processes get SIGSTOP
	}{
		{"polite", "polite", nil},
		{"ignores SIGQUIT", "stubborn", nil},
		{"all stopped", "stubborn", func(pids []int) []int { return pids }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, c.manner)
			r.start(t)
			until := guard.Now().Add(2500 * time.Millisecond)
			must(t, r.Lease(deadline(t), until))
			if s := r.Status(); !s.Armed || s.LeaseUntil != until {
				t.Fatalf("after lease: %+v", s)
			}
			if c.stop != nil {
				for _, pid := range c.stop(r.leftovers(t)) {
					must(t, syscall.Kill(pid, syscall.SIGSTOP))
				}
			}
			s := r.awaitStatus(t, "server down", func(s guard.Status) bool { return !s.Running })
			r.checkDeadAt(t, until)
			if !strings.Contains(s.ExitStatus, "lease ended") {
				t.Errorf("exit status %q", s.ExitStatus)
			}
			if err := r.Start(deadline(t), r.command); !errors.Is(err, guard.ErrLeaseEnded) {
				t.Errorf("start with an ended lease: %v", err)
			}
		})
	}
}

// checkDeadAt waits until nothing is left and prints when the last process
// showed life, which must be before until.
func (r *rig) checkDeadAt(t *testing.T, until ha.Instant) {
	t.Helper()
	eventually(t, "nothing left", func() bool { return len(r.leftovers(t)) == 0 })
	after := r.lastBeat().Sub(until)
	t.Logf("last sign of life of %d processes: %.1f ms after the end of the lease", len(r.beats()), ms(after))
	if after > 0 {
		t.Errorf("a process ran %v after the end of the lease", after)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// TestLeaseEndWithoutSidecar: the sidecar that took the lease is stopped or
// killed, and does not come back.
func TestLeaseEndWithoutSidecar(t *testing.T) {
	for _, fault := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		t.Run(fault.String(), func(t *testing.T) {
			t.Parallel()
			r := newDirs(t, "stubborn")
			self, err := os.Executable()
			must(t, err)
			sidecar := exec.Command(self, "role", "sidecar", r.stateDir, r.dataDir, "2500ms")
			sidecar.Stderr = os.Stderr
			_, err = sidecar.StdinPipe()
			must(t, err)
			out, err := sidecar.StdoutPipe()
			must(t, err)
			must(t, sidecar.Start())
			t.Cleanup(func() {
				sidecar.Process.Kill()
				sidecar.Wait()
			})
			line, err := bufio.NewReader(out).ReadString('\n')
			must(t, err)
			must(t, sidecar.Process.Signal(fault))
			until, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
			must(t, err)
			r.awaitBeats(t)
			eventually(t, "nothing left", func() bool { return len(r.leftovers(t)) == 0 })
			r.checkDeadAt(t, ha.Instant(until))
			r.Client = attach(t, r.stateDir)
			t.Cleanup(r.end)
			// The guard may hear of the end a moment after this test sees nothing left.
			if s := r.awaitStatus(t, "the next sidecar to read that the server is down", func(s guard.Status) bool { return !s.Running }); !s.Armed {
				t.Errorf("the next sidecar reads %+v", s)
			}
		})
	}
}

// TestSentinels: the end of the lease does not depend on the keeper.
func TestSentinels(t *testing.T) {
	r := newDirs(t, "stubborn")
	self, err := os.Executable()
	must(t, err)
	until := guard.Now().Add(3 * time.Second) // all are alive before that, on a slow machine too
	args := append([]string{"role", "sentinels", fmt.Sprint(int64(until)), r.command.Path}, r.command.Args...)
	helper := exec.Command(self, args...)
	helper.Dir = r.dataDir
	helper.Stderr = os.Stderr
	stdin, err := helper.StdinPipe()
	must(t, err)
	must(t, helper.Start())
	r.awaitBeats(t)
	eventually(t, "nothing left", func() bool { return len(r.leftovers(t)) == 0 })
	t.Logf("last sign of life %.2f ms after the sentinels' deadline", ms(r.lastBeat().Sub(until)))
	stdin.Close()
	must(t, helper.Wait())
}

func TestLeaseExtendedAndDisarmed(t *testing.T) {
	r := newRig(t, "stubborn")
	r.start(t)
	first := guard.Now().Add(300 * time.Millisecond)
	must(t, r.Lease(deadline(t), first))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for guard.Now() < first.Add(200*time.Millisecond) {
		<-tick.C
		must(t, r.Lease(deadline(t), guard.Now().Add(300*time.Millisecond)))
	}
	last := r.Status().LeaseUntil
	must(t, r.Disarm(deadline(t)))
	for guard.Now() < last.Add(100*time.Millisecond) {
		<-tick.C
	}
	if s := r.Status(); !s.Running || s.Armed || s.LeaseUntil != 0 {
		t.Errorf("after extensions and disarming: %+v", s)
	}
}

func TestLeaseRemembered(t *testing.T) {
	r := newRig(t, "stubborn")
	must(t, r.Lease(deadline(t), guard.Now().Add(-time.Millisecond)))
	if err := r.Start(deadline(t), r.command); !errors.Is(err, guard.ErrLeaseEnded) {
		t.Fatalf("start with a lease in the past: %v", err)
	}
	until := guard.Now().Add(2500 * time.Millisecond)
	must(t, r.Lease(deadline(t), until))
	r.start(t)
	if s := r.Status(); !s.Armed {
		t.Errorf("started unarmed: %+v", s)
	}
	r.awaitStatus(t, "server down", func(s guard.Status) bool { return !s.Running })
	r.checkDeadAt(t, until)

	must(t, r.Disarm(deadline(t)))
	r.start(t)
	now := guard.Now()
	must(t, r.Lease(deadline(t), now.Add(-time.Second)))
	s := r.awaitStatus(t, "server down", func(s guard.Status) bool { return !s.Running })
	t.Logf("lease in the past: server down %.1f ms later", ms(s.ExitedAt.Sub(now)))
}

// TestLeaseTooLate: a server that is being stopped is not saved.
func TestLeaseTooLate(t *testing.T) {
	r := newRig(t, "stubborn")
	r.start(t)
	until := guard.Now().Add(4 * time.Second) // SIGQUIT at -400 ms, SIGKILL at -320 ms
	must(t, r.Lease(deadline(t), until))
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for guard.Now() < until.Add(-380*time.Millisecond) {
		<-tick.C
	}
	if err := r.Lease(deadline(t), guard.Now().Add(time.Hour)); !errors.Is(err, guard.ErrLeaseEnded) && r.Status().Running {
		t.Errorf("lease after SIGQUIT: %v", err)
	}
	r.awaitStatus(t, "server down", func(s guard.Status) bool { return !s.Running })
	r.checkDeadAt(t, until)
}
