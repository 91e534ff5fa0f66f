package haproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Run keeps HAProxy right until the context ends. It then closes its
// connection, so that HAProxy's checks take over.
func (h *Proxy) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	if h.old.master != nil {
		all.Go(func() { h.drainOldWorkers(ctx) })
	}
	for ctx.Err() == nil {
		h.session(ctx)
		h.setConnected(false, 0)
		// HAProxy is away, or there is nothing to tell it. A restart must be
		// seen at once; a failed connection to a local socket costs 20 µs.
		h.wait(ctx, 10*time.Millisecond)
	}
	return ctx.Err()
}

func (h *Proxy) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-h.changed:
	}
}

// session is one life of an HAProxy worker, as far as we are connected to it.
//
// Nobody is let in before the connection occupies _hold: HAProxy 3.2 remembers a server
// that left maintenance, or came up, while its backend had no session at all, and
// sends it the first client that is to wait later, whatever its state is by then
// (src/queue.c, process_srv_queue; src/backend.c, ready_srv).
func (h *Proxy) session(ctx context.Context) {
	if _, ok := h.reconcile(ctx); !ok {
		return
	}
	conn, err := h.dialAgent(ctx)
	if err != nil {
		h.fail(err)
		return
	}
	defer conn.Close()
	if err := h.awaitHold(ctx); err != nil {
		h.fail(err)
		return
	}
	h.setOpen(true)
	defer h.setOpen(false)
	pid, ok := h.reconcile(ctx)
	if !ok {
		return
	}
	h.setConnected(true, pid)
	gone := make(chan struct{})
	go func() { // ends when conn is closed, by either side
		defer close(gone)
		io.Copy(io.Discard, conn) //nolint:errcheck // only its end matters
	}()
	defer func() { conn.Close(); <-gone }()
	check := time.NewTimer(h.nextLook())
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-gone:
			return
		case <-h.changed:
			if !h.send(ctx) {
				return
			}
			check.Reset(h.lookSoon())
			continue
		case <-check.C:
		}
		// Another process answers: a reload. Its worker knows nothing, and our
		// connection is still with the old one.
		if now, ok := h.reconcile(ctx); !ok || now != pid {
			return
		}
		check.Reset(h.nextLook())
	}
}

// settleTime is how long after a change it is looked at, and again until the sessions
// that were told to end have done so.
const settleTime = 10 * time.Millisecond

// nextLook is when HAProxy is to be looked at after a look.
func (h *Proxy) nextLook() time.Duration {
	h.applying.Lock()
	defer h.applying.Unlock()
	if len(h.left) > 0 && h.wrong.right() {
		return settleTime
	}
	return h.options.Reassert
}

func (h *Proxy) dialAgent(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, h.options.Timeout)
	defer cancel()
	var d net.Dialer
	network, address := socketAddress(h.options.AgentSocket)
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("reach haproxy's agent socket: %w", err)
	}
	return conn, nil
}

// holdPoll is how often HAProxy is asked whether it has taken our connection, which
// needs less than a millisecond.
const holdPoll = time.Millisecond

// awaitHold returns when our connection occupies the place of _hold in the worker that
// answers. Where HAProxy's file has no _hold there is nothing to wait for.
func (h *Proxy) awaitHold(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.options.Timeout)
	defer cancel()
	tick := time.NewTicker(holdPoll)
	defer tick.Stop()
	for {
		seen, err := h.api.look(ctx)
		if err != nil {
			return err
		}
		if _, found := seen.server(h.options.PrimaryBackend, holdServer); !found || seen.sessions[h.options.PrimaryBackend+"/"+holdServer] > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for haproxy to take the agent's connection: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// setOpen says whether clients may be let in to the primary. All is told anew then.
func (h *Proxy) setOpen(open bool) {
	h.applying.Lock()
	defer h.applying.Unlock()
	h.closed = nil
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open, h.pending = open, h.pending || open
}
