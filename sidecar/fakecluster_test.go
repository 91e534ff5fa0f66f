package sidecar_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

type fakeCluster struct{ *member }

func (c fakeCluster) Run(ctx context.Context, notify func()) error {
	c.w.mu.Lock()
	c.notify[0] = notify
	c.w.mu.Unlock()
	notify()
	<-ctx.Done()
	return ctx.Err()
}

func (c fakeCluster) View() sidecar.ClusterView {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	v := sidecar.ClusterView{Consul: ha.Consul{
		SeenAt: c.w.now(), Record: c.w.record, Lock: c.w.lock, Session: "session-" + c.name, Reachable: ha.Yes,
	}}
	if c.w.broken {
		v.Consul.Record, v.Consul.Broken, v.Consul.BrokenIndex = ha.Record{}, "it is not a record in JSON", c.w.record.Index
	}
	if c.w.set != "" {
		v.Settings = new(settings.Reader).Read([]byte(c.w.set), 0)
	}
	if c.w.lock.Session == v.Consul.Session {
		v.Consul.HeldAt, v.Consul.HeldTerm = c.w.now(), c.w.record.Term
	}
	for name := range c.w.members {
		v.Members = append(v.Members, sidecar.Instance{Member: name})
	}
	v.Named = c.named
	slices.SortFunc(v.Members, func(a, b sidecar.Instance) int { return strings.Compare(a.Member, b.Member) })
	return v
}

func (c fakeCluster) Commit(_ context.Context, ch ha.Change) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.asked++
	w := c.w
	free := w.lock.Session == "" || ch.Lock == ha.LockTake && w.lock.Index == ch.Prior.Index
	if ch.Record.Index != w.record.Index || ch.Lock == ha.LockTake && !free ||
		ch.Lock != ha.LockTake && w.lock.Session != ch.Session {
		return sidecar.ErrConflict
	}
	if err := ch.Record.Validate(); err != nil {
		w.t.Errorf("record: %v", err)
	}
	if f := ch.Record.Final; f != nil {
		w.finals = append(w.finals, *f)
	}
	w.index++
	w.record, w.broken = ch.Record, false
	w.record.Index = w.index
	switch ch.Lock {
	case ha.LockTake:
		w.lock = ha.Lock{Holder: ch.Holder, Session: ch.Session, Index: w.index}
	case ha.LockRelease:
		w.lock = ha.Lock{Holder: w.lock.Holder, Index: w.index}
	}
	w.wakeAll()
	return nil
}

func (c fakeCluster) SetHolding(holding, vouched bool) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.holding, c.vouched = holding, holding && vouched
}

func (c fakeCluster) Register(ctx context.Context, r sidecar.Registration) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.asked++
	c.told = c.w.set
	if slow := c.slow; slow != nil {
		c.w.mu.Unlock()
		select {
		case <-slow:
		case <-ctx.Done():
		}
		c.w.mu.Lock()
	}
	if c.refused {
		c.owed = r.Tag
		return errors.New("permission denied")
	}
	c.tag, c.named = r.Tag, 0
	if r.Tag == "primary" && !c.w.unnamed {
		time.AfterFunc(catalogDelay, func() { c.nameIn(r.Meta) })
	}
	for _, m := range c.w.members {
		if m.member() != c.member && m.tag == "primary" && r.Tag == "primary" {
			c.w.t.Errorf("%s and %s both have the tag primary", c.name, m.name)
		}
	}
	return nil
}

// catalogDelay is how long after a member was told to its agent the catalog has it.
const catalogDelay = 15 * time.Millisecond

// nameIn has the catalog lead to this member, if it still is the primary.
func (m *member) nameIn(meta [][2]string) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	if m.tag == "primary" && meta[0][0] == "term" {
		m.named, _ = strconv.ParseUint(meta[0][1], 10, 64)
		m.w.wakeAll()
	}
}

func (m *member) member() *member { return m }

func (c fakeCluster) Evict(_ context.Context, members []string) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.asked++
	for _, name := range members {
		if m := c.w.members[name]; m.tag == "primary" {
			m.tag = ""
		}
	}
	return nil
}

func (c fakeCluster) PutHistory(_ context.Context, term uint64, text []byte) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	var r failover.Record
	err := json.Unmarshal(text, &r)
	if err != nil || r.Term != term {
		c.w.t.Errorf("the record of term %d is %s: %v", term, text, err)
	}
	c.w.history = append(c.w.history, r)
	return nil
}

func (c fakeCluster) Leave(context.Context) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.tag = ""
	if c.w.lock.Session == "session-"+c.name {
		c.w.lock.Session = ""
		c.w.wakeAll()
	}
	return nil
}

type fakePeers struct{ *member }

func (p fakePeers) Run(ctx context.Context, notify func()) error {
	p.w.mu.Lock()
	p.notify[1] = notify
	p.w.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func (p fakePeers) SetMembers([]sidecar.Instance) {}

func (p fakePeers) Publish(r ha.Report) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	changed := p.report.Term != r.Term || p.report.Role != r.Role || p.report.Voted != r.Voted || p.report.Hears != r.Hears ||
		p.report.Record != r.Record || p.report.Serving != r.Serving || p.report.Streaming != r.Streaming || p.report.Checkpointed != r.Checkpointed || p.report.Restarting != r.Restarting || p.report.Down != r.Down
	p.report = r
	p.seq++
	p.sentAt = append(p.sentAt, p.w.now())
	if changed {
		p.w.wakeAll()
	}
}

func (p fakePeers) Peers() []ha.Peer {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	var all []ha.Peer
	for _, m := range p.w.members {
		if m == p.member {
			continue
		}
		peer := ha.Peer{Member: m.name, Link: ha.LinkUp, ReceivedAt: p.w.now(), Report: m.report, EchoSentAt: p.w.now()}
		if m.sidecar == nil {
			peer.Link, peer.ReceivedAt, peer.EchoSentAt, peer.PostgresRefused = ha.LinkRefused, 1, 1, ha.Known(!m.running)
		}
		all = append(all, peer)
	}
	slices.SortFunc(all, func(a, b ha.Peer) int { return strings.Compare(a.Member, b.Member) })
	return all
}
