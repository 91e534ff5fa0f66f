package haproxy

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/templates"
)

// oldWorkers are HAProxy's workers older than a reload: they take no new clients and
// go on with the sessions that they have, also with those to a primary that has been
// deposed since. The stats socket leads to the newest worker only.
type oldWorkers struct {
	master *masterCLI // nil: there is no master socket, and they are left to themselves
	// news has room for one: roles have changed, or a new worker answers.
	news chan struct{}

	listed int   // the newest worker when they were listed; of drainOldWorkers's goroutine
	pids   []int // of drainOldWorkers's goroutine
	failed bool  // the last look did; of drainOldWorkers's goroutine
}

func (o *oldWorkers) wake() {
	select {
	case o.news <- struct{}{}:
	default:
	}
}

// Reload has HAProxy read its files again, and returns when a worker runs that has
// them. ErrReload says that HAProxy keeps the previous ones. The context
// should have a deadline.
func (h *Proxy) Reload(ctx context.Context) error {
	if h.old.master == nil {
		return errors.New("haproxy: to reload it, its master socket is needed")
	}
	start := time.Now()
	err := h.old.master.reload(ctx)
	h.noteMaster(err)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.status.Reloads++
	h.look = true
	h.mu.Unlock()
	h.log.Info("haproxy reloaded", "took", time.Since(start))
	h.wake()
	return nil
}

// Running reports whether there is an HAProxy: somebody takes connections to its stats
// socket.
func (h *Proxy) Running(ctx context.Context) bool {
	d := net.Dialer{Timeout: h.options.Timeout}
	conn, err := d.DialContext(ctx, h.api.network, h.api.address)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// lookSoon is when HAProxy is to be looked at after it was told of something: at once
// if it has a new worker, which knows nothing.
func (h *Proxy) lookSoon() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.look {
		h.look = false
		return 0
	}
	return settleTime
}

// drainOldWorkers ends, until the context ends, what old workers still have with
// members that should have none. While there are no old workers it does nothing.
func (h *Proxy) drainOldWorkers(ctx context.Context) {
	again := time.NewTimer(h.options.Reassert)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.old.news:
		case <-again.C:
		}
		if h.lookAtOld(ctx) {
			again.Stop()
		} else {
			again.Reset(h.options.Reassert)
		}
	}
}

// lookAtOld looks once. It reports whether there is nothing to come back for.
func (h *Proxy) lookAtOld(ctx context.Context) bool {
	o := &h.old
	h.mu.Lock()
	current, newest := h.current, h.status.Pid
	h.mu.Unlock()
	if newest == 0 {
		return true // HAProxy has never answered; it will be told
	}
	var err error
	if newest != o.listed {
		var all family
		if all, err = o.master.family(ctx); err == nil {
			// A newer one than answered last may be there by now: it is none of them.
			o.pids = slices.DeleteFunc(all.old, func(pid int) bool { return pid == newest })
			o.listed = newest
		}
	}
	if current != nil {
		r := h.route(*current)
		var gone []int
		for _, pid := range o.pids {
			switch fault := h.endOld(ctx, pid, r); {
			case errors.Is(fault, errNoWorker):
				gone = append(gone, pid)
			case fault != nil:
				err = fault
			}
		}
		o.pids = slices.DeleteFunc(o.pids, func(pid int) bool { return slices.Contains(gone, pid) })
	}
	if ctx.Err() != nil {
		return true
	}
	// When HAProxy starts, its worker answers before its master does.
	if err == nil || o.failed {
		h.noteMaster(err)
	}
	o.failed = err != nil
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status.OldWorkers = len(o.pids)
	return err == nil && len(o.pids) == 0 && h.status.Pid == o.listed
}

// endOld ends the sessions that one old worker should not have.
func (h *Proxy) endOld(ctx context.Context, worker int, r routing) error {
	rows, err := h.old.master.rows(ctx, worker)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(rows, r.outdated) {
		return nil
	}
	all, err := h.old.master.streams(ctx, worker)
	if err != nil {
		return err
	}
	var ids []string
	for _, s := range all {
		if r.ends(s.backend, s.server) {
			ids = append(ids, s.id)
		}
	}
	start := time.Now()
	if err := h.old.master.end(ctx, worker, ids); err != nil || len(ids) == 0 {
		return err
	}
	h.log.Info("sessions closed in an old worker, from before the last reload", "pid", worker, "sessions", len(ids), "took", time.Since(start))
	h.mu.Lock()
	h.status.OldSessions += len(ids)
	h.mu.Unlock()
	return nil
}

// noteMaster notes how it went with the master's socket, and logs what is new.
func (h *Proxy) noteMaster(err error) {
	text := ""
	if err != nil && !errors.Is(err, ErrReload) { // that shows with its file
		text = err.Error()
	}
	h.mu.Lock()
	before := h.status.MasterError
	h.status.MasterError = text
	h.mu.Unlock()
	switch {
	case text == before:
	case text != "":
		h.log.Warn("haproxy's master not reached: after a reload, old sessions to a deposed primary are not ended", "error", text)
	default:
		h.log.Info("haproxy's master reached again")
	}
}

// ends reports whether a session of a worker that takes no new ones is to end, because
// of its server. One that waits for a server is left alone: HAProxy 3.0 freezes it for
// good when it is told to end it.
func (r routing) ends(backend, server string) bool {
	if strings.EqualFold(server, "<none>") {
		return false
	}
	switch strings.TrimSuffix(backend, templates.CheckedSuffix) {
	case r.primaries:
		return server != r.primary
	case r.replicas:
		return !slices.Contains(r.reads, server) && !slices.Contains(r.leaving, server)
	}
	return false
}

// outdated reports whether a worker's numbers say that it has such sessions.
func (r routing) outdated(n row) bool {
	return n.server != "BACKEND" && n.sessions > 0 && r.ends(n.backend, n.server)
}
