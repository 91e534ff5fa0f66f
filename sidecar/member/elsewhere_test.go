package member

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
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

// TestRoutesElsewhere: every proxy that Consul names is asked; and where Consul does not
// say which there are, it is said why.
func TestRoutesElsewhere(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"haproxy":[{"socket":"/run/h","connected":true,"primary":"n2","term":7}]}`))
	}))
	defer proxy.Close()
	denied := false
	consul := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if denied || r.URL.Path != "/v1/health/service/pg-proxy" {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `[{"Node":{"Node":"app1","Address":"10.0.0.9"},"Service":{"ID":"a","Service":"pg-proxy","Port":5000,"Meta":{"haproxy":"1","api":%q}},"Checks":[{"Status":"passing"}]},
			{"Node":{"Node":"app2","Address":"10.0.0.10"},"Service":{"ID":"b","Service":"pg-proxy","Port":5000,"Meta":{"haproxy":"1"}},"Checks":[{"Status":"critical"}]}]`,
			strings.TrimPrefix(proxy.URL, "http://"))
	}))
	defer consul.Close()
	client, err := sessions.New(sessions.Options{Addresses: []string{strings.TrimPrefix(consul.URL, "http://")}, Cluster: "pg", Member: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	m := &Member{cluster: client, config: &config.Config{Member: "n1"}}
	routes, err := m.routesElsewhere(t.Context())
	if err != nil || len(routes) != 2 {
		t.Fatalf("%+v, %v", routes, err)
	}
	for _, r := range routes {
		if good := r.Host == "app1" && strings.Contains(string(r.Templates), `"primary":"n2"`) && r.Check == "passing"; !good && (r.Host != "app2" || r.Problem == "" || r.Check != "critical") {
			t.Errorf("%+v", r)
		}
	}
	denied = true
	if routes, err := m.routesElsewhere(t.Context()); err == nil || len(routes) != 0 {
		t.Errorf("%+v, %v", routes, err)
	}
}
