package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// rehearsals records what drills ask for.
type rehearsals struct {
	asked []string
	reads int
	last  json.RawMessage
	err   error
}

func (r *rehearsals) LastDrill(context.Context) (json.RawMessage, error) {
	r.reads++
	return r.last, r.err
}

func (r *rehearsals) KeepDrill(_ context.Context, last json.RawMessage) error {
	r.asked = append(r.asked, "keep "+string(last))
	return r.err
}

func (r *rehearsals) Inject(_ context.Context, f api.Fault) error {
	r.asked = append(r.asked, fmt.Sprintf("%s for %v", f.Name, f.For))
	return r.err
}

func TestDrills(t *testing.T) {
	for _, test := range []struct {
		method, auth, body string
		status             int
		asked, text        string // asked empty: nothing
	}{
		{"POST", bearer, `{"fault":"postgres-killed"}`, 200, "postgres-killed for 0s", "done"},
		{"POST", bearer, `{"fault":"sidecar-stopped","seconds":10}`, 200, "sidecar-stopped for 10s", "done"},
		{"POST", bearer, `{"fault":"sidecar-stopped","seconds":61}`, 400, "", "expected 1 to 60"},
		{"POST", bearer, `{"fault":"sidecar-stopped","seconds":-1e300}`, 400, "", "expected 1 to 60"},
		{"POST", bearer, `{"fault":"sidecar-stopped"}`, 400, "", "expected 1 to 60"},
		{"POST", bearer, `{"fault":"disk-burnt"}`, 400, "", "no fault"},
		{"POST", bearer, `{"fault":"postgres-killed","more":1}`, 400, "", "unknown field"},
		{"POST", bearer, ``, 400, "", "a body is expected"},
		{"POST", "", `{"fault":"postgres-killed"}`, 401, "", ""},
		{"POST", "Bearer wrong", `{"fault":"postgres-killed"}`, 401, "", ""},
		{"PUT", bearer, `{"scenario":"x"}`, 200, `keep {"scenario":"x"}`, "kept"},
		{"PUT", "", `{"scenario":"x"}`, 401, "", ""},
	} {
		d := &rehearsals{}
		b := newBench(t, viewOf("n1"), func(o *api.Options) { o.Control, o.Drills = &control{}, d })
		w := b.send(test.method, "/drill", test.auth, test.body)
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.text) || strings.Join(d.asked, ",") != test.asked {
			t.Errorf("%s %s: %d %q, asked %q; want %d, %q", test.method, test.body, w.Code, w.Body, d.asked, test.status, test.asked)
		}
	}
	d := &rehearsals{err: api.Refuse(http.StatusForbidden, "n1 does not allow it")}
	b := newBench(t, viewOf("n1"), func(o *api.Options) { o.Control, o.Drills = &control{}, d })
	if w := b.send("POST", "/drill", bearer, `{"fault":"postgres-killed"}`); w.Code != 403 || !strings.Contains(w.Body.String(), "does not allow") {
		t.Errorf("not allowed: %d %q", w.Code, w.Body)
	}
}

// TestLastDrill: anybody may ask, and Consul is not asked each time.
func TestLastDrill(t *testing.T) {
	for _, test := range []struct {
		drills *rehearsals
		status int
		text   string
	}{
		{&rehearsals{last: json.RawMessage(`{"scenario":"x"}`)}, 200, `{"scenario":"x"}`},
		{&rehearsals{}, 404, "no drill has been done"},
		{&rehearsals{err: errors.New("refused: token abc")}, 503, "Consul does not say"},
	} {
		b := newBench(t, viewOf("n1"), func(o *api.Options) { o.Drills = test.drills })
		for range 20 {
			if w := b.ask("GET", "/drill"); w.Code != test.status || !strings.Contains(w.Body.String(), test.text) || strings.Contains(w.Body.String(), "abc") {
				t.Errorf("%d %q, want %d %q", w.Code, w.Body, test.status, test.text)
			}
		}
		if test.drills.reads != 1 {
			t.Errorf("asked Consul %d times", test.drills.reads)
		}
	}
	if w := newBench(t, viewOf("n1"), nil).ask("GET", "/drill"); w.Code != 404 {
		t.Errorf("without drills: %d", w.Code)
	}
}
