package proxy

import (
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
	"github.com/pgsidecar/pgsidecar/templates"
)

// A proxy that once knew the cluster is not ready while Consul is away, also where there
// is no HAProxy that would have to go by its own checks.
func TestNotReadyWithoutConsul(t *testing.T) {
	cfg := &config.Config{Cluster: "pg", Member: "proxy"}
	cfg.Service.Name = "pg"
	cfg.Consul.Addresses = []string{"127.0.0.1:1"}
	client, err := sessions.New(process.Consul(cfg, hclog.NewNullLogger()))
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFollower(cfg, client, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if why := f.unready(); !strings.Contains(why, "not been read") {
		t.Errorf("before anything is known: %q", why)
	}
	f.Agent.Update(templates.Topology{Term: 1})
	if why := f.unready(); !strings.Contains(why, "Consul has not answered") {
		t.Errorf("while Consul is away: %q", why)
	}
}
