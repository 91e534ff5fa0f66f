package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// tryPatience bounds how long another member may take to try settings.
const tryPatience = 8 * time.Second

// TryConfig refuses settings that this member's PostgreSQL, with its own version,
// libraries and memory, does not take.
func (c control) TryConfig(ctx context.Context, raw json.RawMessage) error {
	set, err := JudgeSettings(ctx, raw, c.server.lastFacts().Version, c.config.Postgres.BinDir)
	if err == nil {
		err = c.server.try(ctx, set)
	}
	if err != nil {
		return untaken(ctx, err)
	}
	return nil
}

// tried reports whether a change of the settings is tried on the members' servers.
func tried(old, set settings.Settings) bool {
	return !maps.Equal(old.Parameters, set.Parameters) || !slices.Equal(old.HBA, set.HBA) || !slices.Equal(old.Ident, set.Ident) ||
		old.FailoverSlots != set.FailoverSlots
}

// untaken is the answer to settings that are not stored: they are wrong, or they could not
// be tried in time.
func untaken(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return api.Refuse(http.StatusServiceUnavailable, "the settings could not be tried in time, and are not stored; try again: %v", err)
	}
	return api.Refuse(http.StatusBadRequest, "%v", err)
}

// tryOnOthers has each member that is heard try settings, before they are stored for all
// of them. One that does not answer has not tried them, which is logged.
func (c control) tryOnOthers(ctx context.Context, next []byte) error {
	snap := c.sidecar.Snapshot()
	token, err := c.token()
	if snap == nil || err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tryPatience)
	defer cancel()
	var all errgroup.Group
	for i := range snap.Observation.Peers {
		p := &snap.Observation.Peers[i]
		if p.Link != ha.LinkUp || p.Report.API == "" {
			continue
		}
		member, address := p.Member, p.Report.API
		all.Go(func() error {
			_, err := c.client(token).Ask(ctx, http.MethodPost, address, "/config/try", next)
			var refused *client.Refused
			switch {
			case errors.As(err, &refused) && refused.Status == http.StatusBadRequest:
				return fmt.Errorf("%s refuses it: %s", member, refused.Text)
			case err != nil: // an older version, perhaps
				c.log.Warn("the settings were not tried on a member", "member", member, "error", err)
			}
			return nil
		})
	}
	return all.Wait()
}
