package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/templates"
)

// newProxyCommand returns `proxy`: what runs beside an application.
func newProxyCommand(a *app) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "proxy",
		Short: "Follow the cluster: switch HAProxy, write configuration files",
		Long: `Follow the cluster: switch HAProxy by its stats socket at each change of roles, and
write the configured files when what they say has changed. It never takes part in
elections, and while it is away HAProxy goes by its own checks. In a planned
switchover it makes new clients of HAProxy and all of PgBouncer wait.

With haproxy.master_socket ("haproxy -W -S PATH"; Debian's is /run/haproxy-master.sock)
it reloads HAProxy itself when a member has come or gone, and ends sessions that a
reload left in an old worker when their primary is deposed.

With api.listen in its configuration it serves /status, /metrics, /readiness and
/liveness. Its Consul token needs only to read: key_prefix "pgsidecar/CLUSTER/",
service "SERVICE", node_prefix "", and whatever else its templates ask for.

SIGTERM and SIGINT end it; files and HAProxy stay as they are.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadEither(a, path)
			if err != nil {
				return err
			}
			return runProxy(cmd.Context(), cfg, newLogger(a, cfg.Log))
		},
	}
	cmd.Flags().StringVar(&path, "config", "proxy.hcl", "the proxy's configuration `file`, or a member's")
	cmd.AddCommand(newRescueCommand(a))
	return cmd
}

// loadEither reads a proxy's configuration or a member's. It reports the faults
// of the kind that has fewer.
func loadEither(a *app, path string) (*config.Config, error) {
	cfg, err := config.LoadProxy(path, environment())
	if err == nil {
		return cfg, nil
	}
	member, memberErr := config.Load(path, environment())
	if memberErr == nil {
		return member, nil
	}
	var asProxy, asMember *config.Error
	if errors.As(err, &asProxy) && errors.As(memberErr, &asMember) && len(asMember.Diagnostics) < len(asProxy.Diagnostics) {
		err = memberErr
	}
	return nil, reportFaults(a, err)
}

// runProxy follows the cluster until the context ends.
func runProxy(ctx context.Context, cfg *config.Config, log hclog.Logger) error {
	if err := guard.HideMemory(); err != nil {
		log.Warn("a core file of this process would hold its secrets", "error", err)
	}
	client, err := sessions.New(sessionsOptions(cfg, log))
	if err != nil {
		return err
	}
	f, err := newFollower(cfg, client, log)
	if err != nil {
		return err
	}
	if err := runPromptly(); err != nil {
		log.Debug("without short time slices", "error", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	if cfg.API.Listen != "" {
		server, err := listenProxy(ctx, cfg.API.Listen, f, log)
		if err != nil {
			return err
		}
		all.Go(func() { server.run(ctx) })
	}
	all.Go(func() { client.Follow(ctx, f.wake) }) //nolint:errcheck // it ends with ctx
	log.Info("following the cluster", "cluster", cfg.Cluster, "service", cfg.Service.Name)
	f.run(ctx)
	return nil
}

// staleAfter is how old the newest successful read of the record may be before
// HAProxy is left to its own checks. Quiet watches read once in 10 s.
const staleAfter = 25 * time.Second

// follower turns what is known of Consul into topologies, and hands each new
// one to the templates' agent.
type follower struct {
	config *config.Config
	log    hclog.Logger
	client *sessions.Client
	reader *sessions.Reader
	agent  *templates.Agent
	// changed has room for one: the client's view has changed.
	changed chan struct{}

	last    templates.Topology
	given   bool // last was handed on, and has not been released since
	problem string

	lags     lags
	wantLags bool // a template does
	known    knowledge
	recalled bool   // last is of before this process
	unsaved  string // why known cannot be kept
}

// newFollower makes what the configuration's template, haproxy and pgbouncer
// blocks ask for. The client is run by the caller, with wake to be called after
// each change of its view.
func newFollower(cfg *config.Config, client *sessions.Client, log hclog.Logger) (*follower, error) {
	settings, err := templateSettings(cfg)
	if err != nil {
		return nil, err
	}
	files, err := templateFiles(cfg, settings)
	if err != nil {
		return nil, err
	}
	f := &follower{config: cfg, log: log.Named("proxy"), client: client, changed: make(chan struct{}, 1), known: newKnowledge(cfg),
		lags: lags{config: cfg, log: log.Named("proxy")}, wantLags: wantsLags(files)}
	f.reader = client.NewReader(func() { f.agent.Refresh() })
	o := templates.AgentOptions{Files: files, Settings: settings, Env: templates.Env{Catalog: catalog{f.reader}}, Logger: log}
	if h := settings.HAProxy; h.Socket != "" {
		proxy, err := templates.NewHAProxy(templates.HAProxyOptions{
			Socket: h.Socket, AgentSocket: h.AgentBind, MasterSocket: cfg.HAProxy.MasterSocket, PrimaryBackend: h.PrimaryBackend, ReplicaBackend: h.ReplicaBackend, Checks: h.Checks(),
			PrimaryTakesReads: cfg.HAProxy.PrimaryTakesReads, Logger: log,
		})
		if err != nil {
			return nil, err
		}
		o.Proxies = append(o.Proxies, proxy)
		for i := range files {
			if slices.ContainsFunc(cfg.Templates, func(t config.Template) bool { return t.Name == files[i].Name && cfg.Reloads(t) }) {
				files[i].Reload = proxy
			}
		}
	}
	if cfg.PgBouncer.Address != "" {
		bouncer, err := newBouncer(cfg, log)
		if err != nil {
			return nil, err
		}
		o.Bouncers = append(o.Bouncers, bouncer)
	}
	f.agent, err = templates.NewAgent(o)
	return f, err
}

// wake says that the client's view has changed. It returns at once.
func (f *follower) wake() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// run follows the cluster until the context ends, and returns when all that it
// began has ended.
func (f *follower) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { f.agent.Run(ctx) })  //nolint:errcheck // it ends with ctx
	all.Go(func() { f.reader.Run(ctx) }) //nolint:errcheck // it ends with ctx
	if f.wantLags {
		all.Go(func() { f.lags.run(ctx, f.client.View, f.wake) })
	}
	tick := time.NewTicker(time.Second) // a view also grows old
	defer tick.Stop()
	f.recall()
	late := time.NewTimer(recallAfter)
	defer late.Stop()
	for {
		f.see(f.client.View(), guard.Now())
		select {
		case <-ctx.Done():
			return
		case <-f.changed:
		case <-tick.C:
		case <-late.C:
			f.rescueFiles()
		}
	}
}

// wantsFollower reports whether the configuration has something that follows the
// topology.
func wantsFollower(cfg *config.Config) bool {
	return len(cfg.Templates) > 0 || cfg.HAProxy.Socket != "" || cfg.PgBouncer.Address != ""
}

// newBouncer makes what the pgbouncer block asks for.
func newBouncer(cfg *config.Config, log hclog.Logger) (*templates.PgBouncer, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	address := cfg.PgBouncer.Address
	if strings.HasPrefix(address, "/") && !strings.Contains(address, ":") {
		address += ":6432" // PgBouncer's default port names the socket in the directory
	}
	return templates.NewPgBouncer(templates.PgBouncerOptions{
		Address: address, User: cfg.PgBouncer.Account.Name, Database: cfg.PgBouncer.Database, Logger: log,
		Password: func() (string, error) { return password(cfg.PgBouncer.Account) },
		Rescue:   []string{exe, "proxy", rescueCommand},
	})
}

// rescueCommand is what pgsidecar starts itself by, before it makes PgBouncer's
// clients wait.
const rescueCommand = "rescue"

// newRescueCommand returns the command for the process that lets PgBouncer's
// clients go on if its parent dies. People have no use for it.
func newRescueCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    rescueCommand,
		Short:  "Let PgBouncer's clients go on if the parent process dies (started by pgsidecar itself)",
		Hidden: true,
		Args:   noArgs,
		RunE:   func(*cobra.Command, []string) error { return templates.Rescue(a.stdin, a.stdout) },
	}
}

// see takes the newest view. It is called after each change, and now and then.
func (f *follower) see(v sessions.View, now ha.Instant) {
	if !v.Consul.SeenAt.Within(staleAfter, now) || v.Consul.Broken != "" {
		if f.given {
			f.log.Warn("the cluster's record is not current: haproxy goes by its own checks", "error", v.Err, "broken", v.Consul.Broken)
			f.agent.Release()
			f.given = false
		}
		return
	}
	if !v.Consul.Record.Exists() || v.Members == nil {
		return // no cluster yet, or its members have not been read: never an empty file
	}
	t, err := topology(f.config, v, f.last, f.lags.get())
	f.report(err)
	if f.given && reflect.DeepEqual(t, f.last) {
		return
	}
	f.last, f.given, f.recalled = t, true, false
	f.agent.Update(t)
	f.remember(v.Consul.Record)
	primary := ""
	if t.Primary != nil {
		primary = t.Primary.Name
	}
	f.log.Debug("topology changed", "term", t.Term, "phase", string(t.Phase), "primary", primary, "replicas", len(t.Replicas), "held", t.Held)
}

// report logs what is wrong with registrations, once.
func (f *follower) report(err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if problem != f.problem && problem != "" {
		f.log.Error("a registration is left out", "error", problem)
	}
	f.problem = problem
}

func topology(cfg *config.Config, v sessions.View, prior templates.Topology, lags map[string]uint64) (templates.Topology, error) {
	src := templates.Source{Cluster: cfg.Cluster, Service: cfg.Service.Name, Record: v.Consul.Record, Prior: prior, Lags: lags}
	for _, m := range v.Members {
		src.Registered = append(src.Registered, templates.Registration{
			Name: m.Name, Postgres: m.Postgres, API: m.API, Tags: m.Tags, Status: m.Status, Meta: m.Meta,
		})
	}
	return templates.Build(src)
}

func templateSettings(cfg *config.Config) (templates.Settings, error) {
	h := cfg.HAProxy
	settings := templates.HAProxySettings{
		Bind: h.Bind, PrimaryPort: h.PrimaryPort, ReplicaPort: h.ReplicaPort, StatsPort: h.StatsPort,
		Socket: h.Socket, AgentBind: h.AgentSocket, MaxConn: h.MaxConn, ConnectTimeout: h.ConnectTimeout,
		QueueTimeout: h.QueueTimeout, IdleTimeout: h.IdleTimeout, Resolvers: h.Resolvers, Global: h.Global,
		CheckCAFile: h.CheckCAFile, CheckCertFile: h.CheckCertFile,
	}
	// Where the state file is written is where HAProxy is to read it. Without a template
	// of its own it stands beside haproxy.cfg: after the machine's start HAProxy needs
	// both before we run, and what is beside its socket in /run is gone.
	for _, t := range cfg.Templates {
		switch {
		case t.Builtin == stateFile:
			settings.StateFile = t.Destination
		case t.ConfiguresHAProxy() && settings.StateFile == "":
			settings.StateFile = filepath.Join(filepath.Dir(t.Destination), cfg.Service.Name+".state")
		}
	}
	settings, err := settings.Complete(cfg.Service.Name)
	return templates.Settings{HAProxy: settings, PgBouncer: templates.PgBouncerSettings{Database: cfg.PgBouncer.Database}}, err
}

// stateFile is the built-in template that haproxy.cfg's cannot do without.
const stateFile = "haproxy.state"

// templateFiles reads the configured templates, and adds the state file of a
// built-in haproxy.cfg that comes without one.
func templateFiles(cfg *config.Config, s templates.Settings) ([]templates.File, error) {
	wanted := slices.Clone(cfg.Templates)
	isState := func(t config.Template) bool { return t.Builtin == stateFile }
	if i := slices.IndexFunc(wanted, config.Template.ConfiguresHAProxy); i >= 0 && !slices.ContainsFunc(wanted, isState) {
		wanted = slices.Insert(wanted, i, config.Template{Name: wanted[i].Name + "-state", Builtin: stateFile, Destination: s.HAProxy.StateFile})
	}
	var files []templates.File
	for _, t := range wanted {
		text, err := templateText(t)
		if err != nil {
			return nil, usage("template %q: %w", t.Name, err)
		}
		parsed, err := templates.ParseTemplate(t.Name, text, templates.Delimiters{})
		if err != nil {
			return nil, usage("template %q: %w", t.Name, err)
		}
		files = append(files, templates.File{
			Name: t.Name, Template: parsed, Destination: t.Destination, Check: t.Check, Command: t.Command,
			Timeout: t.Timeout, Perms: t.Perms, User: t.User, Group: t.Group,
		})
	}
	return files, nil
}

func templateText(t config.Template) (string, error) {
	if t.Builtin != "" {
		text, err := templates.BuiltinText(t.Builtin)
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("there is no builtin %q; expected one of %s", t.Builtin, strings.Join(templates.Builtin(), ", "))
		}
		return text, err
	}
	b, err := os.ReadFile(t.Source)
	if err != nil {
		return "", fmt.Errorf("read it: %w", err)
	}
	return string(b), nil
}
