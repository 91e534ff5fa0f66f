package member

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/availability"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/proxy"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// token is what a change must show: the configured one, else the peers' key, so
// that anyone who has the cluster's secrets may change it.
func (m *Member) token() (string, error) {
	c := m.config.API
	if c.TokenFile != "" {
		return config.ReadSecretFile(c.TokenFile)
	}
	return c.Token.Reveal(), nil
}

// newAPI makes the member's API.
func (m *Member) newAPI() (*api.Server, error) {
	t := m.config.API.TLS
	var page *api.PageOptions
	if m.config.API.UI {
		page = &api.PageOptions{Next: m.sidecar.Next, Clusters: m.clusters, Elsewhere: m.routesElsewhere}
	}
	return api.New(api.Options{
		Member: m.config.Member, Cluster: m.config.Cluster, Version: m.version, Listen: m.config.API.Listen,
		TLS:   api.TLS{CertFile: t.CertFile, KeyFile: t.KeyFile, CAFile: t.ClientCAFile, RequireClient: t.RequireClient},
		Token: m.token, Allow: m.config.API.Allow, View: m.view, Now: guard.Now, Control: control{m}, Drills: faultInjector{m}, Backups: m.backups(), Peer: m.mesh, Recorder: m.recorder, Page: page,
		Collectors: []prometheus.Collector{proxy.Collector{Agent: m.files.agent}}, Logger: m.log,
	})
}

// view is the newest snapshot in the API's words.
func (m *Member) view() *api.View {
	snap := m.sidecar.Snapshot()
	if snap == nil {
		return nil
	}
	facts, stored := m.server.lastFacts(), m.stored()
	v := &api.View{
		Cluster: m.config.Cluster, Observation: snap.Observation, State: snap.State, Report: snap.Report, Problem: snap.Problem,
		PostgresVersion: facts.Version, NewPrograms: m.server.files.NewPrograms(), PostgresStarted: facts.StartedAt, Replay: facts.Replayed, ReplayedAt: facts.ReplayedAt,
		ReplayPaused: facts.ReplayPaused, Pending: m.server.waiting(), Tags: tagsOf(m.tags()), PeersRefused: map[string]uint64{},
		Behind: snap.Behind, Templates: m.files.status, Traces: m.traces != nil, Progress: m.server.copies.progress.Load(), ConfigVersion: stored.Index, ConfigCopied: stored.CopiedAt,
		Archive: m.saving.archive.view(), Backups: m.saving.view(snap),
	}
	v.Lagging, v.Held = m.reads.refused() != "", m.server.slotsHeld()
	v.Service, v.Registered = m.config.Service.Name, registered(m.cluster.View().Members)
	for _, w := range facts.Senders {
		v.Senders = append(v.Senders, api.Sender{Name: w.Name, User: m.server.roleName(w.Role), Address: w.Address,
			State: w.State, SyncState: w.SyncState, SyncPriority: int(w.SyncPriority)})
	}
	v.Objective = stored.Objective.Objective()
	for _, r := range m.mesh.Refusals() {
		v.PeersRefused[r.Cause] = r.Count
	}
	v.PeersUnreachable = m.mesh.Unreachable()
	if len(stored.Raw) > 0 {
		v.Config, v.Slots = stored.Raw, m.server.slotsAt()
		if p := stored.Paused; p.Holds(time.Now()) {
			v.PausedUntil, v.PausedMembers, v.PausedReason = p.Until, p.Members, p.Reason
		}
		if p := stored.Switchover; p != nil {
			v.Scheduled = &api.Schedule{At: p.At, From: p.From, To: p.To}
		}
		v.Restarts = map[string]api.Restart{}
		for member, p := range stored.Restarts {
			v.Restarts[member] = asked(p)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v.History, v.Changes, v.Outages, v.PlanFailed = m.history, m.changes, m.outages, m.planFailed
	v.UnreadOutages = m.unreadOutages
	return v
}

// stored are the cluster's settings as they were last read; before Consul has answered
// with them, as this member's copy has them.
func (m *Member) stored() settings.Stored {
	v := m.cluster.View()
	if !v.SettingsRead {
		return m.keepSettings.copy.Last(&m.settings)
	}
	return m.settings.Read(v.Settings, v.SettingsIndex)
}

// tags are this member's: the cluster's settings go before its configuration.
func (m *Member) tags() settings.Tags {
	return m.stored().Tags[m.config.Member].Over(m.current.Load().Tags)
}

func tagsOf(t settings.Tags) map[string]string {
	tags := map[string]string{}
	for name, is := range map[string]bool{"nofailover": t.NoFailover, "nosync": t.NoSync, "noloadbalance": t.NoLoadBalance, "clonefrom": t.CloneFrom} {
		if is {
			tags[name] = "true"
		}
	}
	if t.Priority != 0 {
		tags["failover_priority"] = strconv.Itoa(t.Priority)
	}
	if t.SyncPriority != 0 {
		tags["sync_priority"] = strconv.Itoa(t.SyncPriority)
	}
	if t.ReplicateFrom != "" {
		tags["replicatefrom"] = t.ReplicateFrom
	}
	maps.Copy(tags, t.Own)
	return tags
}

// describe tells the other members what no decision depends on.
func (m *Member) describe(r *ha.Report) {
	tags := tagsOf(m.tags())
	r.Apart = m.apart
	if m.reads.refused() != "" {
		tags["lagging"] = "true" // it gets no reads, as with noloadbalance
	}
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		r.Tags = append(r.Tags, ha.Tag{Name: name, Value: tags[name]})
	}
	if !r.Pending {
		return
	}
	for _, p := range m.server.waiting() {
		r.PendingWhat = append(r.PendingWhat, ha.PendingValue(p))
	}
}

// asked is a planned restart as it was requested.
func asked(p settings.PlannedRestart) api.Restart {
	timeout, _ := time.ParseDuration(p.Timeout) // empty: none
	return api.Restart{At: p.At, Role: p.Role, Pending: p.Pending, PostgresVersion: p.PostgresVersion, Timeout: timeout}
}

// keepHistory reads the accounts of past terms and the outages whenever the leadership has
// changed, or the leader takes writes again, until ctx ends.
func (m *Member) keepHistory(ctx context.Context) {
	var term, version uint64
	var announced ha.Announced
	writes, restarts := false, -1
	for {
		version = m.cluster.View().SettingsIndex
		m.awaitHistory(ctx, term, restarts)
		snap, err := m.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool {
			r := &s.Observation.Consul.Record
			return r.Phase == ha.PhaseLeading && (r.Term != term || s.Observation.Announced != announced || leaderWrites(s) != writes) ||
				m.cluster.View().SettingsIndex != version
		})
		if err != nil {
			return
		}
		again := snap.Observation.Consul.Record.Term == term && leaderWrites(snap) && !writes
		term, announced, writes = snap.Observation.Consul.Record.Term, snap.Observation.Announced, leaderWrites(snap)
		if restarts = -1; again {
			restarts = m.restartsIn(term)
		}
	}
}

// leaderWrites reports whether another member leads and says that it takes writes.
func leaderWrites(s *sidecar.Snapshot) bool {
	for i := range s.Observation.Peers {
		if p := &s.Observation.Peers[i]; p.Member == s.Observation.Consul.Record.Leader {
			return p.Link == ha.LinkUp && p.Report.Writable
		}
	}
	return false
}

// restartsIn counts the outages that are known of a term after which the same primary took
// writes again.
func (m *Member) restartsIn(term uint64) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.outages {
		if o := &m.outages[i]; o.Term == term && o.Kind == availability.Restart {
			n++
		}
	}
	return n
}

// historyLimit is how many terms the API shows.
const historyLimit = 100

// awaitHistory reads the history until it has the account of a term and the outage before it,
// which its leader writes a moment after what woke us, and more outages in the term than
// so many. Where there is no such account, because that leader was lost before, or no such
// outage, as where only the stream was interrupted, it gives up, and at once when another
// term has its leader, which may itself be lost soon. Where something is to come it waits
// first: each reading is three requests of each member, in the very moment in which all have a
// failover to deal with.
func (m *Member) awaitHistory(ctx context.Context, term uint64, restarts int) {
	known := func() bool { return term == 0 || m.told(term) && m.restartsIn(term) > restarts }
	if known() {
		m.readHistory(ctx)
		return
	}
	for pause := firstHistory; pause <= lastHistory; pause *= 2 {
		waiting, cancel := context.WithTimeout(ctx, pause)
		_, err := m.sidecar.Await(waiting, func(s *sidecar.Snapshot) bool {
			r := &s.Observation.Consul.Record
			return r.Phase == ha.PhaseLeading && r.Term != term
		})
		cancel()
		if err == nil || ctx.Err() != nil {
			return
		}
		if m.readHistory(ctx); known() {
			return
		}
	}
}

// The pauses of awaitHistory, which double.
const (
	firstHistory = 300 * time.Millisecond
	lastHistory  = 2400 * time.Millisecond
)

// told reports whether the account of a term is known, and, unless it was the first of all,
// the outage that it ended.
func (m *Member) told(term uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.history)
	if n == 0 || m.history[n-1].Term < term {
		return false
	}
	return m.history[n-1].Kind() == "bootstrap" || slices.ContainsFunc(m.outages, func(o availability.Outage) bool {
		return o.Term >= term && (o.Kind == availability.Failover || o.Kind == availability.Switchover)
	})
}

func (m *Member) readHistory(ctx context.Context) {
	defer m.readOutages(ctx)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	texts, err := m.cluster.History(ctx, historyLimit)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			m.log.Debug("cannot read the history", "error", err)
		}
		return
	}
	terms := make([]failover.Record, 0, len(texts))
	for _, text := range slices.Backward(texts) {
		var r failover.Record
		if err := json.Unmarshal(text, &r); err == nil { // else another version wrote it
			terms = append(terms, r)
		}
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
	m.history, m.changes = terms, all
	m.mu.Unlock()
}
