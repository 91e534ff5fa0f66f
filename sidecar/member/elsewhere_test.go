package member

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sessions"
)

// TestRoutesOfProxy: what a proxy of another host says is taken if it is a proxy's status,
// without what the page does not know.
func TestRoutesOfProxy(t *testing.T) {
	for name, c := range map[string]struct {
		status             int
		answer             string
		templates, problem string
	}{
		"good":        {200, `{"cluster":"pg","term":7,"other":"x","haproxy":[{"socket":"/run/h","connected":true,"primary":"n2","term":7}]}`, `"primary":"n2"`, ""},
		"nothing":     {200, `{"cluster":"pg"}`, "", ""},
		"a web page":  {200, "<html>", "", errNoProxy.Error()},
		"other types": {200, `{"haproxy":"n1"}`, "", errNoProxy.Error()},
		"refused":     {403, "not here\nat all", "", "not here; at all"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/status" || r.Method != http.MethodGet {
					t.Errorf("asked %s %s", r.Method, r.URL)
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.answer))
			}))
			defer s.Close()
			r := routesOfProxy(t.Context(), sessions.Member{Node: "app1", Status: "passing", Meta: map[string]string{metaAPI: strings.TrimPrefix(s.URL, "http://")}})
			if r.Host != "app1" || r.Check != "passing" || !strings.Contains(r.Problem, c.problem) || (c.problem == "") != (r.Problem == "") ||
				!strings.Contains(string(r.Templates), c.templates) || (c.templates == "") != (len(r.Templates) == 0) || strings.Contains(string(r.Templates), "other") {
				t.Errorf("%+v %s", r, r.Templates)
			}
		})
	}
	if r := routesOfProxy(t.Context(), sessions.Member{Node: "app1"}); !strings.Contains(r.Problem, "pgsidecar help proxy") {
		t.Errorf("without an address: %+v", r)
	}
}

// TestRoutesOfSlowProxy: one that does not answer is given up in time.
func TestRoutesOfSlowProxy(t *testing.T) {
	asked, done := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(asked); <-done }))
	defer s.Close()
	defer close(done)
	r := routesOfProxy(t.Context(), sessions.Member{Node: "app1", Meta: map[string]string{metaAPI: strings.TrimPrefix(s.URL, "http://")}})
	<-asked
	if !strings.Contains(r.Problem, context.DeadlineExceeded.Error()) {
		t.Errorf("%+v", r)
	}
}
