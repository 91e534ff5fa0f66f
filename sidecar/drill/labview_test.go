package drill_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// screen is a terminal with a program on it.
type screen struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	mu     sync.Mutex
	shown  strings.Builder
	ended  chan error
}

// onScreen starts a program on a terminal of its own.
func onScreen(t *testing.T, cmd *exec.Cmd) *screen {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	s := &screen{t: t, master: master, cmd: cmd, ended: make(chan error, 1)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go s.read()
	go func() {
		s.ended <- cmd.Wait()
		terminal.Close()
	}()
	return s
}

func (s *screen) read() {
	b := make([]byte, 1<<16)
	for {
		n, err := s.master.Read(b)
		s.mu.Lock()
		s.shown.Write(b[:n])
		s.mu.Unlock()
		if err != nil {
			return // the terminal is closed
		}
	}
}

// text is all that was shown since a mark; the mark for what follows is its end.
func (s *screen) text(since int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()[since:]
}

// press presses a key, and waits until something is shown.
func (s *screen) press(key, want string) (after time.Duration) {
	s.t.Helper()
	since, start := len(s.text(0)), time.Now()
	if _, err := s.master.WriteString(key); err != nil {
		s.t.Fatal(err)
	}
	s.wait(since, want)
	return time.Since(start)
}

// wait waits until something is shown.
func (s *screen) wait(since int, want string) {
	s.t.Helper()
	s.waitFor(since, want, func(shown string) bool { return strings.Contains(shown, want) })
}

// whole waits until the screen as it is now shows so many replicas that pass.
func (s *screen) whole(replicas int) {
	s.t.Helper()
	s.waitFor(len(s.text(0)), fmt.Sprintf("%d replicas", replicas), func(shown string) bool {
		frames := strings.Split(shown, "\x1b[H")
		return len(frames) > 2 && strings.Count(frames[len(frames)-2], "replica passing") == replicas // the last may be half
	})
}

func (s *screen) waitFor(since int, want string, is func(shown string) bool) {
	s.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !is(s.text(since)); {
		select {
		case err := <-s.ended:
			s.ended <- err
			s.t.Fatalf("it ended (%v) before %q was shown:\n%s", err, want, s.text(since))
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%q was not shown:\n%s", want, s.text(since))
		}
	}
}

// labFolder returns a folder for a lab, short and open to PostgreSQL's user. What a
// failed test leaves in it is taken down.
func labFolder(t *testing.T, program string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "lab")
	t.Cleanup(func() { drillProgram{binary: program, folder: folder}.down(t) })
	return folder
}

// TestHangup closes the terminal of a lab: it is removed as by Ctrl-C.
func TestHangup(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("SIGHUP is ignored here, as by nohup, and in what is started from here")
	}
	program, before := binary(t), lookAround(t)
	folder := labFolder(t, program)
	args := []string{"lab", "up", "--members", "1", "--dir", folder}
	if os.Geteuid() == 0 {
		args = append(args, "--isolated")
	}
	s := onScreen(t, exec.Command(program, args...))
	s.wait(0, "waiting until the cluster is whole")
	seen := labIn(t, folder)
	if err := s.master.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.ended:
		t.Logf("it ended: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("it did not end")
	}
	nothingLeft(t, before, seen)
}

// TestLiveView does what a newcomer does: `lab up`, and a key that breaks
// something. The view tells of the failover; what is asked of its lab meanwhile
// and cannot be is refused; and after Ctrl-C nothing is left.
func TestLiveView(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	program, before := binary(t), lookAround(t)
	folder := labFolder(t, program)
	args := []string{"lab", "up", "--dir", folder}
	if os.Geteuid() == 0 {
		args = append(args, "--isolated")
	}
	_, err := programs.PgBackRest()
	saved := err == nil
	if saved {
		args = append(args, "--backup")
	}
	start := time.Now()
	s := onScreen(t, exec.Command(program, args...))
	s.wait(0, "press k to kill")
	whole := time.Since(start)
	s.press("k", "is the primary now")
	moved := time.Since(start)
	t.Logf("the cluster was whole after %.1f s, and had failed over %.1f s after the command", whole.Seconds(), moved.Seconds())
	if moved > time.Minute {
		t.Errorf("a newcomer sees a failover after %.1f s, not within a minute", moved.Seconds())
	}
	seen := labIn(t, folder)

	refused(t, exec.Command(program, "lab", "up", "--dir", folder), "a lab runs in")
	refused(t, exec.Command(program, "drill", "--all", "--dir", folder), "drill is not possible")
	s.press("s", "is the primary now")
	if os.Geteuid() == 0 {
		s.press("c", "is the primary now")
		s.press("h", "healed")
	}
	s.press("m", "is the primary now")
	refused(t, exec.Command(program, "drill", "--dir", folder, "switchover"), "not running")
	s.press("h", "healed")
	s.press("x", "is no key")
	if saved {
		s.press("r", "press d first")
		s.wait(0, "the first backup is made")
		s.press("d", "deleted the writer's table")
		t.Logf("restored after %s", s.press("r", "takes writes after"))
		s.whole(2)
		s.press("k", "is the primary now") // which the writer says, who has its table again
	}
	after := labIn(t, folder)
	seen.segments = append(seen.segments, after.segments...)
	if left := leftBehind(t, before, seen); len(left) < 10 {
		t.Errorf("a lab that runs is only %q; the test is no test", left)
	}

	since := len(s.text(0))
	if _, err := s.master.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("after Ctrl-C: %v\n%s", err, s.text(since))
		}
	case <-time.After(time.Minute):
		t.Fatalf("it did not end:\n%s", s.text(since))
	}
	nothingLeft(t, before, seen)
	settings, err := unix.IoctlGetTermios(int(s.master.Fd()), unix.TCGETS)
	if err != nil || settings.Lflag&unix.ICANON == 0 || settings.Lflag&unix.ECHO == 0 {
		t.Errorf("the terminal is not as before: %+v, %v", settings, err)
	}
}

// TestSitesView: `lab up --sites` makes two sites; keys switch the site, and cut them off
// from each other; after q nothing of either is left.
func TestSitesView(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two clusters")
	}
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	program, before := binary(t), lookAround(t)
	folder := labFolder(t, program)
	start := time.Now()
	s := onScreen(t, exec.Command(program, "lab", "up", "--sites", "--dir", folder))
	s.wait(0, "press k to kill")
	t.Logf("both sites were whole after %.1f s", time.Since(start).Seconds())
	first, second := labIn(t, folder), labIn(t, filepath.Join(folder, "dc2"))
	out, err := exec.Command(program, "lab", "status", "--dir", folder).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "takes the writes (epoch 0)") || !strings.Contains(string(out), "follows pg@dc1 (epoch 0)") {
		t.Errorf("lab status: %v\n%s", err, out)
	}
	s.press("w", "switched from dc1 to dc2")
	s.wait(0, "follows pg@dc2 (epoch 1)")
	s.press("x", "cut the sites off from each other")
	s.wait(0, "no switch now: the other site is not heard")
	since := len(s.text(0))
	s.press("h", "healed")
	s.waitFor(since, "both sites to hear each other", func(shown string) bool {
		frames := strings.Split(shown, "\x1b[H")
		return len(frames) > 2 && strings.Contains(frames[len(frames)-2], "follows pg@dc2") && !strings.Contains(frames[len(frames)-2], "no switch now")
	})
	if _, err := s.master.Write([]byte("q")); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("after q: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it did not end")
	}
	nothingLeft(t, before, first)
	nothingLeft(t, before, second)
}
