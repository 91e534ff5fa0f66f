package proxy

import (
	"context"
	"os"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// RunReloading is Run, which begins anew with what load reads each time that reload (SIGHUP)
// asks for it. What load refuses changes nothing. What it switches is left alone
// between the two, as between two processes.
func RunReloading(ctx context.Context, reload <-chan os.Signal, load func() (*config.Config, error), logger func(*config.Config) hclog.Logger) error {
	cfg, err := load()
	if err != nil {
		return err
	}
	for cfg != nil {
		if cfg, err = runUntilReload(ctx, cfg, reload, load, logger(cfg)); err != nil {
			return err
		}
	}
	return nil
}

// runUntilReload runs with one configuration, and returns the next; nil: the context has ended.
func runUntilReload(ctx context.Context, cfg *config.Config, reload <-chan os.Signal, load func() (*config.Config, error), log hclog.Logger) (*config.Config, error) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, log) }()
	for {
		select {
		case err := <-ended:
			return nil, err
		case <-reload:
			next, err := load()
			if err != nil {
				log.Error("the configuration was not reloaded; the old one holds", "error", err)
				continue
			}
			log.Info("the configuration is reloaded")
			end()
			return next, <-ended
		}
	}
}
