package api

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Recorder counts and times what cannot be read off a View. It is a
// prometheus.Collector; its methods may be called from any goroutine, and cost
// less than a microsecond. Labels must come from closed sets.
type Recorder struct {
	all []prometheus.Collector

	requests *prometheus.CounterVec
	refusals *prometheus.CounterVec
	closed   prometheus.Counter
	consul   *prometheus.HistogramVec
	failed   *prometheus.CounterVec
	phases   *prometheus.HistogramVec
	turns    *prometheus.CounterVec
	actions  *prometheus.HistogramVec
	checks   *prometheus.CounterVec
	rules    *prometheus.CounterVec
	hooks    *prometheus.HistogramVec
}

// NewRecorder returns a Recorder with nothing recorded.
func NewRecorder() *Recorder {
	r := &Recorder{}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		r.all = append(r.all, c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		r.all = append(r.all, h)
		return h
	}
	r.requests = counter("pgsidecar_api_requests_total", "Requests answered, by path and status.", "path", "status")
	r.refusals = counter("pgsidecar_api_changes_refused_total", "Changes that were refused or failed, by change and status.", "change", "status")
	r.closed = prometheus.NewCounter(prometheus.CounterOpts{Name: "pgsidecar_api_connections_refused_total",
		Help: "Connections closed at once because there were too many."})
	r.all = append(r.all, r.closed)
	r.consul = histogram("pgsidecar_consul_request_seconds", "Time of requests to Consul, by operation.",
		[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}, "operation")
	r.failed = counter("pgsidecar_consul_errors_total", "Requests to Consul that failed, by operation.", "operation")
	r.phases = histogram("pgsidecar_failover_phase_seconds", "Time from the loss of the old leader to the end of each phase.",
		[]float64{.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60}, "phase")
	r.turns = counter("pgsidecar_leader_changes_total", "Terms that this member led from their beginning, by kind.", "kind")
	r.actions = histogram("pgsidecar_action_seconds", "Time of actions on the server and on Consul, by kind and result.",
		[]float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 60, 600}, "kind", "result")
	r.rules = counter("pgsidecar_rule_total", "Actions begun, by the rule that asked for them; pgsidecar status --why shows the rules that hold.", "rule")
	r.hooks = histogram("pgsidecar_hook_seconds", "Time of commands of hooks and requests of notices, by the block's name and result.",
		[]float64{.01, .05, .1, .5, 1, 5, 10, 60}, "hook", "result")
	r.checks = counter("pgsidecar_checks_total", "Results of checks, by check.", "check", "result")
	return r
}

// Describe implements prometheus.Collector.
func (r *Recorder) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range r.all {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (r *Recorder) Collect(ch chan<- prometheus.Metric) {
	for _, c := range r.all {
		c.Collect(ch)
	}
}

// ConsulRequest records one request to Consul.
func (r *Recorder) ConsulRequest(operation string, took time.Duration, err error) {
	r.consul.WithLabelValues(operation).Observe(took.Seconds())
	if err != nil {
		r.failed.WithLabelValues(operation).Inc()
	}
}

// FailoverPhase records when a phase of a change of leader ended, counted from
// the loss of the old leader: elected, fenced, promoted, writable, announced
// or routed.
func (r *Recorder) FailoverPhase(phase string, took time.Duration) {
	r.phases.WithLabelValues(phase).Observe(took.Seconds())
}

// LeaderChange records that this member began to lead: failover, switchover
// or bootstrap.
func (r *Recorder) LeaderChange(kind string) { r.turns.WithLabelValues(kind).Inc() }

// Action records an action of the shell; kind is ha.ActionKind's name.
func (r *Recorder) Action(kind string, took time.Duration, err error) {
	r.actions.WithLabelValues(kind, result(err)).Observe(took.Seconds())
}

// Hook records one command of a hook, or one notice that was sent or given up.
func (r *Recorder) Hook(name string, took time.Duration, err error) {
	r.hooks.WithLabelValues(name, result(err)).Observe(took.Seconds())
}

// Rule records that an action was begun that the rule of package ha asked for.
func (r *Recorder) Rule(rule string) { r.rules.WithLabelValues(rule).Inc() }

// Check records the result of one check.
func (r *Recorder) Check(check string, err error) { r.checks.WithLabelValues(check, result(err)).Inc() }

func result(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}

func (r *Recorder) request(path string, status int) {
	r.requests.WithLabelValues(path, strconv.Itoa(status)).Inc()
}

func (r *Recorder) changeRefused(change string, status int) {
	r.refusals.WithLabelValues(change, strconv.Itoa(status)).Inc()
}

func (r *Recorder) connectionRefused() { r.closed.Inc() }
