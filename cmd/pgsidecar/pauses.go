package main

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// Pause begins maintenance. Members are paused beside those that are already; all
// of those until the later of both times.
func (c control) Pause(ctx context.Context, req api.Pause) error {
	p := sidecar.Pause{Members: req.Members, Reason: req.Reason}
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
		set, err := sidecar.ParseSettings(c.cluster.View().Settings)
		if now := set.Paused; err == nil && now != nil && (now.Until.IsZero() || time.Now().Before(now.Until)) {
			if len(now.Members) == 0 {
				return api.Refuse(http.StatusConflict, "the whole cluster is paused; resume it first: pgsidecar resume")
			}
			p = beside(*now, p)
		}
	}
	return c.storePause(ctx, pausePatch(p))
}

// beside adds the members of a pause to one that holds.
func beside(now, p sidecar.Pause) sidecar.Pause {
	p.Members = slices.Concat(now.Members, p.Members)
	slices.Sort(p.Members)
	p.Members = slices.Compact(p.Members)
	if now.Until.IsZero() || !p.Until.IsZero() && p.Until.Before(now.Until) {
		p.Until = now.Until
	}
	if p.Reason == "" {
		p.Reason = now.Reason
	}
	return p
}

// pausePatch is the merge patch that puts a pause in the place of any before: what
// it has not is null, and so removed.
func pausePatch(p sidecar.Pause) map[string]any {
	patch := map[string]any{"until": nil, "members": nil, "reason": nil}
	if !p.Until.IsZero() {
		patch["until"] = p.Until
	}
	if len(p.Members) > 0 {
		patch["members"] = p.Members
	}
	if p.Reason != "" {
		patch["reason"] = p.Reason
	}
	return patch
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
	set, err := sidecar.ParseSettings(c.cluster.View().Settings)
	if err != nil || set.Paused == nil || len(set.Paused.Members) == 0 {
		return api.Refuse(http.StatusConflict, "the whole cluster is paused, or nothing is; resume without naming members")
	}
	for _, name := range req.Members {
		if !slices.Contains(set.Paused.Members, name) {
			return api.Refuse(http.StatusConflict, "%s is not paused; paused: %s", name, strings.Join(set.Paused.Members, ", "))
		}
	}
	p := *set.Paused
	p.Members = slices.DeleteFunc(p.Members, func(m string) bool { return slices.Contains(req.Members, m) })
	if len(p.Members) == 0 {
		return c.storePause(ctx, nil)
	}
	return c.storePause(ctx, pausePatch(p))
}
