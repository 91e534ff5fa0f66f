package peers

import (
	"bufio"
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// maxHandshakes is how many streams may be accepted and not yet proved. More
// are answered with 503: nobody without the secret may hold more than these.
const maxHandshakes = 64

// accepted is a stream on which this member publishes.
type accepted struct {
	process string
	close   func()
}

// statusError is the meaning of a response's status to the subscriber.
func statusError(status int) error {
	switch status {
	case http.StatusSwitchingProtocols:
		return nil
	case http.StatusForbidden:
		return ErrCluster
	case http.StatusConflict:
		return ErrDuplicate
	case http.StatusServiceUnavailable:
		return errors.New("the other member is not ready")
	}
	return fmt.Errorf("status %d: %w", status, ErrProtocol)
}

// ServeHTTP is the publisher's end of a stream: GET /peer on the member's API.
// It answers 426 to what is not the protocol, 403 to another cluster, 409 to
// this member's own name, and 503 while there is nothing to say: Run does not
// run, nothing was published, or the loop that decides does not live. It returns
// when the stream has ended.
func (m *Mesh) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fail := func(status int, err error, member string) {
		m.refuse(err, r.RemoteAddr, member)
		http.Error(w, err.Error(), status)
	}
	if r.Method != http.MethodGet || !r.ProtoAtLeast(1, 1) || r.ContentLength != 0 ||
		r.Header.Get("Upgrade") != protocol || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") {
		w.Header().Set("Upgrade", protocol)
		fail(http.StatusUpgradeRequired, ErrProtocol, "")
		return
	}
	other, err := readHello(r.Header)
	if err != nil {
		fail(http.StatusBadRequest, err, "")
		return
	}
	if other.cluster != m.cluster {
		fail(http.StatusForbidden, ErrCluster, other.member)
		return
	}
	if other.member == m.member {
		fail(http.StatusConflict, ErrDuplicate, other.member)
		return
	}
	select {
	case m.handshakes <- struct{}{}:
	default:
		fail(http.StatusServiceUnavailable, ErrBusy, other.member)
		return
	}
	proved := false
	done := func() {
		if !proved {
			proved = true
			<-m.handshakes
		}
	}
	defer done()
	ctx, ended := m.begin()
	if ctx == nil {
		http.Error(w, "nothing to report", http.StatusServiceUnavailable)
		return
	}
	defer ended()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		fail(http.StatusHTTPVersionNotSupported, fmt.Errorf("hijack: %w", ErrProtocol), other.member)
		return
	}
	defer hangUp(conn)
	unhook := context.AfterFunc(ctx, func() { hangUp(conn) })
	defer unhook()
	keys, err := m.welcome(conn, buffered.Reader, other)
	if err != nil {
		m.refuse(err, r.RemoteAddr, other.member)
		return
	}
	done()
	if err := m.stream(ctx, conn, other, keys); err != nil {
		m.refuse(err, r.RemoteAddr, other.member)
	}
}

// begin registers an accepted stream with Run. It returns nil if Run does not
// run or nothing is published; otherwise the caller calls ended when the stream
// has ended.
func (m *Mesh) begin() (ctx context.Context, ended func()) {
	if payload, _ := m.newest(); payload == nil {
		return nil, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running == nil {
		return nil, nil
	}
	m.streams.Add(1)
	return m.running, m.streams.Done
}

// welcome answers the subscriber's hello and checks its proof. It returns
// ErrUnauthenticated, ErrSecret, or the connection's error.
func (m *Mesh) welcome(conn net.Conn, r *bufio.Reader, other hello) (streamKeys, error) {
	secret, err := m.secret()
	if err != nil {
		return streamKeys{}, err
	}
	if err := boundWrites(conn, m.timeout); err != nil {
		return streamKeys{}, err
	}
	// Replaces the deadlines that the HTTP server had set.
	if err := conn.SetDeadline(time.Now().Add(m.timeout)); err != nil {
		return streamKeys{}, fmt.Errorf("set deadline: %w", err)
	}
	own := hello{cluster: m.cluster, member: m.member, process: m.process, nonce: newNonce()}
	header := http.Header{"Connection": {"Upgrade"}, "Upgrade": {protocol}}
	own.setHeader(header)
	resp := http.Response{StatusCode: http.StatusSwitchingProtocols, ProtoMajor: 1, ProtoMinor: 1, Header: header}
	if err := resp.Write(conn); err != nil {
		return streamKeys{}, fmt.Errorf("send response: %w", err)
	}
	keys := newStreamKeys(secret, other, own)
	proof := make([]byte, macSize)
	if _, err := io.ReadFull(r, proof); err != nil {
		return streamKeys{}, fmt.Errorf("read proof: %w", ErrUnauthenticated)
	}
	if !hmac.Equal(proof, keys.proof) {
		return streamKeys{}, fmt.Errorf("check proof: %w", ErrUnauthenticated)
	}
	return keys, nil
}

// stream sends reports until the stream breaks or ctx ends. It returns
// ErrDuplicate if another process of that name has a stream, else nil: how a
// stream ends is for its subscriber to judge.
func (m *Mesh) stream(ctx context.Context, conn net.Conn, other hello, keys streamKeys) error {
	a := &accepted{process: other.process, close: func() { hangUp(conn) }}
	if err := m.admit(other.member, a); err != nil {
		return err
	}
	defer m.dismiss(other.member, a)
	conn.SetReadDeadline(time.Time{})
	gone := make(chan struct{})
	go watchGone(conn, gone)
	defer func() {
		hangUp(conn)
		<-gone
	}()
	out := frameWriter{w: conn, seal: newFrameSeal(keys.frame)}
	for {
		payload, newer := m.newest()
		if payload == nil {
			return nil
		}
		conn.SetWriteDeadline(time.Now().Add(m.timeout))
		if err := out.write(payload); err != nil {
			return nil
		}
		select {
		case <-newer:
		case <-gone:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// watchGone closes gone when the subscriber hangs up. A subscriber has nothing
// to say any more, so whatever it sends ends the stream too.
func watchGone(conn net.Conn, gone chan<- struct{}) {
	defer close(gone)
	var b [1]byte
	conn.Read(b[:])
}

// admit makes a the member's stream. A second stream of the same process
// replaces the first; one of another process is refused with ErrDuplicate while
// the first lives, which for a process that was only restarted is not so.
// A member that SetAddresses does not name is heard too: it may be new.
func (m *Mesh) admit(member string, a *accepted) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.accepted[member]; old != nil {
		if old.process != a.process {
			return ErrDuplicate
		}
		old.close()
	}
	m.accepted[member] = a
	if p := m.peers[member]; p != nil && p.facts.Link != ha.LinkUp {
		select {
		case p.kick <- struct{}{}:
		default:
		}
	}
	return nil
}

func (m *Mesh) dismiss(member string, a *accepted) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.accepted[member] == a {
		delete(m.accepted, member)
	}
}
