package guard

import (
	"fmt"
	"os"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"golang.org/x/sys/unix"
)

// alarm is a timer on CLOCK_BOOTTIME; Go's own timers are on CLOCK_MONOTONIC,
// which stands still during suspend. CLOCK_BOOTTIME_ALARM would also wake the
// machine up, but nothing of the server runs while it is asleep.
type alarm struct {
	C    chan struct{} // receives when the set instant has come
	file *os.File
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create timer: %w", err)
	}
	a := &alarm{C: make(chan struct{}, 1), file: os.NewFile(uintptr(fd), "timerfd")}
	go a.wait()
	return a, nil
}

// wait passes expirations on until the file is closed.
func (a *alarm) wait() {
	var count [8]byte
	for {
		if _, err := a.file.Read(count[:]); err != nil {
			return
		}
		select {
		case a.C <- struct{}{}:
		default: // one is waiting already
		}
	}
}

// set moves the alarm; zero turns it off. An instant in the past rings at once.
func (a *alarm) set(at ha.Instant) error {
	conn, err := a.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("set timer: %w", err)
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(at))}
	var failed error
	err = conn.Control(func(fd uintptr) {
		failed = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &spec, nil)
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("set timer: %w", err)
	}
	return nil
}
