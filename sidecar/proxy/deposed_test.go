package proxy

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// silentServer says its name to whoever connects, and never looks at that
// connection again: what is measured must not wait for a processor that the
// measuring takes.
type silentServer struct {
	net.Listener
	mu   sync.Mutex
	kept []int // descriptors
}

func newSilentServer(t testing.TB, name string) *silentServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &silentServer{Listener: l}
	ended := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-ended; s.forget() })
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, name)
			fd, err := detach(c)
			if err != nil {
				t.Errorf("keep a connection: %v", err)
				return
			}
			s.mu.Lock()
			s.kept = append(s.kept, fd)
			s.mu.Unlock()
		}
	}()
	return s
}

// forget closes what it has kept.
func (s *silentServer) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fd := range s.kept {
		unix.Close(fd) //nolint:errcheck // the other side has ended it
	}
	s.kept = nil
}

// detach takes a connection away from Go's network poller.
func detach(c net.Conn) (int, error) {
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return -1, err
	}
	defer f.Close()
	return unix.Dup(int(f.Fd()))
}

// openSessions are connections of an application that sees at once when one of
// them ends, all by one epoll set.
type openSessions struct {
	epoll int
	fds   []int
}

// open makes n connections through HAProxy to the server of that name.
func (l *proxyLab) open(n int, name string) *openSessions {
	l.t.Helper()
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	l.must(err)
	s := &openSessions{epoll: epoll}
	for range n {
		conn, got, err := l.connect()
		l.must(err)
		if got != name {
			l.t.Fatalf("a client was sent to %s instead of %s", got, name)
		}
		fd, err := detach(conn)
		l.must(err)
		s.fds = append(s.fds, fd)
		l.must(unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(fd)}))
	}
	return s
}

// ended returns when the last of them has ended, or after that time, with the
// number of those that have not. It looks each millisecond, as to be woken a
// thousand times would take the processor that HAProxy ends them with, and waits
// for the last ones as they come.
func (s *openSessions) ended(within time.Duration) (left int) {
	events := make([]unix.EpollEvent, len(s.fds)+1)
	deadline := time.Now().Add(within)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for left = len(s.fds); left > 0 && time.Now().Before(deadline); {
		wait := 0
		if left <= 20 {
			wait = int(time.Until(deadline).Milliseconds())
		} else {
			<-tick.C
		}
		n, err := unix.EpollWait(s.epoll, events, wait)
		if err == nil {
			left -= n
		}
	}
	return left
}

func (s *openSessions) close() {
	for _, fd := range s.fds {
		unix.Close(fd) //nolint:errcheck // the other side has ended it
	}
	unix.Close(s.epoll) //nolint:errcheck // nothing depends on it
}
