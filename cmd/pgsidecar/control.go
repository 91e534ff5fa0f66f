package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// control does what the API's changes ask for.
type control struct{ *member }

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
	case r.Phase != ha.PhaseLeading:
		return "", api.Refuse(http.StatusPreconditionFailed, "the cluster has no primary that could hand over; see pgsidecar status")
	case req.Leader != "" && req.Leader != r.Leader:
		return "", api.Refuse(http.StatusPreconditionFailed, "%s is not the primary, %s is", req.Leader, r.Leader)
	case req.Candidate == r.Leader:
		return "", api.Refuse(http.StatusPreconditionFailed, "%s is the primary already", req.Candidate)
	case !req.At.IsZero():
		return "", c.plan(ctx, &sidecar.PlannedSwitchover{At: req.At, From: r.Leader, To: req.Candidate})
	case r.Leader != snap.Observation.Self:
		return c.forward(ctx, r.Leader, "/switchover", map[string]any{"leader": r.Leader, "candidate": req.Candidate})
	case snap.Observation.Consul.Reachable == ha.No:
		// The lock could not be passed on: the server would be stopped for nothing.
		return "", api.Refuse(http.StatusPreconditionFailed, "Consul does not answer, and a handover needs it; nothing was begun")
	}
	c.sidecar.Switchover(req.Candidate)
	after, err := c.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool {
		now := s.Observation.Consul.Record
		return now.Term > r.Term && now.Phase == ha.PhaseLeading || s.State.Refused != ""
	})
	if err != nil {
		return "", api.Refuse(http.StatusServiceUnavailable, "not done in time, and given up if it has not begun; see pgsidecar status")
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

// plan stores (or, with nil, removes) a planned switchover.
func (c control) plan(ctx context.Context, p *sidecar.PlannedSwitchover) error {
	text, err := json.Marshal(map[string]any{"switchover": p})
	if err != nil {
		return err
	}
	_, err = c.PatchConfig(ctx, api.ConfigChange{Patch: text})
	return err
}

// CancelSwitchover forgets a planned switchover.
func (c control) CancelSwitchover(ctx context.Context) error {
	set, err := sidecar.ParseSettings(c.cluster.View().Settings)
	if err != nil || set.Switchover == nil {
		return api.Refuse(http.StatusNotFound, "no switchover is planned")
	}
	return c.plan(ctx, nil)
}

// Failover makes the candidate lead. While there is a primary that answers it
// is a switchover; else the candidate's own member goes on without the votes
// that are missing, if that is accepted.
func (c control) Failover(ctx context.Context, req api.Failover) (string, error) {
	snap := c.sidecar.Snapshot()
	switch {
	case snap == nil:
		return "", api.Refuse(http.StatusServiceUnavailable, "nothing is decided yet; try again in a second")
	case req.Candidate == "":
		return "", api.Refuse(http.StatusBadRequest, "say which member is to lead")
	case snap.State.Hears && !(req.AcceptDataLoss && req.Candidate == snap.Observation.Consul.Record.Leader):
		return c.Switchover(ctx, api.Switchover{Candidate: req.Candidate})
	case req.Candidate != snap.Observation.Self:
		return c.forward(ctx, req.Candidate, "/failover", map[string]any{"candidate": req.Candidate, "accept_data_loss": req.AcceptDataLoss})
	case !req.AcceptDataLoss && len(snap.State.Blocks) > 0:
		b := snap.State.Blocks[0]
		return "", api.Refuse(http.StatusPreconditionFailed, "%s; missing: %s; to go on without it, accept the loss of %s", b.What, b.Missing, b.Cost)
	}
	if req.AcceptDataLoss {
		c.log.Warn("asked to lead, whatever is lost by it", "candidate", req.Candidate)
		c.sidecar.Force()
	}
	after, err := c.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool {
		r := s.Observation.Consul.Record
		return r.Phase == ha.PhaseLeading && r.Leader == req.Candidate && s.State.Hears && !s.Observation.Server.Hidden
	})
	if err != nil {
		c.sidecar.WithdrawForce() // or it would be acted on later, against a primary that is well
		return "", api.Refuse(http.StatusServiceUnavailable, "not done yet; see pgsidecar status")
	}
	return after.Observation.Consul.Record.Leader, nil
}

// forward passes a change on to another member's API, and returns the name of
// the new leader out of its answer.
func (c control) forward(ctx context.Context, member, path string, body any) (string, error) {
	address := ""
	for _, m := range c.cluster.View().Members {
		if m.Name == member {
			address = m.API
		}
	}
	if address == "" {
		return "", api.Refuse(http.StatusPreconditionFailed, "%s is not registered in Consul", member)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	scheme := "http://"
	if c.config.API.TLS.CertFile != "" {
		scheme = "https://"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+address+path, bytes.NewReader(text))
	if err != nil {
		return "", err
	}
	token, err := c.token()
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS(c.config.API.TLS), DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", api.Refuse(http.StatusServiceUnavailable, "%s does not answer: %v", member, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", err
	}
	if resp.StatusCode >= 300 {
		return "", api.Refuse(resp.StatusCode, "%s", strings.TrimSpace(string(answer)))
	}
	_, leader, _ := strings.Cut(string(answer), `"`)
	leader, _, _ = strings.Cut(leader, `"`)
	return leader, nil
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
		return api.Refuse(http.StatusPreconditionFailed, "%s cannot be cloned from: it is no other member that answers", from)
	}
	c.server.cloneNextFrom(from)
	c.sidecar.Reinit()
	// Whoever asks for the status next is to see it.
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
	if err := c.cluster.Forget(ctx, name); err != nil {
		return fmt.Errorf("%s is off the record, but still registered in Consul: %w", name, err)
	}
	c.log.Info("a member was removed", "member", name)
	return nil
}

// PatchConfig changes the cluster-wide settings, which are checked before they
// are stored. Who changed what goes into the history.
func (c control) PatchConfig(ctx context.Context, change api.ConfigChange) (json.RawMessage, error) {
	view := c.cluster.View()
	if change.Version != 0 && change.Version != view.SettingsIndex {
		return nil, api.Refuse(http.StatusPreconditionFailed, "the settings were changed meanwhile: they have version %d now", view.SettingsIndex)
	}
	patch, err := ownWords(change.Patch)
	if err != nil {
		return nil, api.Refuse(http.StatusBadRequest, "%v", err)
	}
	before := view.Settings
	if change.Replace {
		before = nil // and what is null in it is not there
	}
	next, err := mergePatch(before, patch)
	if err != nil {
		return nil, api.Refuse(http.StatusBadRequest, "%v", err)
	}
	if bytes.Equal(pretty(orEmpty(view.Settings)), pretty(next)) {
		return next, nil
	}
	set, err := checkSettings(next, c.server.lastSight().Version)
	old, _ := sidecar.ParseSettings(view.Settings) //nolint:errcheck // then all of it is new
	if now := set.Failover; err == nil && now != nil && (old.Failover == nil || old.Failover.FailureTimeout != now.FailureTimeout) {
		err = checkTimeout(now.FailureTimeout, c.config.Failover.Lease)
	}
	if err == nil && !maps.Equal(old.Parameters, set.Parameters) {
		err = c.server.try(ctx, set)
	}
	if err != nil {
		return nil, api.Refuse(http.StatusBadRequest, "%v", err)
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

// patroniWords are settings of Patroni's that have a name of our own, and how to
// say it.
var patroniWords = map[string]string{
	"synchronous_mode":        "durability.mode (quorum or async)",
	"synchronous_node_count":  "durability.standbys",
	"synchronous_mode_strict": "durability.strict",
	"ttl":                     "failover.lease in each pg.hcl",
	"loop_wait":               "failover.failure_timeout",
	"retry_timeout":           "failover.failure_timeout",
	"maximum_lag_on_failover": "durability: quorum loses nothing, so there is no lag to allow",
	"primary_start_timeout":   "failover.failure_timeout",
	"standby_cluster":         "nothing here",
	"failsafe_mode":           "nothing: members always confirm a primary while Consul is away",
	"member_slots_ttl":        "max_slot_wal_keep_size in parameters",
	"ignore_slots":            "nothing: only slots that begin with pgsidecar_ are touched, and those in slots",
	"max_timelines_history":   "nothing: 200 terms are kept",
	"check_timeline":          "nothing: it is always so",
	"primary_stop_timeout":    "postgres.stop_timeout in each pg.hcl",
}

// ownWords turns what Patroni's clients send into our settings: pause, and
// parameters, pg_hba and pg_ident under postgresql. What has another name is
// refused with that name.
func ownWords(patch []byte) ([]byte, error) {
	fields, err := object(patch)
	if err != nil {
		return nil, err
	}
	for key := range fields {
		if ours, is := patroniWords[key]; is {
			return nil, fmt.Errorf("%s is a setting of Patroni; its part is played by %s", key, ours)
		}
	}
	if pause, is := fields["pause"]; is {
		delete(fields, "pause")
		fields["paused"] = nil
		if pause == true { // of all, until it is resumed, whatever was paused before
			fields["paused"] = pausePatch(sidecar.Pause{})
		}
	}
	under, is := fields["postgresql"].(map[string]any)
	if !is {
		return json.Marshal(fields)
	}
	delete(fields, "postgresql")
	for key, value := range under {
		ours, known := map[string]string{"parameters": "parameters", "pg_hba": "hba", "pg_ident": "ident"}[key]
		if !known {
			return nil, fmt.Errorf("postgresql.%s is not known here; there are parameters, pg_hba and pg_ident", key)
		}
		if parameters, is := value.(map[string]any); is {
			for name, v := range parameters {
				if v != nil {
					parameters[name] = parameterText(v)
				}
			}
		}
		fields[ours] = value
	}
	return json.Marshal(fields)
}

// parameterText writes a parameter's value as PostgreSQL reads it.
func parameterText(v any) string {
	switch v {
	case true:
		return "on"
	case false:
		return "off"
	}
	return fmt.Sprint(v)
}

// mergePatch applies a JSON merge patch (RFC 7396).
func mergePatch(doc, patch []byte) ([]byte, error) {
	target := map[string]any{}
	if len(doc) > 0 {
		if err := json.Unmarshal(doc, &target); err != nil {
			return nil, fmt.Errorf("the stored settings are not JSON: %w", err)
		}
	}
	changes := map[string]any{}
	if err := json.Unmarshal(patch, &changes); err != nil {
		return nil, fmt.Errorf("the change is not a JSON object: %w", err)
	}
	return json.Marshal(merge(target, changes))
}

func merge(target, changes map[string]any) map[string]any {
	for key, change := range changes {
		inner, isObject := change.(map[string]any)
		switch old, wasObject := target[key].(map[string]any); {
		case change == nil:
			delete(target, key)
		case isObject && wasObject:
			target[key] = merge(old, inner)
		case isObject:
			target[key] = merge(map[string]any{}, inner)
		default:
			target[key] = change
		}
	}
	return target
}
