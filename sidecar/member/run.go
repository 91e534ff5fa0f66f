package member

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/availability"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/hooks"
	"github.com/pgsidecar/pgsidecar/sidecar/peers"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
	"github.com/pgsidecar/pgsidecar/sidecar/proxy"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
	"github.com/pgsidecar/pgsidecar/sidecar/trace"
)

// parts are what works beside the shell, on the local server.
type parts struct {
	hooks  *hooks.Dispatcher
	saving *saving
	traces *trace.Exporter // nil: spans are not exported
	reads  reads
	apart  string // postgres.Apart, at the start
}

// Member is one running member's parts.
type Member struct {
	version  string // of the program
	path     string
	config   *config.Config // as the member was started
	log      hclog.Logger
	task     *task // nil outside of Nomad
	takeOver bool  // TakeOver was called
	// current is the configuration as it was last read: what of it may change while
	// the member runs (config.Reloadable) is taken from here.
	current atomic.Pointer[config.Config]

	cluster  *sessions.Client
	mesh     *peers.Mesh
	guard    *guard.Client
	server   *localServer
	other    *site // that this cluster follows, or is followed by
	sidecar  *sidecar.Sidecar
	recorder *api.Recorder
	parts
	files followed

	settings     settings.Reader // of what the cluster stores
	keepSettings settingsKeeper

	mu sync.Mutex // guards what follows
	accounts
}

// accounts are what the member tells of the past.
type accounts struct {
	history []failover.Record
	changes []json.RawMessage // of the settings
	outages []availability.Outage
	// unreadOutages is how many lines of the journals of outages are damaged.
	unreadOutages int
	// planFailed says why the last planned switchover was not done; empty: it was.
	planFailed string
}

// New reads the configuration and makes the member's parts. It starts nothing: what it
// refuses, `config validate` does too (Validate).
func New(path, version string, log io.Writer) (*Member, error) {
	cfg, err := config.Load(path, environment())
	if err != nil {
		return nil, err
	}
	m := &Member{version: version, path: path, config: cfg, log: process.Logger(cfg.Log, log), recorder: api.NewRecorder()}
	m.current.Store(cfg)
	m.keepSettings.woken = make(chan struct{}, 1)
	m.settings.Wrong = func(err error) {
		m.log.Error("something is wrong with the cluster's stored settings; the rest of them holds", "error", err)
	}
	o := process.Consul(cfg, m.log)
	o.Requested, o.Gone = m.recorder.ConsulRequest, m.gone
	if m.task, err = newTask(cfg, m.log); err != nil {
		return nil, err
	}
	if m.cluster, err = sessions.New(o); err != nil {
		return nil, asFault(path, err)
	}
	m.mesh, err = peers.New(peers.Options{
		Member: cfg.Member, Cluster: cfg.Cluster, Key: m.peerKey, KeyOf: keyOf(cfg), Now: guard.Now,
		Timeout: cfg.Failover.FailureTimeout, SuspectAfter: cfg.Failover.FailureTimeoutMin, TLS: client.TLS(cfg.API.TLS), Logger: m.log,
	})
	if err != nil {
		return nil, asFault(path, err)
	}
	if _, err := postgres.New(serverOptions(cfg, nil, m.log)); err != nil {
		return nil, asFault(path, err)
	}
	if err := postgres.CheckMounts(cfg.Postgres.StateDir, cfg.Postgres.DataDir); err != nil {
		return nil, asFault(path, err)
	}
	if err := foundWithoutConfiguration(cfg.Postgres.StateDir, cfg.Postgres.DataDir); err != nil {
		return nil, err
	}
	if err := proxy.CheckBuiltins(cfg); err != nil {
		return nil, asFault(path, err)
	}
	return m, asFault(path, m.follow(cfg))
}

// peerKey is the secret that authenticates the members' streams: the one
// configured, else one that is derived from what all members share already.
func (m *Member) peerKey() ([]byte, error) {
	if file := m.config.Peers.KeyFile; file != "" {
		return os.ReadFile(file)
	}
	if !m.config.Peers.Key.Empty() {
		return []byte(m.config.Peers.Key.Reveal()), nil
	}
	password, err := process.Password(m.config.Postgres.Replication)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, []byte(password))
	fmt.Fprintf(mac, "pgsidecar peers of %s", m.config.Cluster)
	return mac.Sum(nil), nil
}

// keyOf says what peerKey is made of.
func keyOf(cfg *config.Config) string {
	switch {
	case cfg.Peers.KeyFile != "":
		return "the key in " + cfg.Peers.KeyFile
	case !cfg.Peers.Key.Empty():
		return "peers.key"
	}
	return "the members' shared secret, which is derived from the replication password unless peers.key is set,"
}

// policy is the member's own part of what decisions depend on.
func (m *Member) policy() ha.Policy {
	c, p := m.current.Load(), settings.Default()
	p.Mode, p.Standbys, p.Strict, p.MaxVoters = c.Durability.Mode, c.Durability.Standbys, c.Durability.Strict, c.Durability.MaxVoters
	p.Zones, p.Zone = c.Durability.Zones, c.Tags.Own[ha.ZoneTag]
	p.Automatic, p.FailureTimeout, p.Lease = c.Failover.Automatic, c.Failover.FailureTimeout, c.Failover.Lease
	p.HandoverTimeout, p.StopTimeout = c.Failover.HandoverTimeout, c.Postgres.StopTimeout
	p.AgentTimeout, p.ReplicateFrom = c.Failover.AgentTimeout, c.Tags.ReplicateFrom
	p.MaxLag, p.DistrustRefusal = int64(c.Failover.MaxLag), !c.Failover.RefusedIsDead
	p = c.StandbyOf.Over(p)
	p.NoFailover, p.NoSync, p.Priority, p.SyncPriority = c.Tags.NoFailover, c.Tags.NoSync, c.Tags.Priority, c.Tags.SyncPriority
	return p
}

// makeState makes the state directory, PostgreSQL's user's from its first moment.
func (m *Member) makeState() error {
	server, err := postgres.New(serverOptions(m.config, nil, m.log))
	if err != nil {
		return err
	}
	return server.MakeState()
}

// Run runs the member until it is told to end, or must.
func (m *Member) Run(asked context.Context) (err error) {
	// What was asked to end must first hand over, so the parts get a context of
	// their own.
	ctx, cancel := context.WithCancel(context.WithoutCancel(asked))
	defer cancel()
	if err := guard.HideMemory(); err != nil {
		m.log.Warn("a core file of this process would hold its secrets", "error", err)
	}
	if err := process.RequestShortSlices(); err != nil {
		m.log.Debug("without short time slices", "error", err)
	}
	exe, err := os.Executable()
	if err == nil {
		err = m.makeState()
	}
	if err != nil {
		return fmt.Errorf("prepare to run: %w", err)
	}
	stateDir := m.config.Postgres.StateDir
	m.keepSettings.open(stateDir, m)
	if err := m.begin(); err != nil {
		return err
	}
	defer m.task.watchStop(asked)()
	m.guard, err = guard.Attach(ctx, guard.ClientOptions{
		StateDir: stateDir, Executable: exe, Args: []string{"guard", "-state-dir", stateDir}, Logger: m.log.Named("guard"),
	})
	if err != nil {
		return fmt.Errorf("start the guard: %w", err)
	}
	defer m.guard.Close()
	if err := m.refuseDuplicateName(ctx); err != nil {
		return errors.Join(err, m.endGuard(ctx))
	}
	if m.server, err = newLocalServer(m.config, m.guard, m.log); err != nil {
		return err
	}
	if err := m.newParts(); err != nil {
		return err
	}
	m.sidecar, err = sidecar.New(m.options())
	if err != nil {
		return err
	}
	m.server.stuck = m.restartStuck
	server, err := m.newAPI()
	if err == nil {
		_, err = server.Listen(ctx)
	}
	if err != nil {
		return err
	}
	var beside errgroup.Group
	besideCtx, stopBeside := context.WithCancel(ctx)
	defer stopBeside()
	beside.Go(func() error { m.files.run(besideCtx); return nil })
	stopSignals := m.handleSignals(asked, cancel)
	defer stopSignals()
	beside.Go(func() error { return server.Run(besideCtx) })
	beside.Go(func() error { process.ReapOrphans(besideCtx); return nil })
	beside.Go(func() error { m.keepHistory(besideCtx); return nil })
	beside.Go(func() error { m.keepPlans(besideCtx); return nil })
	beside.Go(func() error { m.keepSettings.run(besideCtx, m); return nil })
	m.runWatchers(besideCtx, &beside)
	m.runBackups(besideCtx, &beside)
	err = m.sidecar.Run(ctx)
	m.server.Close()
	stopBeside()
	err = errors.Join(err, beside.Wait())
	var exit *sidecar.ExitError
	switch {
	case !errors.As(err, &exit):
		return err
	case exit.Code != 0:
		m.log.Error("the member ends", "why", exit.Why)
		return err
	}
	m.log.Info("the member ends", "why", exit.Why)
	return m.endGuard(ctx)
}

// newParts makes what works beside the shell, on the local server.
func (m *Member) newParts() (err error) {
	if m.hooks, err = newHooks(m, m.config); err != nil {
		return err
	}
	if m.traces, err = newTraces(m); err != nil {
		return err
	}
	m.server.others, m.server.hooks = m.seePeers, m.hooks
	m.other = newSite(m)
	m.server.siteSlots = m.other.slots
	if m.saving, err = newSaving(m); err == nil && m.saving.archive != nil {
		m.server.copies.engine = m.saving.archive.engine
	}
	return err
}

// options are what the shell is made of.
func (m *Member) options() sidecar.Options {
	return sidecar.Options{
		Member: m.config.Member, Postgres: m.config.Postgres.Advertise, API: m.config.API.Advertise, Version: m.version,
		Policy: m.policy(), Priority: m.task.priority, HangAfter: m.config.Failover.FailureTimeoutMin,
		Cluster: &cluster{Client: m.cluster, member: m}, Peers: mesh{m.mesh}, Guard: guardOf{m.guard}, Server: m.server, Site: m.other,
		Recorder: m.recorder, Now: guard.Now, Logger: m.log, Ready: m.ready, OnIdle: newProcessors().calm, Describe: m.describe,
	}
}

// endGuard ends the guard of a server that was stopped.
func (m *Member) endGuard(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := m.guard.Shutdown(ctx); err != nil {
		m.log.Warn("the guard did not end; it ends by itself when nobody needs it", "error", err)
	}
	return nil
}

// handleSignals turns the end of asked (SIGTERM, SIGINT) into a handover,
// SIGHUP into a reload and SIGUSR1 into an end of the sidecar alone. The
// returned function ends it.
func (m *Member) handleSignals(asked context.Context, detach context.CancelFunc) func() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		asked := asked.Done()
		for {
			select {
			case <-done:
				return
			case <-asked:
				m.log.Info("asked to stop: hand over, stop the server, end")
				m.sidecar.Shutdown()
				asked = nil
			case sig := <-signals:
				if sig == syscall.SIGUSR1 {
					m.log.Info("asked to end the sidecar alone: the server runs on for a lease")
					detach()
					continue
				}
				m.reload() //nolint:errcheck // it has logged it, and nobody else listens
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
		<-ended
	}
}

// reload reads the configuration again. A fault changes nothing.
func (m *Member) reload() error {
	next, err := config.Load(m.path, environment())
	if err != nil {
		m.log.Error("the configuration was not reloaded; the old one holds", "error", err)
		return fmt.Errorf("the configuration was not reloaded; the old one holds: %w", err)
	}
	if blocks := m.config.NeedsRestart(next); len(blocks) > 0 {
		m.log.Warn("part of the new configuration needs a restart of the sidecar", "blocks", blocks)
	}
	before := m.current.Swap(next)
	m.log.SetLevel(hclog.LevelFromString(next.Log.Level))
	m.server.reconfigure(next)
	m.sidecar.SetPolicy(m.policy())
	if !sameFiles(before, next) {
		if err := m.follow(next); err != nil {
			m.log.Error("templates and proxies are followed as before", "error", err)
		}
	}
	if err := m.hooks.Set(next.Hooks, next.Notices); err != nil {
		m.log.Error("the previous hooks and notices go on", "error", err)
	}
	m.log.Info("configuration reloaded")
	return nil
}

// ready is called once, when the member first has a role.
func (m *Member) ready() {
	notifySystemd()
	if err := guard.ReleaseProgram(); err != nil {
		m.log.Debug("memory that only the start needed is not given back", "error", err)
	}
}

// notifySystemd tells systemd that the member is ready, if systemd asks
// (sd_notify(3)).
func notifySystemd() {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return // systemd times out and says so
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("READY=1\nMAINPID=" + strconv.Itoa(os.Getpid())))
}
