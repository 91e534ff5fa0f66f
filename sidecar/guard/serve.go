package guard

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// sweepTimeout bounds how long a new guard waits for the last one's server.
const sweepTimeout = 30 * time.Second

// readyVariable tells a guard which descriptor its parent waits on: it gets one
// response line, when the guard listens or why it cannot.
const readyVariable = "PGSIDECAR_GUARD_READY_FD"

// ServeOptions is what a guard needs.
type ServeOptions struct {
	StateDir string       // made if it is not there; one guard in each
	Logger   hclog.Logger // may block; the guard never waits for it
	Version  string       // of this program, for Status
	// IdleTimeout is how long a guard without server and without client
	// lives; zero: 30 s.
	IdleTimeout time.Duration
}

// Serve is the guard process: it takes over the process (signals, priority,
// memory, all of its children) and must be the last thing main does. It returns
// nil when it was told to end, by ctx, SIGTERM, SIGINT or Client.Shutdown, or
// when nobody has needed it for IdleTimeout; and ErrGuarded if another guard
// lives in the state directory. Told to end by ctx or a signal it first stops
// the server (fast shutdown), whose lease goes on all the while.
func Serve(ctx context.Context, options ServeOptions) error {
	// Never unlocked: the server dies with this thread.
	runtime.LockOSThread()
	ready, err := readyFile()
	if err != nil {
		return err
	}
	err = serve(ctx, options, ready)
	report(ready, err) // nothing, if the guard was ready before
	return err
}

func serve(ctx context.Context, options ServeOptions, ready *os.File) error {
	if options.IdleTimeout == 0 {
		options.IdleTimeout = 30 * time.Second
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	// Caught and ignored: SIG_IGN would be inherited by the server. SIGPIPE
	// comes when the log's reader has gone.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE, unix.SIGHUP)
	exits := make(chan os.Signal, 1)
	signal.Notify(exits, unix.SIGCHLD)

	if err := os.MkdirAll(options.StateDir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	lock, err := lockStateDir(options.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	oomScore, err := protect(options.Logger)
	if err != nil {
		return err
	}
	sweepCtx, cancel := context.WithTimeout(ctx, sweepTimeout)
	dataDir, killed, stranger, err := sweepLast(sweepCtx, options.StateDir)
	cancel()
	if err != nil {
		return fmt.Errorf("sweep the last server: %w", err)
	}
	listener, dir, err := listen(options.StateDir)
	if err != nil {
		return err
	}
	defer dir.Close() // nil, where there is none: that returns an error, and does nothing
	defer listener.Close()
	alarm, err := newAlarm()
	if err != nil {
		return err
	}
	sentinels, err := newSentinels()
	if err != nil {
		return err
	}
	journal := newJournal(options.Logger)
	defer journal.close()
	journal.log(hclog.Info, "guard started", "pid", os.Getpid(), "version", options.Version, "swept", killed)
	k := &keeper{
		options: options, oomScore: oomScore, journal: journal, alarm: alarm, sentinels: sentinels, exits: exits,
		requests: make(chan envelope), joined: make(chan *peer), left: make(chan *peer), watch: lookout{found: make(chan int), end: func() {}},
		peers:  make(map[*peer]struct{}),
		status: Status{Version: options.Version},
	}
	k.strange(stranger)
	k.watchFor(dataDir)
	go k.accept(listener)
	report(ready, nil)
	return k.run(ctx)
}

// lockStateDir returns the lock as a file that holds it while it is open.
func lockStateDir(stateDir string) (*os.File, error) {
	lock, err := rights.OpenLock(filepath.Join(stateDir, "guard.lock"))
	if err != nil {
		return nil, fmt.Errorf("open guard's lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if err == unix.EWOULDBLOCK {
			return nil, fmt.Errorf("%w: %s", ErrGuarded, stateDir)
		}
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	return lock, nil
}

// listen makes the socket. The caller holds the lock, so one that is there is
// a dead guard's. If the address leads through an open directory, that is returned too,
// and is to stay open as long as the listener, which removes the socket by it.
func listen(stateDir string) (*net.UnixListener, *os.File, error) {
	address, dir, err := socketAddress(stateDir)
	if err != nil {
		return nil, nil, err
	}
	if err := os.Remove(address.Name); err != nil && !os.IsNotExist(err) {
		return nil, nil, fmt.Errorf("remove old socket: %w", err)
	}
	before := unix.Umask(0o177) // mode 0600 from its first moment
	listener, err := net.ListenUnix("unix", address)
	unix.Umask(before)
	if err != nil {
		return nil, nil, fmt.Errorf("listen: %w", err)
	}
	return listener, dir, nil
}

// peer is one connected client.
type peer struct {
	conn net.Conn
	out  chan []byte
}

// send queues a response. A client that does not take its answers is dropped:
// it will see the status when it connects again.
func (p *peer) send(r response) {
	select {
	case p.out <- marshalLine(r):
	default:
		p.conn.Close()
	}
}

// accept starts a reader and a writer for each connection, until the listener
// is closed, that is until the process ends.
func (k *keeper) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		p := &peer{conn: conn, out: make(chan []byte, 64)}
		gone := make(chan struct{})
		go func() {
			defer conn.Close()
			for {
				select {
				case <-gone:
					return
				case b := <-p.out:
					if _, err := conn.Write(b); err != nil {
						return
					}
				}
			}
		}()
		go func() {
			defer close(gone)
			k.joined <- p
			k.read(p)
			k.left <- p
		}()
	}
}

// read passes a client's requests on until it hangs up or sends what is not a
// request.
func (k *keeper) read(p *peer) {
	lines := bufio.NewScanner(p.conn)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for lines.Scan() {
		e := envelope{from: p}
		if err := json.Unmarshal(lines.Bytes(), &e.request); err != nil {
			k.journal.log(hclog.Warn, "client sent what is not a request", "error", err)
			return
		}
		k.requests <- e
	}
}

// readyFile returns the descriptor that the parent waits on; nil if there is
// none.
func readyFile() (*os.File, error) {
	value := os.Getenv(readyVariable)
	if value == "" {
		return nil, nil
	}
	fd, err := strconv.Atoi(value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", readyVariable, err)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "ready"), nil
}

// report tells the parent that the guard is ready, or why it is not.
func report(ready *os.File, err error) {
	if ready == nil {
		return
	}
	r := response{Version: protocolVersion}
	r.setError(err)
	// The parent may be gone, and the file closed by the first report.
	_, _ = ready.Write(marshalLine(r))
	ready.Close()
}
