package guard

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"golang.org/x/sys/unix"
)

// sentinels end the server at the end of its lease when the keeper is late.
// Each is a thread on a processor of its own: a virtual machine may lose one
// processor for a second while the server uses the others. (Measured
// with two busy, partly stolen processors: a single timer was late by more than
// 1 to 1,000 ms once in a hundred times, the earlier of two by 0.1 ms.)
// They know nothing of the server: when the lease ends, whatever descends from
// the guard is killed.
type sentinels struct {
	killAt atomic.Int64 // an ha.Instant; zero: not armed
	timers []int        // file descriptors
}

// newSentinels starts two, or one if there is one processor.
func newSentinels() (*sentinels, error) {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return nil, fmt.Errorf("read processor affinity: %w", err)
	}
	s := &sentinels{}
	for cpu := 0; len(s.timers) < min(2, allowed.Count()); cpu++ {
		if !allowed.IsSet(cpu) {
			continue
		}
		timer, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("create timer: %w", err)
		}
		s.timers = append(s.timers, timer)
		ready := make(chan error)
		go s.watch(timer, cpu, ready)
		if err := <-ready; err != nil {
			return nil, err
		}
	}
	return s, nil
}

// set moves the deadline; zero takes it away.
func (s *sentinels) set(killAt ha.Instant) error {
	s.killAt.Store(int64(killAt))
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(killAt))}
	for _, timer := range s.timers {
		if err := unix.TimerfdSettime(timer, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
			return fmt.Errorf("set timer: %w", err)
		}
	}
	return nil
}

// watch waits for the deadline in a blocking read, not in the runtime's poller,
// whose thread may be the one that has lost its processor. It never returns.
func (s *sentinels) watch(timer, cpu int, ready chan<- error) {
	runtime.LockOSThread()
	var one unix.CPUSet
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		ready <- fmt.Errorf("bind thread to processor %d: %w", cpu, err)
		return
	}
	s.pause(timer, 0) // so that the code is in memory; the keeper does the same for what else killAll needs
	ready <- nil
	var count [8]byte
	for {
		if _, err := unix.Read(timer, count[:]); err != nil && !errors.Is(err, unix.EINTR) {
			// Without a timer the lease cannot be kept.
			fmt.Fprintln(os.Stderr, "guard: read timer:", err)
			os.Exit(1)
		}
		s.killAll(timer)
	}
}

// killAll kills until nothing is left or the deadline was moved.
func (s *sentinels) killAll(timer int) {
	wait := killInterval
	for {
		at := s.killAt.Load()
		if at == 0 || int64(Now()) < at {
			return
		}
		left := 0
		err := descend(func(pid int) {
			left++
			// Looked at again each time: this thread may have been held up
			// until another server runs.
			if s.killAt.Load() == at {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		})
		if err == nil && left == 0 {
			return
		}
		s.pause(timer, wait) // the keeper reaps meanwhile
		wait = min(2*wait, maxKillInterval)
	}
}

// pause ends early if the timer is set again.
func (s *sentinels) pause(timer int, wait time.Duration) {
	poll := []unix.PollFd{{Fd: int32(timer), Events: unix.POLLIN}}
	_, _ = unix.Poll(poll, int(wait/time.Millisecond))
}
