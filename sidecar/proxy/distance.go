package proxy

import (
	"cmp"
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/templates"
)

const (
	// measureEvery is how often the way to the members is measured again: it may be another.
	measureEvery = 10 * time.Minute
	// measureAgain is when a member is tried again that did not answer.
	measureAgain = 30 * time.Second
	// measureTime bounds an attempt.
	measureTime = 2 * time.Second
	// farAway is the longest round trip that is reckoned with.
	farAway = 500 * time.Millisecond
	// measurements are made of each member; the shortest counts.
	measurements = 3
)

// distances are how long the way to the members and back takes from here, for
// HAProxy's connect time-out: one that is shorter lets no connection come up. The kernel's
// own measure is taken, which a busy machine does not lengthen.
type distances struct {
	measure func(ctx context.Context, address string) (time.Duration, error)

	mu       sync.Mutex
	wanted   []string                 // the members' addresses
	known    map[string]time.Duration // the longest that was measured
	recalled time.Duration            // what an earlier process knew, until all are measured
	changed  chan struct{}            // has room for one: wanted has
}

func newDistances() *distances {
	return &distances{measure: roundTrip, known: map[string]time.Duration{}, changed: make(chan struct{}, 1)}
}

// wantsDistances reports whether a file's template has the time-out, and the configuration
// leaves it to this.
func wantsDistances(files []templates.File, s templates.Settings) bool {
	return s.HAProxy.ConnectTimeout == 0 && slices.ContainsFunc(files, func(f templates.File) bool {
		return f.Template.Mentions("ConnectTimeout")
	})
}

// recall takes up what an earlier process has measured.
func (d *distances) recall(before time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recalled = before
}

// farthest is the round trip to the farthest of the members, as a step: a little more or
// less than before is no change.
func (d *distances) farthest(members []templates.Member) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	wanted := make([]string, len(members))
	longest, all := time.Duration(0), true
	for i, m := range members {
		wanted[i] = cmp.Or(m.API(), m.Address())
		known, is := d.known[wanted[i]]
		longest, all = max(longest, known), all && is
	}
	if !slices.Equal(wanted, d.wanted) {
		d.wanted = wanted
		maps.DeleteFunc(d.known, func(address string, _ time.Duration) bool { return !slices.Contains(wanted, address) })
		select {
		case d.changed <- struct{}{}:
		default:
		}
	}
	if !all {
		return max(step(longest), d.recalled)
	}
	d.recalled = 0
	return step(longest)
}

// step is the first that is not shorter; zero: nothing is known.
func step(measured time.Duration) time.Duration {
	if measured == 0 {
		return 0
	}
	steps := []time.Duration{25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond}
	for _, s := range steps {
		if measured <= s {
			return s
		}
	}
	return farAway
}

// run measures until the context ends, and calls changed after each look.
func (d *distances) run(ctx context.Context, changed func()) {
	again := time.NewTimer(measureEvery)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.changed:
		case <-again.C:
		}
		if d.look(ctx) {
			again.Reset(measureEvery)
		} else {
			again.Reset(measureAgain)
		}
		changed()
	}
}

// look measures all, and reports whether each has answered.
func (d *distances) look(ctx context.Context) bool {
	d.mu.Lock()
	wanted := d.wanted
	d.mu.Unlock()
	var attempts sync.WaitGroup
	answers := make([]time.Duration, len(wanted))
	for i, address := range wanted {
		attempts.Go(func() {
			for range measurements {
				if took, err := d.measure(ctx, address); err == nil && (answers[i] == 0 || took < answers[i]) {
					answers[i] = took
				}
			}
		})
	}
	attempts.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, address := range wanted {
		if answers[i] > 0 && slices.Contains(d.wanted, address) {
			d.known[address] = max(d.known[address], answers[i])
		}
	}
	return !slices.Contains(answers, 0)
}

// roundTrip connects, and asks the kernel how long the answer was on its way.
func roundTrip(ctx context.Context, address string) (time.Duration, error) {
	began := time.Now()
	conn, err := (&net.Dialer{Timeout: measureTime}).DialContext(ctx, "tcp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	took := time.Since(began)
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return took, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return took, nil //nolint:nilerr // then as this process saw it
	}
	var info *unix.TCPInfo
	var asked error
	err = raw.Control(func(fd uintptr) {
		info, asked = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err == nil && asked == nil && info.Rtt > 0 {
		took = time.Duration(info.Rtt) * time.Microsecond
	}
	return took, nil
}
