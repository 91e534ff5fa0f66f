package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/templates"
)

// proxyServer answers how a proxy does:
//
//	/status     JSON: templates.AgentStatus and what Consul last said
//	/metrics    the same for Prometheus
//	/liveness   200 as long as it answers
//	/readiness  200 if it follows the cluster and no template, HAProxy or PgBouncer has failed
type proxyServer struct {
	http     *http.Server
	listener net.Listener
}

// listenProxy makes the server and binds its port.
func listenProxy(ctx context.Context, address string, f *Follower, log hclog.Logger) (*proxyServer, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for status and metrics: %w", err)
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(Collector{Agent: func() *templates.Agent { return f.Agent }}); err != nil {
		return nil, errors.Join(fmt.Errorf("register metrics: %w", err), listener.Close())
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: time.Second}))
	mux.HandleFunc("GET /liveness", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /readiness", func(w http.ResponseWriter, _ *http.Request) {
		if why := f.unready(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(f.status()) //nolint:errcheck // the client is gone then
	})
	return &proxyServer{listener: listener, http: &http.Server{
		Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.Named("status").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}}, nil
}

// run serves until the context ends.
func (s *proxyServer) run(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { s.http.Close() })()
	s.http.Serve(s.listener) //nolint:errcheck // it ends with ctx
}

// followerStatus is what /status says.
type followerStatus struct {
	Cluster string `json:"cluster"`
	Consul  string `json:"consul,omitempty"` // the last error
	Ready   bool   `json:"ready"`
	Why     string `json:"why,omitempty"` // it is not
	templates.AgentStatus
}

func (f *Follower) status() followerStatus {
	s := followerStatus{Cluster: f.config.Cluster, Why: f.unready(), AgentStatus: f.Agent.Status()}
	if err := f.client.View().Err; err != nil {
		s.Consul = err.Error()
	}
	s.Ready = s.Why == ""
	return s
}

// unready says what of it does not work; nothing if all does.
func (f *Follower) unready() string {
	s := f.Agent.Status()
	if s.Term == 0 {
		return "the cluster has not been read from Consul yet"
	}
	if f.far != nil {
		return f.unreadyBoth(s)
	}
	if v := f.client.View(); !v.Consul.SeenAt.Within(staleAfter, guard.Now()) {
		return fmt.Sprintf("Consul has not answered for more than %s: who is primary now is not known", staleAfter)
	}
	if all := followTroubles(s); len(all) > 0 {
		return all[0]
	}
	return ""
}

// unreadyBoth is unready for two sites: the Consul of the one that takes the writes is
// enough.
func (f *Follower) unreadyBoth(s templates.AgentStatus) string {
	if !f.knows.Load() {
		return "which site takes the writes is not known: its Consul, " + f.far.datacenter + "'s or this site's, has not answered for more than " + staleAfter.String()
	}
	if all := followTroubles(s); len(all) > 0 {
		return all[0]
	}
	return ""
}

// Troubles says what of the files, HAProxies and PgBouncers in a member's status does
// not work.
func Troubles(status json.RawMessage) []string {
	var files templates.AgentStatus
	if len(status) == 0 || json.Unmarshal(status, &files) != nil {
		return nil // written by another version
	}
	return followTroubles(files)
}

// followTroubles says what of the files, HAProxies and PgBouncers does not work.
func followTroubles(s templates.AgentStatus) []string {
	var all []string
	for _, t := range s.Files {
		if t.Error != "" {
			all = append(all, fmt.Sprintf("template %q: %s", t.Name, t.Error))
		}
	}
	for _, p := range s.Proxies {
		if !p.Connected {
			all = append(all, fmt.Sprintf("haproxy %s is not connected: %s", p.Socket, p.Error))
		}
		if p.MasterError != "" {
			all = append(all, fmt.Sprintf("haproxy's master %s: %s", p.MasterSocket, p.MasterError))
		}
	}
	for _, b := range s.Bouncers {
		if b.Error != "" {
			all = append(all, fmt.Sprintf("pgbouncer %s: %s", b.Address, b.Error))
		}
	}
	return all
}

// Collector reads metrics off a templates.Agent, if there is one, when they
// are scraped.
type Collector struct{ Agent func() *templates.Agent }

var (
	_ prometheus.Collector = Collector{}

	agentTerm        = agentMetric("topology_term", "Term of the topology that files and proxies follow.")
	agentHeld        = agentMetric("topology_held", "1 while clients are to wait for the end of a planned switchover.")
	templateOK       = agentMetric("template_ok", "0 while the template has failed and the last good file stays.", "template")
	templateOKAt     = agentMetric("template_ok_timestamp_seconds", "When the file was last known to be right.", "template")
	templateWrites   = agentMetric("template_writes_total", "How often the file changed.", "template")
	templateCommands = agentMetric("template_commands_total", "How often its command ran, or HAProxy was to be reloaded for it.", "template")
	templateFailures = agentMetric("template_failures", "Failures in a row.", "template")
	haproxyConnected = agentMetric("haproxy_connected", "1 while HAProxy routes by what pgsidecar says, 0 while it uses its own checks.", "socket")
	haproxyMended    = agentMetric("haproxy_mended_total", "How often HAProxy's state was not what it should be, and was put right.", "socket")
	haproxyTerm      = agentMetric("haproxy_term", "Term of the topology that HAProxy was last given.", "socket")
	haproxyExpired   = agentMetric("haproxy_holds_expired_total", "How often new clients were held too long in a switchover, and let in.", "socket")
	haproxyReloads   = agentMetric("haproxy_reloads_total", "How often pgsidecar reloaded HAProxy by its master socket.", "socket")
	haproxyMasterOK  = agentMetric("haproxy_master_ok", "0 while HAProxy's master socket is not reached.", "socket")
	haproxyOld       = agentMetric("haproxy_old_workers", "Old HAProxy workers, from before a reload, that still have sessions.", "socket")
	haproxyOldEnded  = agentMetric("haproxy_old_sessions_ended_total", "Sessions closed in old HAProxy workers because their server lost its role.", "socket")
	pgbouncerPaused  = agentMetric("pgbouncer_paused", "1 while PgBouncer's clients wait.", "address")
	pgbouncerExpired = agentMetric("pgbouncer_pauses_expired_total", "How often a pause was ended by its expiry.", "address")
	pgbouncerOK      = agentMetric("pgbouncer_ok", "0 while the last command to PgBouncer has failed.", "address")
)

func agentMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("pgsidecar_"+name, help, labels, nil)
}

// Describe names the metrics.
func (Collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{agentTerm, agentHeld, templateOK, templateOKAt, templateWrites, templateCommands, templateFailures,
		haproxyConnected, haproxyMended, haproxyTerm, haproxyExpired, haproxyReloads, haproxyMasterOK, haproxyOld, haproxyOldEnded, pgbouncerPaused, pgbouncerExpired, pgbouncerOK} {
		to <- d
	}
}

// Collect reads the agent's status.
func (c Collector) Collect(to chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	truth := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	agent := c.Agent()
	if agent == nil {
		return
	}
	s := agent.Status()
	send(agentTerm, gauge, float64(s.Term))
	send(agentHeld, gauge, truth(s.Held))
	for _, f := range s.Files {
		send(templateOK, gauge, truth(f.Error == "" && !f.Unrendered), f.Name)
		if !f.OKAt.IsZero() {
			send(templateOKAt, gauge, float64(f.OKAt.UnixMilli())/1000, f.Name)
		}
		send(templateWrites, counter, float64(f.Writes), f.Name)
		send(templateCommands, counter, float64(f.Commands), f.Name)
		send(templateFailures, gauge, float64(f.Failures), f.Name)
	}
	for _, p := range s.Proxies {
		send(haproxyConnected, gauge, truth(p.Connected), p.Socket)
		send(haproxyMended, counter, float64(p.Mended), p.Socket)
		send(haproxyTerm, gauge, float64(p.Term), p.Socket)
		send(haproxyExpired, counter, float64(p.Expired), p.Socket)
		if p.MasterSocket != "" {
			send(haproxyMasterOK, gauge, truth(p.MasterError == ""), p.Socket)
			send(haproxyReloads, counter, float64(p.Reloads), p.Socket)
			send(haproxyOld, gauge, float64(p.OldWorkers), p.Socket)
			send(haproxyOldEnded, counter, float64(p.OldSessions), p.Socket)
		}
	}
	for _, b := range s.Bouncers {
		send(pgbouncerPaused, gauge, truth(b.Paused), b.Address)
		send(pgbouncerExpired, counter, float64(b.Expired), b.Address)
		send(pgbouncerOK, gauge, truth(b.Error == ""), b.Address)
	}
}
