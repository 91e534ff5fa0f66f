package sessions_test

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sessions"
)

// TestAgentBehindBalancer: an address that leads to one agent and then to another is said
// to be a load balancer's, with the nodes; one agent's own is not.
func TestAgentBehindBalancer(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	other := newAgent(t, "other", server.serf, "")
	var both atomic.Bool
	var ways []*httputil.ReverseProxy
	for _, a := range []*agent{server, other} {
		at, err := url.Parse("http://" + a.http)
		must(t, err)
		ways = append(ways, httputil.NewSingleHostReverseProxy(at))
	}
	balancer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		way := ways[0]
		if both.Load() {
			way = ways[rand.IntN(2)]
		}
		way.ServeHTTP(w, r)
	}))
	t.Cleanup(balancer.CloseClientConnections)
	n := run(t, options("n1", strings.TrimPrefix(balancer.URL, "http://")))
	defer n.stop()
	must(t, n.Register(background(t), registration("n1", "replica", 5001)))
	eventually(t, 30*time.Second, "the registration", func() error { return n.View().Err })
	both.Store(true)
	v := n.await(t, 2*time.Minute, "the balancer", func(v sessions.View) bool {
		return v.Err != nil && strings.Contains(v.Err.Error(), "leads to several agents in turn (of the nodes other, server)")
	})
	t.Log(v.Err)
}
