package main

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestNoCore: a core file would have all that a member knows, its secrets too. So
// there is none, although the system makes some.
func TestNoCore(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{Cur: limit.Max, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &limit) }()
	r := newRig(t) // built here
	t.Chdir(t.TempDir())

	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	_ = other.Process.Signal(syscall.SIGABRT)
	_ = other.Wait()
	if status := other.ProcessState.Sys().(syscall.WaitStatus); !status.CoreDump() {
		t.Skip("this system makes no core files")
	}

	t.Setenv("GOTRACEBACK", "crash") // else Go's own handler ends the process
	r.start()
	r.logged(30*time.Second, "consul") // it runs
	if err := r.cmd.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	r.exits(30 * time.Second)
	if status := r.cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.CoreDump() {
		t.Errorf("it ended with %v, core file: %t", r.cmd.ProcessState, status.CoreDump())
	}
}
