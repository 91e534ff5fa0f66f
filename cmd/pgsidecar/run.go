package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/peers"
)

// newRunCommand returns `run`: one member.
func newRunCommand(a *app) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run one member: this machine's PostgreSQL server and its part in the cluster",
		Long: `Run one member: this machine's PostgreSQL server and its part in the cluster.

SIGTERM and SIGINT hand over (if this member is the primary), stop the server
and end. SIGHUP reads the configuration again. SIGUSR1 ends only the sidecar: the
server runs on, and a sidecar started within the lease (5 s) finds it again; this
is how pgsidecar is upgraded.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := newMember(a, path)
			if err != nil {
				return err
			}
			if err := guard.HideMemory(); err != nil {
				m.log.Warn("a core file of this process would hold its secrets", "error", err)
			}
			return m.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&path, "config", "pg.hcl", "the member's configuration `file`")
	return cmd
}

// member is one running member's parts.
type member struct {
	app    *app
	path   string
	config *config.Config // as the member was started
	log    hclog.Logger
	task   *task // nil outside of Nomad
	// current is the configuration as it was last read: what of it may change while
	// the member runs (config.Reloadable) is taken from here.
	current atomic.Pointer[config.Config]

	cluster  *sessions.Client
	mesh     *peers.Mesh
	guard    *guard.Client
	server   *localServer
	sidecar  *sidecar.Sidecar
	recorder *api.Recorder
	files    followed

	mu      sync.Mutex
	restart *plannedRestart
	history []api.Turn
	changes []json.RawMessage // of the settings
}

func newMember(a *app, path string) (*member, error) {
	cfg, err := config.Load(path, environment())
	if err != nil {
		return nil, reportFaults(a, err)
	}
	m := &member{app: a, path: path, config: cfg, log: newLogger(a, cfg.Log), recorder: api.NewRecorder()}
	m.current.Store(cfg)
	o := sessionsOptions(cfg, m.log)
	o.Requested = m.recorder.ConsulRequest
	if m.task, err = newTask(cfg, m.log); err != nil {
		return nil, err
	}
	if m.cluster, err = sessions.New(o); err != nil {
		return nil, err
	}
	m.mesh, err = peers.New(peers.Options{
		Member: cfg.Member, Cluster: cfg.Cluster, Key: m.peerKey, KeyOf: keyOf(cfg), Now: guard.Now,
		Timeout: cfg.Failover.FailureTimeout, TLS: clientTLS(cfg.API.TLS), Logger: m.log,
	})
	return m, err
}

func newLogger(a *app, cfg config.Log) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Level: hclog.LevelFromString(cfg.Level), JSONFormat: cfg.Format == "json", Output: a.stderr,
		TimeFormat: logTime,
	})
}

func sessionsOptions(cfg *config.Config, log hclog.Logger) sessions.Options {
	return sessions.Options{
		Addresses: cfg.Consul.Addresses, CAFile: cfg.Consul.TLS.CAFile, CertFile: cfg.Consul.TLS.CertFile,
		KeyFile: cfg.Consul.TLS.KeyFile, ServerName: cfg.Consul.TLS.ServerName, Datacenter: cfg.Consul.Datacenter,
		Token: cfg.Consul.Token.Reveal(), TokenFile: cfg.Consul.TokenFile,
		Prefix: cfg.Consul.Prefix, Cluster: cfg.Cluster, Member: cfg.Member, Service: cfg.Service.Name,
		TTL: cfg.Consul.SessionTTL, Now: guard.Now, Logger: log,
	}
}

// clientTLS is how a member reaches the others' APIs; nil: without TLS.
func clientTLS(t config.ServerTLS) *tls.Config {
	return api.ClientTLS(api.TLS{CertFile: t.CertFile, KeyFile: t.KeyFile}, t.Authority())
}

// peerKey is the secret that authenticates the members' streams: the one
// configured, else one that is derived from what all members share already.
func (m *member) peerKey() ([]byte, error) {
	if file := m.config.Peers.KeyFile; file != "" {
		return os.ReadFile(file)
	}
	if !m.config.Peers.Key.Empty() {
		return []byte(m.config.Peers.Key.Reveal()), nil
	}
	password, err := password(m.config.Postgres.Replication)
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
	return "the replication password, of which the members' secret is made,"
}

// policy is the member's own part of what decisions depend on.
func (m *member) policy() ha.Policy {
	c, p := m.current.Load(), sidecar.DefaultPolicy()
	p.Mode, p.Standbys, p.Strict, p.MaxVoters = c.Durability.Mode, c.Durability.Standbys, c.Durability.Strict, c.Durability.MaxVoters
	p.Automatic, p.FailureTimeout, p.Lease = c.Failover.Automatic, c.Failover.FailureTimeout, c.Failover.Lease
	p.HandoverTimeout, p.StopTimeout = c.Failover.HandoverTimeout, c.Postgres.StopTimeout
	p.AgentTimeout, p.ReplicateFrom = c.Failover.AgentTimeout, c.Tags.ReplicateFrom
	p.NoFailover, p.NoSync, p.Priority = c.Tags.NoFailover, c.Tags.NoSync, m.task.priority(c.Tags.Priority)
	return p
}

// run runs the member until it is told to end, or must.
func (m *member) run(asked context.Context) (err error) {
	// What was asked to end must first hand over, so the parts get a context of
	// their own.
	ctx, cancel := context.WithCancel(context.WithoutCancel(asked))
	defer cancel()
	if err := runPromptly(); err != nil {
		m.log.Debug("without short time slices", "error", err)
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	stateDir := m.config.Postgres.StateDir
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	if err := m.task.begin(m.config.Member); err != nil {
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
	if err := m.unique(ctx); err != nil {
		return errors.Join(err, m.endGuard(ctx))
	}
	if m.server, err = newLocalServer(m.config, m.guard, m.log); err != nil {
		return err
	}
	m.server.others = m.otherMembers
	if err := m.follow(m.config); err != nil {
		return err
	}
	m.sidecar, err = sidecar.New(sidecar.Options{
		Member: m.config.Member, Postgres: m.config.Postgres.Advertise, API: m.config.API.Advertise, Version: m.app.version,
		Policy: m.policy(), Cluster: &cluster{Client: m.cluster, member: m}, Peers: mesh{m.mesh}, Guard: guardOf{m.guard},
		Server: m.server, Recorder: m.recorder, Now: guard.Now, Logger: m.log, Ready: m.ready, Calm: newProcessors().calm,
	})
	if err != nil {
		return err
	}
	server, err := m.newAPI()
	if err != nil {
		return err
	}
	if _, err := server.Listen(ctx); err != nil {
		return err
	}
	var beside errgroup.Group
	besideCtx, stopBeside := context.WithCancel(ctx)
	defer stopBeside()
	beside.Go(func() error { m.files.run(besideCtx); return nil })
	stopSignals := m.handleSignals(asked, cancel)
	defer stopSignals()
	beside.Go(func() error { return server.Run(besideCtx) })
	beside.Go(func() error { m.keepHistory(besideCtx); return nil })
	err = m.sidecar.Run(ctx)
	stopBeside()
	err = errors.Join(err, beside.Wait())
	var exit *sidecar.ExitError
	switch {
	case !errors.As(err, &exit):
		return err
	case exit.Code != 0:
		m.log.Error("the member ends", "why", exit.Why)
		return exitStatus(exit.Code)
	}
	m.log.Info("the member ends", "why", exit.Why)
	return m.endGuard(ctx)
}

// endGuard ends the guard of a server that was stopped.
func (m *member) endGuard(ctx context.Context) error {
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
func (m *member) handleSignals(asked context.Context, detach context.CancelFunc) func() {
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
func (m *member) reload() error {
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
	m.log.Info("configuration reloaded")
	return nil
}

// ready is called once, when the member first has a role.
func (m *member) ready() {
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

// password reads an account's password: from its file, which may have changed.
func password(account config.Account) (string, error) {
	if account.PasswordFile == "" {
		return account.Password.Reveal(), nil
	}
	return config.ReadSecretFile(account.PasswordFile)
}
