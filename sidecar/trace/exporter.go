package trace

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// The bounds of an exporter.
const (
	maxQueued = 512 // spans
	maxBatch  = 128 // spans of one request
	// lastWords is what a member that ends spends on what is still queued.
	lastWords = 2 * time.Second
	// logPause is how often, at most, it is logged that the collector does not take spans.
	logPause = 5 * time.Minute
)

// DefaultTimeout bounds a request.
const DefaultTimeout = 5 * time.Second

// Options are where spans go, and whose they are.
type Options struct {
	// Endpoint is the collector's base, such as http://127.0.0.1:4318: spans are posted
	// to its /v1/traces.
	Endpoint string
	Headers  map[string]string
	Timeout  time.Duration // of a request; zero: DefaultTimeout

	Cluster, Member, Version string
	Client                   *http.Client // nil: Go's
	Logger                   hclog.Logger
}

// Exporter sends spans to a collector. A nil one takes them and does nothing.
type Exporter struct {
	o       Options
	queue   chan Span
	dropped atomic.Uint64
	told    time.Time // when a failure was last logged; Run's alone
}

// New returns an exporter; nil where no endpoint is named.
func New(o Options) *Exporter {
	if o.Endpoint == "" {
		return nil
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Client == nil {
		o.Client = &http.Client{}
	}
	return &Exporter{o: o, queue: make(chan Span, maxQueued)}
}

// Offer takes spans to be exported, and returns at once.
func (e *Exporter) Offer(spans ...Span) {
	if e == nil {
		return
	}
	for _, s := range spans {
		select {
		case e.queue <- s:
		default:
			e.dropped.Add(1)
		}
	}
}

// Dropped counts the spans that the collector did not get.
func (e *Exporter) Dropped() uint64 { return e.dropped.Load() }

// Run exports until ctx ends, and then for a moment what is still queued.
func (e *Exporter) Run(ctx context.Context) {
	if e == nil {
		return
	}
	for ctx.Err() == nil {
		select {
		case s := <-e.queue:
			e.send(ctx, e.batch(s))
		case <-ctx.Done():
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	for len(e.queue) > 0 && ctx.Err() == nil {
		e.send(ctx, e.batch(<-e.queue))
	}
}

// batch is a span with those that are queued behind it.
func (e *Exporter) batch(first Span) []Span {
	all := []Span{first}
	for len(all) < maxBatch {
		select {
		case s := <-e.queue:
			all = append(all, s)
		default:
			return all
		}
	}
	return all
}

// send posts spans once. A collector that refuses them is not asked again: its own client
// would, but what is told here is told for people, and is in the log too.
func (e *Exporter) send(ctx context.Context, spans []Span) {
	if err := e.post(ctx, spans); err != nil {
		e.dropped.Add(uint64(len(spans)))
		if now := time.Now(); now.Sub(e.told) > logPause {
			e.told = now
			e.o.Logger.Warn("the trace was not exported", "error", err, "dropped", e.dropped.Load())
		}
	}
}

func (e *Exporter) post(ctx context.Context, spans []Span) error {
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	body, err := json.Marshal(e.request(spans))
	if err != nil {
		return fmt.Errorf("write spans: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(e.o.Endpoint, "/")+"/v1/traces", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("export spans: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	for name, value := range e.o.Headers {
		req.Header.Set(name, value)
	}
	res, err := e.o.Client.Do(req)
	if err != nil {
		return fmt.Errorf("export spans: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode >= http.StatusMultipleChoices {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 200))
		return fmt.Errorf("export spans: the collector answers %s: %s", res.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

// What follows is OTLP's ExportTraceServiceRequest in JSON.
type (
	request struct {
		ResourceSpans []resourceSpans `json:"resourceSpans"`
	}
	resourceSpans struct {
		Resource   resource     `json:"resource"`
		ScopeSpans []scopeSpans `json:"scopeSpans"`
	}
	resource struct {
		Attributes []attribute `json:"attributes"`
	}
	scopeSpans struct {
		Scope scope  `json:"scope"`
		Spans []span `json:"spans"`
	}
	scope struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	span struct {
		TraceID    string      `json:"traceId"`
		SpanID     string      `json:"spanId"`
		Parent     string      `json:"parentSpanId,omitempty"`
		Name       string      `json:"name"`
		Kind       int         `json:"kind"` // 1: internal
		Start      string      `json:"startTimeUnixNano"`
		End        string      `json:"endTimeUnixNano"`
		Attributes []attribute `json:"attributes"`
		Status     *status     `json:"status,omitempty"`
	}
	status struct {
		Code    int    `json:"code"` // 2: an error
		Message string `json:"message"`
	}
	attribute struct {
		Key   string `json:"key"`
		Value value  `json:"value"`
	}
	value struct {
		Text string `json:"stringValue"`
	}
)

func (e *Exporter) request(spans []Span) request {
	of := scopeSpans{Scope: scope{"pgsidecar", e.o.Version}}
	for _, s := range spans {
		one := span{TraceID: s.Trace.String(), SpanID: s.ID.String(), Name: s.Name, Kind: 1,
			Start: strconv.FormatInt(s.From.UnixNano(), 10), End: strconv.FormatInt(s.To.UnixNano(), 10), Attributes: attributes(s.Attributes)}
		if s.Parent != (SpanID{}) {
			one.Parent = s.Parent.String()
		}
		if s.Error != "" {
			one.Status = &status{2, s.Error}
		}
		of.Spans = append(of.Spans, one)
	}
	about := attributes([]Attribute{{"service.name", "pgsidecar"}, {"service.namespace", e.o.Cluster}, {"service.instance.id", e.o.Member}, {"service.version", e.o.Version}})
	return request{[]resourceSpans{{resource{about}, []scopeSpans{of}}}}
}

func attributes(all []Attribute) []attribute {
	found := make([]attribute, 0, len(all))
	for _, a := range all {
		if a.Value != "" {
			found = append(found, attribute{a.Key, value{a.Value}})
		}
	}
	return found
}
