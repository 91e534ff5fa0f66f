package guard

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"golang.org/x/sys/unix"
)

const (
	// helloTimeout is how long a guard that took the connection may take to
	// greet; it does so in well under a millisecond, unless it is stopped.
	helloTimeout = 5 * time.Second
	// reconnectWait is the wait before another attempt to reach or start a
	// guard; it doubles up to maxReconnectWait. The first attempt is at once.
	reconnectWait    = 20 * time.Millisecond
	maxReconnectWait = time.Second
)

// ClientOptions says where the guard is and how to start one.
type ClientOptions struct {
	StateDir string
	// Executable and Args are the command that calls Serve for StateDir. An
	// empty Executable never starts a guard.
	Executable string
	Args       []string
	Logger     hclog.Logger
}

// Client is the sidecar's connection to the guard. When the connection breaks
// it connects again, to a new guard if it must, until Close. All of its methods
// may be called from several goroutines.
type Client struct {
	options ClientOptions
	ctx     context.Context // ends at Close
	cancel  context.CancelFunc
	done    chan struct{} // closed when run has returned

	mu      sync.Mutex
	link    *link // nil while there is no connection
	status  Status
	changed []func()
	ending  bool // the guard was told to end: no new one
	lastID  uint64
	pending map[uint64]chan response
}

// link is one connection to one guard.
type link struct {
	conn  net.Conn
	lines *bufio.Scanner
	guard *os.Process // by pidfd, so never another process
}

// Attach connects to the living guard of the state directory, or else starts
// one, which outlives this process, and connects to that. The status is known
// when it returns. ctx bounds Attach alone.
func Attach(ctx context.Context, options ClientOptions) (*Client, error) {
	if options.Logger == nil {
		options.Logger = hclog.NewNullLogger()
	}
	c := &Client{options: options, done: make(chan struct{}), pending: make(map[uint64]chan response)}
	// Not derived from ctx: the client lives until Close.
	c.ctx, c.cancel = context.WithCancel(context.Background())
	link, err := c.connect(ctx)
	if err != nil {
		c.cancel()
		return nil, err
	}
	go c.run(link)
	return c, nil
}

// Start starts the server and returns when its program runs; whether it then
// gets as far as to answer is for others to see. It waits for the end of what
// is left of the last server. It returns ErrRoot, ErrRunning, ErrLeaseEnded, ErrEnding or
// ErrLost.
func (c *Client) Start(ctx context.Context, command Command) error {
	if command.UID == 0 {
		return ErrRoot
	}
	groups, err := supplementaryGroups(command.UID)
	if err != nil {
		return err
	}
	command.Groups = groups
	return c.call(ctx, request{Op: opStart, Command: &command})
}

// supplementaryGroups looks up a user's groups (on Debian, for instance, the
// TLS key is readable by the group ssl-cert). A user without a name has none.
func supplementaryGroups(uid uint32) ([]uint32, error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	var unknown user.UnknownUserIdError
	if errors.As(err, &unknown) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up user %d: %w", uid, err)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("look up groups of %s: %w", u.Username, err)
	}
	var groups []uint32
	for _, id := range ids {
		gid, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("groups of %s: %w", u.Username, err)
		}
		groups = append(groups, uint32(gid))
	}
	return groups, nil
}

// Signal sends the postmaster a signal (PostgreSQL documentation, section
// 19.5). It returns ErrNotRunning if there is none.
func (c *Client) Signal(ctx context.Context, sig int) error {
	return c.call(ctx, request{Op: opSignal, Signal: sig})
}

// Lease arms the guard, or moves the end of the lease: nothing of the server
// runs at until. It is in force when Lease returns nil. With no server it is
// kept for the next Start; an end in the past kills a running server at once.
// It returns ErrLeaseEnded when it comes too late for this server, which is
// being stopped.
func (c *Client) Lease(ctx context.Context, until ha.Instant) error {
	return c.call(ctx, request{Op: opLease, Until: until})
}

// Disarm ends the lease without consequence: a standby needs none. A server
// that is being stopped because its lease ended is not saved by it.
func (c *Client) Disarm(ctx context.Context) error {
	return c.call(ctx, request{Op: opDisarm})
}

// Status returns the latest that is known.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Notify adds a function that is called after the status changed, other than by
// a mere extension of the lease. It is called by the goroutine that reads from
// the guard and must not block, nor call a method that asks the guard.
func (c *Client) Notify(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = append(c.changed, f)
}

// Close detaches: guard and server live on. It returns when the client's
// goroutine has ended.
func (c *Client) Close() error {
	c.cancel()
	c.disconnect()
	<-c.done
	return nil
}

// Shutdown ends the guard and closes the client. When it returns nil the guard
// has let go of the state directory. It returns ErrRunning, and changes nothing,
// while the server runs, and ErrLost when there was no guard to tell: the client
// may then be closed, and Attach says how things are.
func (c *Client) Shutdown(ctx context.Context) error {
	c.mu.Lock()
	if c.link == nil {
		c.mu.Unlock()
		return ErrLost
	}
	c.ending = true
	c.mu.Unlock()
	answer := make(chan response, 1)
	sent := c.send(ctx, request{Op: opShutdown}, answer)
	if sent == nil {
		err := c.await(ctx, answer)
		if err != nil && !errors.Is(err, ErrLost) { // lost: it had no time to answer
			c.mu.Lock()
			c.ending = false
			c.mu.Unlock()
			return fmt.Errorf("shut down guard: %w", err)
		}
	}
	select {
	case <-c.done: // end of file: the guard's process has ended
		c.cancel()
		return sent
	case <-ctx.Done():
		return fmt.Errorf("wait for the guard to end: %w", context.Cause(ctx))
	}
}

func (c *Client) closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending || c.ctx.Err() != nil
}

// call sends a request and waits for its answer.
func (c *Client) call(ctx context.Context, r request) error {
	answer := make(chan response, 1)
	if err := c.send(ctx, r, answer); err != nil {
		return fmt.Errorf("%s: %w", r.Op, err)
	}
	if err := c.await(ctx, answer); err != nil {
		return fmt.Errorf("%s: %w", r.Op, err)
	}
	return nil
}

func (c *Client) await(ctx context.Context, answer chan response) error {
	select {
	case r, open := <-answer:
		if !open {
			return ErrLost
		}
		return r.err()
	case <-ctx.Done():
		return fmt.Errorf("wait for the guard: %w", context.Cause(ctx))
	}
}

// send writes a request; its answer, or the loss of the connection, will reach
// the channel.
func (c *Client) send(ctx context.Context, r request, answer chan response) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return ErrLost
	}
	c.lastID++
	r.Version, r.ID = protocolVersion, c.lastID
	deadline, bounded := ctx.Deadline()
	if bounded {
		r.Deadline = Now().Add(time.Until(deadline))
	}
	if err := c.link.conn.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	if _, err := c.link.conn.Write(marshalLine(r)); err != nil {
		c.link.conn.Close() // half a line may have gone out
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	c.pending[r.ID] = answer
	return nil
}

// run reads what the guard says, and connects again when it is gone.
func (c *Client) run(l *link) {
	defer close(c.done)
	for l != nil {
		for l.lines.Scan() {
			var r response
			if err := json.Unmarshal(l.lines.Bytes(), &r); err != nil {
				c.options.Logger.Error("guard sent what is not a response", "error", err)
				break
			}
			c.take(r)
		}
		l.conn.Close()
		c.lose()
		l = c.reconnect()
	}
}

// take applies a response.
func (c *Client) take(r response) {
	r.Status.Known = true
	c.mu.Lock()
	answer := c.pending[r.ID]
	delete(c.pending, r.ID)
	c.mu.Unlock()
	c.setStatus(r.Status)
	if answer != nil {
		answer <- r // has room
	}
}

// lose makes the status unknown and fails what waits for an answer.
func (c *Client) lose() {
	c.mu.Lock()
	c.link.guard.Release()
	c.link = nil
	status := c.status
	for _, answer := range c.pending {
		close(answer)
	}
	clear(c.pending)
	c.mu.Unlock()
	status.Known = false
	c.setStatus(status)
}

func (c *Client) setStatus(s Status) {
	c.mu.Lock()
	before := c.status
	c.status = s
	before.LeaseUntil = s.LeaseUntil // the sidecar moves that itself, every second
	var call []func()
	if s != before {
		call = c.changed
	}
	c.mu.Unlock()
	for _, f := range call {
		f()
	}
}

// reconnect returns nil when the client is closed.
func (c *Client) reconnect() *link {
	wait := reconnectWait
	for !c.closed() {
		l, err := c.connect(c.ctx)
		if err == nil {
			c.options.Logger.Info("connected to the guard again", "pid", l.guard.Pid)
			return l
		}
		if c.closed() {
			return nil
		}
		c.options.Logger.Error("guard not reached, trying again", "error", err, "wait", wait)
		select {
		case <-c.ctx.Done():
		case <-time.After(wait):
			wait = min(2*wait, maxReconnectWait)
		}
	}
	return nil
}

// connect reaches the living guard or starts one.
func (c *Client) connect(ctx context.Context) (*link, error) {
	wait := reconnectWait
	for {
		l, err := c.dial(ctx)
		if err == nil {
			return l, nil
		}
		nobody := errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
		if !nobody || c.options.Executable == "" {
			return nil, err
		}
		err = launch(ctx, c.options)
		if err == nil {
			continue
		}
		// Another is just starting, or just ending: both pass.
		if !errors.Is(err, ErrGuarded) {
			return nil, fmt.Errorf("start guard: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("start guard: %w: %w", err, context.Cause(ctx))
		case <-time.After(wait):
			wait = min(2*wait, maxReconnectWait)
		}
	}
}

// dial connects and takes the greeting.
func (c *Client) dial(ctx context.Context) (*link, error) {
	address, dir, err := socketAddress(c.options.StateDir)
	if err != nil {
		return nil, err
	}
	if dir != nil {
		defer dir.Close()
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", address.Name)
	if err != nil {
		return nil, fmt.Errorf("connect to guard: %w", err)
	}
	l := &link{conn: conn, lines: bufio.NewScanner(conn)}
	l.lines.Buffer(make([]byte, 0, 4096), maxLine)
	r, err := l.greeting(ctx)
	if err == nil {
		l.guard, err = peerProcess(conn.(*net.UnixConn))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	if !c.use(l) {
		conn.Close()
		return nil, fmt.Errorf("connect to guard: %w", net.ErrClosed)
	}
	c.take(r)
	return l, nil
}

// use makes a connection the client's, unless the client was closed meanwhile:
// then nobody would break the connection.
func (c *Client) use(l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending || c.ctx.Err() != nil {
		return false
	}
	c.link = l
	return true
}

// greeting reads the guard's first line.
func (l *link) greeting(ctx context.Context) (r response, err error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.conn.SetReadDeadline(time.Unix(1, 0)) }) // now
	defer stop()
	if !l.lines.Scan() {
		if ctx.Err() != nil {
			return r, fmt.Errorf("the guard does not greet: %w", context.Cause(ctx))
		}
		return r, fmt.Errorf("the guard hung up: %w", unix.ECONNREFUSED) // it is ending: start another
	}
	if err := json.Unmarshal(l.lines.Bytes(), &r); err != nil {
		return r, fmt.Errorf("read the guard's greeting: %w", err)
	}
	return r, nil
}

// disconnect breaks the connection; run notices.
func (c *Client) disconnect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil {
		c.link.conn.Close()
	}
}

// peerProcess returns the process at the other end of a connection.
func peerProcess(conn *net.UnixConn) (*os.Process, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("find the guard's process: %w", err)
	}
	var credentials *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		credentials, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("find the guard's process: %w", err)
	}
	return os.FindProcess(int(credentials.Pid))
}
