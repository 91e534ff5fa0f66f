package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"golang.org/x/sys/unix"
)

const (
	// immediateTimeout is from SIGQUIT to SIGKILL when an immediate stop is
	// requested. PostgreSQL itself gives its backends 5 s; they need 10 ms.
	immediateTimeout = time.Second
	// killInterval is how often what is still there is killed again: something
	// may have forked while the list was read. It doubles up to maxKillInterval
	// for a process that sleeps in the kernel.
	killInterval    = 5 * time.Millisecond
	maxKillInterval = time.Second
)

// lease is until when the server may run, and from when it is stopped so that
// nothing of it runs then.
type lease struct {
	armed  bool
	until  ha.Instant
	quitAt ha.Instant // SIGQUIT
	killAt ha.Instant // SIGKILL
}

// newLease begins to stop a tenth of the lease before its end: at least 50 ms,
// for a loaded machine, and at most 500 ms. A fifth of that is for SIGQUIT (an
// immediate shutdown takes 10 to 30 ms); the rest is for SIGKILL, which costs
// no more than SIGQUIT does, and must not come late.
func newLease(until, now ha.Instant) lease {
	margin := min(max(until.Sub(now)/10, 50*time.Millisecond), 500*time.Millisecond)
	return lease{armed: true, until: until, quitAt: until.Add(-margin), killAt: until.Add(-margin * 4 / 5)}
}

// keeper owns the server. All of its fields belong to the goroutine that runs
// run, which is locked to its thread: the server dies with that thread.
type keeper struct {
	options   ServeOptions
	oomScore  string // for the server's processes
	journal   *journal
	alarm     *alarm
	sentinels *sentinels
	exits     <-chan os.Signal // SIGCHLD
	requests  chan envelope
	joined    chan *peer
	left      chan *peer

	watch lookout

	peers  map[*peer]struct{}
	status Status
	lease  lease
	log    *serverLog

	quitSent bool       // this server was sent SIGQUIT because its lease ended
	killAt   ha.Instant // when this server is killed; zero: not
	why      string     // reason for ExitStatus, if the guard has one

	// killing: SIGKILL goes to all descendants, again at killNext, until
	// there is none.
	killing  bool
	killNext ha.Instant
	killWait time.Duration
	gone     []func() // what waits for that

	emptyAt ha.Instant // when neither client nor server was left
	ending  bool       // no new server; the guard ends when this one is gone
}

// envelope is a request and whom to answer.
type envelope struct {
	request
	from *peer
}

// run is the keeper's loop; it returns when the guard is to end. No server is
// left then.
func (k *keeper) run(ctx context.Context) error {
	k.emptyAt = Now()
	defer func() { k.watch.end() }()
	// Walk once while nothing is at stake, so that the code that kills is in
	// memory, and locked there, when a disk hangs.
	k.kill(Now())
	k.reap()
	_ = unix.Kill(os.Getpid(), 0) // asks only; there is nobody to kill yet
	ended := ctx.Done()
	for !k.finished(Now()) {
		if err := k.alarm.set(k.next()); err != nil {
			return k.fail(err)
		}
		select {
		case <-k.alarm.C:
		case <-k.exits:
			k.reap()
		case e := <-k.requests:
			k.handle(e)
		case p := <-k.joined:
			k.peers[p] = struct{}{}
			p.send(response{Version: protocolVersion, Status: k.status})
		case p := <-k.left:
			k.drop(p)
		case pid := <-k.watch.found:
			k.strange(pid)
		case <-ended:
			ended = nil
			k.ending = true
			k.journal.log(hclog.Info, "guard told to end", "server_running", k.status.Running)
			k.signal(unix.SIGINT)
		}
		k.step(Now())
	}
	return nil
}

// fail ends a guard that cannot keep a lease any more, and its server with it.
func (k *keeper) fail(err error) error {
	k.kill(Now())
	return err
}

// finished reports whether the guard has nothing left to do.
func (k *keeper) finished(now ha.Instant) bool {
	if k.status.Running || k.killing || k.status.Stranger != 0 && k.lease.armed {
		return false
	}
	return k.ending || len(k.peers) == 0 && now >= k.emptyAt.Add(k.options.IdleTimeout)
}

// next returns when step has something to do if nothing else happens; zero:
// never.
func (k *keeper) next() ha.Instant {
	var next ha.Instant
	sooner := func(at ha.Instant) {
		if next == 0 || at < next {
			next = at
		}
	}
	switch {
	case k.killing:
		sooner(k.killNext)
	case k.status.Running:
		if k.lease.armed && !k.quitSent {
			sooner(k.lease.quitAt)
		}
		if k.killAt != 0 {
			sooner(k.killAt)
		}
	case k.status.Stranger != 0 && k.lease.armed && k.watch.ended != k.status.Stranger:
		sooner(k.lease.quitAt)
	case len(k.peers) == 0 && (k.status.Stranger == 0 || !k.lease.armed):
		sooner(k.emptyAt.Add(k.options.IdleTimeout))
	}
	return next
}

// step does what is due.
func (k *keeper) step(now ha.Instant) {
	if k.status.Running && !k.quitSent && k.lease.armed && now >= k.lease.quitAt {
		k.quitSent = true
		k.signal(unix.SIGQUIT)
		k.killBy(k.lease.killAt)
		k.why = "its lease ended"
		k.journal.log(hclog.Warn, "lease ended, stopping the server", "pid", k.status.PID,
			"before_end", k.lease.until.Sub(now))
	}
	if !k.status.Running && k.lease.armed && now >= k.lease.quitAt {
		k.endStranger()
	}
	if k.killAt != 0 && now >= k.killAt && !k.killing {
		k.journal.log(hclog.Warn, "killing the server and its descendants", "pid", k.status.PID)
		k.kill(now)
	}
	if k.killing && now >= k.killNext {
		k.kill(now)
		k.reap()
	}
}

// killBy makes sure that the server is killed no later than at.
func (k *keeper) killBy(at ha.Instant) {
	if k.killAt == 0 || at < k.killAt {
		k.killAt = at
	}
}

// signal sends the postmaster a signal, if it runs.
func (k *keeper) signal(s unix.Signal) {
	if k.status.Running {
		// The pid is ours until reap waits for it, so it cannot be another's.
		_ = unix.Kill(k.status.PID, s)
	}
}

// kill sends SIGKILL to every descendant, the postmaster first: it is the one
// that makes more of them.
func (k *keeper) kill(now ha.Instant) {
	if !k.killing {
		k.killing, k.killWait = true, killInterval
	}
	k.signal(unix.SIGKILL)
	err := descend(func(pid int) { _ = unix.Kill(pid, unix.SIGKILL) }) // it may have ended, or be a zombie
	if err != nil {
		k.journal.log(hclog.Error, "descendants not listed, trying again", "error", err)
	}
	k.killNext = now.Add(k.killWait)
	k.killWait = min(2*k.killWait, maxKillInterval)
}

// reap waits for all children that have ended. ECHILD, no child at all, is the
// kernel's word that no descendant is left.
func (k *keeper) reap() {
	exited := false
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid == 0 {
			if err != nil {
				k.allGone()
			} else if !k.status.Running && !k.killing {
				// What the server left, before anybody hears that it exited. Once:
				// the list costs a millisecond that the election wants to have, and
				// what was missed gets its signal at killNext.
				k.kill(Now())
			}
			break
		}
		if k.status.Running && pid == k.status.PID {
			k.exited(status)
			exited = true
		}
	}
	if exited {
		k.broadcast()
		k.journal.log(hclog.Info, "server exited", "pid", k.status.PID, "status", k.status.ExitStatus)
	}
}

func (k *keeper) exited(status unix.WaitStatus) {
	k.status.Running = false
	k.status.ExitedAt = Now()
	k.status.ExitStatus = exitStatus(status)
	if k.why != "" {
		k.status.ExitStatus += " (" + k.why + ")"
	}
	k.quitSent, k.killAt, k.why = false, 0, ""
	if err := k.sentinels.set(k.lease.killAt); err != nil { // it may have been disarmed too late
		k.journal.log(hclog.Error, "sentinels not set", "error", err)
	}
	k.emptyAt = Now()
	k.log.close()
	k.log = nil
	k.watchFor(k.watch.dataDir)
}

func exitStatus(status unix.WaitStatus) string {
	if status.Signaled() {
		return "signal: " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// allGone runs what waited for the last descendant to end.
func (k *keeper) allGone() {
	k.killing = false
	waiting := k.gone
	k.gone = nil
	for _, f := range waiting {
		f()
	}
}

// whenGone calls f when no process of the last server is left.
func (k *keeper) whenGone(f func()) {
	if k.status.Running || k.killing {
		k.gone = append(k.gone, f)
		return
	}
	f()
}

// handle does one request.
func (k *keeper) handle(e envelope) {
	if e.Deadline != 0 && Now() > e.Deadline {
		k.answer(e, fmt.Errorf("the request came too late: %w", context.DeadlineExceeded))
		return
	}
	switch e.Op {
	case opStatus:
		k.answer(e, nil)
	case opStart:
		if k.status.Running {
			k.answer(e, ErrRunning)
			return
		}
		k.whenGone(func() { k.answer(e, k.start(e)) })
	case opStop:
		k.stop(e)
	case opSignal:
		k.answer(e, k.forward(e.Signal))
	case opLease:
		k.answer(e, k.arm(e.Until))
	case opDisarm:
		k.answer(e, k.setLease(lease{}))
	case opShutdown:
		if k.status.Running {
			k.answer(e, ErrRunning)
			return
		}
		k.ending = true
		k.answer(e, nil)
	default:
		k.answer(e, fmt.Errorf("this guard (version %s) does not know the request %q", k.status.Version, e.Op))
	}
}

// start starts the server, unless its lease is over or nobody waits any more.
func (k *keeper) start(e envelope) error {
	now := Now()
	switch {
	case e.Command == nil:
		return errors.New("no command")
	case k.status.Running: // another client was faster while this one waited
		return ErrRunning
	case k.ending:
		return ErrEnding
	case k.lease.armed && now >= k.lease.quitAt:
		return ErrLeaseEnded
	case e.Deadline != 0 && now > e.Deadline:
		return fmt.Errorf("wait for the last server's processes to end: %w", context.DeadlineExceeded)
	}
	if err := writeServerFile(k.options.StateDir, e.Command.Dir); err != nil {
		return err
	}
	command := *e.Command
	command.Env = append(slices.Clone(command.Env), stateDirVariable+"="+k.options.StateDir)
	pid, log, err := spawn(command, k.oomScore)
	if err != nil {
		return err
	}
	if err := preferPostmaster(pid); err != nil { // without the right to, it does without
		k.journal.log(hclog.Debug, "protection not available", "protection", "the postmaster's priority", "error", err)
	}
	k.log = log
	k.watch.end()
	k.watch.dataDir = e.Command.Dir
	k.status.Running, k.status.PID, k.status.Stranger = true, pid, 0
	k.status.StartedAt, k.status.ExitedAt, k.status.ExitStatus = Now(), 0, ""
	k.journal.log(hclog.Info, "server started", "pid", pid, "data_dir", e.Command.Dir, "armed", k.lease.armed)
	k.broadcast()
	return nil
}

// stop begins a fast or an immediate shutdown, and answers when nothing is left.
func (k *keeper) stop(e envelope) {
	if k.status.Running {
		k.journal.log(hclog.Info, "stopping the server", "pid", k.status.PID, "immediate", e.Immediate)
	}
	if e.Immediate {
		k.signal(unix.SIGQUIT)
		if k.status.Running {
			k.killBy(Now().Add(immediateTimeout))
		}
	} else {
		k.signal(unix.SIGINT)
	}
	k.whenGone(func() { k.answer(e, nil) })
}

func (k *keeper) forward(number int) error {
	if !k.status.Running {
		return ErrNotRunning
	}
	if err := unix.Kill(k.status.PID, unix.Signal(number)); err != nil {
		return fmt.Errorf("signal server: %w", err)
	}
	return nil
}

// arm sets the lease. A server whose lease has ended is not saved by a new one.
func (k *keeper) arm(until ha.Instant) error {
	now := Now()
	if k.status.Running && (k.quitSent || k.lease.armed && now >= k.lease.quitAt) {
		return ErrLeaseEnded
	}
	return k.setLease(newLease(until, now))
}

// setLease puts a lease in force. It tells the other clients when the server
// became armed or disarmed, not of each extension.
func (k *keeper) setLease(l lease) error {
	k.lease = l
	changed := k.status.Armed != l.armed
	k.status.Armed, k.status.LeaseUntil = l.armed, l.until
	if changed {
		k.broadcast()
	}
	if k.quitSent {
		return nil // disarmed too late: the sentinels stay set
	}
	return k.sentinels.set(l.killAt)
}

func (k *keeper) answer(e envelope, err error) {
	r := response{Version: protocolVersion, ID: e.ID, Status: k.status}
	r.setError(err)
	e.from.send(r)
}

func (k *keeper) broadcast() {
	for p := range k.peers {
		p.send(response{Version: protocolVersion, Status: k.status})
	}
}

func (k *keeper) drop(p *peer) {
	delete(k.peers, p)
	k.emptyAt = Now()
}
