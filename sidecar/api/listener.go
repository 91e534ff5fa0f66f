package api

import (
	"net"
	"net/netip"
	"sync"
)

// bounded is a listener that closes at once what is more than its limits, so
// that no client can keep others, and health checks least of all, from being
// accepted.
type bounded struct {
	net.Listener
	recorder *Recorder

	mu    sync.Mutex
	all   int
	hosts map[netip.Addr]int
}

func newBounded(l net.Listener, r *Recorder) *bounded {
	return &bounded{Listener: l, recorder: r, hosts: make(map[netip.Addr]int)}
}

// Accept returns the next connection within the limits.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host := hostOf(conn.RemoteAddr().String())
		if b.admit(host) {
			return &boundedConn{Conn: conn, leave: sync.OnceFunc(func() { b.leave(host) })}, nil
		}
		conn.Close()
		b.recorder.connectionRefused()
	}
}

func (b *bounded) admit(host netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all >= maxConns || b.hosts[host] >= maxConnsOfHost {
		return false
	}
	b.all++
	b.hosts[host]++
	return true
}

func (b *bounded) leave(host netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all--
	if b.hosts[host]--; b.hosts[host] == 0 {
		delete(b.hosts, host)
	}
}

func hostOf(remote string) netip.Addr {
	a, _ := netip.ParseAddrPort(remote)
	return a.Addr().Unmap()
}

// boundedConn gives its place back when it is closed.
type boundedConn struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (c *boundedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// NetConn returns the connection below, for its socket options.
func (c *boundedConn) NetConn() net.Conn { return c.Conn }
