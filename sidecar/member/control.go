package member

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// control does what the API's changes ask for.
type control struct{ *Member }

var _ api.Control = control{}

// Switchover hands over to the candidate. A member that does not lead passes
// the request on to the leader.
func (c control) Switchover(ctx context.Context, req api.Switchover) (string, error) {
	snap := c.sidecar.Snapshot()
	if snap == nil {
		return "", api.Refuse(http.StatusServiceUnavailable, "nothing is decided yet; try again in a second")
	}
	r := snap.Observation.Consul.Record
	switch {
	case recordLost(snap):
		return "", api.Refuse(http.StatusServiceUnavailable, "Consul has lost the cluster's record, or has an earlier one; the primary writes it again, so try again in a second")
	case r.Phase != ha.PhaseLeading:
		return "", api.Refuse(http.StatusPreconditionFailed, "the cluster has no primary that could hand over; see pgsidecar status")
	case req.Leader != "" && req.Leader != r.Leader:
		return "", api.Refuse(http.StatusPreconditionFailed, "%s is not the primary, %s is", req.Leader, r.Leader)
	case req.Candidate == r.Leader:
		return "", api.Refuse(http.StatusPreconditionFailed, "%s is the primary already", req.Candidate)
	case !req.At.IsZero():
		return "", c.plan(ctx, &settings.PlannedSwitchover{At: req.At, From: r.Leader, To: req.Candidate, Until: req.Until, Drain: durationText(req.Drain)})
	case r.Leader != snap.Observation.Self:
		return c.forward(ctx, r.Leader, "/switchover", map[string]any{"leader": r.Leader, "candidate": req.Candidate, "drain": durationText(req.Drain)})
	case snap.Observation.Consul.Reachable == ha.No:
		// The lock could not be passed on: the server would be stopped for nothing.
		return "", api.Refuse(http.StatusPreconditionFailed, "Consul does not answer, and a handover needs it; nothing was begun")
	}
	c.sidecar.Switchover(req.Candidate, req.Drain)
	after, err := c.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool {
		now := s.Observation.Consul.Record
		return now.Term > r.Term && now.Phase == ha.PhaseLeading || s.State.Refused != ""
	})
	if err != nil {
		return "", api.Refuse(http.StatusServiceUnavailable, "timed out; if it had not begun it was cancelled: see pgsidecar status")
	}
	if after.State.Refused != "" {
		c.sidecar.WithdrawSwitchover()
		return "", api.Refuse(http.StatusPreconditionFailed, "%s", after.State.Refused)
	}
	now := after.Observation.Consul.Record
	if now.Leader == r.Leader {
		return "", api.Refuse(http.StatusServiceUnavailable, "rolled back: %s leads again, in term %d; nothing was lost. Its log, and pgsidecar status, say why", now.Leader, now.Term)
	}
	return now.Leader, nil
}

// forward passes a change on to another member's API, and returns the name of
// the new leader out of its answer.
func (c control) forward(ctx context.Context, member, path string, body any) (string, error) {
	answer, err := c.post(ctx, member, path, body)
	if err != nil {
		return "", err
	}
	_, leader, _ := strings.Cut(answer, `"`)
	leader, _, _ = strings.Cut(leader, `"`)
	return leader, nil
}

// post asks another member for a change, and returns its answer.
func (c control) post(ctx context.Context, member, path string, body any) (string, error) {
	return c.request(ctx, http.MethodPost, member, path, body)
}

func (c control) request(ctx context.Context, method, member, path string, body any) (string, error) {
	address := c.addressOf(member)
	if address == "" {
		return "", api.Refuse(http.StatusPreconditionFailed, "%s is not registered in Consul, and is not heard", member)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	token, err := c.token()
	if err != nil {
		return "", err
	}
	answer, err := c.client(token).Ask(ctx, method, address, path, text)
	var refused *client.Refused
	switch {
	case errors.As(err, &refused):
		return "", api.Refuse(refused.Status, "%s", refused.Text)
	case err != nil:
		return "", api.Refuse(http.StatusServiceUnavailable, "%s does not answer: %v", member, err)
	}
	return strings.TrimSpace(string(answer)), nil
}

// addressOf is where another member's API listens: as Consul's catalog says, or the
// member itself, which Consul may have forgotten. Empty: not known.
func (c control) addressOf(member string) string {
	for _, m := range c.cluster.View().Members {
		if m.Name == member && m.API != "" {
			return m.API
		}
	}
	if snap := c.sidecar.Snapshot(); snap != nil {
		for i := range snap.Observation.Peers {
			if p := &snap.Observation.Peers[i]; p.Member == member {
				return p.Report.API
			}
		}
	}
	return ""
}

// Reinitialize begins a new clone.
func (c control) Reinitialize(ctx context.Context, req api.Reinitialize) error {
	snap := c.sidecar.Snapshot()
	switch {
	case snap == nil:
		return api.Refuse(http.StatusServiceUnavailable, "nothing is decided yet; try again in a second")
	case snap.Observation.Consul.Record.Leader == c.config.Member:
		return api.Refuse(http.StatusServiceUnavailable, "%s is the leader; hand over first: pgsidecar switchover", c.config.Member)
	case snap.Observation.Consul.Record.Phase != ha.PhaseLeading || !snap.State.Hears:
		return api.Refuse(http.StatusServiceUnavailable, "there is no primary to clone from")
	}
	from := req.From
	if req.FromLeader {
		from = snap.Observation.Consul.Record.Leader
	}
	if from == c.config.Member || from != "" && !slices.ContainsFunc(snap.Observation.Peers, func(p ha.Peer) bool { return p.Member == from && p.Link == ha.LinkUp }) {
		return api.Refuse(http.StatusPreconditionFailed, "cannot clone from %s: it is not another member that is reachable", from)
	}
	c.server.cloneNextFrom(from)
	c.sidecar.Reinit()
	// The next request for the status is to see it.
	if _, err := c.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool { return s.Observation.Intent.Reinit }); err != nil {
		return api.Refuse(http.StatusServiceUnavailable, "not begun yet; see pgsidecar status")
	}
	return nil
}

// Reload reads the configuration again.
func (c control) Reload(context.Context) error {
	if err := c.reload(); err != nil {
		return api.Refuse(http.StatusBadRequest, "%v", err)
	}
	return nil
}

// Remove takes a member off the record and out of Consul's catalog. Only the
// leader does it.
func (c control) Remove(ctx context.Context, name string) error {
	snap := c.sidecar.Snapshot()
	if snap == nil {
		return api.Refuse(http.StatusServiceUnavailable, "nothing is decided yet; try again in a second")
	}
	r := snap.Observation.Consul.Record
	recorded := slices.Contains(r.Members, name)
	registered := slices.ContainsFunc(c.cluster.View().Members, func(m sessions.Member) bool { return m.Name == name })
	switch {
	case r.Leader != c.config.Member || r.Phase != ha.PhaseLeading:
		return api.Refuse(http.StatusPreconditionFailed, "%s does not lead; ask the leader, %s", c.config.Member, r.Leader)
	case !recorded && !registered:
		return api.Refuse(http.StatusNotFound, "there is no member %s; there are %s", name, strings.Join(r.Members, ", "))
	}
	if recorded {
		c.sidecar.Remove(name)
		after, err := c.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool {
			return !slices.Contains(s.Observation.Consul.Record.Members, name) || s.State.Refused != ""
		})
		if err != nil {
			c.sidecar.WithdrawRemoval()
			return api.Refuse(http.StatusServiceUnavailable, "%s is not removed yet; see pgsidecar status", name)
		}
		if after.State.Refused != "" {
			c.sidecar.WithdrawRemoval()
			return api.Refuse(http.StatusPreconditionFailed, "%s", after.State.Refused)
		}
	}
	if err := c.cluster.Forget(ctx, name); errors.Is(err, sessions.ErrInUse) {
		return api.Refuse(http.StatusConflict, "%[1]s is off the record, but Consul still has its checks as passing. If it was killed, they fail in a few seconds; if it runs, stop it. Then run again: pgsidecar remove %[1]s", name)
	} else if err != nil {
		return fmt.Errorf("%s is off the record, but still registered in Consul: %w", name, err)
	}
	c.log.Info("a member was removed", "member", name)
	if patch := leftovers(c.stored().Settings, name); patch != nil {
		if err := c.storePatch(ctx, patch); err != nil {
			return fmt.Errorf("%s is removed, but what the settings say of it stays: %w", name, err)
		}
	}
	return nil
}

// leftovers is the change that takes a removed member out of the settings, so that a later one
// of its name inherits neither tags nor plans; nil: they do not name it.
func leftovers(set settings.Settings, name string) map[string]any {
	patch, tags := map[string]any{}, map[string]any{}
	for member, t := range set.Tags {
		switch {
		case member == name:
			tags[member] = nil
		case t.ReplicateFrom != nil && *t.ReplicateFrom == name:
			tags[member] = map[string]any{"replicatefrom": nil}
		}
	}
	if len(tags) > 0 {
		patch["tags"] = tags
	}
	if _, planned := set.Restarts[name]; planned {
		patch["restarts"] = map[string]any{name: nil}
	}
	if p := set.Switchover; p != nil && (p.From == name || p.To == name) {
		patch["switchover"] = nil
	}
	if len(patch) == 0 {
		return nil
	}
	return patch
}

// PatchConfig changes the cluster-wide settings, which are checked before they
// are stored. Who changed what goes into the history.
func (c control) PatchConfig(ctx context.Context, change api.ConfigChange) (json.RawMessage, error) {
	view := c.cluster.View()
	if !view.SettingsRead {
		return nil, api.Refuse(http.StatusServiceUnavailable, "Consul has not answered with the cluster's settings yet; try again when it does")
	}
	if change.Version != 0 && change.Version != view.SettingsIndex {
		return nil, api.Refuse(http.StatusPreconditionFailed, "the settings were changed meanwhile: they have version %d now", view.SettingsIndex)
	}
	patch, err := settings.FromPatroni(change.Patch)
	if err != nil {
		return nil, api.Refuse(http.StatusBadRequest, "%v", err)
	}
	before := view.Settings
	if change.Replace {
		before = nil // and what is null in it is not there
	}
	next, err := settings.Merge(before, patch)
	if err != nil {
		return nil, api.Refuse(http.StatusBadRequest, "%v", err)
	}
	if bytes.Equal(settings.Pretty(settings.OrEmpty(view.Settings)), settings.Pretty(next)) {
		return next, nil
	}
	set, err := JudgeSettings(ctx, next, c.server.lastFacts().Version, c.config.Postgres.BinDir)
	old := c.settings.Read(view.Settings, view.SettingsIndex)
	if now := set.Failover; err == nil && now != nil && (old.Failover == nil || old.Failover.FailureTimeout != now.FailureTimeout) {
		err = checkTimeout(now.FailureTimeout, c.config.Failover.Lease)
	}
	if err == nil {
		err = c.saving.owned(set.Parameters)
	}
	if snap := c.sidecar.Snapshot(); err == nil && snap != nil {
		if err = checkMembers(set, old.Settings, snap.Observation.Consul.Record.Members); err == nil {
			err = checkZones(set, old.Settings, &snap.Observation)
		}
	}
	if err == nil && tried(old.Settings, set) {
		if err = c.server.try(ctx, set); err == nil {
			err = c.tryOnOthers(ctx, next)
		}
	}
	if err != nil {
		return nil, untaken(ctx, err)
	}
	err = c.cluster.PutSettings(ctx, next, view.SettingsIndex)
	switch {
	case errors.Is(err, sessions.ErrConflict):
		return nil, api.Refuse(http.StatusConflict, "the settings were changed by somebody else meanwhile; try again")
	case err != nil:
		return nil, err
	}
	c.log.Info("the cluster's settings were changed", "by", api.RequestedBy(ctx), "before", string(view.Settings), "after", string(next))
	if err := c.account(ctx, view.Settings, next); err != nil {
		c.log.Warn("the change is stored, but not in the history", "error", err)
	}
	return next, nil
}
