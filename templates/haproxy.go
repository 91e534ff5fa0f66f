package templates

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// HAProxyOptions say how to reach one HAProxy that runs haproxy.cfg.tmpl.
type HAProxyOptions struct {
	// Socket is its stats socket: a path, or host:port. Required.
	Socket string
	// AgentSocket is where the <service>_agent frontend listens: a path, or
	// host:port. Required.
	AgentSocket string
	// MasterSocket is the socket of HAProxy's master (`haproxy -W -S`): a path, or
	// host:port. With it HAProxy can be reloaded, and sessions of workers of before a
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

// HAProxy keeps one HAProxy's servers in the states that a topology asks for.
//
// Apply tells it of a change; Run, while it lives, keeps the connection that
// makes HAProxy believe us rather than its own checks (see haproxy.cfg.tmpl),
// and mends what a restart or a reload of HAProxy lost.
type HAProxy struct {
	options HAProxyOptions
	api     runtimeAPI
	log     hclog.Logger
	changed chan struct{} // has room for one: Apply or Release happened

	applying sync.Mutex     // held while commands are sent, so that no older ones come last
	closed   []string       // members that the worker had in maintenance; guarded by applying
	wrong    wrongState     // what the last look found; guarded by applying
	left     map[string]int // sessions that were still ending then, by server; guarded by applying

	old oldWorkers

	mu      sync.Mutex
	current *Topology // nil: nothing known, the checks decide
	pending bool      // current has not been sent yet
	look    bool      // there may be a new worker: look at once
	held    time.Time // since when new clients have been held in current's term; zero: they are not
	overdue bool      // held for too long
	status  HAProxyStatus
	told    string // what was last logged of the primary
	failing string // what was last logged of a failure; empty: since then it was connected
}

// HAProxyStatus is how it goes with one HAProxy.
type HAProxyStatus struct {
	Socket    string `json:"socket"`
	Connected bool   `json:"connected"` // HAProxy routes by what we tell it
	// ConnectedAt is since when.
	ConnectedAt time.Time `json:"connected_at,omitzero"`
	Pid         int       `json:"pid,omitempty"`
	Term        uint64    `json:"term,omitempty"` // of the last topology applied
	Primary     string    `json:"primary,omitempty"`
	AppliedAt   time.Time `json:"applied_at,omitzero"`
	Mended      int       `json:"mended"`            // how often its state was not what it should be
	Expired     int       `json:"expired,omitempty"` // how often new clients were held too long, and let in
	Error       string    `json:"error,omitempty"`
	LastError   string    `json:"last_error,omitempty"` // stays when all is well again
	ErrorAt     time.Time `json:"error_at,omitzero"`    // when LastError was

	// Of the master socket, where there is one.
	MasterSocket string `json:"master_socket,omitempty"`
	MasterError  string `json:"master_error,omitempty"`
	Reloads      int    `json:"reloads,omitempty"`            // by us
	OldWorkers   int    `json:"old_workers,omitempty"`        // of before a reload, that still have sessions
	OldSessions  int    `json:"old_sessions_ended,omitempty"` // that we ended in such
}

// NewHAProxy checks the options. It connects to nothing.
func NewHAProxy(o HAProxyOptions) (*HAProxy, error) {
	if o.Socket == "" || o.AgentSocket == "" {
		return nil, errors.New("haproxy: stats socket and agent socket are required")
	}
	if !SafeName(o.PrimaryBackend) || !SafeName(o.ReplicaBackend) {
		return nil, fmt.Errorf("haproxy backends %q, %q: %w", o.PrimaryBackend, o.ReplicaBackend, ErrUnsafe)
	}
	setDefault(&o.Checks, HAProxySettings{}.Checks())
	if !SafeName("x" + o.Checks) {
		return nil, fmt.Errorf("haproxy backends %q: %w", o.Checks, ErrUnsafe)
	}
	setDefault(&o.Timeout, time.Second)
	setDefault(&o.Reassert, 400*time.Millisecond)
	setDefault(&o.HoldFor, defaultHold)
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	h := &HAProxy{options: o, log: o.Logger.Named("haproxy").With("socket", o.Socket), changed: make(chan struct{}, 1)}
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
func (h *HAProxy) Apply(ctx context.Context, t Topology) error {
	h.applying.Lock()
	defer h.applying.Unlock()
	if !h.remember(&t) {
		return nil
	}
	defer h.wake()
	return h.assert(ctx, &t)
}

// offer is Apply by Run, and returns at once.
func (h *HAProxy) offer(t Topology) {
	if h.remember(&t) {
		h.wake()
	}
}

// remember keeps t as what is wanted, unless it is of an older term.
func (h *HAProxy) remember(t *Topology) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current != nil && t.SystemID == h.current.SystemID && t.Term < h.current.Term {
		return false
	}
	if !t.Held || h.current != nil && h.current.Term != t.Term {
		h.held, h.overdue = time.Time{}, false
	}
	if t.Held {
		setDefault(&h.held, time.Now())
	}
	h.current, h.pending = t, true
	return true
}

// Release says that we know nothing current any more: HAProxy's own checks
// decide until the next Apply.
func (h *HAProxy) Release() {
	h.mu.Lock()
	h.current, h.held, h.overdue = nil, time.Time{}, false
	h.mu.Unlock()
	h.wake()
}

func (h *HAProxy) wake() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// Status returns how it goes.
func (h *HAProxy) Status() HAProxyStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status
}

// assert sends all commands of a topology. The caller holds applying.
func (h *HAProxy) assert(ctx context.Context, t *Topology) error {
	r := h.route(*t)
	roles, ends := r.commands(h.closed)
	h.closed, h.left = nil, nil // until it is known to have worked
	start := time.Now()
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

func (h *HAProxy) route(t Topology) routing {
	if t.Held && h.holdExpired() {
		t.Held = false
	}
	r := route(t, h.options.PrimaryTakesReads)
	r.primaries, r.replicas, r.checks = h.options.PrimaryBackend, h.options.ReplicaBackend, h.options.Checks
	return r
}

// holdExpired reports whether new clients have been held for too long. They come in
// with the next look.
func (h *HAProxy) holdExpired() bool {
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

// Run keeps HAProxy right until the context ends. It then closes its
// connection, so that HAProxy's checks take over.
func (h *HAProxy) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	if h.old.master != nil {
		all.Go(func() { h.tendOldWorkers(ctx) })
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

func (h *HAProxy) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-h.changed:
	}
}

// session is one life of an HAProxy worker, as far as we are connected to it.
func (h *HAProxy) session(ctx context.Context) {
	pid, ok := h.reconcile(ctx)
	if !ok {
		return
	}
	conn, err := h.dialAgent(ctx)
	if err != nil {
		h.fail(err)
		return
	}
	defer conn.Close()
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
func (h *HAProxy) nextLook() time.Duration {
	h.applying.Lock()
	defer h.applying.Unlock()
	if len(h.left) > 0 && h.wrong.right() {
		return settleTime
	}
	return h.options.Reassert
}

func (h *HAProxy) dialAgent(ctx context.Context) (net.Conn, error) {
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

// send tells HAProxy of news, if there are any. It returns false if HAProxy
// does not answer, or there is nothing to hold it to.
func (h *HAProxy) send(ctx context.Context) bool {
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
func (h *HAProxy) reconcile(ctx context.Context) (int, bool) {
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
	if err := h.mend(ctx, current, seen); err != nil && !errors.Is(err, ErrRuntime) {
		h.fail(err)
		return 0, false
	}
	return seen.pid, true
}

// mend puts right what was seen to be wrong. The caller holds applying.
func (h *HAProxy) mend(ctx context.Context, current *Topology, seen observed) error {
	r := h.route(*current)
	wrong, left := r.differences(seen), r.leftovers(seen)
	leftovers := stuck(h.left, left)
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
	leftovers string // commands that end sessions which should not be
	since     time.Time
}

func (w wrongState) right() bool { return w.server == "" && w.leftovers == "" }

// tellWrong logs and counts what is found wrong once, however many looks it
// lasts (HAProxy may need time to end a session), and its end where it lasted.
// The caller holds applying.
func (h *HAProxy) tellWrong(now wrongState, pid int, term uint64) {
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
	h.log.Info("haproxy state wrong, is being mended", "server_in_wrong_state", now.server, "ending_old_sessions", now.leftovers, "pid", pid, "term", term)
	h.mu.Lock()
	h.status.Mended++
	h.mu.Unlock()
}

// fail notes an error, and logs it when it is a new one.
func (h *HAProxy) fail(err error) {
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

func (h *HAProxy) setConnected(connected bool, pid int) {
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
