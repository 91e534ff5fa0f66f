package nomad

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// stoppingFile, in the state directory, is there from when the task was told to
// end until it has ended by itself. Its text is when that was, and its time of
// change how long the task lived on.
const stoppingFile = "stopping"

// stillStopping is how often a stop that goes on is noted: the error of what
// CutShort returns.
const stillStopping = 250 * time.Millisecond

// Watch notes in stateDir that the task was told to end. The returned function
// says that it has; if it is never called, CutShort knows at the next start.
func Watch(stateDir string) (ended func() error, err error) {
	path := filepath.Join(stateDir, stoppingFile)
	if err := writeFile(path, time.Now().Format(time.RFC3339Nano)+"\n"); err != nil {
		return nil, err
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(stillStopping)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case now := <-tick.C:
				_ = os.Chtimes(path, now, now) // the time is only for a message
			}
		}
	}()
	return func() error {
		close(stop)
		<-stopped
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("note the end of the stop: %w", err)
		}
		return nil
	}, nil
}

// CutShort reports whether the last task with this data was killed after it had
// been told to end, and how long after; it forgets that.
func CutShort(stateDir string) (after time.Duration, was bool, err error) {
	path := filepath.Join(stateDir, stoppingFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("look for a stop that was cut short: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false, fmt.Errorf("read when the last stop began: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return 0, false, fmt.Errorf("forget the last stop: %w", err)
	}
	if began, err := time.Parse(time.RFC3339Nano+"\n", string(text)); err == nil {
		after = info.ModTime().Sub(began)
	}
	return max(after, 0), true, nil
}
