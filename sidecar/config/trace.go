package config

import (
	"net/url"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Trace is where spans of failovers, switchovers and backups are exported to, by
// OpenTelemetry's protocol over HTTP; without an endpoint none are.
type Trace struct {
	Endpoint string // the collector's base, such as http://127.0.0.1:4318
	// TokenFile has what is shown to it as a bearer token; it is read at the start.
	TokenFile string
	Timeout   time.Duration // of a request
}

const defaultTraceTimeout = 5 * time.Second

func (r *reader) trace(b *hclsyntax.Body, path string, t *Trace) {
	t.Timeout = defaultTraceTimeout
	r.body(b, path, []field{
		textOrNone("endpoint", &t.Endpoint),
		r.path("token_file", &t.TokenFile),
		duration("timeout", &t.Timeout),
	}, nil)
}

func (r *reader) checkTrace(t *Trace) {
	if t.Endpoint == "" {
		return // as of env("OTEL_EXPORTER_OTLP_ENDPOINT", "") where it is not set
	}
	u, err := url.Parse(t.Endpoint)
	r.require(err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil, "trace.endpoint",
		`endpoint %q: expected a collector's address such as "http://127.0.0.1:4318", without a user or a password`, t.Endpoint)
	r.require(t.Timeout > 0, "trace.timeout", "expected a timeout above zero")
}

func (w *writer) trace(t *Trace) {
	if *t == (Trace{}) {
		return
	}
	b := w.block("trace")
	b.set("endpoint", t.Endpoint)
	b.set("token_file", t.TokenFile)
	b.set("timeout", t.Timeout)
}
