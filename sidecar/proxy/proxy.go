package proxy

import (
	"context"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
)

// Run follows the cluster until the context ends.
func Run(ctx context.Context, cfg *config.Config, log hclog.Logger) error {
	if err := guard.HideMemory(); err != nil {
		log.Warn("a core file of this process would hold its secrets", "error", err)
	}
	client, err := sessions.New(process.Consul(cfg, log))
	if err != nil {
		return err
	}
	f, err := NewFollower(cfg, client, log)
	if err != nil {
		return err
	}
	if err := process.RequestShortSlices(); err != nil {
		log.Debug("without short time slices", "error", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	if cfg.API.Listen != "" {
		server, err := listenProxy(ctx, cfg.API.Listen, f, log)
		if err != nil {
			return err
		}
		all.Go(func() { server.run(ctx) })
	}
	all.Go(func() { process.ReapOrphans(ctx) })
	all.Go(func() { client.Follow(ctx, f.Wake) }) //nolint:errcheck // it ends with ctx
	log.Info("following the cluster", "cluster", cfg.Cluster, "service", cfg.Service.Name)
	f.Run(ctx)
	return nil
}
