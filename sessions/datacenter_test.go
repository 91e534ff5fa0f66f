package sessions_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sessions"
)

// TestDatacenterOfAnother: who names another datacenter than the agent's is told so, whether
// the agent knows that one or not.
func TestDatacenterOfAnother(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, datacenter string
		status           int
		session          string
		says             bool
	}{
		{"one that the agent does not know", "dc2", http.StatusInternalServerError, "", true},
		{"one that it knows", "dc2", http.StatusOK, "rpc error making call: rpc error making call: Missing node registration", true},
		{"none", "", http.StatusOK, "rpc error making call: Missing node registration", false},
		{"another fault", "dc2", http.StatusOK, "No cluster leader", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			stop := make(chan struct{})
			consul := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if dc := r.URL.Query().Get("dc"); dc != c.datacenter && !strings.HasPrefix(r.URL.Path, "/v1/agent/") {
					t.Errorf("%s asks datacenter %q", r.URL, dc)
				}
				switch {
				case c.status != http.StatusOK:
					http.Error(w, "No path to datacenter", c.status)
				case r.URL.Path == "/v1/session/create":
					http.Error(w, c.session, http.StatusInternalServerError)
				default:
					if r.URL.Query().Get("index") != "" { // it waits for a change
						select {
						case <-r.Context().Done():
						case <-stop:
						}
					}
					w.Header().Set("X-Consul-Index", "7")
					body := "[]"
					if r.URL.Path == "/v1/txn" {
						body = `{"Results":[],"Errors":null}`
					}
					_, _ = io.WriteString(w, body)
				}
			}))
			t.Cleanup(func() { close(stop); consul.Close() })
			o := options("n1", strings.TrimPrefix(consul.URL, "http://"))
			o.Datacenter = c.datacenter
			n1 := run(t, o)
			const words = `consul.datacenter is "dc2"`
			if c.says {
				v := n1.await(t, 30*time.Second, "the datacenter in words", func(v sessions.View) bool { return v.Err != nil && strings.Contains(v.Err.Error(), words) })
				t.Log(v.Err)
				return
			}
			v := n1.await(t, 30*time.Second, "the session's error", func(v sessions.View) bool { return v.Err != nil && strings.Contains(v.Err.Error(), c.session) })
			if strings.Contains(v.Err.Error(), words) {
				t.Errorf("it says %v", v.Err)
			}
		})
	}
}
