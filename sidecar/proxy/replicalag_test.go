package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// A template that mentions lag gets it from the members' APIs: from the leader's, and
// while that does not answer from another's. Without an answer it is not known, which
// is not zero. One that does not mention it has nobody asked.
func TestTemplatesReadLag(t *testing.T) {
	l := newProxyLab(t)
	var ahead atomic.Int64 // bytes that n2 lacks
	ahead.Store(100)
	var asked [2]atomic.Int64
	serve := func(i int) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/cluster" {
				http.NotFound(w, r)
				return
			}
			asked[i].Add(1)
			json.NewEncoder(w).Encode(map[string]any{"members": []map[string]any{ //nolint:errcheck // asked again
				{"name": "n1", "role": "leader"}, {"name": "n2", "replay_lag": ahead.Load(), "lag": 0}, {"name": "n3", "replay_lag": "unknown"},
			}})
		}))
		t.Cleanup(s.Close)
		l.apiOf[fmt.Sprintf("n%d", i+1)] = s.Listener.Addr().String()
		return s
	}
	leader, other := serve(0), serve(1)
	l.register("n1", "primary", 1)
	l.register("n2", "replica", 1)
	l.register("n3", "replica", 1)
	l.record(1, "n1", ha.PhaseLeading)
	file, _ := l.follow("{{ range .Replicas }}{{ .Name }}={{ if .LagKnown }}{{ .Lag }}{{ else }}?{{ end }};{{ end }}\n")
	l.contains(file, "n2=100;n3=?;\n")
	if asked[1].Load() > 0 {
		t.Error("another than the leader was asked")
	}
	leader.CloseClientConnections()
	leader.Close()
	ahead.Store(7)
	l.contains(file, "n2=7;n3=?;\n")
	other.CloseClientConnections()
	other.Close()
	l.contains(file, "n2=?;n3=?;\n")
}

func TestLagIsNotAskedInVain(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "t")
	for text, want := range map[string]bool{"{{ .Term }}": false, "{{ range .Replicas }}{{ if lt .Lag 10 }}x{{ end }}{{ end }}": true} {
		if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := &config.Config{Service: config.Service{Name: "pg"}, Templates: []config.Template{{Name: "t", Source: source, Destination: dir + "/out"}}}
		s, err := templateSettings(cfg)
		if err != nil {
			t.Fatal(err)
		}
		files, err := templateFiles(cfg, s)
		if err != nil {
			t.Fatal(err)
		}
		if got := wantsLags(files); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}
