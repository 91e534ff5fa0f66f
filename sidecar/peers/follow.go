package peers

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// peer is another member. All but address and kick is guarded by Mesh.mu.
type peer struct {
	address string
	kick    chan struct{} // dial now: the member was heard of

	stop  context.CancelFunc // ends its follower; nil: not started
	gone  bool               // removed or replaced; its follower changes nothing any more
	facts ha.Peer
	link  link
	// waiting is the connection on which its follower waits for a frame; doubted: the wait
	// was cut short (doubt).
	waiting net.Conn
	doubted bool
	// shown is the Seq of its report that Peers last returned; decided the one
	// that the newest decision knew, which is echoed.
	shown, decided uint64
}

// maxHeader is how much of a response is read before it must have ended, in bytes.
const maxHeader = 16 << 10

// follow keeps a stream from p's publisher until ctx ends.
func (m *Mesh) follow(ctx context.Context, p *peer) {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		began := time.Now()
		err := m.subscribe(ctx, p)
		if ctx.Err() != nil {
			return
		}
		m.refuse(err, p.address, "")
		if errors.Is(err, errRefused) {
			m.lost(p, ha.LinkRefused, err)
			m.probeServer(ctx, p)
		} else {
			m.lost(p, ha.LinkSilent, err)
		}
		if errors.Is(err, errWasUp) && time.Since(began) > m.heartbeat {
			pause = 0 // is its process gone, or only the stream?
			continue
		}
		pause = min(max(2*pause, firstPause), maxPause)
		wait := time.NewTimer(pause - rand.N(pause/4)) // not all members in step
		select {
		case <-ctx.Done():
		case <-wait.C:
		case <-p.kick:
			pause = 0
		}
		wait.Stop()
	}
}

// errWasUp marks an error that broke a stream which had been up.
var errWasUp = errors.New("stream broken")

// subscribe dials p, and reads its reports until the stream breaks. It never
// returns nil: errRefused, an error of this package, or the connection's,
// joined with errWasUp if a frame had been read.
func (m *Mesh) subscribe(ctx context.Context, p *peer) error {
	frames, conn, err := m.open(ctx, p)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	unhook := context.AfterFunc(ctx, func() { hangUp(conn) })
	defer unhook()

	up := false
	last := uint64(0)
	for {
		r, err := m.nextReport(ctx, p, frames, conn, last)
		if err == nil {
			last = r.Seq
			m.received(p, r)
		}
		switch {
		case err != nil && up:
			return fmt.Errorf("%w: %w", errWasUp, err)
		case errors.Is(err, io.EOF):
			return fmt.Errorf("handshake refused: %s differs between the two members, or another process is named %q: %w",
				m.keyOf, m.member, ErrUnauthenticated)
		case err != nil:
			return fmt.Errorf("read first frame: %w", err)
		}
		up = true
	}
}

// open dials p and shakes hands.
func (m *Mesh) open(ctx context.Context, p *peer) (*frameReader, net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, m.dialTimeout())
	defer cancel()
	secret, err := m.secret()
	if err != nil {
		return nil, nil, err
	}
	began := time.Now()
	conn, err := m.dial(ctx, p.address)
	if err != nil {
		return nil, nil, err
	}
	m.connected(p, time.Since(began))
	tcp := conn
	unhook := context.AfterFunc(ctx, func() { hangUp(tcp) })
	defer unhook()
	if m.tls != nil {
		conn = tls.Client(conn, m.clientTLS(p.address))
	}
	frames, err := m.greet(conn, p, secret)
	if err != nil {
		hangUp(conn)
		return nil, nil, err
	}
	return frames, conn, nil
}

// clientTLS is the configuration to dial address with: HTTP/1.1 only, because
// an HTTP/2 connection cannot be upgraded.
func (m *Mesh) clientTLS(address string) *tls.Config {
	c := m.tls.Clone()
	c.NextProtos = []string{"http/1.1"}
	if host, _, err := net.SplitHostPort(address); err == nil && c.ServerName == "" {
		c.ServerName = host
	}
	return c
}

// secret reads the shared secret; it returns ErrSecret.
func (m *Mesh) secret() ([]byte, error) {
	secret, err := m.key()
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrSecret, err)
	case len(secret) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrSecret)
	}
	return secret, nil
}

// greet asks for the upgrade and proves the secret. The caller closes conn when
// its time is over.
func (m *Mesh) greet(conn net.Conn, p *peer, secret []byte) (*frameReader, error) {
	if err := boundWrites(conn, m.timeout); err != nil {
		return nil, err
	}
	own := hello{cluster: m.cluster, member: m.member, process: m.process, nonce: newNonce()}
	req, err := http.NewRequest(http.MethodGet, "http://"+p.address+"/peer", nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	own.setHeader(req.Header)
	if err := req.Write(conn); err != nil {
		return nil, fmt.Errorf("send request: %w", err)
	}
	// One buffer for all: what follows the response is already frames.
	limited := &io.LimitedReader{R: conn, N: maxHeader}
	r := bufio.NewReaderSize(limited, 4<<10)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, fmt.Errorf("read response: %w", err)
	}
	if err := statusError(resp.StatusCode); err != nil {
		return nil, err
	}
	other, err := readHello(resp.Header)
	if err != nil {
		return nil, err
	}
	if other.cluster != m.cluster {
		return nil, ErrCluster
	}
	if other.member != p.facts.Member {
		return nil, ErrName
	}
	keys := newStreamKeys(secret, own, other)
	if _, err := conn.Write(keys.proof); err != nil {
		return nil, fmt.Errorf("send proof: %w", err)
	}
	limited.N = math.MaxInt64
	return &frameReader{r: r, seal: newFrameSeal(keys.frame)}, nil
}

// received makes r p's report.
func (m *Mesh) received(p *peer, r ha.Report) {
	now := m.now()
	m.mu.Lock()
	if p.gone {
		m.mu.Unlock()
		return
	}
	f := &p.facts
	calm := m.calm(f, &r, now)
	m.own.heard = m.own.heard || calm
	m.heardAgain(p, now)
	m.doubt(&f.Report, &r)
	// The members come to beat together: a process wakes once for all of it, and
	// its echo is as young as can be. Nobody beats twice for one round.
	answer := calm && !m.own.beatAt.Within(m.heartbeat/2, now)
	f.Report, f.ReceivedAt = r, now
	for _, e := range r.Echo {
		if e.Member != m.member {
			continue
		}
		if s := m.own.sent[e.Seq%sentKept]; s.seq == e.Seq {
			f.EchoSentAt = max(f.EchoSentAt, s.at)
		}
	}
	up := f.Link == ha.LinkUp
	f.Link, f.PostgresRefused, f.Unreachable = ha.LinkUp, ha.Unknown, false
	m.mu.Unlock()
	if !up {
		m.logger.Info("peer heard", "peer", p.facts.Member)
	}
	switch {
	case !calm:
		m.tell()
	case answer:
		select {
		case m.answer <- struct{}{}:
		default:
		}
	}
}

// lost notes that there is no stream, and why.
func (m *Mesh) lost(p *peer, link ha.Link, err error) {
	m.mu.Lock()
	was := p.facts.Link
	changed := !p.gone && was != link
	if changed {
		p.facts.Link = link
		p.facts.PostgresRefused = ha.Unknown // proof needs both at once
		p.facts.Unreachable = p.facts.Unreachable && link == ha.LinkSilent
	}
	m.mu.Unlock()
	if !changed {
		return
	}
	if was == ha.LinkUp || link == ha.LinkRefused {
		m.logger.Warn("peer lost", "peer", p.facts.Member, "refused", link == ha.LinkRefused, "error", err)
	}
	m.tell()
}

// probeServer asks whether the server of a member whose process is gone still
// listens. This order matters: first the process, which could have started the
// server again, then the server.
func (m *Mesh) probeServer(ctx context.Context, p *peer) {
	m.mu.Lock()
	address := p.facts.Report.Postgres
	m.mu.Unlock()
	if address == "" {
		return
	}
	refused := m.Probe(ctx, address)
	m.mu.Lock()
	changed := !p.gone && p.facts.PostgresRefused != refused && p.facts.Link == ha.LinkRefused
	if changed {
		p.facts.PostgresRefused = refused
	}
	m.mu.Unlock()
	if changed {
		m.tell()
	}
}
