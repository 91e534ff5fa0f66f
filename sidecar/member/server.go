package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/hooks"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// localServer is the member's PostgreSQL server: its files and its process
// (package postgres, through the guard) and its SQL (package checks).
type localServer struct {
	config atomic.Pointer[config.Config] // as it was last read
	log    hclog.Logger
	guard  *guard.Client
	files  *postgres.Server
	sql    *checks.Conn

	mu       sync.Mutex
	hidden   bool
	starting starting
	facts    checks.Facts // of the last look; Position also of the last operation
	// slots are other programs', as the cluster's settings name them; at is how far
	// the physical ones have come here.
	slots map[string]settings.Slot
	at    slotsHere
	// unwanted are slots that the settings named before, and that are to be dropped.
	unwanted []string
	read     configuration // what was last read of it
	kept     kept          // guarded by mu
	debts
	// promotedAt is when this process last promoted the server.
	promotedAt time.Time

	hooks *hooks.Dispatcher // set before the sidecar runs

	// stuck is told that the standby replays nothing until it is restarted; set before
	// the sidecar runs.
	stuck func(why string)
	around
	copies copies
}

// around are the parts that know other servers; set before the sidecar runs.
type around struct {
	others    func() peersView   // what is known of the other members
	siteSlots chan<- slotRequest // answered by who has sessions with the other site's servers
}

// debts are what the data still lack; guarded by localServer.mu.
type debts struct {
	owed    ha.Position // what a copy of them is to reach
	rewound bool        // they need what their rewind's source has
}

// kept is what this process has last brought to the server of files that change.
type kept struct {
	roles       map[string]checks.Role
	certificate string // postgres.Server.FilesState of its files
	misled      string // checks.Misled, as it was asked last
	askedAt     time.Time
	refused     string // why the server does not take the cluster's settings; empty: it does
}

// copies are the copies of a whole data directory.
type copies struct {
	from string // the member that was named as the next one's source; guarded by localServer.mu
	// engine restores backups; nil: there is none. Set before the sidecar runs.
	engine backup.Engine
	// progress is how far the present one is; nil: there is none.
	progress atomic.Pointer[api.Progress]
	// restored: the data are of a backup, and lack log. Guarded by localServer.mu.
	restored bool
	// failedAt is when a copy of a backup failed last; it is not tried again for a while.
	failedAt time.Time
	// avoided is the replica whose copy came to nothing last, and since when. Guarded by localServer.mu.
	avoided   string
	avoidedAt time.Time
}

// configuration is what the server makes of its configuration.
type configuration struct {
	ha.Configured
	relaxed string           // ha.SQL's Relaxed
	pending []checks.Pending // parameters that wait for a restart
	roles   map[int64]string // of those that receive the log
}

// lastFacts is what was last seen by SQL.
func (s *localServer) lastFacts() checks.Facts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.facts
}

var _ sidecar.Server = (*localServer)(nil)

func newLocalServer(cfg *config.Config, g *guard.Client, log hclog.Logger) (*localServer, error) {
	pg := cfg.Postgres
	options := serverOptions(cfg, g, log)
	var err error
	if options.WAL.ArchiveCommand, options.WAL.RestoreCommand, err = archiveCommands(cfg); err != nil {
		return nil, err
	}
	files, err := postgres.New(options)
	if err != nil {
		return nil, err
	}
	sql, err := checks.New(checks.Options{
		Socket: files.SocketDir(), Port: files.Port(), User: pg.Superuser.Name,
		Password: func() (string, error) { return process.Password(pg.Superuser) },
		Member:   cfg.Member, Major: files.Major(), Logger: log.Named("checks"), Now: guard.Now, Control: files,
	})
	if err != nil {
		return nil, err
	}
	s := &localServer{log: log, guard: g, files: files, sql: sql}
	s.config.Store(cfg)
	return s, nil
}

// Inspect returns what the files say.
func (s *localServer) Inspect(ctx context.Context) (ha.Files, error) {
	f, err := s.files.Inspect(ctx)
	if err != nil {
		return ha.Files{}, err
	}
	s.mu.Lock()
	s.rewound, s.owed, s.copies.restored = f.Rewound != "", f.Owed, f.FromBackup
	s.mu.Unlock()
	s.setHidden(f.Hidden)
	return f.Files, nil
}

func (s *localServer) setHidden(hidden bool) {
	s.mu.Lock()
	s.hidden = hidden
	s.mu.Unlock()
}

// runs reports whether the guard has a postmaster.
func (s *localServer) runs() bool {
	status := s.guard.Status()
	return status.Known && status.Running
}

// Read returns what SQL says; whether the server is hidden, a file does.
func (s *localServer) Read(ctx context.Context) (ha.SQL, error) {
	if s.refuses() {
		return ha.SQL{}, s.unread(fmt.Errorf("%w: postmaster.pid says that it is starting", checks.ErrNotReady))
	}
	facts, err := s.sql.Read(ctx)
	if err != nil {
		return ha.SQL{}, s.unread(err)
	}
	facts.Settled, facts.Position = facts.Settled && s.files.IsShut(), s.files.Mark(facts.Position)
	if facts.ReplayPaused {
		facts.Paused = cmp.Or(s.files.Lacking(ctx, facts.Limits), userPause)
	}
	s.mu.Lock()
	facts.Hidden = s.hidden && facts.InRecovery == ha.No
	facts.Configured, facts.Relaxed = s.read.Configured, s.read.relaxed
	facts.Software.Postgres = facts.Version
	s.facts = facts
	paid := s.owed.Known() && facts.Position.Contains(s.owed)
	if paid {
		s.owed = ha.Position{}
	}
	rewound := s.rewound
	s.rewound = false
	s.mu.Unlock()
	if paid {
		if err := s.files.Paid(); err != nil {
			return facts.SQL, err
		}
	}
	if rewound {
		return facts.SQL, s.files.Consistent()
	}
	return facts.SQL, nil
}

// Probe writes. On a server that keeps clients out it first sees to the roles:
// nobody can clone from a new server before they exist.
func (s *localServer) Probe(ctx context.Context) error {
	s.mu.Lock()
	hidden := s.hidden
	s.mu.Unlock()
	if hidden {
		if err := s.ensureRoles(ctx); err != nil {
			return err
		}
	}
	err := s.sql.WriteProbe(ctx)
	if errors.Is(err, checks.ErrOccupied) {
		return fmt.Errorf("%w: %w", sidecar.ErrOccupied, err)
	}
	if errors.Is(err, checks.ErrDiskFull) || errors.Is(err, checks.ErrIO) {
		return fmt.Errorf("%w: %w", sidecar.ErrMachine, err)
	}
	return err
}

// SyncInEffect returns the flush position after the setting was in effect.
func (s *localServer) SyncInEffect(ctx context.Context) (ha.LSN, error) {
	return s.sql.SyncInEffect(ctx)
}

// Do does one action on the server.
func (s *localServer) Do(ctx context.Context, a ha.Action) (l sidecar.Learned, err error) {
	switch a.Kind {
	case ha.Init:
		err = s.init(ctx)
	case ha.Clone:
		err = s.clone(ctx, a)
	case ha.Rewind:
		err = s.rewind(ctx, a)
	case ha.Restore:
		err = s.restore(ctx, a)
	case ha.Discard:
		err = s.files.Discard(ctx)
	case ha.Start:
		err = s.start(ctx, a)
	case ha.Stop:
		err = s.stop(ctx, a)
	case ha.Fence:
		l.Position, err = s.fence(ctx, a)
	case ha.Follow:
		err = s.follow(ctx, a)
	case ha.SetSync:
		l.SyncAt, err = s.sql.SetSync(ctx, a.Sync)
	case ha.Promote:
		l.Position, err = s.promote(ctx, a.Timeline)
	case ha.Unhide:
		if err = s.files.Unhide(ctx); err == nil {
			s.setHidden(false)
		}
	case ha.Checkpoint:
		err = s.checkpoint(ctx, a.Planned)
	}
	if err == nil && l.Position.Known() {
		l.Position = s.files.Mark(l.Position)
		s.mu.Lock()
		s.facts.Position = l.Position
		s.mu.Unlock()
	}
	return l, err
}

// progressEvery is how often a copy that takes long is heard of.
const progressEvery = 5 * time.Second

// progress returns a function that shows and logs how far a copy has come.
func (s *localServer) progress(what, from string) func(done, total int64) {
	var last time.Time
	s.copies.progress.Store(&api.Progress{What: what, From: from})
	return func(done, total int64) {
		s.copies.progress.Store(&api.Progress{What: what, From: from, Done: done, Total: total})
		if time.Since(last) < progressEvery && done < total {
			return
		}
		last = time.Now()
		percent := int64(0)
		if total > 0 {
			percent = 100 * done / total
		}
		s.log.Info(what, "from", from, "percent", percent, "done_mib", done>>20, "total_mib", total>>20)
	}
}

// sourceOf is a member's server as an action names it.
func sourceOf(member, address string) (postgres.Source, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return postgres.Source{}, fmt.Errorf("address of %s: %w", member, err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return postgres.Source{}, fmt.Errorf("port of %s: %w", member, err)
	}
	return postgres.Source{Member: member, Host: host, Port: number}, nil
}

// rewind brings the data directory onto the source's history.
func (s *localServer) rewind(ctx context.Context, a ha.Action) error {
	source, err := sourceOf(a.From, a.Address)
	if err != nil {
		return err
	}
	source.Term = a.Term
	done, err := s.files.Rewind(ctx, source)
	if err == nil {
		s.log.Info("rewound", "from", a.From, "result", fmt.Sprintf("%+v", done))
	}
	return unserved(err)
}

// unserved says of an error that it came from the source.
func unserved(err error) error {
	if postgres.SourceFailed(err) {
		return fmt.Errorf("%w: %w", sidecar.ErrSource, err)
	}
	return err
}

// start starts the server. One that is to receive from a source at once promises the
// term first.
func (s *localServer) start(ctx context.Context, a ha.Action) error {
	options := postgres.StartOptions{Primary: a.Primary, Hidden: a.Hidden, Sync: a.Sync}
	if a.From != "" {
		source, err := sourceOf(a.From, a.Address)
		if err != nil {
			return err
		}
		if err := s.files.Promise(a.Term, a.Leader, false); err != nil {
			return err
		}
		slot, err := s.slotAt(ctx, source)
		if err != nil {
			return err
		}
		options.Upstream = postgres.Upstream{Member: source.Member, ConnInfo: s.conninfo(source), Slot: slot}
		if options.Upstream.Line, err = s.lineOf(ctx, source); err != nil {
			return err
		}
	}
	err := s.files.Start(ctx, options)
	if err == nil {
		s.setHidden(a.Hidden && a.Primary)
	}
	return err
}

// reconfigure replaces the configuration with one that was read again.
func (s *localServer) reconfigure(cfg *config.Config) {
	s.config.Store(cfg)
}

// calmWait is how long to wait for a calm moment after the checkpoint before a planned
// stop; clients go on meanwhile.
const calmWait = 250 * time.Millisecond

// fence promises the term on disk, shuts the gate, stops receiving, and returns the
// final position (S2). A setting with names is made at the same time.
func (s *localServer) fence(ctx context.Context, a ha.Action) (ha.Position, error) {
	if err := s.files.Promise(a.Term, a.Leader, true); err != nil {
		return ha.Position{}, err
	}
	if err := s.files.Shut(); err != nil {
		return ha.Position{}, err
	}
	return s.sql.Fence(ctx, a.Sync)
}

// follow promises the term, admits the source, and receives from it. A server that
// knows of a timeline which neither its log nor its leader's came to is started without
// it; the next attempt then finds nothing in its way.
func (s *localServer) follow(ctx context.Context, a ha.Action) error {
	source, err := sourceOf(a.From, a.Address)
	if err != nil {
		return err
	}
	own := s.lastFacts().Position.TLI
	if err := s.files.CheckLine(own, a.Position); err != nil {
		return s.forgetAfter(ctx, own, err)
	}
	slot, err := s.slotAt(ctx, source)
	if err != nil {
		return err
	}
	if err := s.files.HoldStrangers(own, a.Position); err != nil {
		return err
	}
	if err := s.files.Promise(a.Term, a.Leader, false); err != nil {
		return err
	}
	if err := s.files.Admit(a.From); err != nil {
		return err
	}
	return s.sql.Follow(ctx, s.conninfo(source), slot, "")
}

// promote leaves recovery on a timeline that no other term has. A server that knows of
// a later timeline which its log has not come to is started without it; the next
// attempt then finds nothing in its way.
func (s *localServer) promote(ctx context.Context, timeline ha.TLI) (ha.Position, error) {
	if err := s.before(ctx, hooks.BeforePromote); err != nil {
		return ha.Position{}, err
	}
	var own ha.TLI
	at, err := s.sql.Promote(ctx, func(at ha.Position) error {
		own = at.TLI
		return s.files.ReserveTimeline(at, timeline)
	})
	if errors.Is(err, postgres.ErrUnreached) {
		return at, s.forgetAfter(ctx, own, err)
	}
	s.mu.Lock()
	s.promotedAt = time.Now()
	s.mu.Unlock()
	if err == nil && at.TLI != timeline {
		err = fmt.Errorf("promoted to timeline %d, not to %d as claimed", at.TLI, timeline)
	}
	return at, err
}

// forgetAfter starts a fenced standby anew without what it knows of timelines after its
// own, if that is why: it returns why with what was done. The server stays fenced.
func (s *localServer) forgetAfter(ctx context.Context, own ha.TLI, why error) error {
	if !errors.Is(why, postgres.ErrUnreached) {
		return why
	}
	err := s.files.Stop(ctx, false)
	if err == nil {
		err = s.files.Start(ctx, postgres.StartOptions{Forget: own})
	}
	if err != nil {
		return fmt.Errorf("%w, and was not started without it: %w", why, err)
	}
	return fmt.Errorf("%w; it was started without it", why)
}

// checkpoint makes one now. Before a planned stop it returns in a calm moment, if there
// is one soon.
func (s *localServer) checkpoint(ctx context.Context, planned bool) error {
	err := s.sql.Checkpoint(ctx)
	if err != nil || !planned {
		return err
	}
	calm, cancel := context.WithTimeout(ctx, calmWait)
	defer cancel()
	if err := s.sql.WaitQuiet(calm); err != nil {
		s.log.Debug("no calm moment was looked for", "error", err)
	}
	return nil
}

// Close ends the connections.
func (s *localServer) Close() { s.sql.Close() }
