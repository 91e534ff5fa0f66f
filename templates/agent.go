package templates

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// AgentOptions are what an Agent drives.
type AgentOptions struct {
	Files    []File
	Settings Settings
	Proxies  []Proxy
	Bouncers []Pooler
	// Env is what the templates have beside the topology.
	Env Env
	// Retry is how long after a failure files and commands are tried again;
	// default 5 s.
	Retry  time.Duration
	Logger hclog.Logger // default: none
}

// Agent makes files and proxies follow a topology. A file or a proxy that
// fails holds up no other.
type Agent struct {
	options AgentOptions
	log     hclog.Logger
	changed chan struct{} // has room for one
	owing   chan struct{} // has room for one: commands may be to be run
	turns   []sync.Mutex  // of each file: held while it is put, or its debt is settled

	ran map[any]time.Time // when each command last ran, by File.told; of the goroutine that runs them

	mu      sync.Mutex
	current *Topology
	before  *Topology // see Recall
	files   []FileStatus
	untaken []untaken // of each file
	reload  bool      // a file has changed that PgBouncers have not been told of
}

// FileStatus is how it goes with one file.
type FileStatus struct {
	Name        string    `json:"name"`
	Destination string    `json:"destination"`
	Term        uint64    `json:"term,omitempty"`       // of the topology last rendered with success
	OKSince     time.Time `json:"ok_since,omitzero"`    // since when it has been right; zero: it is not
	OKAt        time.Time `json:"ok_at,omitzero"`       // when it was last known to be right
	WrittenAt   time.Time `json:"written_at,omitzero"`  // when it last changed
	Error       string    `json:"error,omitempty"`      // why it is not right, or not taken up
	Since       time.Time `json:"error_since,omitzero"` // since when it has not been right
	Waits       bool      `json:"waits,omitempty"`      // Error is that something has never been there yet
	LastError   string    `json:"last_error,omitempty"` // stays when it is right again
	ErrorAt     time.Time `json:"error_at,omitzero"`    // when LastError was
	Failures    int       `json:"failures,omitempty"`   // in a row
	Commands    int       `json:"commands,omitempty"`   // how often its command ran, or HAProxy was to be reloaded for it
	Writes      int       `json:"writes,omitempty"`     // how often it changed
	Rendered    int       `json:"rendered,omitempty"`   // how often it was rendered
	Unrendered  bool      `json:"unrendered,omitempty"` // never yet
	Recalled    bool      `json:"recalled,omitempty"`   // it was missing, and is of what was known before (Recall)
}

// AgentStatus is how it goes with all of them.
type AgentStatus struct {
	Term    uint64        `json:"term,omitempty"`
	Primary string        `json:"primary,omitempty"`
	Held    bool          `json:"held,omitempty"`
	Files   []FileStatus  `json:"templates"`
	Proxies []ProxyStatus `json:"haproxy"`

	Bouncers []PoolerStatus `json:"pgbouncer"`
}

// NewAgent checks the options. It starts nothing.
func NewAgent(o AgentOptions) (*Agent, error) {
	setDefault(&o.Retry, 5*time.Second)
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	a := &Agent{options: o, log: o.Logger.Named("templates"), changed: make(chan struct{}, 1), owing: make(chan struct{}, 1), turns: make([]sync.Mutex, len(o.Files)),
		ran: map[any]time.Time{}, untaken: make([]untaken, len(o.Files))}
	seen := map[string]string{}
	for _, f := range o.Files {
		if f.Template == nil || f.Destination == "" {
			return nil, fmt.Errorf("template %q has no source or no destination", f.Name)
		}
		if other, ok := seen[f.Destination]; ok {
			return nil, fmt.Errorf("templates %q and %q have the same destination %s", other, f.Name, f.Destination)
		}
		seen[f.Destination] = f.Name
		a.files = append(a.files, FileStatus{Name: f.Name, Destination: f.Destination, Unrendered: true})
	}
	return a, nil
}

// Update gives the newest topology; proxies are told before files are written. It
// returns at once, but for the beginning of a planned switchover, in which HAProxy holds
// clients after PgBouncer does, or the wait for it is over: a login of PgBouncer's that
// HAProxy holds would be cut off by the pause (console.pause).
func (a *Agent) Update(t Topology) {
	a.mu.Lock()
	begun := t.Held && (a.current == nil || !a.current.Held)
	anew := a.current == nil || a.current.Term != t.Term
	a.current = &t
	a.mu.Unlock()
	if t.Waits() {
		var asked []<-chan struct{}
		for _, b := range a.options.Bouncers {
			asked = append(asked, b.Hold(anew))
		}
		if begun && len(a.options.Proxies) > 0 {
			await(asked, bouncerFirst)
		}
	}
	for _, p := range a.options.Proxies {
		p.Offer(t)
	}
	a.wake()
}

// bouncerFirst is how long HAProxy waits for a PgBouncer at most: the connection to its
// console and the logins that it has under way.
const bouncerFirst = MaxLoginWait + 5*time.Millisecond

// await returns when all are closed, or the time is over.
func await(all []<-chan struct{}, most time.Duration) {
	late := time.NewTimer(most)
	defer late.Stop()
	for _, done := range all {
		select {
		case <-done:
		case <-late.C:
			return
		}
	}
}

// Recall gives an earlier topology, for the time in which nothing current is known
// yet: files that are not there at all are written of it. Others stay as they are, and
// no proxy is told.
func (a *Agent) Recall(t Topology) {
	a.mu.Lock()
	a.before = &t
	a.mu.Unlock()
	a.wake()
}

// Refresh renders again with the topology as it is: something that a template
// reads besides it has changed.
func (a *Agent) Refresh() { a.wake() }

// Release says that nothing current is known any more. Files stay as they are;
// HAProxies use their own checks until the next Update.
func (a *Agent) Release() {
	for _, p := range a.options.Proxies {
		p.Release()
	}
}

func (a *Agent) wake() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// Status returns how it goes.
func (a *Agent) Status() AgentStatus {
	a.mu.Lock()
	s := AgentStatus{Files: slices.Clone(a.files), Proxies: []ProxyStatus{}, Bouncers: []PoolerStatus{}}
	if t := a.current; t != nil {
		s.Term, s.Held = t.Term, t.Held
		if t.Primary != nil {
			s.Primary = t.Primary.Name
		}
	}
	a.mu.Unlock()
	for _, p := range a.options.Proxies {
		s.Proxies = append(s.Proxies, p.Status())
	}
	for _, b := range a.options.Bouncers {
		s.Bouncers = append(s.Bouncers, b.Status())
	}
	return s
}

// Run drives files and proxies until the context ends. It returns its error.
func (a *Agent) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for _, p := range a.options.Proxies {
		all.Go(func() { p.Run(ctx) }) //nolint:errcheck // it ends with ctx, whose error is returned below
	}
	retry := time.NewTimer(a.options.Retry)
	defer retry.Stop()
	for _, b := range a.options.Bouncers {
		all.Go(func() { b.Run(ctx) })
	}
	all.Go(func() { a.notify(ctx) })
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.changed:
			a.awaitMore(ctx)
		case <-retry.C:
		}
		if a.writeFiles(ctx) {
			retry.Stop()
		} else {
			retry.Reset(a.options.Retry)
		}
		select {
		case a.owing <- struct{}{}:
		default:
		}
	}
}

// notify runs what is owed until the context ends. It holds up no file, and nobody who
// waits in a PgBouncer for one.
func (a *Agent) notify(ctx context.Context) {
	retry := time.NewTimer(a.options.Retry)
	retry.Stop()
	defer retry.Stop()
	confirm := time.NewTicker(confirmEvery)
	defer confirm.Stop()
	if len(a.options.Proxies) == 0 {
		confirm.Stop()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.owing:
		case <-retry.C:
		case now := <-confirm.C:
			if !a.confirmTaken(now) {
				continue
			}
		}
		if wait := a.runOwedCommands(ctx); wait == 0 {
			retry.Stop()
		} else {
			retry.Reset(wait)
		}
	}
}

// filePause is how long files wait for what else changes, where HAProxy is told
// of it at once by its socket: a failover changes the topology several times.
const filePause = 100 * time.Millisecond

func (a *Agent) awaitMore(ctx context.Context) {
	if len(a.options.Proxies) == 0 || len(a.options.Bouncers) > 0 {
		return
	}
	timer := time.NewTimer(filePause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// Once renders all files for the current topology, writes them and runs their
// commands. It returns all that failed.
func (a *Agent) Once(ctx context.Context) error {
	a.writeFiles(ctx)
	a.runOwedCommands(ctx)
	var errs []error
	for _, f := range a.Status().Files {
		if f.Error != "" {
			errs = append(errs, fmt.Errorf("template %q: %s", f.Name, f.Error))
		}
	}
	return errors.Join(errs...)
}

// writeFiles brings every file up to date. It reports whether all is well.
func (a *Agent) writeFiles(ctx context.Context) bool {
	a.mu.Lock()
	current, recalled := a.current, false
	if current == nil {
		current, recalled = a.before, true
	}
	a.mu.Unlock()
	if current == nil {
		return true
	}
	well, anyChanged := true, false
	for i := range a.options.Files {
		if recalled && a.options.Files[i].exists() {
			continue
		}
		a.turns[i].Lock()
		changed, err := a.refresh(ctx, &a.options.Files[i], *current)
		a.note(i, err, func(s *FileStatus) {
			s.Term, s.OKAt, s.Unrendered, s.Recalled = current.Term, time.Now(), false, recalled
			s.Rendered++
			if changed {
				s.WrittenAt = s.OKAt
				s.Writes++
			}
		})
		a.turns[i].Unlock()
		well, anyChanged = well && err == nil, anyChanged || changed
	}
	if !recalled {
		a.endHolds(current, anyChanged)
	}
	return well
}

// endHolds ends the waiting in PgBouncers, now that their files are written for a topology
// that has a primary. If there is a newer one, its own writeFiles does so.
func (a *Agent) endHolds(written *Topology, reload bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reload = a.reload || reload
	if a.current != written || written.Waits() {
		return
	}
	for _, b := range a.options.Bouncers {
		b.EndHold(*written, a.reload)
	}
	a.reload = false
}

// waits reports whether clients wait for a primary now.
func (a *Agent) waits() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.current != nil && a.current.Waits()
}

// refresh renders and puts one file.
func (a *Agent) refresh(ctx context.Context, f *File, t Topology) (bool, error) {
	page, err := NewPage(t, a.options.Settings)
	if err != nil {
		return false, err
	}
	content, err := f.Template.Render(ctx, page, a.options.Env)
	if err != nil {
		return false, err
	}
	return f.put(ctx, content)
}

// runOwedCommands runs what is owed, reloads of HAProxy too. What fails is owed until it
// succeeds, and a command that ran just before runs once more. It returns when it should
// be called again; zero: not before something changes. While clients wait for a primary
// HAProxy is not reloaded: they wait in its worker, and a new one does not know them. The
// topology that ends the waiting comes here too.
func (a *Agent) runOwedCommands(ctx context.Context) time.Duration {
	var wait time.Duration
	type outcome struct {
		err   error
		again bool
	}
	done := map[any]outcome{}
	a.mu.Lock()
	var written []int // from the time before anybody is told
	for _, f := range a.files {
		written = append(written, f.Writes)
	}
	a.mu.Unlock()
	for i := range a.options.Files {
		f := &a.options.Files[i]
		if ctx.Err() != nil || f.Reload != nil && a.waits() || !f.owed() {
			continue
		}
		key := f.told()
		o, ran := done[key]
		if !ran {
			o.again = f.Reload == nil && a.soonAfter(key, time.Now())
			o.err = f.notify(ctx)
			done[key] = o
		}
		err := o.err
		if err == nil && !o.again {
			a.turns[i].Lock()
			if a.written(i) == written[i] { // else it has not been told of the newest
				err = f.clearOwed()
			}
			a.turns[i].Unlock()
		}
		switch {
		case err != nil:
			wait = a.options.Retry
		case o.again && wait == 0:
			wait = soon
		}
		a.note(i, err, func(s *FileStatus) { s.Commands++ })
	}
	return wait
}

// written is how often the file has changed.
func (a *Agent) written(i int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.files[i].Writes
}

// note keeps a result, and logs what is new.
func (a *Agent) note(i int, err error, success func(*FileStatus)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := &a.files[i]
	before, written := s.Error, s.Writes
	if err == nil {
		success(s)
		if !a.options.Files[i].owed() && a.untaken[i].told.IsZero() {
			s.Error, s.Failures, s.Waits, s.Since = "", 0, false, time.Time{}
			setDefault(&s.OKSince, time.Now())
		}
		if s.Writes > written {
			a.log.Info("file written", "template", s.Name, "destination", s.Destination, "term", s.Term)
		}
		if before != "" && s.Error == "" {
			a.log.Info("template recovered", "template", s.Name)
		}
		return
	}
	s.Error, s.ErrorAt, s.OKSince = err.Error(), time.Now(), time.Time{}
	s.LastError, s.Waits = s.Error, errors.Is(err, ErrNotReady)
	setDefault(&s.Since, s.ErrorAt)
	s.Failures++
	switch {
	case before == s.Error:
	case errors.Is(err, ErrNotReady): // as always at the start, or while there is no primary
		a.log.Debug("template waits", "template", s.Name, "destination", s.Destination, "reason", err)
	default:
		a.log.Error("template failed, the last good file stays", "template", s.Name, "destination", s.Destination, "error", err)
	}
}
