package member

import (
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// TestServerEnvironment: the server gets what the service has, without the member's own
// passwords, whatever the variable that they came in is called.
func TestServerEnvironment(t *testing.T) {
	t.Setenv("WALG_S3_PREFIX", "s3://bucket")
	t.Setenv("MY_PASSWORD", "of the replicator")
	cfg := &config.Config{}
	cfg.Postgres.Replication.Password = config.NewSecret("of the replicator")
	env := serverOptions(cfg, nil, hclog.NewNullLogger()).WAL.Environment
	if !slices.Contains(env, "WALG_S3_PREFIX=s3://bucket") || slices.Contains(env, "MY_PASSWORD=of the replicator") {
		t.Errorf("the server gets %q", env)
	}
}
