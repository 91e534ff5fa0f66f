package member

import (
	"context"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// settingsKeeper keeps this member's copy of the cluster's settings.
type settingsKeeper struct {
	copy  *settings.Copy
	woken chan struct{} // capacity 1: Consul's data have changed
}

// open reads the copy. What it has is what holds where Consul's settings are no JSON.
func (k *settingsKeeper) open(stateDir string, m *Member) {
	var err error
	if k.copy, err = settings.OpenCopy(stateDir); err != nil {
		m.log.Warn("there is no copy of the cluster's settings: the server starts when Consul has answered with them", "error", err)
	}
	k.copy.Last(&m.settings)
}

func (k *settingsKeeper) wake() {
	select {
	case k.woken <- struct{}{}:
	default:
	}
}

// run writes the copy whenever the settings have changed, until ctx ends.
func (k *settingsKeeper) run(ctx context.Context, m *Member) {
	failed := false
	for {
		if m.cluster.View().SettingsRead {
			err := k.copy.Keep(m.stored(), time.Now())
			if err != nil && !failed {
				m.log.Error("a start while Consul is away would use older settings", "error", err)
			}
			failed = err != nil
		}
		select {
		case <-ctx.Done():
			return
		case <-k.woken:
		}
	}
}
