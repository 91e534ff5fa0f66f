package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// span is one as a collector reads it.
type span struct {
	Trace  string `json:"traceId"`
	ID     string `json:"spanId"`
	Parent string `json:"parentSpanId"`
	Name   string `json:"name"`
	member string // of the resource
}

// collector is one of OpenTelemetry, as far as a test needs it.
type collector struct {
	mu    sync.Mutex
	spans []span
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ResourceSpans []struct {
			Resource struct {
				Attributes []struct {
					Key   string
					Value struct{ StringValue string }
				}
			}
			ScopeSpans []struct{ Spans []span }
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, "no traces", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range body.ResourceSpans {
		i := slices.IndexFunc(of.Resource.Attributes, func(a struct {
			Key   string
			Value struct{ StringValue string }
		}) bool {
			return a.Key == "service.instance.id"
		})
		for _, scope := range of.ScopeSpans {
			for _, s := range scope.Spans {
				s.member = of.Resource.Attributes[i].Value.StringValue
				c.spans = append(c.spans, s)
			}
		}
	}
}

// trace returns the spans below the newest root of that name, as "MEMBER NAME", and who
// they are of; what is of the same trace and hangs elsewhere is left out.
func (c *collector) trace(root string) (names, members []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var of span
	for _, s := range c.spans {
		if s.Name == root && s.Parent == "" {
			of = s
		}
	}
	for _, s := range c.spans {
		if of.ID != "" && s.Trace == of.Trace && (s.ID == of.ID || s.Parent == of.ID) {
			names = append(names, s.Name)
			if !slices.Contains(members, s.member) {
				members = append(members, s.member)
			}
		}
	}
	return names, members
}

// told is a lab that tells a collector what happens to it.
type told struct {
	*saved
	collector
	asked sync.WaitGroup
	mu    sync.Mutex
	seen  map[string]time.Time // when a member first had an outage, by MEMBER KIND
	ended map[string]time.Time // when that was over
}

// TestTold: a switchover, a failover and a backup of a real cluster are each one trace over
// its members; every member has each outage a moment after its end; and a damaged line of
// the journal is said, and takes nothing else with it.
func TestTold(t *testing.T) {
	w := &told{seen: map[string]time.Time{}, ended: map[string]time.Time{}}
	server := httptest.NewServer(&w.collector)
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	w.saved = newSaved(t)
	w.whole("a cluster", 1)
	w.dumps()
	watching, stop := context.WithCancel(t.Context())
	for _, h := range w.Plan().Members() {
		w.asked.Go(func() { w.watch(watching, h) })
	}
	defer w.asked.Wait()
	defer stop()

	w.command("drill", "live", "switchover", "--yes")
	st := w.whole("a cluster after the switchover", 2)
	w.traced("switchover", 3, "elect", "promote", "first write", "announce", "route", "vote", "follow", "stop")
	w.damage()
	w.lose(st.Leader)
	w.await("another leader", func(now *api.Status) bool { return now.Term > st.Term && now.Leader != st.Leader })
	w.must(w.Start(w.within(time.Minute), st.Leader, lab.Sidecar))
	st = w.whole("a cluster after the failover", st.Term+1)
	w.command("restart", st.Leader)
	w.whole("a cluster after the restart", st.Term)
	w.command("backup", "run", "dump")

	w.traced("failover", 2, "elect", "collect votes", "promote", "first write", "announce", "route", "vote", "follow")
	w.traced("backup", 2, "make", "expire", "ask")
	w.outages("switchover", "failover", "restart")
	if said := w.command("availability"); !strings.Contains(said, "1 line of the outages in Consul cannot be read") ||
		!strings.Contains(said, "switchover") || !strings.Contains(said, "failover") {
		t.Errorf("availability says\n%s", said)
	}
}

// dumps gives the members a block of backups by pg_dump: pgBackRest copies from the
// primary, and these from a replica.
func (w *told) dumps() {
	w.t.Helper()
	dir := w.Plan().RepositoryDir() + ".dumps"
	w.must(os.Mkdir(dir, 0o700))
	var owner syscall.Stat_t
	w.must(syscall.Stat(w.Plan().RepositoryDir(), &owner))
	w.must(os.Chown(dir, int(owner.Uid), int(owner.Gid)))
	w.rewrite(func(pg string) string {
		return pg + fmt.Sprintf("\nbackup \"dump\" {\n  engine = \"pg_dump\"\n\n  repository {\n    path = %q\n  }\n}\n", dir)
	})
	w.whole("a cluster with dumps", 1)
}

// traced waits for a trace of so many members, with these spans.
func (w *told) traced(root string, of int, want ...string) {
	w.t.Helper()
	var names, members []string
	defer func() {
		if w.t.Failed() {
			w.t.Logf("of the trace of the %s came %q of %q", root, names, members)
		}
	}()
	w.awaitAny("a trace", func(*api.Status) bool {
		names, members = w.trace(root)
		return len(members) >= of || w.t.Context().Err() != nil
	})
	for _, name := range want {
		if !slices.Contains(names, name) {
			w.t.Errorf("the trace of the %s has no span %q: %q of %q", root, name, names, members)
		}
	}
	if count := len(names) - 1; slices.Index(names, root) < 0 || count < len(want) {
		w.t.Errorf("the trace of the %s: %q", root, names)
	}
	w.t.Logf("%s: %d spans of %s", root, len(names), strings.Join(members, ", "))
}

// watch asks a member again and again which outages it knows, until ctx ends.
func (w *told) watch(ctx context.Context, h lab.Host) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		known, err := outagesOf(ctx, h)
		if err != nil {
			continue // it may be killed just now
		}
		w.mu.Lock()
		for _, o := range known.Outages {
			key := h.Name + " " + string(o.Kind)
			if _, known := w.seen[key]; !known {
				w.seen[key], w.ended[key] = time.Now(), o.To
			}
		}
		w.mu.Unlock()
	}
}

func outagesOf(ctx context.Context, h lab.Host) (known api.Availability, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.APIAddress()+"/availability", nil)
	if err != nil {
		return known, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return known, err
	}
	defer res.Body.Close()
	return known, json.NewDecoder(res.Body).Decode(&known)
}

// outages fails unless a member had each outage within a second of its end, and all of those
// that lived through it soon after: a busy machine is given more.
func (w *told) outages(kinds ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, kind := range kinds {
		had, best := 0, time.Hour
		for _, h := range w.Plan().Members() {
			key := h.Name + " " + kind
			if w.seen[key].IsZero() {
				continue
			}
			had++
			took := w.seen[key].Sub(w.ended[key])
			best = min(best, took)
			if w.t.Logf("%s had the %s %v after its end", h.Name, kind, took.Round(time.Millisecond)); took > 10*time.Second && kind == "switchover" {
				w.t.Errorf("%s had the %s only %v after its end", h.Name, kind, took)
			}
		}
		if best > time.Second {
			w.t.Errorf("the %s was there only %v after its end", kind, best)
		}
		if had < 3 {
			w.t.Errorf("%d members know of the %s", had, kind)
		}
	}
}

// damage writes half a line into this month's journal of outages.
func (w *told) damage() {
	w.t.Helper()
	key := "http://" + w.Plan().App().HTTPAddress() + "/v1/kv/" + w.Plan().Prefix + "/" + w.Plan().Cluster + "/outages/" + time.Now().UTC().Format("2006-01")
	ask := func(method, url string, body []byte) []byte {
		req, err := http.NewRequestWithContext(w.within(10*time.Second), method, url, bytes.NewReader(body))
		w.must(err)
		res, err := http.DefaultClient.Do(req)
		w.must(err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		w.must(err)
		if res.StatusCode != http.StatusOK {
			w.t.Fatalf("%s %s: %s %s", method, url, res.Status, text)
		}
		return text
	}
	journal := ask(http.MethodGet, key+"?raw", nil)
	ask(http.MethodPut, key, append([]byte("{\"from\":\"2026-\n"), journal...))
}
