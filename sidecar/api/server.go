package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/page"
)

// Options configure a Server.
type Options struct {
	Member  string
	Cluster string
	Version string
	Listen  string // host:port
	TLS     TLS

	// Token returns what a change must show; nil or an empty token: only a
	// client certificate allows changes. It is called for each change.
	Token func() (string, error)
	// Allow are the networks from which changes are taken, besides the members'
	// addresses; empty: from everywhere.
	Allow []netip.Prefix
	// View returns the newest snapshot, from memory; nil: nothing is decided yet.
	View func() *View
	// Now reads CLOCK_BOOTTIME, as in the view.
	Now     func() ha.Instant
	Control Control      // nil: changes are answered with 503
	Drills  Drills       // nil: this member takes part in none
	Backups Backups      // nil: this member makes none
	Peer    http.Handler // serves /peer; nil: 404
	// Recorder's metrics are served with the view's; nil: none.
	Recorder *Recorder
	// Page is how the page under /ui learns of what the view has not; nil: there is no page.
	Page *PageOptions
	// Collectors are served as well.
	Collectors []prometheus.Collector
	Logger     hclog.Logger // default: none
}

// The limits of the server; see the package comment.
const (
	maxHeader      = 16 << 10
	maxBody        = 64 << 10
	maxConns       = 1024
	maxConnsOfHost = 256
	maxChanges     = 32
	headerTimeout  = 3 * time.Second
	bodyTimeout    = 10 * time.Second
	answerTimeout  = 10 * time.Second
	idleTimeout    = 60 * time.Second
	closeTimeout   = time.Second
)

// Server is a member's HTTP server.
type Server struct {
	member, cluster, version string

	socket
	gate
	view    func() *View
	now     func() ha.Instant
	control Control
	drills  Drills
	mounted

	logger hclog.Logger

	drillMemory drillMemory
	backups     backups

	recorder *Recorder
	readings
	healthPaths map[string]endpoint
	changes     map[string]map[string]change // by path and method
	cross       *http.CrossOriginProtection
	slots       chan struct{} // one for each change under way
	refused     refusedLog
}

// readings are the metrics, and who read them last.
type readings struct {
	metrics http.Handler
	scraped scraped
}

// mounted are the handlers of other packages; nil: there is none.
type mounted struct {
	peer http.Handler
	page *page.Page
}

// socket is where the server listens.
type socket struct {
	listen   string
	certs    *certificates // nil: no TLS
	listener net.Listener
}

// New checks the options; it starts nothing.
func New(o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	switch {
	case o.Member == "" || o.Cluster == "":
		return nil, errors.New("new api: member and cluster must be named")
	case o.View == nil || o.Now == nil:
		return nil, errors.New("new api: view and clock are required")
	}
	s := &Server{
		member: o.Member, cluster: o.Cluster, version: o.Version, socket: socket{listen: o.Listen},
		gate: gate{token: o.Token, allow: o.Allow}, view: o.View, now: o.Now, control: o.Control, drills: o.Drills, mounted: mounted{peer: o.Peer},
		logger: o.Logger.Named("api"), recorder: o.Recorder, healthPaths: healthEndpoints(),
		cross: http.NewCrossOriginProtection(), slots: make(chan struct{}, maxChanges),
	}
	if s.recorder == nil {
		s.recorder = NewRecorder()
	}
	s.backups.of = o.Backups
	if o.Page != nil {
		s.page = page.New(&pageSource{Server: s, options: *o.Page}, s.logger)
	}
	s.changes = s.changeTable()
	maps.Copy(s.changes, s.backupTable())
	maps.Copy(s.changes, s.restoreTable())
	if o.TLS.enabled() {
		var err error
		if s.certs, err = newCertificates(o.TLS, o.Now, s.logger); err != nil {
			return nil, fmt.Errorf("new api: %w", err)
		}
	}
	registry := prometheus.NewRegistry()
	for _, c := range append([]prometheus.Collector{s.recorder, newViewCollector(s)}, o.Collectors...) {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("new api: register metrics: %w", err)
		}
	}
	s.metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4, Timeout: answerTimeout, ErrorHandling: promhttp.ContinueOnError,
	})
	return s, nil
}

func (s *Server) scheme() string {
	if s.certs != nil {
		return "https"
	}
	return "http"
}

// Listen opens the port and returns its address. Run does it if it was not
// done. From here on connections are accepted by the kernel, and wait for Run.
func (s *Server) Listen(ctx context.Context) (net.Addr, error) {
	// No keep-alive: idle connections are closed here, streams have their own
	// time-outs, and a health check is spared five system calls.
	config := net.ListenConfig{KeepAlive: -1}
	l, err := config.Listen(ctx, "tcp", s.listen)
	if err != nil {
		return nil, fmt.Errorf("open api: %w", err)
	}
	s.listener = newBounded(l, s.recorder)
	return l.Addr(), nil
}

// Run serves until ctx ends, then lets requests under way end within a second,
// and returns nil. It returns the error that ended serving otherwise.
func (s *Server) Run(ctx context.Context) error {
	if s.listener == nil {
		if _, err := s.Listen(ctx); err != nil {
			return err
		}
	}
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // /peer is an upgrade, which HTTP/2 has not
	srv := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, WriteTimeout: answerTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, Protocols: protocols,
		ErrorLog:    log.New(debugLog{s.logger}, "", 0),
		BaseContext: func(net.Listener) context.Context { return base },
	}
	if s.page != nil {
		defer s.page.Close()
		srv.RegisterOnShutdown(s.page.Close) // else the streams of open pages would hold it up
	}
	ended := make(chan error, 1)
	go func() { // serve
		if s.certs != nil {
			srv.TLSConfig = s.certs.config()
			ended <- srv.ServeTLS(s.listener, "", "")
			return
		}
		ended <- srv.Serve(s.listener)
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("serve api: %w", err)
	case <-ctx.Done():
	}
	// A new context: the old one has ended, and that is why we are here.
	closing, stop := context.WithTimeout(base, closeTimeout)
	defer stop()
	if srv.Shutdown(closing) != nil {
		srv.Close()
	}
	<-ended
	return nil
}

// debugLog takes what net/http says of broken connections and handshakes:
// anybody can cause it, so it must not fill the log.
type debugLog struct{ hclog.Logger }

func (l debugLog) Write(b []byte) (int, error) {
	l.Debug("connection", "error", string(b))
	return len(b), nil
}

// facts returns the newest view at this moment; false before the first decision.
func (s *Server) facts() (facts, bool) {
	v := s.view()
	return facts{View: v, now: s.now()}, v != nil
}

// Handler returns all paths.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.route) }

// route dispatches by path first, so that a load balancer's checks cost one
// look-up.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if strings.HasPrefix(path, "//") {
		// vip-manager asks so by its defaults: an endpoint that ends with a slash,
		// and a key that begins with one.
		path = "/" + strings.TrimLeft(path, "/")
	}
	if len(path) > 1 && !isPage(path) { // whose addresses are relative to the folder
		path = strings.TrimSuffix(path, "/") // Patroni's paths are found with it too
	}
	if path == "/peer" && s.peer != nil {
		s.peer.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	counted := &countedWriter{ResponseWriter: w}
	s.answer(counted, r, path)
	s.recorder.request(s.known(path), counted.status)
}

// known is the path as a label of a metric: one of a closed set.
func (s *Server) known(path string) string {
	if _, ok := s.healthPaths[path]; ok {
		return path
	}
	if _, ok := s.changes[path]; ok {
		return path
	}
	if s.page != nil && isPage(path) {
		return "/ui"
	}
	switch path {
	case "/liveness", "/readiness", "/patroni", "/cluster", "/failsafe", "/history", "/changes", "/availability", "/config", "/metrics", "/status":
		return path
	}
	return "other"
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, path string) {
	if change, ok := s.changes[path][r.Method]; ok {
		s.change(w, r, change)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
	default:
		w.Header().Set("Allow", "GET, HEAD, OPTIONS")
		http.Error(w, "method is not allowed here", http.StatusMethodNotAllowed)
		return
	}
	if is, ok := s.healthPaths[path]; ok {
		s.health(w, r, is, true)
		return
	}
	if s.page != nil && isPage(path) {
		s.page.ServeHTTP(w, r)
		return
	}
	switch path {
	case "/drill":
		s.lastDrill(w, r)
		return
	case "/backup":
		s.listBackups(w, r)
		return
	case "/liveness":
		s.health(w, r, isLive, false)
		return
	case "/readiness":
		s.health(w, r, isReady, false)
		return
	case "/metrics":
		if r.Method == http.MethodGet {
			s.scraped.note(r)
			s.metrics.ServeHTTP(w, r)
		}
		return // as everywhere, HEAD and OPTIONS get the status alone: gathering costs
	}
	f, known := s.facts()
	switch {
	case path == "/patroni":
		s.writeJSON(w, r, http.StatusOK, s.patroniStatus(f, known))
	case !known && s.known(path) != "other":
		http.Error(w, "nothing is decided yet", http.StatusServiceUnavailable)
	case path == "/cluster":
		s.writeJSON(w, r, http.StatusOK, s.patroniCluster(f))
	case path == "/failsafe":
		s.writeJSON(w, r, http.StatusOK, s.failsafeMembers(f))
	case path == "/history":
		s.writeJSON(w, r, http.StatusOK, patroniHistory(f.History))
	case path == "/availability":
		s.writeJSON(w, r, http.StatusOK, f.known())
	case path == "/config":
		if f.ConfigVersion != 0 {
			w.Header().Set("ETag", fmt.Sprintf(`"%d"`, f.ConfigVersion))
		}
		s.writeRaw(w, r, http.StatusOK, configOf(f.Config))
	case path == "/changes":
		s.writeJSON(w, r, http.StatusOK, slices.Concat([]json.RawMessage{}, f.Changes))
	case path == "/status":
		s.writeJSON(w, r, http.StatusOK, s.status(f))
	default:
		http.NotFound(w, r)
	}
}

// countedWriter remembers the status.
type countedWriter struct {
	http.ResponseWriter
	status int
}

func (w *countedWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *countedWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController find the connection.
func (w *countedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
