package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
	"github.com/pgsidecar/pgsidecar/templates"
	"github.com/pgsidecar/pgsidecar/templates/haproxy"
	"github.com/pgsidecar/pgsidecar/templates/pgbouncer"
)

// staleAfter is how old the newest successful read of the record may be before
// HAProxy is left to its own checks. Quiet watches read once in 10 s.
const staleAfter = 25 * time.Second

// Follower turns what is known of Consul into topologies, and hands each new
// one to the templates' agent.
type Follower struct {
	config *config.Config
	log    hclog.Logger
	client *sessions.Client
	reader *sessions.Reader
	near   site        // this one, of two
	far    *site       // nil: there is one site
	knows  atomic.Bool // which of two takes the writes
	Agent  *templates.Agent
	// changed has room for one: the client's view has changed.
	changed chan struct{}

	last    templates.Topology
	given   bool // last was handed on, and has not been released since
	problem string

	lags     lagPoller
	wantLags bool       // a template does
	away     *distances // nil: no template needs to know
	known    topologyCache
	recalled bool   // last is older than this process
	unsaved  string // why known cannot be kept
}

// NewFollower makes what the configuration's template, haproxy and pgbouncer
// blocks ask for. The client is run by the caller, with wake to be called after
// each change of its view.
func NewFollower(cfg *config.Config, client *sessions.Client, log hclog.Logger) (*Follower, error) {
	settings, err := templateSettings(cfg)
	if err != nil {
		return nil, err
	}
	files, err := templateFiles(cfg, settings)
	if err != nil {
		return nil, err
	}
	f := &Follower{config: cfg, log: log.Named("proxy"), client: client, changed: make(chan struct{}, 1), known: newTopologyCache(cfg),
		lags: lagPoller{config: cfg, log: log.Named("proxy")}, wantLags: wantsLags(files)}
	if wantsDistances(files, settings) {
		f.away = newDistances()
	}
	if f.far, err = otherSite(cfg, log); err != nil {
		return nil, err
	}
	f.reader = client.NewReader(func() { f.Agent.Refresh() })
	o := templates.AgentOptions{Files: files, Settings: settings, Env: templates.Env{Catalog: catalog{f.reader}}, Logger: log}
	if h := settings.HAProxy; h.Socket != "" {
		proxy, err := haproxy.New(haproxy.Options{
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
	f.Agent, err = templates.NewAgent(o)
	return f, err
}

// Wake says that the client's view has changed. It returns at once.
func (f *Follower) Wake() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// Run follows the cluster until the context ends, and returns when all that it
// began has ended.
func (f *Follower) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { f.Agent.Run(ctx) })  //nolint:errcheck // it ends with ctx
	all.Go(func() { f.reader.Run(ctx) }) //nolint:errcheck // it ends with ctx
	if f.far != nil {
		all.Go(func() { f.far.client.Follow(ctx, f.Wake) }) //nolint:errcheck // it ends with ctx
	}
	if f.wantLags {
		all.Go(func() { f.lags.run(ctx, f.client.View, f.Wake) })
	}
	if f.away != nil {
		all.Go(func() { f.away.run(ctx, f.Wake) })
	}
	tick := time.NewTicker(time.Second) // a view also grows old
	defer tick.Stop()
	f.loadCache()
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

// Wanted reports whether the configuration has something that follows the
// topology.
func Wanted(cfg *config.Config) bool {
	return len(cfg.Templates) > 0 || cfg.HAProxy.Socket != "" || cfg.PgBouncer.Address != ""
}

// newBouncer makes what the pgbouncer block asks for.
func newBouncer(cfg *config.Config, log hclog.Logger) (*pgbouncer.Pooler, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	address := cfg.PgBouncer.Address
	if strings.HasPrefix(address, "/") && !strings.Contains(address, ":") {
		address += ":6432" // PgBouncer's default port names the socket in the directory
	}
	return pgbouncer.New(pgbouncer.Options{
		Address: address, User: cfg.PgBouncer.Account.Name, Database: cfg.PgBouncer.Database, Logger: log,
		Password: func() (string, error) { return process.Password(cfg.PgBouncer.Account) },
		Watchdog: []string{exe, "proxy", RescueCommand},
	})
}

// RescueCommand is what pgsidecar starts itself by, before it makes PgBouncer's
// clients wait.
const RescueCommand = "rescue"

// Rescue lets PgBouncer's clients go on if the parent process dies: stdin is its pipe.
func Rescue(stdin io.Reader, stdout io.Writer) error { return pgbouncer.Watchdog(stdin, stdout) }

// see takes the newest view. It is called after each change, and now and then.
func (f *Follower) see(v sessions.View, now ha.Instant) {
	if f.far != nil {
		f.seeBoth(v, f.far.client.View(), now)
		return
	}
	if !v.Consul.SeenAt.Within(staleAfter, now) || v.Consul.Broken != "" {
		if f.given {
			f.log.Warn("the cluster's record is out of date: haproxy uses its own checks", "error", v.Err, "broken", v.Consul.Broken)
			f.Agent.Release()
			f.given = false
		}
		return
	}
	if !v.Consul.Record.Exists() || v.Members == nil {
		return // no cluster yet, or its members have not been read: never an empty file
	}
	t, err := topology(f.config, v, f.last, f.lags.get())
	f.report(err)
	f.give(t, v.Consul.Record)
}

// seeBoth is see for two sites.
func (f *Follower) seeBoth(here, there sessions.View, now ha.Instant) {
	f.report(errors.Join(f.near.see(f.config, here, f.lags.get(), now), f.far.see(f.config, there, nil, now)))
	t, record, known := across(&f.near, f.far)
	f.knows.Store(known)
	if known {
		f.give(t, record)
		return
	}
	if f.given {
		f.log.Warn("it is not known which site takes the writes: haproxy uses its own checks", "error", here.Err, "other", there.Err)
		f.Agent.Release()
		f.given = false
	}
}

// give hands a topology on.
func (f *Follower) give(t templates.Topology, record ha.Record) {
	if f.away != nil {
		t.RoundTrip = f.away.farthest(t.Members)
	}
	if f.given && reflect.DeepEqual(t, f.last) {
		return
	}
	f.last, f.given, f.recalled = t, true, false
	f.Agent.Update(t)
	f.saveCache(record)
	primary := ""
	if t.Primary != nil {
		primary = t.Primary.Name
	}
	f.log.Debug("topology changed", "term", t.Term, "phase", string(t.Phase), "primary", primary, "replicas", len(t.Replicas), "held", t.Held)
}

// report logs what is wrong with registrations, once.
func (f *Follower) report(err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if problem != f.problem && problem != "" {
		f.log.Error("a registration is left out", "error", problem)
	}
	f.problem = problem
}
