package templates

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// PgBouncerSettings are what pgbouncer.ini.tmpl wants to know beside the topology.
type PgBouncerSettings struct {
	// Database is the name that clients connect to; default "*", which is any.
	Database string
}

// withDefaults fills in what is not set. It returns ErrUnsafe for a name that
// could end its word.
func (s PgBouncerSettings) withDefaults() (PgBouncerSettings, error) {
	setDefault(&s.Database, "*")
	if s.Database != "*" && !SafeName(s.Database) {
		return s, fmt.Errorf("pgbouncer database %q: %w", s.Database, ErrUnsafe)
	}
	return s, nil
}

// PgBouncerOptions say how to reach one PgBouncer's administration console.
type PgBouncerOptions struct {
	// Address is host:port, or host and port of a socket's directory: /run/x:6432.
	Address  string
	User     string // one of its admin_users
	Password func() (string, error)
	// Database that is paused; empty or "*": all.
	Database string
	// Timeout of one command but PAUSE; default 2 s.
	Timeout time.Duration
	// LoginWait is how long a pause waits for a login of its own at the server that
	// PgBouncer has under way; default 40 ms, a part of what a planned stop leaves
	// proxies to hold their clients.
	LoginWait time.Duration
	// HoldFor is the expiry of the pauses that an Agent makes; default 15 s,
	// which is more than a switchover may take.
	HoldFor time.Duration
	// Rescue is the command line of a process that reads a rescue order (see
	// Rescue). Without it, nothing resumes if this process dies while it holds
	// clients.
	Rescue []string
	Logger hclog.Logger // default: none
}

// PgBouncer holds clients in a PgBouncer while the primary changes: PAUSE lets
// running transactions end and keeps all others waiting, without an error.
//
// What was paused is resumed after its expiry, whatever happens: by this
// process, or by the rescue process that Pause starts beforehand.
type PgBouncer struct {
	options PgBouncerOptions
	log     hclog.Logger

	turn    chan struct{} // held by the one call that is under way
	spare   *rescue       // waits for its order; guarded by turn
	changed chan struct{} // has room for one: hold was called

	mu     sync.Mutex
	wanted bool               // clients are to wait
	reload bool               // its configuration has changed, or may have before this process
	owes   bool               // a RESUME: it was paused, or may have been before this process
	late   bool               // a pause has expired, and clients are not to be held again for the same wait
	asked  chan struct{}      // closed when the next step has sent its PAUSE, or has ended
	cancel context.CancelFunc // ends the Pause that Run has under way
	rescue *rescue            // non-nil: paused
	expiry *time.Timer        // resumes
	status PgBouncerStatus
}

// PgBouncerStatus is how it goes with one PgBouncer.
type PgBouncerStatus struct {
	Address   string    `json:"address"`
	Paused    bool      `json:"paused"`
	PausedAt  time.Time `json:"paused_at,omitzero"`
	Expired   int       `json:"expired,omitempty"` // how often the expiry resumed
	Error     string    `json:"error,omitempty"`
	LastError string    `json:"last_error,omitempty"` // stays when all is well again
	ErrorAt   time.Time `json:"error_at,omitzero"`    // when LastError was
}

// defaultHold is how long clients are held in a switchover at most. It is more than
// one may take.
const defaultHold = 15 * time.Second

// defaultLoginWait is less than the 50 ms that a planned stop allows.
const defaultLoginWait = 40 * time.Millisecond

// ErrTransactions is returned by Pause when transactions did not end in time;
// PgBouncer goes on as if nothing had been asked.
var ErrTransactions = errors.New("transactions did not end in time")

// NewPgBouncer checks the options. It connects to nothing.
func NewPgBouncer(o PgBouncerOptions) (*PgBouncer, error) {
	if _, _, err := consoleAddress(o.Address); err != nil {
		return nil, err
	}
	if o.Database == "*" {
		o.Database = ""
	}
	if o.Database != "" && !SafeName(o.Database) {
		return nil, fmt.Errorf("pgbouncer database %q: %w", o.Database, ErrUnsafe)
	}
	setDefault(&o.Timeout, 2*time.Second)
	setDefault(&o.HoldFor, defaultHold)
	setDefault(&o.LoginWait, defaultLoginWait)
	setDefault(&o.User, "pgbouncer")
	if o.Password == nil {
		o.Password = func() (string, error) { return "", nil }
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return &PgBouncer{
		reload: true, owes: true,
		options: o, log: o.Logger.Named("pgbouncer").With("address", o.Address), turn: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		status: PgBouncerStatus{Address: o.Address},
	}, nil
}

func (p *PgBouncer) console() (console, error) {
	password, err := p.options.Password()
	if err != nil {
		return console{}, fmt.Errorf("read pgbouncer's password: %w", err)
	}
	return console{address: p.options.Address, user: p.options.User, password: password, timeout: p.options.Timeout}, nil
}

// Pause keeps clients waiting, and returns when the last transaction that was
// under way has ended. If that has not happened when the context ends, clients
// are let go on and ErrTransactions is returned. After the expiry, counted from
// the call, clients are let go on in any case. While it is paused, Pause does
// nothing.
func (p *PgBouncer) Pause(ctx context.Context, expiry time.Duration) error {
	return p.hush(ctx, expiry, func() {})
}

// hush is Pause; sent is called when PgBouncer has the command.
func (p *PgBouncer) hush(ctx context.Context, expiry time.Duration, sent func()) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer p.give()
	if p.Status().Paused {
		return nil
	}
	return p.note(p.pause(ctx, expiry, sent))
}

func (p *PgBouncer) pause(ctx context.Context, expiry time.Duration, sent func()) error {
	c, err := p.console()
	if err != nil {
		return err
	}
	order := RescueOrder{Address: c.address, User: c.user, Password: c.password, Database: p.options.Database, After: expiry, Timeout: c.timeout}
	r, err := p.orderRescue(ctx, order)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.owes = true
	p.mu.Unlock()
	waiting, cancel := context.WithTimeout(ctx, expiry)
	defer cancel()
	if err := c.pause(waiting, p.options.Database, p.options.LoginWait, sent); err != nil {
		// It may have been taken all the same.
		undone := c.resume(context.WithoutCancel(ctx), p.options.Database)
		r.end(undone == nil)
		if waiting.Err() != nil {
			err = fmt.Errorf("%w: %w", ErrTransactions, waiting.Err())
		}
		return errors.Join(err, undone)
	}
	p.mu.Lock()
	p.rescue, p.status.Paused, p.status.PausedAt = r, true, time.Now()
	p.expiry = time.AfterFunc(expiry, p.expire)
	p.mu.Unlock()
	return nil
}

// orderRescue gives the order to the rescue process that waits, or, if that
// has died, to a new one. The caller has the turn.
func (p *PgBouncer) orderRescue(ctx context.Context, o RescueOrder) (*rescue, error) {
	if r := p.spare; r != nil {
		p.spare = nil
		if r.order(ctx, o) == nil {
			return r, nil
		}
	}
	r, err := startRescue(p.options.Rescue)
	if err != nil {
		return nil, err
	}
	return r, r.order(ctx, o)
}

// prepare starts the rescue process of the next pause.
func (p *PgBouncer) prepare(ctx context.Context) {
	if err := p.take(ctx); err != nil {
		return
	}
	defer p.give()
	if p.spare != nil {
		return
	}
	r, err := startRescue(p.options.Rescue)
	if err != nil {
		p.log.Warn("no rescue process yet; the next pause tries again", "error", err)
		return
	}
	p.spare = r
}

// dismiss ends the rescue process that nobody needed.
func (p *PgBouncer) dismiss() {
	p.turn <- struct{}{}
	defer p.give()
	if p.spare != nil {
		p.spare.end(true)
		p.spare = nil
	}
}

// expire resumes because nobody else did.
func (p *PgBouncer) expire() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*p.options.Timeout) // the caller of Pause is long gone
	defer cancel()
	p.mu.Lock()
	paused, again := p.status.Paused, p.late
	if paused && !again {
		p.status.Expired++
		p.late = true
	}
	p.mu.Unlock()
	if !paused {
		return
	}
	if !again {
		p.log.Warn("pause expired, clients go on")
	}
	if err := p.Resume(ctx); err != nil {
		p.log.Error("clients cannot be let go on", "error", err)
		p.mu.Lock()
		p.expiry = time.AfterFunc(p.options.Timeout, p.expire)
		p.mu.Unlock()
	}
}

// Resume lets clients go on. It may be called whether or not they wait.
func (p *PgBouncer) Resume(ctx context.Context) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer p.give()
	c, err := p.console()
	if err == nil {
		err = c.resume(ctx, p.options.Database)
	}
	p.mu.Lock()
	r := p.rescue
	if err == nil {
		p.rescue, p.status.Paused, p.owes = nil, false, false
		if p.expiry != nil {
			p.expiry.Stop()
		}
	}
	p.mu.Unlock()
	if err == nil && r != nil {
		r.end(true)
	}
	return p.note(err)
}

// hold says whether clients are to wait, and returns at once; reload, that
// the configuration has changed. The channel is closed when PgBouncer has been told to
// hold them, or that was tried.
func (p *PgBouncer) hold(wanted, reload bool) <-chan struct{} {
	p.mu.Lock()
	p.wanted, p.reload, p.late = wanted, p.reload || reload, p.late && wanted
	if p.asked == nil {
		p.asked = make(chan struct{})
	}
	asked := p.asked
	if !wanted && p.cancel != nil {
		p.cancel()
	}
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default:
	}
	return asked
}

// forgive says that clients wait for something else than before.
func (p *PgBouncer) forgive() {
	p.mu.Lock()
	p.late = false
	p.mu.Unlock()
}

// Run does what an Agent asks for until the context ends; it leaves nobody
// waiting. It is part of Agent.Run.
func (p *PgBouncer) Run(ctx context.Context) {
	defer p.dismiss()
	retry := time.NewTimer(p.options.Timeout)
	retry.Stop()
	defer retry.Stop()
	for {
		if !p.Status().Paused {
			p.prepare(ctx)
		}
		select {
		case <-ctx.Done():
			if p.Status().Paused {
				p.report(true, p.Resume(context.WithoutCancel(ctx))) // with a deadline of its own
			}
			return
		case <-p.changed:
		case <-retry.C:
		}
		retry.Stop()
		was := p.Status().Paused
		wanted, err := p.step(ctx)
		p.report(was, err)
		if err != nil && !wanted {
			retry.Reset(p.options.Timeout) // clients must not be left waiting, nor with another primary
		}
	}
}

// step brings PgBouncer to what is wanted.
func (p *PgBouncer) step(ctx context.Context) (wanted bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.mu.Lock()
	wanted, asked := p.wanted && !p.late, p.asked
	reload, owes := p.reload && !p.wanted, p.owes
	p.asked = nil
	if reload {
		p.reload = false
	}
	if wanted {
		p.cancel = cancel
	}
	p.mu.Unlock()
	sent := sync.OnceFunc(func() {
		if asked != nil {
			close(asked)
		}
	})
	defer sent()
	if wanted {
		err := p.hush(ctx, p.options.HoldFor, sent)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.cancel = nil
		if !p.wanted && errors.Is(err, ErrTransactions) {
			return wanted, nil // it is over, and they have gone on
		}
		return wanted, err
	}
	if reload {
		if err = p.Reload(ctx); err != nil {
			p.mu.Lock()
			p.reload = true
			p.mu.Unlock()
		} else {
			p.log.Info("pgbouncer reloaded")
		}
	}
	if owes {
		err = errors.Join(err, p.Resume(ctx))
	}
	return wanted, err
}

// report logs what came of it, if that is new.
func (p *PgBouncer) report(was bool, err error) {
	s := p.Status()
	switch {
	case err != nil:
		p.log.Error("pgbouncer not switched", "error", err)
	case s.Paused != was:
		p.log.Info("pgbouncer switched", "paused", s.Paused)
	}
}

// Reload makes PgBouncer read its configuration again.
func (p *PgBouncer) Reload(ctx context.Context) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer p.give()
	c, err := p.console()
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, p.options.Timeout)
		defer cancel()
		err = c.run(ctx, "RELOAD")
	}
	return p.note(err)
}

// Status returns how it goes.
func (p *PgBouncer) Status() PgBouncerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

func (p *PgBouncer) note(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Error = ""
	if err != nil {
		p.status.Error, p.status.LastError, p.status.ErrorAt = err.Error(), err.Error(), time.Now()
	}
	return err
}

func (p *PgBouncer) take(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for pgbouncer: %w", ctx.Err())
	}
}

func (p *PgBouncer) give() { <-p.turn }
