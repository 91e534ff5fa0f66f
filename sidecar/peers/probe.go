package peers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// errRefused: every address of the name answered that nobody listens. It is
// never wrapped around a failure of DNS, which also reports refused connections.
var errRefused = errors.New("connection refused")

// Probe tries to connect to a server's port, host:port. Yes: every address of
// the host answered that nobody listens there. No: a connection was accepted
// (and closed). Unknown: no answer until ctx ended or half of the failure
// timeout was over, or anything else. PostgreSQL does not log such a connection.
func (m *Mesh) Probe(ctx context.Context, address string) (refused ha.Tri) {
	ctx, cancel := context.WithTimeout(ctx, m.dialTimeout())
	defer cancel()
	conn, err := m.dial(ctx, address)
	switch {
	case err == nil:
		conn.Close()
		return ha.No
	case errors.Is(err, errRefused):
		return ha.Yes
	}
	return ha.Unknown
}

// dialTimeout leaves time for a second attempt within the failure timeout.
func (m *Mesh) dialTimeout() time.Duration { return m.timeout / 2 }

// dial connects to one of the addresses of host:port. It returns errRefused
// only if all of them refuse: one that does not answer may be the living one.
func (m *Mesh) dial(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	var addrs []netip.Addr
	if literal, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{literal}
	} else if addrs, err = m.resolver.LookupNetIP(ctx, "ip", host); err != nil {
		return nil, fmt.Errorf("dial: %s", err) // not %w: it may be ECONNREFUSED of a DNS server
	}
	var dialer net.Dialer
	var last error
	refused := len(addrs) > 0
	for _, a := range addrs {
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(a.String(), port))
		if err == nil {
			return conn, nil
		}
		refused = refused && errors.Is(err, syscall.ECONNREFUSED)
		last = err
	}
	if refused {
		return nil, fmt.Errorf("dial %s: %w", address, errRefused)
	}
	return nil, fmt.Errorf("dial: %w", last)
}

// tcpUserTimeout is Linux's TCP_USER_TIMEOUT (tcp(7)): how long sent data may
// stay unacknowledged, in milliseconds, before the connection is broken.
const tcpUserTimeout = 0x12

// boundWrites makes the kernel give up on a peer that was cut off after d, so
// that what was sent to it does not keep a dead connection for minutes.
func boundWrites(conn net.Conn, d time.Duration) error {
	tcp, ok := wire(conn).(*net.TCPConn)
	if !ok {
		return nil // a test's pipe
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("bound writes: %w", err)
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(d.Milliseconds()))
	}); err != nil {
		return fmt.Errorf("bound writes: %w", err)
	}
	if set != nil {
		return fmt.Errorf("bound writes: %w", set)
	}
	return nil
}

// wire returns the connection below TLS and whatever else wraps it.
func wire(conn net.Conn) net.Conn {
	for {
		wrapped, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = wrapped.NetConn()
	}
}

// hangUp closes a connection without a word: tls.Conn.Close would first write
// an alert, and may wait five seconds for a peer that is cut off.
func hangUp(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	conn.Close()
}
