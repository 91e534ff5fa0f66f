package proxy

import (
	"context"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// reloadTime is within which a reloaded configuration shows whether it can be run: what it listens
// on is taken at once.
const reloadTime = 10 * time.Second

// RunReloading is Run, which begins anew with what load reads each time that reload (SIGHUP)
// asks for it. What load refuses changes nothing, and where what it reads cannot be run, as a
// port is in use, the one before is. What it switches is left alone between the two, as between
// two processes.
func RunReloading(ctx context.Context, reload <-chan os.Signal, load func() (*config.Config, error), logger func(*config.Config) hclog.Logger) error {
	cfg, err := load()
	if err != nil {
		return err
	}
	var before *config.Config // which ran until cfg was loaded
	for cfg != nil {
		log, began := logger(cfg), time.Now()
		next, err := runUntilReload(ctx, cfg, reload, load, log)
		switch {
		case err == nil || next != nil: // or its end was not clean, which the next need not mind
			before, cfg = cfg, next
		case before != nil && time.Since(began) < reloadTime:
			log.Error("the configuration that was reloaded cannot be run; the one before is used again", "error", err)
			before, cfg = nil, before
		default:
			return err
		}
	}
	return nil
}

// runUntilReload runs with one configuration, and returns the next; nil: the context has ended, or
// it cannot be run.
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
