package trace_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/trace"
)

// got is a span as a collector reads it.
type got struct {
	TraceID      string `json:"traceId"`
	SpanID       string `json:"spanId"`
	ParentSpanID string `json:"parentSpanId"`
	Name         string `json:"name"`
	Start        string `json:"startTimeUnixNano"`
	End          string `json:"endTimeUnixNano"`
	Status       struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"status"`
	member string // of the resource
}

// collector is one of OpenTelemetry, as far as the test needs it.
type collector struct {
	t      *testing.T
	mu     sync.Mutex
	spans  []got
	auth   []string
	status int // of its answers; 0: 200
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ResourceSpans []struct {
			Resource struct {
				Attributes []struct {
					Key   string `json:"key"`
					Value struct {
						Text string `json:"stringValue"`
					} `json:"value"`
				} `json:"attributes"`
			} `json:"resource"`
			ScopeSpans []struct {
				Spans []got `json:"spans"`
			} `json:"scopeSpans"`
		} `json:"resourceSpans"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/json" {
		c.t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.auth = append(c.auth, r.Header.Get("Authorization"))
	if c.status != 0 {
		http.Error(w, "not now", c.status)
		return
	}
	for _, of := range body.ResourceSpans {
		for _, scope := range of.ScopeSpans {
			for _, s := range scope.Spans {
				for _, a := range of.Resource.Attributes {
					if a.Key == "service.instance.id" {
						s.member = a.Value.Text
					}
				}
				c.spans = append(c.spans, s)
			}
		}
	}
}

// export runs an exporter until it has sent what it was offered.
func export(t *testing.T, address, member string, spans ...trace.Span) *trace.Exporter {
	t.Helper()
	e := trace.New(trace.Options{Endpoint: address, Headers: map[string]string{"Authorization": "Bearer a"}, Cluster: "pg", Member: member, Version: "1", Logger: hclog.NewNullLogger()})
	e.Offer(spans...)
	ended, cancel := context.WithCancel(t.Context())
	cancel() // what is queued is sent even then
	e.Run(ended)
	return e
}

var began = time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }

func record() *failover.Record {
	return &failover.Record{Term: 8, Leader: "n2", From: "n1", Reason: "the leader of term 7 (n1) is not heard", Timeline: 3,
		Detected: at(0), Elected: at(20), Fenced: at(80), Promoted: at(300), Writable: at(310), Announced: at(340), Routed: at(355)}
}

// TestFailoverIsOneTrace: the new leader, a voter and the old primary export their parts,
// and a collector sees one trace with one root.
func TestFailoverIsOneTrace(t *testing.T) {
	c := &collector{t: t}
	s := httptest.NewServer(c)
	defer s.Close()
	export(t, s.URL+"/", "n2", trace.Term("7000", record())...)

	voter, old := newSight("n3"), newSight("n1")
	voter.look(at(-1000), func(s *sight) { s.report.Streaming, s.server.Upstream = true, "n1" })
	old.look(at(-1000), func(s *sight) { s.report.Writable = true })
	old.look(at(-10), func(s *sight) { s.report.Writable = false })
	old.look(at(5), func(s *sight) { s.server.Process = ha.ProcessStopped })
	elected := func(s *sight) { s.record.Term, s.record.Leader, s.record.Phase = 8, "n2", ha.PhaseElecting }
	old.look(at(25), elected)
	voter.look(at(25), elected)
	voter.look(at(70), func(s *sight) {
		s.report.Voted, s.report.Term, s.report.Streaming, s.server.Upstream = true, 8, false, ""
	})
	leading := func(s *sight) { s.record.Phase = ha.PhaseLeading }
	voter.look(at(320), leading)
	voter.look(at(350), func(s *sight) { s.server.Upstream, s.report.Streaming = "n1", true }) // still the old one
	voter.look(at(400), func(s *sight) { s.server.Upstream, s.report.Streaming = "n2", true })
	old.look(at(900), func(s *sight) { s.server.Process = ha.ProcessRunning; s.record.Phase = ha.PhaseLeading })
	old.look(at(950), func(s *sight) { s.server.Upstream, s.report.Streaming = "n2", true })
	leader := newSight("n2") // whose own account tells
	leader.look(at(-1000), func(s *sight) { s.report.Streaming, s.server.Upstream = true, "n1" })
	leader.look(at(25), func(s *sight) { elected(s); s.report.Voted, s.report.Term = true, 8 })
	if len(leader.spans) > 0 {
		t.Errorf("the leader saw %+v", leader.spans)
	}
	if i := slices.IndexFunc(voter.spans, func(s trace.Span) bool { return s.Name == "follow" }); i < 0 || !voter.spans[i].To.Equal(at(400)) {
		t.Errorf("the voter saw %+v", voter.spans)
	}
	export(t, s.URL, "n3", voter.spans...)
	export(t, s.URL, "n1", old.spans...)

	var roots, names []string
	for _, g := range c.spans {
		if g.TraceID != c.spans[0].TraceID || len(g.TraceID) != 32 || len(g.SpanID) != 16 {
			t.Errorf("%+v is of another trace", g)
		}
		if g.ParentSpanID == "" {
			roots = append(roots, g.Name)
		} else if g.ParentSpanID != c.spans[0].SpanID {
			t.Errorf("%s hangs at no span", g.Name)
		}
		names = append(names, g.member+" "+g.Name)
	}
	want := []string{"n2 failover", "n2 elect", "n2 collect votes", "n2 promote", "n2 first write", "n2 announce", "n2 route",
		"n3 vote", "n3 follow", "n1 stop", "n1 follow"}
	if !slices.Equal(names, want) || !slices.Equal(roots, []string{"failover"}) {
		t.Errorf("spans\n%s\nwant\n%s\nroots %v", strings.Join(names, "\n"), strings.Join(want, "\n"), roots)
	}
	if g := c.spans[9]; g.Start != strconv.FormatInt(at(-10).UnixNano(), 10) || g.End != strconv.FormatInt(at(5).UnixNano(), 10) {
		t.Errorf("the stop took from %s to %s", g.Start, g.End)
	}
	if !slices.Contains(c.auth, "Bearer a") {
		t.Errorf("shown: %q", c.auth)
	}
	ids := map[string]bool{}
	for _, g := range c.spans {
		if ids[g.SpanID] {
			t.Errorf("%s has another's identifier", g.Name)
		}
		ids[g.SpanID] = true
	}
}

// sight is what a member shows a witness.
type sight struct {
	member  string
	record  ha.Record
	report  ha.Report
	server  ha.Server
	witness trace.Witness
	spans   []trace.Span
}

func newSight(member string) *sight {
	s := &sight{member: member}
	s.record.SystemID, s.record.Term, s.record.Leader, s.record.Phase, s.record.Index = "7000", 7, "n1", ha.PhaseLeading, 1
	s.server.Process = ha.ProcessRunning
	return s
}

func (s *sight) look(now time.Time, change func(*sight)) {
	change(s)
	s.spans = append(s.spans, s.witness.Look(trace.Seen{Member: s.member, Record: &s.record, Report: &s.report, Server: &s.server}, now)...)
}

// TestBackupIsOneTrace: the maker's and the leader's spans join, and a failure is marked.
func TestBackupIsOneTrace(t *testing.T) {
	c := &collector{t: t}
	s := httptest.NewServer(c)
	defer s.Close()
	b := trace.Backup{System: "7000", Name: "main", Kind: "full", Member: "n3", Label: "20261130F", Began: at(0), Made: at(5000), Ended: at(5100)}
	export(t, s.URL, "n3", b.Spans()...)
	export(t, s.URL, "n1", trace.Backup{System: "7000", Name: "main", Began: at(0)}.Asked("n1", at(-30), at(10)))
	failed := b
	failed.Began, failed.Error = at(9000), "the repository is full"
	export(t, s.URL, "n3", failed.Spans()...)
	var names []string
	for _, g := range c.spans {
		names = append(names, g.Name)
	}
	if want := []string{"backup", "make", "expire", "ask", "backup", "make"}; !slices.Equal(names, want) {
		t.Fatalf("spans %v, want %v", names, want)
	}
	if c.spans[3].TraceID != c.spans[0].TraceID || c.spans[3].ParentSpanID != c.spans[0].SpanID || c.spans[4].TraceID == c.spans[0].TraceID {
		t.Errorf("the leader's span is not in the backup's trace, or two backups are one: %+v", c.spans)
	}
	if c.spans[0].Status.Code != 0 || c.spans[4].Status.Code != 2 || c.spans[4].Status.Message != failed.Error {
		t.Errorf("status %+v and %+v", c.spans[0].Status, c.spans[4].Status)
	}
}

// TestNeverInTheWay: a collector that hangs holds up nobody, and what does not fit into
// the queue is dropped.
func TestNeverInTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := &http.Client{Transport: hanging{}}
		e := trace.New(trace.Options{Endpoint: "http://collector", Timeout: 3 * time.Second, Client: hang, Logger: hclog.NewNullLogger()})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { e.Run(ctx) })
		begin := time.Now()
		for range 1000 {
			e.Offer(trace.Span{Name: "x"})
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("a thousand spans took %s", took)
		}
		if e.Dropped() == 0 {
			t.Error("none was dropped")
		}
		before := e.Dropped()
		time.Sleep(4 * time.Second)
		if e.Dropped() == before {
			t.Error("it waits for the collector for ever")
		}
		begin = time.Now()
		cancel()
		all.Wait()
		if took := time.Since(begin); took > 6*time.Second {
			t.Errorf("it ended after %s", took)
		}
	})
}

type hanging struct{}

func (hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// TestRefused: a collector that refuses spans costs them, and nothing else.
func TestRefused(t *testing.T) {
	c := &collector{t: t, status: http.StatusServiceUnavailable}
	s := httptest.NewServer(c)
	defer s.Close()
	if e := export(t, s.URL, "n1", trace.Span{Name: "x"}, trace.Span{Name: "y"}); e.Dropped() != 2 {
		t.Errorf("%d were dropped", e.Dropped())
	}
	var none *trace.Exporter = trace.New(trace.Options{})
	none.Offer(trace.Span{})
	none.Run(t.Context())
	if none != nil {
		t.Error("without an endpoint there is an exporter")
	}
}

// TestClockSetBack: no span ends before it begins.
func TestClockSetBack(t *testing.T) {
	r := record()
	r.Promoted, r.Writable = at(-5000), at(-4990)
	for _, s := range trace.Term("7000", r) {
		if s.To.Before(s.From) {
			t.Errorf("%s from %s to %s", s.Name, s.From, s.To)
		}
	}
}
