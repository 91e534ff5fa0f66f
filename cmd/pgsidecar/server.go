package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
)

// localServer is the member's PostgreSQL server: its files and its process
// (package postgres, through the guard) and its SQL (package checks).
type localServer struct {
	config atomic.Pointer[config.Config] // as it was last read
	log    hclog.Logger
	files  *postgres.Server
	sql    *checks.Conn

	mu     sync.Mutex
	hidden bool
	sight  checks.Sight // the last
	// slots are other programs', as the cluster's settings name them; at is how far
	// the physical ones have come here.
	slots map[string]sidecar.Slot
	at    []checks.SlotAt
	weak  []string    // settings by which commits are answered too soon, as last found
	role  checks.Role // that replicates, as this process last made it; guarded by mu
	// rewound: the server still needs what its rewind's source has.
	rewound bool
	// promotedAt is when this process last promoted the server.
	promotedAt time.Time

	// others tells what is known of the other members; set before the sidecar runs.
	others func() others
	// cloneFrom is the member that was asked for as the next clone's source.
	cloneFrom string // guarded by mu
	// copying is how far the present clone is; nil: there is none.
	copying atomic.Pointer[api.Progress]
}

// lastSight is what was last seen by SQL.
func (s *localServer) lastSight() checks.Sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sight
}

var _ sidecar.Server = (*localServer)(nil)

func newLocalServer(cfg *config.Config, g *guard.Client, log hclog.Logger) (*localServer, error) {
	pg := cfg.Postgres
	files, err := postgres.New(postgres.Options{
		Member: cfg.Member, BinDir: pg.BinDir, DataDir: pg.DataDir, StateDir: pg.StateDir, User: pg.User,
		Listen: pg.Listen, Advertise: pg.Advertise,
		SuperuserName: pg.Superuser.Name, SuperuserPassword: func() (string, error) { return password(pg.Superuser) },
		ReplicationName: pg.Replication.Name, ReplicationPassword: func() (string, error) { return password(pg.Replication) },
		Parameters: pg.Parameters, HBA: pg.HBA, Ident: pg.Ident, TLS: postgres.TLS(pg.TLS), WALReceiverTimeout: cfg.Failover.FailureTimeout,
		WALSegmentMB: walSegmentMB, Guard: launcher{g}, Logger: log.Named("postgres"),
	})
	if err != nil {
		return nil, err
	}
	sql, err := checks.New(checks.Options{
		Socket: files.SocketDir(), Port: files.Port(), User: pg.Superuser.Name,
		Password: func() (string, error) { return password(pg.Superuser) },
		Member:   cfg.Member, Logger: log.Named("checks"), Now: guard.Now,
	})
	if err != nil {
		return nil, err
	}
	s := &localServer{log: log, files: files, sql: sql}
	s.config.Store(cfg)
	return s, nil
}

// walSegmentMB is the size of a new cluster's WAL segments. A promotion copies
// and syncs a whole one: with 4 MiB it takes 19 ms, with PostgreSQL's 16 MiB 34
// (measured on two cores). Smaller ones gain nothing more.
const walSegmentMB = 4

// launcher lets package postgres start and stop the server through the guard.
type launcher struct{ *guard.Client }

var _ postgres.Guard = launcher{}

// Start translates the command.
func (l launcher) Start(ctx context.Context, cmd postgres.Command) error {
	return l.Client.Start(ctx, guard.Command{
		Path: cmd.Path, Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir, UID: cmd.UID, GID: cmd.GID, LogFile: cmd.LogFile,
	})
}

// Inspect fills in what the files say.
func (s *localServer) Inspect(ctx context.Context, v *ha.Server) error {
	f, err := s.files.Inspect(ctx)
	if err != nil {
		return err
	}
	v.DataDir, v.Problem, v.SystemID, v.WasPrimary = f.Data, f.Problem, f.SystemID, f.WasPrimary
	v.CleanStop, v.Position, v.Promise, v.Fenced, v.Founding = f.CleanStop, f.Position, f.Promise, f.Fenced, f.Founding
	v.Rewound = f.Rewound
	s.mu.Lock()
	s.rewound = f.Rewound != ""
	s.mu.Unlock()
	s.setHidden(f.Hidden)
	return nil
}

func (s *localServer) setHidden(hidden bool) {
	s.mu.Lock()
	s.hidden = hidden
	s.mu.Unlock()
}

// Look fills in what SQL says.
func (s *localServer) Look(ctx context.Context, v *ha.Server) error {
	sight, err := s.sql.Look(ctx)
	if err != nil {
		if errors.Is(err, checks.ErrNotReady) || errors.Is(err, checks.ErrStopped) {
			return fmt.Errorf("%w: %w", sidecar.ErrNotReady, err)
		}
		return err
	}
	v.InRecovery, v.Receiving, v.Upstream = ha.Known(sight.InRecovery), ha.Known(sight.Receiving), sight.Upstream
	v.Position, v.Checkpointed, v.Sync, v.PendingRestart = sight.Position, sight.Checkpointed, sight.Sync, sight.PendingRestart
	v.Settled, v.SyncUnsure = sight.Settled && s.files.IsShut(), sight.SyncUnsure
	v.RecoveryEnd, v.SystemID, v.Walsenders, v.Replayed = sight.RecoveryEnd, sight.SystemID, sight.Walsenders, sight.Replayed
	s.mu.Lock()
	v.Hidden = s.hidden && !sight.InRecovery
	s.sight = sight
	rewound := s.rewound
	s.rewound = false
	s.mu.Unlock()
	if rewound {
		return s.files.Consistent()
	}
	return nil
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

// Starved looks at the startup process.
func (s *localServer) Starved() bool { return s.files.Starved() }

// ensureRoles makes the role that replicates, with its present password.
func (s *localServer) ensureRoles(ctx context.Context) error {
	account := s.config.Load().Postgres.Replication
	secret, err := password(account)
	if err != nil {
		return err
	}
	return s.ensureRole(ctx, checks.Role{Name: account.Name, Password: secret})
}

func (s *localServer) ensureRole(ctx context.Context, role checks.Role) error {
	if err := s.sql.EnsureRoles(ctx, []checks.Role{role}); err != nil {
		return err
	}
	s.mu.Lock()
	s.role = role
	s.mu.Unlock()
	return nil
}

// keepRole gives the role a password that has changed since it was last made: replicas
// log in with the new one from their next connection on. To compare takes the server's
// iterations of SCRAM, so that is done once for each password.
func (s *localServer) keepRole(ctx context.Context) error {
	account := s.config.Load().Postgres.Replication
	secret, err := password(account)
	if err != nil {
		return err
	}
	role := checks.Role{Name: account.Name, Password: secret}
	s.mu.Lock()
	kept := s.role == role
	s.mu.Unlock()
	if kept {
		return nil
	}
	return s.ensureRole(ctx, role)
}

// SyncInEffect returns the flush position after the setting was in effect.
func (s *localServer) SyncInEffect(ctx context.Context) (ha.LSN, error) {
	return s.sql.SyncInEffect(ctx)
}

// Init makes a new data directory.
func (s *localServer) Init(ctx context.Context) error { return s.files.Init(ctx) }

// Clone copies the source's data directory, and logs how far it has come.
func (s *localServer) Clone(ctx context.Context, from sidecar.Source) error {
	from = s.cloneSource(from)
	source, err := sourceOf(from)
	if err != nil {
		return err
	}
	defer s.copying.Store(nil)
	err = s.files.Clone(ctx, source, s.progress("cloning", from.Member))
	if err == nil {
		s.cloneNextFrom("")
	}
	return err
}

// progressEvery is how often a copy that takes long is heard of.
const progressEvery = 5 * time.Second

// progress returns a function that shows and logs how far a copy has come.
func (s *localServer) progress(what, from string) func(done, total int64) {
	var last time.Time
	s.copying.Store(&api.Progress{What: what, From: from})
	return func(done, total int64) {
		s.copying.Store(&api.Progress{What: what, From: from, Done: done, Total: total})
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

func sourceOf(from sidecar.Source) (postgres.Source, error) {
	host, port, err := net.SplitHostPort(from.Address)
	if err != nil {
		return postgres.Source{}, fmt.Errorf("address of %s: %w", from.Member, err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return postgres.Source{}, fmt.Errorf("port of %s: %w", from.Member, err)
	}
	return postgres.Source{Member: from.Member, Host: host, Port: number}, nil
}

// Rewind brings the data directory onto the source's history.
func (s *localServer) Rewind(ctx context.Context, from sidecar.Source) error {
	source, err := sourceOf(from)
	if err != nil {
		return err
	}
	done, err := s.files.Rewind(ctx, source)
	if err == nil {
		s.log.Info("rewound", "from", from.Member, "result", fmt.Sprintf("%+v", done))
	}
	return err
}

// Discard removes what an operation left half made.
func (s *localServer) Discard(ctx context.Context) error { return s.files.Discard(ctx) }

// Start starts the server.
func (s *localServer) Start(ctx context.Context, how sidecar.Start) error {
	options := postgres.StartOptions{Primary: how.Primary, Hidden: how.Hidden, Sync: how.Sync}
	if how.From.Member != "" {
		source, err := sourceOf(how.From)
		if err != nil {
			return err
		}
		if err := s.files.Promise(how.Term, false); err != nil {
			return err
		}
		options.Upstream = postgres.Upstream{Member: source.Member, ConnInfo: s.conninfo(source), Slot: checks.SlotName(s.config.Load().Member)}
	}
	if how.Settings != nil {
		if err := s.files.Preset(ctx, s.over(*how.Settings)); err != nil {
			s.log.Error("the server starts without the cluster's settings; the ones before hold", "error", err)
		}
	}
	err := s.files.Start(ctx, options)
	if err == nil {
		s.setHidden(how.Hidden && how.Primary)
	}
	return err
}

// damage are words of a server whose data is damaged, or is no prefix of the
// cluster's history (PostgreSQL's xlog.c, xlogrecovery.c and slru.c).
var damage = [...]string{
	"could not locate a valid checkpoint record", "could not locate required checkpoint record", "invalid primary checkpoint",
	"requested timeline", "is not a child of this server's history", "WAL ends before", "invalid magic number",
	"could not access status of transaction", "control file", "corrupt", "PANIC",
}

// reconfigure replaces the configuration with one that was read again.
func (s *localServer) reconfigure(cfg *config.Config) {
	s.config.Store(cfg)
}

// Diagnose says why the server ended before it was ready.
func (s *localServer) Diagnose() (words string, damaged bool) {
	words = s.files.LastWords()
	for _, d := range damage {
		damaged = damaged || strings.Contains(words, d)
	}
	return words, damaged && !strings.Contains(words, "No space left on device")
}

// What a planned stop waits for: holdSettles is how long after the withdrawal
// of the registration proxies need to hold their clients (Consul's catalog,
// HAProxy's and PgBouncer's command); what begins later is of clients that
// nobody holds, or of a proxy that is late. transactionsEnd is how long what began
// before may go on; lullWait, how long a moment is looked for then in which nobody has
// anything open or is logging in.
const (
	holdSettles     = 50 * time.Millisecond
	transactionsEnd = 500 * time.Millisecond
	lullWait        = 50 * time.Millisecond
)

// calmWait is how long a calm moment is waited for after the checkpoint before a planned
// stop; clients go on meanwhile.
const calmWait = 250 * time.Millisecond

// Stop stops the server.
func (s *localServer) Stop(ctx context.Context, how sidecar.Stop) error {
	if how.Planned {
		work, cancel := context.WithTimeout(ctx, transactionsEnd)
		err := s.sql.Drain(work, holdSettles)
		cancel()
		switch {
		case err == nil:
			if err := s.lull(ctx); err != nil {
				s.log.Debug("no lull was looked for", "error", err)
			}
		case how.Yield && errors.Is(err, checks.ErrTransactions):
			return fmt.Errorf("%w, %w", err, sidecar.ErrTransactions)
		default:
			s.log.Warn("transactions are open, and will be cut off", "error", err)
		}
	}
	return s.files.Stop(ctx, how.Immediate)
}

// lull waits, not for long, for a moment in which no client has anything open and nobody
// is logging in: a proxy that is late lets in clients until it holds them.
func (s *localServer) lull(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lullWait)
	defer cancel()
	return s.sql.Lull(ctx, func() bool { return len(s.files.LoggingIn()) == 0 })
}

// Fence promises the term, shuts the gate, and stops receiving (S2).
func (s *localServer) Fence(ctx context.Context, term uint64, sync ha.SyncSetting) (ha.Position, error) {
	if err := s.files.Promise(term, true); err != nil {
		return ha.Position{}, err
	}
	if err := s.files.Shut(); err != nil {
		return ha.Position{}, err
	}
	return s.sql.Fence(ctx, sync)
}

// Follow promises the term, admits the source, and receives from it. A server that
// knows of a timeline which neither its log nor its leader's came to is started without
// it; the next attempt then finds nothing in its way.
func (s *localServer) Follow(ctx context.Context, how sidecar.Follow) error {
	source, err := sourceOf(how.From)
	if err != nil {
		return err
	}
	if err := s.files.CheckLine(how.Own, how.Leader); err != nil {
		return s.forgetAfter(ctx, how.Own, err)
	}
	if err := s.files.Promise(how.Term, false); err != nil {
		return err
	}
	if err := s.files.Admit(how.From.Member); err != nil {
		return err
	}
	return s.sql.Follow(ctx, s.conninfo(source), checks.SlotName(s.config.Load().Member), "")
}

// conninfo is how the server reaches another member's.
func (s *localServer) conninfo(source postgres.Source) string {
	return checks.ConnInfo(checks.Upstream{
		Service: postgres.Service(source.Member), Host: source.Host, Port: source.Port, User: s.config.Load().Postgres.Replication.Name,
		Passfile: s.files.Passfile(), Self: s.config.Load().Member, Timeout: s.config.Load().Failover.FailureTimeout, More: postgres.TLS(s.config.Load().Postgres.TLS).Conninfo(),
	})
}

// SetSync makes the setting.
func (s *localServer) SetSync(ctx context.Context, set ha.SyncSetting) (ha.LSN, error) {
	return s.sql.SetSync(ctx, set)
}

// Promote leaves recovery on a timeline that no other term has. A server that knows of
// a later timeline which its log has not come to is started without it; the next
// attempt then finds nothing in its way.
func (s *localServer) Promote(ctx context.Context, timeline ha.TLI) (ha.Position, error) {
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

// Unhide lets clients in.
func (s *localServer) Unhide(ctx context.Context) error {
	err := s.files.Unhide(ctx)
	if err == nil {
		s.setHidden(false)
	}
	return err
}

// Checkpoint makes one now. Before a planned stop it returns in a calm moment, if there
// is one soon.
func (s *localServer) Checkpoint(ctx context.Context, planned bool) error {
	err := s.sql.Checkpoint(ctx)
	if err != nil || !planned {
		return err
	}
	calm, cancel := context.WithTimeout(ctx, calmWait)
	defer cancel()
	if err := s.sql.Calm(calm); err != nil {
		s.log.Debug("no calm moment was looked for", "error", err)
	}
	return nil
}

// Close ends the connections.
func (s *localServer) Close() { s.sql.Close() }
