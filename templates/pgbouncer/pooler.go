package pgbouncer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/templates"
)

// Options say how to reach one PgBouncer's administration console.
type Options struct {
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
	// Watchdog is the command line of a process that reads a watchdog order (see
	// Watchdog). Without it, nothing resumes if this process dies while it holds
	// clients.
	Watchdog []string
	Logger   hclog.Logger // default: none
}

// Pooler holds clients in a PgBouncer while the primary changes: PAUSE lets
// running transactions end and keeps all others waiting, without an error.
//
// What was paused is resumed after its expiry, whatever happens: by this
// process, or by the watchdog process that Pause starts beforehand.
type Pooler struct {
	options Options
	log     hclog.Logger

	turn    chan struct{} // held by the one call that is under way
	spare   *watchdog     // waits for its order; guarded by turn
	changed chan struct{} // has room for one: Hold or EndHold was called

	mu       sync.Mutex
	wanted   bool               // clients are to wait
	reload   bool               // its configuration has changed, or may have before this process
	owes     bool               // a RESUME: it was paused, or may have been before this process
	late     bool               // a pause has expired, and clients are not to be held again for the same wait
	goesTo   templates.Topology // whose primary clients are to reach; no primary: not known
	follows  map[string]bool    // databases that were seen to lead to a primary; of the goroutine of Run
	asked    chan struct{}      // closed when the next step has sent its PAUSE, or has ended
	cancel   context.CancelFunc // ends the Pause that Run has under way
	watchdog *watchdog          // non-nil: paused
	expiry   *time.Timer        // resumes
	status   templates.PoolerStatus
}

// ErrTransactions is returned by Pause when transactions did not end in time;
// PgBouncer goes on as if nothing had been asked.
var ErrTransactions = errors.New("transactions did not end in time")

// New checks the options. It connects to nothing.
func New(o Options) (*Pooler, error) {
	if _, _, err := consoleAddress(o.Address); err != nil {
		return nil, err
	}
	if o.Database == "*" {
		o.Database = ""
	}
	if o.Database != "" && !templates.SafeName(o.Database) {
		return nil, fmt.Errorf("pgbouncer database %q: %w", o.Database, templates.ErrUnsafe)
	}
	o.Timeout = cmp.Or(o.Timeout, 2*time.Second)
	o.HoldFor = cmp.Or(o.HoldFor, templates.DefaultHold)
	o.LoginWait = cmp.Or(o.LoginWait, templates.MaxLoginWait)
	o.User = cmp.Or(o.User, "pgbouncer")
	if o.Password == nil {
		o.Password = func() (string, error) { return "", nil }
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return &Pooler{
		reload: true, owes: true,
		options: o, log: o.Logger.Named("pgbouncer").With("address", o.Address), turn: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		status: templates.PoolerStatus{Address: o.Address},
	}, nil
}

func (p *Pooler) console() (console, error) {
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
func (p *Pooler) Pause(ctx context.Context, expiry time.Duration) error {
	return p.hush(ctx, expiry, func() {})
}

// hush is Pause; sent is called when PgBouncer has the command.
func (p *Pooler) hush(ctx context.Context, expiry time.Duration, sent func()) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer p.give()
	if p.Status().Paused {
		return nil
	}
	return p.note(p.pause(ctx, expiry, sent))
}

func (p *Pooler) pause(ctx context.Context, expiry time.Duration, sent func()) error {
	c, err := p.console()
	if err != nil {
		return err
	}
	order := WatchdogOrder{Address: c.address, User: c.user, Password: c.password, Database: p.options.Database, After: expiry, Timeout: c.timeout}
	r, err := p.orderWatchdog(ctx, order)
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
	p.watchdog, p.status.Paused, p.status.PausedAt = r, true, time.Now()
	p.expiry = time.AfterFunc(expiry, p.expire)
	p.mu.Unlock()
	return nil
}

// orderWatchdog gives the order to the watchdog process that waits, or, if that
// has died, to a new one. The caller has the turn.
func (p *Pooler) orderWatchdog(ctx context.Context, o WatchdogOrder) (*watchdog, error) {
	if r := p.spare; r != nil {
		p.spare = nil
		if r.order(ctx, o) == nil {
			return r, nil
		}
	}
	r, err := startWatchdog(p.options.Watchdog)
	if err != nil {
		return nil, err
	}
	return r, r.order(ctx, o)
}

// prepare starts the watchdog process of the next pause.
func (p *Pooler) prepare(ctx context.Context) {
	if err := p.take(ctx); err != nil {
		return
	}
	defer p.give()
	if p.spare != nil {
		return
	}
	r, err := startWatchdog(p.options.Watchdog)
	if err != nil {
		p.log.Warn("no watchdog process yet; the next pause tries again", "error", err)
		return
	}
	p.spare = r
}

// dismiss ends the watchdog process that nobody needed.
func (p *Pooler) dismiss() {
	p.turn <- struct{}{}
	defer p.give()
	if p.spare != nil {
		p.spare.end(true)
		p.spare = nil
	}
}

// expire resumes because nobody else did.
func (p *Pooler) expire() {
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
func (p *Pooler) Resume(ctx context.Context) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer p.give()
	c, err := p.console()
	if err == nil {
		err = c.resume(ctx, p.options.Database)
	}
	p.mu.Lock()
	r := p.watchdog
	if err == nil {
		p.watchdog, p.status.Paused, p.owes = nil, false, false
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

// Hold asks for clients to wait, and returns at once. The channel is closed when
// PgBouncer has been told to hold them, or that was tried. With again, an earlier
// pause that expired does not count.
func (p *Pooler) Hold(again bool) <-chan struct{} {
	p.mu.Lock()
	p.wanted, p.late = true, p.late && !again
	if p.asked == nil {
		p.asked = make(chan struct{})
	}
	asked := p.asked
	p.mu.Unlock()
	p.wake()
	return asked
}

// EndHold asks for clients to go on with the topology's primary, after a RELOAD if the
// configuration has changed, and returns at once.
func (p *Pooler) EndHold(t templates.Topology, reload bool) {
	p.mu.Lock()
	p.wanted, p.reload, p.late, p.goesTo = false, p.reload || reload, false, t
	if p.cancel != nil {
		p.cancel()
	}
	p.mu.Unlock()
	p.wake()
}

func (p *Pooler) wake() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Run does what an Agent asks for until the context ends; it leaves nobody
// waiting. It is part of Agent.Run.
func (p *Pooler) Run(ctx context.Context) {
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
func (p *Pooler) step(ctx context.Context) (wanted bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.mu.Lock()
	wanted, asked := p.wanted && !p.late, p.asked
	reload, owes, goesTo := p.reload && !p.wanted, p.owes, p.goesTo
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
	if err == nil && goesTo.Primary != nil {
		err = p.checkEffect(ctx, goesTo)
	}
	return wanted, err
}

// ErrNotTaken is returned while PgBouncer leads clients to a member that is not the
// primary, although it has been told to read its file.
var ErrNotTaken = errors.New("pgbouncer has not taken up its new configuration")

// checkEffect looks at where PgBouncer leads its databases to. It answers RELOAD as if
// all were well when it cannot read a file. A database counts if it is the one that the
// file is for, or was seen to lead to a primary before: others may be for replicas.
func (p *Pooler) checkEffect(ctx context.Context, t templates.Topology) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer p.give()
	c, err := p.console()
	if err != nil {
		return p.note(err)
	}
	all, err := c.databases(ctx)
	if err != nil {
		return p.note(err)
	}
	for _, d := range all {
		if d.host == t.Primary.Host && d.port == t.Primary.Port {
			if p.follows == nil {
				p.follows = map[string]bool{}
			}
			p.follows[d.name] = true
			continue
		}
		member := slices.IndexFunc(t.Members, func(m templates.Member) bool { return m.Host == d.host && m.Port == d.port })
		if member >= 0 && (p.follows[d.name] || d.name == p.options.Database) {
			p.mu.Lock()
			p.reload = true
			p.mu.Unlock()
			return p.note(fmt.Errorf("%w: database %s still goes to %s, and %s is the primary; can PgBouncer read its file? See its log",
				ErrNotTaken, d.name, t.Members[member].Name, t.Primary.Name))
		}
	}
	return p.note(nil)
}

// report logs what came of it, if that is new.
func (p *Pooler) report(was bool, err error) {
	s := p.Status()
	switch {
	case err != nil:
		p.log.Error("pgbouncer not switched", "error", err)
	case s.Paused != was:
		p.log.Info("pgbouncer switched", "paused", s.Paused)
	}
}

// Reload makes PgBouncer read its configuration again.
func (p *Pooler) Reload(ctx context.Context) error {
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
func (p *Pooler) Status() templates.PoolerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

func (p *Pooler) note(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Error = ""
	if err != nil {
		p.status.Error, p.status.LastError, p.status.ErrorAt = err.Error(), err.Error(), time.Now()
	}
	return err
}

func (p *Pooler) take(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for pgbouncer: %w", ctx.Err())
	}
}

func (p *Pooler) give() { <-p.turn }
