package member

import (
	"context"
	"encoding/json"
	"reflect"
	"sync/atomic"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/proxy"
	"github.com/pgsidecar/pgsidecar/templates"
)

// followed is what a member itself writes and switches: the template, haproxy and
// pgbouncer blocks of its own configuration, which a reload may change.
type followed struct {
	now atomic.Pointer[proxy.Follower] // nil: there are no such blocks
	// next has room for the one that is to take over.
	next chan *proxy.Follower
}

// run runs the follower, and its successors, until ctx ends.
func (f *followed) run(ctx context.Context) {
	for {
		running, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func(now *proxy.Follower) {
			defer close(ended)
			if now != nil {
				now.Run(running)
			}
		}(f.now.Load())
		var next *proxy.Follower
		select {
		case <-ctx.Done():
		case next = <-f.next:
		}
		stop()
		<-ended
		if ctx.Err() != nil {
			return
		}
		f.now.Store(next)
	}
}

// wake says that the view of Consul has changed.
func (f *followed) wake() {
	if now := f.now.Load(); now != nil {
		now.Wake()
	}
}

// agent is what does the work; nil: there is none.
func (f *followed) agent() *templates.Agent {
	if now := f.now.Load(); now != nil {
		return now.Agent
	}
	return nil
}

// status is the agent's, as JSON; nil: there is none.
func (f *followed) status() json.RawMessage {
	agent := f.agent()
	if agent == nil {
		return nil
	}
	text, err := json.Marshal(agent.Status())
	if err != nil {
		return nil // plain data, which is always JSON
	}
	return text
}

// follow makes what the configuration asks for, and has it take over. On an error
// nothing has changed.
func (m *Member) follow(cfg *config.Config) error {
	var next *proxy.Follower
	if proxy.Wanted(cfg) {
		var err error
		if next, err = proxy.NewFollower(cfg, m.cluster, m.log); err != nil {
			return err
		}
	}
	if m.files.next == nil { // the first, before anything runs
		m.files.next = make(chan *proxy.Follower, 1)
		m.files.now.Store(next)
		return nil
	}
	select {
	case <-m.files.next: // it never began
	default:
	}
	m.files.next <- next
	return nil
}

// sameFiles reports whether both ask for the same files and proxies.
func sameFiles(a, b *config.Config) bool {
	return reflect.DeepEqual(a.Templates, b.Templates) && a.PgBouncer == b.PgBouncer && reflect.DeepEqual(a.HAProxy, b.HAProxy)
}
