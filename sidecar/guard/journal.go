package guard

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// journal writes the log from a goroutine of its own: a full disk queue, or a
// pipe whose reader is stopped, must not delay the end of a lease. Lines that
// find no room are dropped and counted.
type journal struct {
	lines   chan line
	dropped atomic.Int64
	done    chan struct{}
}

type line struct {
	level   hclog.Level
	message string
	fields  []any
}

func newJournal(logger hclog.Logger) *journal {
	j := &journal{lines: make(chan line, 64), done: make(chan struct{})}
	go func() {
		defer close(j.done)
		for l := range j.lines {
			if n := j.dropped.Swap(0); n > 0 {
				logger.Warn("log lines dropped", "count", n)
			}
			logger.Log(l.level, l.message, l.fields...)
		}
	}()
	return j
}

func (j *journal) log(level hclog.Level, message string, fields ...any) {
	select {
	case j.lines <- line{level, message, fields}:
	default:
		j.dropped.Add(1)
	}
}

// close writes what is queued, for a second at most. Nothing may be logged
// after it.
func (j *journal) close() {
	close(j.lines)
	select {
	case <-j.done:
	case <-time.After(time.Second):
	}
}
