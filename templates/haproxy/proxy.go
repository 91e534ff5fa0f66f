package haproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/templates"
)

// Options say how to reach one HAProxy that runs haproxy.cfg.tmpl.
type Options struct {
	// Socket is its stats socket: a path, or host:port. Required.
	Socket string
	// AgentSocket is where the <service>_agent frontend listens: a path, or
	// host:port. Required.
	AgentSocket string
	// MasterSocket is the socket of HAProxy's master (`haproxy -W -S`): a path, or
	// host:port. With it HAProxy can be reloaded, and sessions of workers older than a
	// reload are ended when their primary is deposed. Empty: neither.
	MasterSocket string
	// The backends, as in HAProxySettings. Required.
	PrimaryBackend string
	ReplicaBackend string
	Checks         string // HAProxySettings.Checks; default "_checked"
	// PrimaryTakesReads: without a replica, the primary serves the replica port.
	PrimaryTakesReads bool
	// Timeout of one exchange with HAProxy; default 1 s.
	Timeout time.Duration
	// Reassert is how often HAProxy's state is compared with what it should
	// be; default 400 ms. It must be shorter than what HAProxy's checks need to
	// take a server down (3 failures, 500 ms apart).
	Reassert time.Duration
	// HoldFor is how long new clients are held in one planned switchover (Topology.Held)
	// at most; then they are let in to the primary, as there is one. Default 15 s,
	// which is more than a switchover may take.
	HoldFor time.Duration
	Logger  hclog.Logger // default: none
}

// Proxy keeps one HAProxy's servers in the states that a topology asks for.
//
// Apply tells it of a change; Run, while it lives, keeps the connection that
// makes HAProxy believe us rather than its own checks (see haproxy.cfg.tmpl),
// and mends what a restart or a reload of HAProxy lost.
type Proxy struct {
	options Options
	api     runtimeAPI
	log     hclog.Logger
	changed chan struct{} // has room for one: Apply or Release happened

	applying sync.Mutex     // held while commands are sent, so that no older ones come last
	closed   []string       // members that the worker had in maintenance; guarded by applying
	wrong    wrongState     // what the last look found; guarded by applying
	left     map[string]int // sessions that were still ending then, by server, and who still waited; guarded by applying

	old oldWorkers

	mu      sync.Mutex
	current *templates.Topology // nil: nothing known, the checks decide
	pending bool                // current has not been sent yet
	open    bool                // our connection occupies _hold: the primary may be made ready
	look    bool                // there may be a new worker: look at once
	held    time.Time           // since when new clients have been held in current's term; zero: they are not
	overdue bool                // held for too long
	status  templates.ProxyStatus
	told    string // what was last logged of the primary
	failing string // what was last logged of a failure; empty: since then it was connected
}

// New checks the options. It connects to nothing.
func New(o Options) (*Proxy, error) {
	if o.Socket == "" || o.AgentSocket == "" {
		return nil, errors.New("haproxy: stats socket and agent socket are required")
	}
	if !templates.SafeName(o.PrimaryBackend) || !templates.SafeName(o.ReplicaBackend) {
		return nil, fmt.Errorf("haproxy backends %q, %q: %w", o.PrimaryBackend, o.ReplicaBackend, templates.ErrUnsafe)
	}
	o.Checks = cmp.Or(o.Checks, templates.HAProxySettings{}.Checks())
	if !templates.SafeName("x" + o.Checks) {
		return nil, fmt.Errorf("haproxy backends %q: %w", o.Checks, templates.ErrUnsafe)
	}
	o.Timeout = cmp.Or(o.Timeout, time.Second)
	o.Reassert = cmp.Or(o.Reassert, 400*time.Millisecond)
	o.HoldFor = cmp.Or(o.HoldFor, templates.DefaultHold)
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	h := &Proxy{options: o, log: o.Logger.Named("haproxy").With("socket", o.Socket), changed: make(chan struct{}, 1)}
	h.api = runtimeAPI{timeout: o.Timeout, name: "stats socket"}
	h.api.network, h.api.address = socketAddress(o.Socket)
	h.status.Socket, h.status.MasterSocket = o.Socket, o.MasterSocket
	if o.MasterSocket != "" {
		master := newMasterCLI(o.MasterSocket, o.Timeout)
		h.old = oldWorkers{master: &master, news: make(chan struct{}, 1)}
	}
	return h, nil
}

// socketAddress tells a path from host:port. A path may be written as HAProxy
// writes it, unix@/path.
func socketAddress(s string) (network, address string) {
	if path, found := strings.CutPrefix(s, "unix@"); found {
		return "unix", path
	}
	if strings.HasPrefix(s, "/") {
		return "unix", s
	}
	return "tcp", s
}

// Apply makes HAProxy route as the topology says, and returns when it does: the
// deposed primary takes no connection any more and its sessions are ended, then
// the new one is ready. Clients that came in between waited in HAProxy's queue.
// A topology of a lower term than the last is ignored. ErrRuntime names servers
// that HAProxy does not know (its file is older than the topology); all others
// are in their states.
func (h *Proxy) Apply(ctx context.Context, t templates.Topology) error {
	h.applying.Lock()
	defer h.applying.Unlock()
	if !h.remember(&t) {
		return nil
	}
	defer h.wake()
	return h.assert(ctx, &t)
}

// Offer is Apply by Run, and returns at once.
func (h *Proxy) Offer(t templates.Topology) {
	if h.remember(&t) {
		h.wake()
	}
}

// remember keeps t as what is wanted, unless it is of an older term.
func (h *Proxy) remember(t *templates.Topology) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current != nil && t.SystemID == h.current.SystemID && t.Term < h.current.Term {
		return false
	}
	if !t.Held || h.current != nil && h.current.Term != t.Term {
		h.held, h.overdue = time.Time{}, false
	}
	if t.Held {
		h.held = cmp.Or(h.held, time.Now())
	}
	h.current, h.pending = t, true
	return true
}

// Release says that we know nothing current any more: HAProxy's own checks
// decide until the next Apply.
func (h *Proxy) Release() {
	h.mu.Lock()
	h.current, h.held, h.overdue = nil, time.Time{}, false
	h.status.Missing = nil
	h.mu.Unlock()
	h.wake()
}

func (h *Proxy) wake() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// Status returns how it goes.
func (h *Proxy) Status() templates.ProxyStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status
}

// assert sends all commands of a topology. The caller holds applying.
func (h *Proxy) assert(ctx context.Context, t *templates.Topology) error {
	r := h.route(*t)
	start := time.Now()
	if h.closed == nil {
		seen, err := h.api.look(ctx)
		if err != nil {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.status.Error, h.status.LastError, h.status.ErrorAt = err.Error(), err.Error(), time.Now()
			return err
		}
		h.closed = r.inMaintenance(seen)
	}
	roles, ends := r.commands(h.closed)
	h.closed, h.left = nil, nil // until it is known to have worked
	err := h.api.run(ctx, roles)
	took := time.Since(start)
	err = errors.Join(err, h.api.run(ctx, ends))
	h.old.wake()
	if err == nil {
		h.closed = slices.DeleteFunc(r.members, func(m string) bool { return m == r.primary })
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.status.Error, h.status.LastError, h.status.ErrorAt = err.Error(), err.Error(), time.Now()
	}
	if state := fmt.Sprint(t.Term, r.primary, r.held); err == nil && state != h.told {
		h.told = state
		h.log.Info("haproxy switched", "term", t.Term, "primary", r.primary, "held", r.held, "replicas", len(r.reads), "took", took)
	}
	if err == nil || errors.Is(err, ErrRuntime) {
		h.pending = h.pending && h.current != t // a newer one may have come
		h.status.AppliedAt, h.status.Term, h.status.Primary = time.Now(), t.Term, ""
		if t.Primary != nil {
			h.status.Primary = t.Primary.Name
		}
	}
	if err == nil {
		h.status.Error = ""
	}
	return err
}

func (h *Proxy) route(t templates.Topology) routing {
	if t.Held && h.holdExpired() {
		t.Held = false
	}
	r := route(t, h.options.PrimaryTakesReads)
	h.mu.Lock()
	r.open = h.open
	h.mu.Unlock()
	r.primaries, r.replicas, r.checks = h.options.PrimaryBackend, h.options.ReplicaBackend, h.options.Checks
	return r
}

// holdExpired reports whether new clients have been held for too long. They come in
// with the next look.
func (h *Proxy) holdExpired() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held.IsZero() || time.Since(h.held) < h.options.HoldFor {
		return false
	}
	if !h.overdue {
		h.overdue = true
		h.status.Expired++
		h.log.Warn("haproxy holds new clients no longer: the switchover has not ended", "after", h.options.HoldFor)
	}
	return true
}

// send tells HAProxy of news, if there are any. It returns false if HAProxy
// does not answer, or there is nothing to hold it to.
func (h *Proxy) send(ctx context.Context) bool {
	h.applying.Lock()
	defer h.applying.Unlock()
	h.mu.Lock()
	current, pending := h.current, h.pending
	h.mu.Unlock()
	if current == nil || !pending {
		return current != nil
	}
	err := h.assert(ctx, current)
	if err != nil && !errors.Is(err, ErrRuntime) {
		h.fail(err)
		return false
	}
	return true
}

// reconcile compares HAProxy with the topology and mends it. It returns the
// worker's process id, and false if HAProxy does not answer or there is nothing
// to hold it to.
func (h *Proxy) reconcile(ctx context.Context) (int, bool) {
	if !h.send(ctx) {
		return 0, false
	}
	h.applying.Lock()
	defer h.applying.Unlock()
	h.mu.Lock()
	current := h.current
	h.mu.Unlock()
	if current == nil {
		return 0, false
	}
	r := h.route(*current)
	seen, err := h.api.look(ctx, r.keepUp()...)
	if err != nil {
		h.fail(err)
		return 0, false
	}
	missing := r.missing(*current, seen)
	h.mu.Lock()
	h.status.Missing = missing
	h.mu.Unlock()
	if err := h.mend(ctx, current, seen); err != nil && !errors.Is(err, ErrRuntime) {
		h.fail(err)
		return 0, false
	}
	return seen.pid, true
}

// mend puts right what was seen to be wrong. The caller holds applying.
func (h *Proxy) mend(ctx context.Context, current *templates.Topology, seen observed) error {
	r := h.route(*current)
	wrong, left := r.differences(seen), r.leftovers(seen)
	leftovers := r.stuck(h.left, left)
	h.left = left
	h.tellWrong(wrongState{wrong, strings.Join(leftovers, ";"), time.Now()}, seen.pid, current.Term)
	if wrong == "" && len(leftovers) == 0 {
		return nil
	}
	if wrong != "" {
		h.closed = nil
		if err := h.assert(ctx, current); err != nil {
			return err
		}
	}
	return h.api.run(ctx, leftovers)
}

// wrongState is what a look at HAProxy found; the zero value: all was right.
type wrongState struct {
	server    string // not in its state
	leftovers string // commands that end sessions which should not be, or let in who should not wait
	since     time.Time
}

func (w wrongState) right() bool { return w.server == "" && w.leftovers == "" }

// tellWrong logs and counts what is found wrong once, however many looks it
// lasts (HAProxy may need time to end a session), and its end where it lasted.
// The caller holds applying.
func (h *Proxy) tellWrong(now wrongState, pid int, term uint64) {
	before := h.wrong
	switch {
	case now.right() && !before.right() && len(h.left) > 0:
		return // what it was told to end is ending
	case now.right():
		h.wrong = wrongState{}
		if !before.right() {
			h.log.Info("haproxy state right again", "after", now.since.Sub(before.since), "pid", pid, "term", term)
		}
		return
	case now.server == before.server && now.leftovers == before.leftovers:
		return
	case !before.right():
		now.since = before.since
	}
	h.wrong = now
	h.log.Info("haproxy state wrong, is being mended", "server_in_wrong_state", now.server, "left_over", now.leftovers, "pid", pid, "term", term)
	h.mu.Lock()
	h.status.Mended++
	h.mu.Unlock()
}

// fail notes an error, and logs it when it is a new one.
func (h *Proxy) fail(err error) {
	what, _, _ := strings.Cut(err.Error(), "\n") // of several commands the first that failed
	h.mu.Lock()
	fresh := h.failing != what
	h.failing = what
	h.status.Error, h.status.LastError, h.status.ErrorAt = err.Error(), err.Error(), time.Now()
	h.mu.Unlock()
	if fresh {
		h.log.Warn("haproxy not reached", "error", what)
	}
}

func (h *Proxy) setConnected(connected bool, pid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.status.Connected != connected {
		h.log.Info("haproxy connection changed", "connected", connected, "pid", pid)
	}
	h.status.Connected = connected
	if connected {
		h.status.Pid, h.status.Error, h.status.ConnectedAt, h.failing = pid, "", time.Now(), ""
		h.old.wake()
	}
}
