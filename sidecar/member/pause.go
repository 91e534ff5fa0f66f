package member

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// Pause begins maintenance. Members are paused beside those that are already; all
// of those until the later of both times.
func (c control) Pause(ctx context.Context, req api.Pause) error {
	p := settings.Pause{Members: req.Members, Reason: req.Reason}
	if req.For > 0 {
		p.Until = time.Now().Add(req.For)
	}
	if len(req.Members) > 0 {
		known := c.names()
		for _, name := range req.Members {
			if !slices.Contains(known, name) {
				return api.Refuse(http.StatusNotFound, "there is no member %s; there are %s", name, strings.Join(known, ", "))
			}
		}
		if now := c.stored().Paused; now.Holds(time.Now()) {
			if len(now.Members) == 0 {
				return api.Refuse(http.StatusConflict, "the whole cluster is paused; resume it first: pgsidecar resume")
			}
			p = settings.Beside(*now, p)
		}
	}
	return c.storePause(ctx, settings.PausePatch(p))
}

// storePause stores a patch of the pause; nil: there is none any more.
func (c control) storePause(ctx context.Context, patch map[string]any) error {
	change := map[string]any{"paused": nil}
	if patch != nil {
		change["paused"] = patch
	}
	text, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = c.PatchConfig(ctx, api.ConfigChange{Patch: text})
	return err
}

// names are the members on record, and those that Consul's catalog has, sorted.
func (c control) names() []string {
	view := c.cluster.View()
	names := slices.Clone(view.Consul.Record.Members)
	for _, m := range view.Members {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Resume ends maintenance.
func (c control) Resume(ctx context.Context, req api.Resume) error {
	if len(req.Members) == 0 {
		return c.storePause(ctx, nil)
	}
	set := c.stored()
	if err := mayResume(set.Paused, req.Members, time.Now()); err != nil {
		return err
	}
	p := *set.Paused
	p.Members = slices.DeleteFunc(slices.Clone(p.Members), func(m string) bool { return slices.Contains(req.Members, m) })
	if len(p.Members) == 0 {
		return c.storePause(ctx, nil)
	}
	return c.storePause(ctx, settings.PausePatch(p))
}

// mayResume refuses to let members go on that are not paused by name.
func mayResume(paused *settings.Pause, members []string, now time.Time) error {
	switch {
	case !paused.Holds(now):
		return api.Refuse(http.StatusConflict, "nothing is paused: there is nothing to resume")
	case len(paused.Members) == 0:
		return api.Refuse(http.StatusConflict, "the whole cluster is paused, and no member alone: pgsidecar resume, without a name, ends it for all")
	}
	for _, name := range members {
		if !slices.Contains(paused.Members, name) {
			return api.Refuse(http.StatusConflict, "%s is not paused; paused: %s", name, strings.Join(paused.Members, ", "))
		}
	}
	return nil
}
