package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/recent"
)

// Silence is measured. A frame that is later than its link has shown of late begins a
// suspicion, and proves nothing yet: a process may be slow. What a slow process does not
// keep its host from doing is to answer a connection attempt, which its kernel does. So
// the peer's two ports are tried, several times as a packet may be lost, and a peer of
// which neither answers is unreachable: its host is gone, or cut off from this one.
//
// What this process was itself too late to see counts all the same: before it judges, it reads
// what has come meanwhile.
const (
	// probeTime is how long an attempt may stay unanswered, at least: a Linux kernel
	// answers within the round trip and some milliseconds, however busy it is.
	probeTime = 200 * time.Millisecond
	probes    = 3 // attempts within probeTime, of which one answer is enough
	// leastLate is how late a frame may always be.
	leastLate = 100 * time.Millisecond
	// heldUp is the time in which what came while this process stood still is read.
	heldUp = 20 * time.Millisecond
	// lookAgain is the pause after an answer, while no frame comes.
	lookAgain = 100 * time.Millisecond
)

// silence is a time in which nothing came.
type silence struct{ from, to ha.Instant }

// link is what a stream's link has shown. Guarded by Mesh.mu.
type link struct {
	late    recent.Longest // how much later than a heartbeat frames came
	connect time.Duration  // how long the newest connection took
	lost    uint64         // how often the peer was found unreachable
}

// patience is how long p may be silent before its ports are tried, and how long an answer
// may take. Together they are at least the shortest failure time-out, and more than the link
// has shown.
func (m *Mesh) patience(p *peer) (silence, answer time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	answer = max(probeTime, 4*p.link.connect)
	late := p.link.late.At(now)
	silence = m.heartbeat + max(leastLate, late+late/2)
	return max(silence, m.suspectAfter-answer), answer
}

// nextReport reads p's next report, newer than last (zero: none came yet). A whole frame
// must come within the failure time-out: a trickle is silence.
func (m *Mesh) nextReport(ctx context.Context, p *peer, frames *frameReader, conn net.Conn, last uint64) (ha.Report, error) {
	end := time.Now().Add(m.timeout)
	if last != 0 {
		if err := m.awaitFrame(ctx, p, frames, conn); err != nil {
			return ha.Report{}, err
		}
	}
	if err := conn.SetReadDeadline(end); err != nil {
		return ha.Report{}, fmt.Errorf("set deadline: %w", err)
	}
	payload, err := frames.read()
	if err != nil {
		return ha.Report{}, err
	}
	return decodeReport(payload, p.facts.Member, last)
}

// awaitFrame returns nil when p's next frame begins to come, and the connection's error
// when none did within the failure time-out. Meanwhile p may become unreachable.
func (m *Mesh) awaitFrame(ctx context.Context, p *peer, frames *frameReader, conn net.Conn) error {
	last := time.Now()
	end := last.Add(m.timeout)
	silence, answer := m.patience(p)
	look := last.Add(silence)
	for {
		if look.Add(answer).After(end) {
			look = end // the time-out comes first
		}
		m.waitsFor(p, conn)
		err := peek(frames, conn, look)
		doubted := m.waitsFor(p, nil)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if doubted {
			// Another member has had no answer: its word is worth more than what this link has
			// been like, and half of the time is enough for one that is there.
			answer = max(probeTime/2, answer/2)
			if look = last.Add(m.suspectAfter - answer); time.Now().Before(look) {
				continue
			}
		}
		if !look.Before(end) {
			// What came while this process stood still counts.
			return peek(frames, conn, time.Now().Add(heldUp))
		}
		if answered := m.answers(ctx, p, conn, answer); answered == ha.No {
			if err := peek(frames, conn, time.Now().Add(heldUp)); err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
			m.unreachable(p, true, time.Since(last))
		} else if answered == ha.Yes {
			m.unreachable(p, false, time.Since(last))
		}
		look = time.Now().Add(lookAgain)
	}
}

// heardAgain notes how long p was silent before the report that has just come, if that says
// something of its link. The caller holds mu.
func (m *Mesh) heardAgain(p *peer, now ha.Instant) {
	if all := now.Sub(m.ears.heardAt); all > m.heartbeat+leastLate {
		m.ears.deaf = silence{m.ears.heardAt, now}
	}
	m.ears.heardAt = now
	silent := now.Sub(p.facts.ReceivedAt)
	switch own := m.ears.deaf; {
	case p.facts.Link != ha.LinkUp:
		return // a new stream says nothing of the gaps of one
	case m.own.report.Record.Term > p.facts.Report.Record.Term:
		return // the others agreed that it was lost, and it was
	case len(m.peers) > 1 && own.to > p.facts.ReceivedAt && 2*own.to.Sub(own.from) > silent:
		return // it was this member that heard nobody
	}
	p.link.late.Add(silent-m.heartbeat, now)
}

// connected notes how long a connection to p took. One that took longer than a round trip on
// Earth was lost and sent again, after a second (RFC 6298), as while p was cut off.
func (m *Mesh) connected(p *peer, took time.Duration) {
	if took > 500*time.Millisecond {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p.link.connect = took
}

// waitsFor says on which connection p's follower waits (nil: it does not), and returns
// whether its wait was cut short by a doubt.
func (m *Mesh) waitsFor(p *peer, conn net.Conn) (doubted bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	doubted, p.doubted, p.waiting = p.doubted, false, conn
	return doubted
}

// doubt makes the leader's follower look at once, when a member's report says that it hears
// it no longer. The caller holds mu.
func (m *Mesh) doubt(before, now *ha.Report) {
	if !before.Hears || now.Hears || now.Term != before.Term {
		return
	}
	if p := m.peers[before.Leader]; p != nil && p.waiting != nil && !p.facts.Unreachable {
		p.doubted = true
		p.waiting.SetReadDeadline(time.Unix(1, 0)) // a connection that is closed has ended the wait
	}
}

// peek waits until a frame begins to come, or until the instant.
func peek(frames *frameReader, conn net.Conn, until time.Time) error {
	if err := conn.SetReadDeadline(until); err != nil {
		return err
	}
	_, err := frames.r.Peek(1)
	return err
}

// unreachable notes that no port of p's host answers, or that one does.
func (m *Mesh) unreachable(p *peer, is bool, silent time.Duration) {
	m.mu.Lock()
	changed := !p.gone && p.facts.Unreachable != is
	if changed {
		// A silence that ends so is judged with the report that ends it (heardAgain): only that
		// tells whether the peer was lost to all, or this member to them.
		if p.facts.Unreachable = is; is {
			p.link.lost++
		}
	}
	m.mu.Unlock()
	if !changed {
		return
	}
	if is {
		m.logger.Warn("peer unreachable: it is silent, and its host answers no connection attempt", "peer", p.facts.Member, "silent", silent.Round(time.Millisecond))
	} else {
		m.logger.Info("peer reachable: its host answers", "peer", p.facts.Member, "silent", silent.Round(time.Millisecond))
	}
	m.tell()
}

// Unreachable returns how often each other member was found unreachable since the start.
func (m *Mesh) Unreachable() map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[string]uint64, len(m.peers))
	for name, p := range m.peers {
		all[name] = p.link.lost
	}
	return all
}

// answers tries both ports of p's host. Yes: one of them answered, be it with a refusal.
// No: none did within the time. Unknown: the attempts prove nothing.
func (m *Mesh) answers(ctx context.Context, p *peer, conn net.Conn, within time.Duration) ha.Tri {
	addresses, known := m.portsOf(p, conn)
	if !known {
		return ha.Unknown
	}
	return m.anyAnswers(ctx, addresses, within)
}

// anyAnswers tries ports, several times each.
func (m *Mesh) anyAnswers(ctx context.Context, addresses []string, within time.Duration) ha.Tri {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan ha.Tri, probes*len(addresses))
	var attempts sync.WaitGroup
	for i := range probes {
		for _, a := range addresses {
			attempts.Go(func() { results <- m.try(ctx, a, time.Duration(i)*within/probes) })
		}
	}
	defer attempts.Wait()
	defer cancel()
	answer := ha.No
	over, late := time.NewTimer(within), false
	defer over.Stop()
	for range probes * len(addresses) {
		select {
		case got := <-results:
			if got == ha.Yes {
				return ha.Yes
			}
			if got == ha.Unknown {
				answer = ha.Unknown
			}
		case <-over.C:
			if late {
				return answer
			}
			// Where this process stood still, an answer that came meanwhile is seen now.
			late = true
			over.Reset(heldUp)
		}
	}
	return answer
}

// try is one attempt, begun after the pause.
func (m *Mesh) try(ctx context.Context, address string, pause time.Duration) ha.Tri {
	wait := time.NewTimer(pause)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return ha.No
	}
	conn, err := m.dial(ctx, address)
	switch {
	case err == nil:
		conn.Close()
		return ha.Yes
	case errors.Is(err, errRefused):
		return ha.Yes
	case ctx.Err() != nil, errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ETIMEDOUT):
		return ha.No
	}
	return ha.Unknown // no file, no route, no name: it was not asked
}

// portsOf are the addresses of p's API and of its server. Where both have one host, it is
// the one that the stream goes to: its name is not looked up again. A server that has another
// name is not known: a name that nobody resolves in time would look like a host that is gone.
func (m *Mesh) portsOf(p *peer, conn net.Conn) (ports []string, known bool) {
	m.mu.Lock()
	server := p.facts.Report.Postgres
	m.mu.Unlock()
	remote := p.address
	if a := wire(conn).RemoteAddr(); a != nil && a.Network() == "tcp" {
		remote = a.String()
	}
	ports = []string{remote}
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return ports, server == ""
	}
	if named, _, err := net.SplitHostPort(p.address); err == nil && named == host {
		if at, _, err := net.SplitHostPort(remote); err == nil {
			host = at
		}
	}
	_, err = netip.ParseAddr(host)
	return append(ports, net.JoinHostPort(host, port)), err == nil
}
