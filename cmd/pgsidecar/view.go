package main

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// token is what a change must show: the configured one, else the peers' key, so
// that whoever has the cluster's secrets may change it.
func (m *member) token() (string, error) {
	c := m.config.API
	if c.TokenFile != "" {
		return config.ReadSecretFile(c.TokenFile)
	}
	return c.Token.Reveal(), nil
}

// newAPI makes the member's API.
func (m *member) newAPI() (*api.Server, error) {
	t := m.config.API.TLS
	return api.New(api.Options{
		Member: m.config.Member, Cluster: m.config.Cluster, Version: m.app.version, Listen: m.config.API.Listen,
		TLS:   api.TLS{CertFile: t.CertFile, KeyFile: t.KeyFile, CAFile: t.ClientCAFile, RequireClient: t.RequireClient},
		Token: m.token, View: m.view, Now: guard.Now, Control: control{m}, Drills: drills{m}, Peer: m.mesh, Recorder: m.recorder,
		Collectors: []prometheus.Collector{agentCollector{m.files.agent}}, Logger: m.log,
	})
}

// view is the newest snapshot in the API's words.
func (m *member) view() *api.View {
	snap := m.sidecar.Snapshot()
	if snap == nil {
		return nil
	}
	sight, stored := m.server.lastSight(), m.cluster.View()
	set, err := sidecar.ParseSettings(stored.Settings)
	if err != nil {
		set = sidecar.Settings{} // the sidecar says so
	}
	v := &api.View{
		Cluster: m.config.Cluster, Observation: snap.Observation, State: snap.State, Report: snap.Report, Problem: snap.Problem,
		PostgresVersion: sight.Version, PostgresStarted: sight.StartedAt, Replay: sight.Replayed, ReplayedAt: sight.ReplayedAt,
		ReplayPaused: sight.ReplayPaused, Tags: tagsOf(m.tagsOver(set)), PeersRefused: map[string]uint64{},
		Behind: snap.Behind, Templates: m.files.status, Progress: m.server.copying.Load(), ConfigVersion: stored.SettingsIndex,
	}
	for _, r := range m.mesh.Refusals() {
		v.PeersRefused[r.Cause] = r.Count
	}
	if raw := stored.Settings; len(raw) > 0 {
		v.Config = raw
		if err == nil {
			v.Slots = m.server.slotsAt()
			if p := set.Paused; p != nil && (p.Until.IsZero() || time.Now().Before(p.Until)) {
				v.PausedUntil, v.PausedMembers, v.PausedReason = p.Until, p.Members, p.Reason
			}
			if p := set.Switchover; p != nil {
				v.Scheduled = &api.Schedule{At: p.At, From: p.From, To: p.To}
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v.History, v.Changes = m.history, m.changes
	if m.restart != nil {
		v.Restart = &api.Schedule{At: m.restart.at, From: m.config.Member}
	}
	return v
}

// tags are this member's: the cluster's settings go before its configuration.
func (m *member) tags() config.Tags {
	set, err := sidecar.ParseSettings(m.cluster.View().Settings)
	if err != nil {
		set = sidecar.Settings{} // the sidecar says so
	}
	return m.tagsOver(set)
}

func (m *member) tagsOver(set sidecar.Settings) config.Tags {
	tags, over := m.current.Load().Tags, set.Tags[m.config.Member]
	for _, t := range []struct{ own, over *bool }{{&tags.NoFailover, over.NoFailover}, {&tags.NoSync, over.NoSync},
		{&tags.NoLoadBalance, over.NoLoadBalance}, {&tags.CloneFrom, over.CloneFrom}} {
		if t.over != nil {
			*t.own = *t.over
		}
	}
	if over.Priority != nil {
		tags.Priority = *over.Priority
	}
	if over.ReplicateFrom != nil {
		tags.ReplicateFrom = *over.ReplicateFrom
	}
	return tags
}

func tagsOf(t config.Tags) map[string]string {
	tags := map[string]string{}
	for name, is := range map[string]bool{"nofailover": t.NoFailover, "nosync": t.NoSync, "noloadbalance": t.NoLoadBalance, "clonefrom": t.CloneFrom} {
		if is {
			tags[name] = "true"
		}
	}
	if t.Priority != 0 {
		tags["failover_priority"] = strconv.Itoa(t.Priority)
	}
	if t.ReplicateFrom != "" {
		tags["replicatefrom"] = t.ReplicateFrom
	}
	return tags
}

// keepHistory reads the accounts of past terms whenever the leadership has
// changed, until ctx ends; and does what was planned when its time has come.
func (m *member) keepHistory(ctx context.Context) {
	var term, version uint64
	var announced ha.Announced
	for {
		version = m.cluster.View().SettingsIndex
		m.awaitHistory(ctx, term)
		snap, err := m.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool {
			r := &s.Observation.Consul.Record
			return r.Phase == ha.PhaseLeading && (r.Term != term || s.Observation.Announced != announced) || m.due(s) ||
				m.cluster.View().SettingsIndex != version
		})
		if err != nil {
			return
		}
		term, announced = snap.Observation.Consul.Record.Term, snap.Observation.Announced
		if m.due(snap) && !m.switchOver(ctx) && !waited(ctx, planPause) {
			return
		}
	}
}

// planPause is how long a planned switchover that could not be taken off the list waits
// for the next try.
const planPause = time.Second

func waited(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// historyLimit is how many terms the API shows.
const historyLimit = 100

// awaitHistory reads the history until it has the account of a term, which its
// leader writes a moment after what woke us. Where there is none, because that
// leader was lost before, it gives up.
func (m *member) awaitHistory(ctx context.Context, term uint64) {
	for range 5 {
		m.readHistory(ctx)
		m.mu.Lock()
		n := len(m.history)
		known := n > 0 && m.history[n-1].Term >= term
		m.mu.Unlock()
		if known || term == 0 {
			return
		}
		again := time.NewTimer(500 * time.Millisecond)
		select {
		case <-ctx.Done():
			again.Stop()
			return
		case <-again.C:
		}
	}
}

func (m *member) readHistory(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	accounts, err := m.cluster.History(ctx, historyLimit)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			m.log.Debug("cannot read the history", "error", err)
		}
		return
	}
	var turns []api.Turn
	for i := len(accounts) - 1; i >= 0; i-- {
		var a sidecar.Account
		if err := json.Unmarshal(accounts[i], &a); err != nil {
			continue // written by another version
		}
		turns = append(turns, api.Turn{Term: a.Term, Timeline: a.Timeline, LSN: a.Forked, Reason: a.Reason, At: a.Announced,
			Leader: a.Leader, Account: accounts[i]})
	}
	changes, err := m.cluster.Changes(ctx, historyLimit)
	if err != nil && !errors.Is(err, context.Canceled) {
		m.log.Debug("cannot read the changes of the settings", "error", err)
	}
	all := make([]json.RawMessage, 0, len(changes))
	for _, change := range slices.Backward(changes) {
		all = append(all, change)
	}
	m.mu.Lock()
	m.history, m.changes = turns, all
	m.mu.Unlock()
}

// due reports whether a planned switchover's time has come, and this member is
// to do it.
func (m *member) due(s *sidecar.Snapshot) bool {
	raw := m.cluster.View().Settings
	if len(raw) == 0 || s.State.Role != ha.RolePrimary {
		return false
	}
	set, err := sidecar.ParseSettings(raw)
	return err == nil && set.Switchover != nil && !time.Now().Before(set.Switchover.At)
}

// tooLate is how long after its time a planned switchover is still done.
const tooLate = time.Minute

// switchOver does the planned switchover, once.
func (m *member) switchOver(ctx context.Context) (taken bool) {
	set, err := sidecar.ParseSettings(m.cluster.View().Settings)
	if err != nil || set.Switchover == nil {
		return true
	}
	p := *set.Switchover
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := (control{m}).plan(ctx, nil); err != nil {
		m.log.Warn("cannot take the planned switchover off the list; it is tried again", "error", err)
		return false
	}
	if time.Since(p.At) > tooLate {
		m.log.Warn("the planned switchover is dropped: its time is long past", "at", p.At)
		return true
	}
	if r := m.cluster.View().Consul.Record; p.From != "" && p.From != r.Leader {
		m.log.Warn("the planned switchover is dropped: it was to be from another leader", "from", p.From, "leader", r.Leader)
		return true
	}
	m.log.Info("planned switchover", "to", p.To)
	work, done := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer done()
	if leader, err := (control{m}).Switchover(work, api.Switchover{Candidate: p.To}); err != nil {
		m.log.Warn("the planned switchover was not done", "to", p.To, "error", err)
	} else {
		m.log.Info("planned switchover done", "leader", leader)
	}
	return true
}
