package peers

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Options configure a Mesh.
type Options struct {
	Member  string // this member's name
	Cluster string // members of another cluster are refused
	// Key returns the secret that all members share, at least one byte. It is
	// called for each new stream, so that a changed file counts from then on.
	Key func() ([]byte, error)
	// KeyOf says where the secret comes from, for people: where members disagree,
	// that is what to compare.
	KeyOf string
	// Now reads CLOCK_BOOTTIME; it dates what is received and sent.
	Now func() ha.Instant
	// Heartbeat is how often the report is sent without a change. Default
	// 500 ms, but at most a quarter of Timeout.
	Heartbeat time.Duration
	// Timeout is the failure timeout: silence after which a stream is broken,
	// and how long heartbeats outlive the loop that decides. Default 2 s; at
	// least two heartbeats.
	Timeout time.Duration
	// SuspectAfter is the shortest silence after which a peer may be found unreachable
	// (ha.Peer.Unreachable). Zero, Timeout or more: none is found so before Timeout.
	SuspectAfter time.Duration
	// TLS is used to dial the others; nil: no TLS.
	TLS    *tls.Config
	Logger hclog.Logger // default: none
}

// Address is where another member's API listens.
type Address struct {
	Member string
	API    string // host:port
}

// The pace of dialling a member that does not answer.
const (
	firstPause = 20 * time.Millisecond
	maxPause   = 500 * time.Millisecond
)

// sentKept is how many of the newest reports' times are known. It only has to
// cover the way of an echo: a report, and a heartbeat back.
const sentKept = 1024

type sent struct {
	seq uint64
	at  ha.Instant
}

// Mesh is this member's part of the mesh. Its methods may be called from any
// goroutine, except that Peers and Publish are for the one that decides.
type Mesh struct {
	identity

	now                func() ha.Instant
	heartbeat, timeout time.Duration
	suspectAfter       time.Duration
	tls                *tls.Config
	logger             hclog.Logger
	resolver           *net.Resolver

	// readdressed tells Run that SetAddresses changed something; answer, that a
	// heartbeat came and one of our own was due soon.
	readdressed, answer chan struct{}
	// handshakes holds a token for each accepted stream that proved nothing yet.
	handshakes chan struct{}
	// streams counts the accepted streams; Run waits for them.
	streams sync.WaitGroup

	mu       sync.Mutex      // guards what follows
	running  context.Context // Run's; nil while it does not run
	notify   func()
	peers    map[string]*peer
	accepted map[string]*accepted // by the subscriber's name
	refusals [len(causes)]refusalCount
	own      outgoing
	ears     ears
}

// ears is what this member heard of all the others.
type ears struct {
	heardAt ha.Instant // the last report
	deaf    silence    // the last time in which none came for longer than a heartbeat
}

// identity is who this member is to the others, and by what it proves that.
type identity struct {
	member, cluster, process string

	key   func() ([]byte, error)
	keyOf string
}

// outgoing is this member's report as the others get it.
type outgoing struct {
	report  ha.Report  // as published: without Seq and Echo
	madeAt  ha.Instant // when it last changed
	aliveAt ha.Instant // last call of Publish or Peers
	beatAt  ha.Instant // the last beat
	// heard: heartbeats came of which notify was not called yet; due: the next
	// Publish is to be sent, changed or not, because it answers them.
	heard, due bool
	seq        uint64
	sent       [sentKept]sent // by seq
	payload    []byte         // newest report as sent; nil: none yet
	newer      chan struct{}  // closed when payload is replaced
}

// New checks the options and returns a Mesh that does nothing until Run.
func New(o Options) (*Mesh, error) {
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = min(500*time.Millisecond, o.Timeout/4)
	}
	o.SuspectAfter = cmp.Or(o.SuspectAfter, o.Timeout)
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	switch {
	case o.Member == "" || o.Cluster == "":
		return nil, errors.New("new mesh: member and cluster must be named")
	case len(o.Member) > maxName || len(o.Cluster) > maxName:
		return nil, fmt.Errorf("new mesh: names are limited to %d bytes", maxName)
	case o.Key == nil || o.Now == nil:
		return nil, errors.New("new mesh: key and clock are required")
	case o.Heartbeat < 0 || o.Timeout < 2*o.Heartbeat:
		return nil, fmt.Errorf("new mesh: timeout %s must be at least two heartbeats of %s", o.Timeout, o.Heartbeat)
	}
	var start [8]byte
	rand.Read(start[:]) // never fails
	return &Mesh{
		identity: identity{member: o.Member, cluster: o.Cluster, process: rand.Text(),
			key: o.Key, keyOf: cmp.Or(o.KeyOf, "the members' common secret")},
		now: o.Now, heartbeat: o.Heartbeat, timeout: o.Timeout, suspectAfter: o.SuspectAfter, tls: o.TLS,
		logger:      o.Logger.Named("peers"),
		resolver:    net.DefaultResolver,
		readdressed: make(chan struct{}, 1),
		answer:      make(chan struct{}, 1),
		handshakes:  make(chan struct{}, maxHandshakes),
		peers:       make(map[string]*peer),
		accepted:    make(map[string]*accepted),
		// 52 bits: exact in every reader of JSON, and room to grow.
		own: outgoing{seq: binary.BigEndian.Uint64(start[:]) >> 13, newer: make(chan struct{})},
	}, nil
}

// Run keeps the streams until ctx ends, and returns ctx's cause after every
// goroutine has ended. notify is called after each change of what Peers
// returns, from several goroutines; it must not block. While nothing changes but
// the age of the reports, it is called once a heartbeat.
func (m *Mesh) Run(ctx context.Context, notify func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var followers sync.WaitGroup
	m.mu.Lock()
	if m.running != nil {
		m.mu.Unlock()
		cancel(nil)
		return errors.New("run mesh: already running")
	}
	m.running, m.notify = ctx, notify
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.running = nil // no stream is accepted from here on
		m.mu.Unlock()
		cancel(nil)
		followers.Wait()
		m.streams.Wait()
	}()

	tick := time.NewTicker(m.heartbeat)
	defer tick.Stop()
	m.startFollowers(ctx, &followers)
	followers.Go(func() { m.watchPort(ctx) })
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.readdressed:
			m.startFollowers(ctx, &followers)
		case <-m.answer:
			tick.Reset(m.heartbeat)
			m.beat()
		case <-tick.C:
			m.beat()
		}
	}
}

// startFollowers gives each peer that has none its goroutine.
func (m *Mesh) startFollowers(ctx context.Context, followers *sync.WaitGroup) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		if p.stop == nil {
			ctx, stop := context.WithCancel(ctx)
			p.stop = stop
			followers.Go(func() { m.follow(ctx, p) })
		}
	}
}

// SetAddresses names all other members that are to be heard, replacing the
// last call's; this member itself is ignored. A member that is no longer named
// is forgotten, and its streams are closed. One with a new address is dialled
// there; what its last report said stays.
func (m *Mesh) SetAddresses(all []Address) {
	m.mu.Lock()
	wanted := make(map[string]*peer, len(all))
	changed := false
	for _, a := range all {
		if a.Member == "" || a.Member == m.member {
			continue
		}
		old, known := m.peers[a.Member]
		if known && old.address == a.API {
			wanted[a.Member] = old
			continue
		}
		p := &peer{address: a.API, kick: make(chan struct{}, 1), facts: ha.Peer{Member: a.Member}}
		if known {
			p.facts, p.shown, p.decided = old.facts, old.shown, old.decided
			p.facts.Link, p.facts.PostgresRefused, p.facts.Unreachable, p.facts.PortSilent = ha.LinkUnknown, ha.Unknown, false, false
		}
		wanted[a.Member] = p
		changed = true
	}
	for name, p := range m.peers {
		if wanted[name] != p {
			changed = true
			p.gone = true
			if p.stop != nil {
				p.stop()
			}
		}
	}
	m.peers = wanted
	for name, a := range m.accepted {
		if wanted[name] == nil {
			a.close()
		}
	}
	m.mu.Unlock()
	if !changed {
		return
	}
	select {
	case m.readdressed <- struct{}{}:
	default:
	}
	m.tell()
}

// tell calls notify.
func (m *Mesh) tell() {
	m.mu.Lock()
	notify := m.notify
	m.mu.Unlock()
	if notify != nil {
		notify()
	}
}

// Publish makes r this member's report; Seq and Echo are set here. If it
// differs from the last one it is sent at once, otherwise with the next
// heartbeat, so that two members do not answer each other for ever. A stream
// that is slow gets only the newest.
//
// Peers or Publish must be called at least once per failure timeout: heartbeats
// end when neither is. The mesh keeps r's slices.
func (m *Mesh) Publish(r ha.Report) {
	r.Member, r.Seq, r.Echo = m.member, 0, nil
	m.mu.Lock()
	defer m.mu.Unlock()
	m.own.aliveAt = m.now()
	for _, p := range m.peers {
		p.decided = p.shown
	}
	if m.own.payload != nil && reflect.DeepEqual(r, m.own.report) {
		if m.own.due {
			m.stamp()
		}
		return
	}
	m.own.report, m.own.madeAt = r, m.own.aliveAt
	m.stamp()
}

// beat repeats the report, if the loop that publishes it is alive. Where
// heartbeats of others wait for that loop it is woken, and what it publishes is
// the heartbeat: it has the newest echoes. A loop that has published nothing
// since the last beat is not waited for again.
func (m *Mesh) beat() {
	m.mu.Lock()
	wake := m.own.heard
	m.own.heard, m.own.beatAt = false, m.now()
	switch {
	case wake && !m.own.due:
		m.own.due = true
	case m.own.payload != nil && m.own.aliveAt.Within(m.timeout, m.now()):
		m.stamp()
	}
	m.mu.Unlock()
	if wake {
		m.tell()
	}
}

// calm reports whether nothing has happened for a while, here and there: then a
// report that says nothing new can wait for the next beat. The caller holds mu.
func (m *Mesh) calm(before *ha.Peer, r *ha.Report, now ha.Instant) bool {
	if before.Link != ha.LinkUp || m.own.madeAt.Within(m.timeout, now) {
		return false
	}
	old, next := before.Report, *r
	old.Seq, next.Seq, old.Echo, next.Echo = 0, 0, nil, nil
	return reflect.DeepEqual(old, next)
}

// stamp makes the next payload from the report, and wakes the streams. The time
// is taken before anything is sent: a lease is counted from it (S5).
func (m *Mesh) stamp() {
	m.own.seq++
	m.own.due = false
	r := m.own.report
	r.Seq = m.own.seq
	for name, p := range m.peers {
		if p.decided != 0 {
			r.Echo = append(r.Echo, ha.Echo{Member: name, Seq: p.decided})
		}
	}
	slices.SortFunc(r.Echo, func(a, b ha.Echo) int { return cmp.Compare(a.Member, b.Member) })
	at := m.now()
	payload, err := json.Marshal(r)
	if err != nil || len(payload) > MaxFrame {
		// The others will take this member for silent, which is safe.
		m.logger.Error("report cannot be sent", "error", err, "bytes", len(payload), "limit_bytes", MaxFrame)
		return
	}
	m.own.sent[m.own.seq%sentKept] = sent{m.own.seq, at}
	m.own.payload = payload
	close(m.own.newer)
	m.own.newer = make(chan struct{})
}

// newest returns the payload to send, and a channel that is closed when there
// is a newer one. The payload is nil while nothing is published, or the loop
// that decides does not live: a new stream must not make an old report look new.
func (m *Mesh) newest() ([]byte, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.own.aliveAt.Within(m.timeout, m.now()) {
		return nil, m.own.newer
	}
	return m.own.payload, m.own.newer
}

// Peers returns what is known of the members named by SetAddresses, sorted by
// name. It is called once before each decision: it says that the decision
// before is made, so that what the call before returned may be echoed (see the
// package comment). ReceivedAt is when a report was read; after this process
// was suspended the report may be older than that, while EchoSentAt is a bound
// that always holds: the report was made later.
func (m *Mesh) Peers() []ha.Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.own.aliveAt = m.now()
	all := make([]ha.Peer, 0, len(m.peers))
	for _, p := range m.peers {
		p.decided = p.shown
		p.shown = p.facts.Report.Seq
		all = append(all, p.facts)
	}
	slices.SortFunc(all, func(a, b ha.Peer) int { return cmp.Compare(a.Member, b.Member) })
	return all
}
