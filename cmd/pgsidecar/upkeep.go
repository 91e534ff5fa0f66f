package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
)

// others is what the local server needs of the other members.
type others struct {
	has    map[string]ha.LSN // what each is known to have received
	copies []sidecar.Source  // who could be cloned: replicas that stream from the leader
	tagged []string          // who has the tag clonefrom
	leader string            // the leader's API; empty: this member leads, or nobody
	ask    func(ctx context.Context, address string) (*api.Status, error)
}

// otherMembers reads the newest snapshot.
func (m *member) otherMembers() others {
	o := others{has: map[string]ha.LSN{}, ask: m.statusOf}
	snap := m.sidecar.Snapshot()
	if snap == nil {
		return o
	}
	leader := snap.Observation.Consul.Record.Leader
	for i := range snap.Observation.Peers {
		p := &snap.Observation.Peers[i]
		o.has[p.Member] = p.Report.Position.LSN
		if p.Member == leader && p.Link == ha.LinkUp {
			o.leader = p.Report.API
		}
		if p.Member != leader && p.Link == ha.LinkUp && p.Report.Streaming && p.Report.Leader == leader {
			o.copies = append(o.copies, sidecar.Source{Member: p.Member, Address: p.Report.Postgres})
		}
	}
	for _, i := range m.cluster.View().Members {
		if i.Meta["clonefrom"] == "true" {
			o.tagged = append(o.tagged, i.Name)
		}
	}
	return o
}

// cloneSource chooses whom to clone: whoever was asked for, else a replica with
// the tag clonefrom, else the leader. A replica must stream from the leader, or
// the clone could be of another history.
func (s *localServer) cloneSource(leader sidecar.Source) sidecar.Source {
	s.mu.Lock()
	asked := s.cloneFrom
	s.mu.Unlock()
	known := s.others()
	for _, c := range known.copies {
		if c.Member == asked || asked == "" && slices.Contains(known.tagged, c.Member) {
			return c
		}
	}
	if asked != "" && asked != leader.Member {
		s.log.Warn("the member to clone from does not stream from the leader; the leader is cloned", "member", asked)
	}
	return leader
}

// cloneNextFrom says whom the next clone is to come from; empty: whoever is best.
func (s *localServer) cloneNextFrom(member string) {
	s.mu.Lock()
	s.cloneFrom = member
	s.mu.Unlock()
}

// statusOf reads another member's status.
func (m *member) statusOf(ctx context.Context, address string) (*api.Status, error) {
	c := client{scheme: "http", http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: clientTLS(m.config.API.TLS), DisableKeepAlives: true}}}
	if m.config.API.TLS.CertFile != "" {
		c.scheme = "https"
	}
	return c.statusOf(ctx, address)
}

// Configure takes up the cluster-wide settings of the server over the
// configuration file's.
func (s *localServer) Configure(ctx context.Context, set sidecar.Settings) error {
	s.mu.Lock()
	before := s.slots
	s.slots = set.Slots
	s.mu.Unlock()
	if err := s.files.Reload(ctx, s.over(set)); err != nil {
		return err
	}
	for name := range before {
		if _, kept := set.Slots[name]; !kept {
			if err := s.sql.DropSlot(ctx, name); err != nil {
				s.log.Warn("a slot that is not wanted any more stays", "slot", name, "error", err)
			}
		}
	}
	if wrong, err := s.sql.WrongLines(ctx); err == nil && len(wrong) > 0 {
		return fmt.Errorf("PostgreSQL cannot read these, and goes by what it read before: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// Outgrown reports whether a standby had to have more than the settings say, and
// need not any more.
func (s *localServer) Outgrown(ctx context.Context) bool {
	outgrown, err := s.files.Outgrown(ctx)
	if err != nil {
		s.log.Debug("cannot tell what a standby needs", "error", err)
	}
	return outgrown && err == nil
}

// try returns what PostgreSQL refuses about the settings.
func (s *localServer) try(ctx context.Context, set sidecar.Settings) error {
	return s.files.Try(ctx, s.over(set))
}

// over puts the cluster-wide settings over the configuration file's.
func (s *localServer) over(set sidecar.Settings) postgres.Settings {
	pg := s.config.Load().Postgres
	next := postgres.Settings{Parameters: maps.Clone(pg.Parameters), HBA: pg.HBA, Ident: pg.Ident}
	if next.Parameters == nil {
		next.Parameters = make(map[string]string, len(set.Parameters))
	}
	if set.FailoverSlots {
		maps.Copy(next.Parameters, map[string]string{"sync_replication_slots": "on", "hot_standby_feedback": "on", "wal_level": "logical"})
	}
	maps.Copy(next.Parameters, set.Parameters)
	if len(set.HBA) > 0 { // without any, nil stays: the data directory's own
		next.HBA = slices.Concat(set.HBA, next.HBA)
	}
	if len(set.Ident) > 0 {
		next.Ident = slices.Concat(set.Ident, next.Ident)
	}
	return next
}

// Upkeep keeps the roles (on a primary) and the replication slots: one for each
// other member, and those of the settings.
func (s *localServer) Upkeep(ctx context.Context, members []string, founded bool) error {
	if founded {
		if err := s.files.Founded(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	permanent := s.slots
	s.mu.Unlock()
	self := s.config.Load().Member
	known := s.others()
	var want []checks.Slot
	for _, m := range members {
		if m != self {
			want = append(want, checks.MemberSlot(m, known.has[m]))
		}
	}
	at := map[string]ha.LSN{}
	if len(permanent) > 0 && known.leader != "" {
		// Only the leader knows how far their consumers are.
		if st, err := known.ask(ctx, known.leader); err == nil {
			at = st.Slots
		} else { // they stay where they are until it answers
			s.log.Warn("cannot ask the leader how far other programs' slots are", "leader", known.leader, "error", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(permanent)) {
		want = append(want, checks.Slot{Name: name, Has: at[name]})
	}
	now, err := s.sql.EnsureSlots(ctx, want)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.at = now
	fresh := time.Since(s.promotedAt) < promotionCalm
	s.mu.Unlock()
	if !fresh {
		err = s.files.RestorePartial()
	}
	if at := s.lastSight(); at.SeenAt != 0 && !at.InRecovery {
		err = errors.Join(err, s.keepRole(ctx))
	}
	return errors.Join(err, s.warnOfWeakCommits(ctx))
}

// promotionCalm is how long a new primary leaves its disk to the clients that come
// back, before a segment is copied that few ever need.
const promotionCalm = time.Second

// warnOfWeakCommits says in the log, when that changes, which roles and databases
// give up what quorum mode promises.
func (s *localServer) warnOfWeakCommits(ctx context.Context) error {
	weak, err := s.sql.WeakCommits(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	same := slices.Equal(weak, s.weak)
	s.weak = weak
	s.mu.Unlock()
	if !same && len(weak) > 0 && s.config.Load().Durability.Mode == ha.ModeQuorum {
		s.log.Warn("commits of these are acknowledged before a standby has flushed them, and a failover may lose them", "settings", weak)
	}
	return nil
}

// slotsAt is how far the settings' physical slots have come on this member.
func (s *localServer) slotsAt() map[string]ha.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := map[string]ha.LSN{}
	for _, slot := range s.at {
		if _, permanent := s.slots[slot.Name]; permanent {
			at[slot.Name] = slot.At
		}
	}
	return at
}

// oldestWithFailoverSlots is the first PostgreSQL whose standbys copy logical slots.
const oldestWithFailoverSlots = 170000

// errNoFailoverSlots is why older servers have none.
var errNoFailoverSlots = errors.New("failover_slots needs PostgreSQL 17: before it a standby has no copy of a logical slot. " +
	"After a failover make the slot anew, and let its consumer copy its data again")

// checkSettings checks cluster-wide settings before they are stored. version is
// the server's server_version_num; 0: not known.
func checkSettings(raw []byte, version int) (sidecar.Settings, error) {
	set, err := sidecar.ParseSettings(raw)
	if err != nil {
		return set, err
	}
	if err := postgres.Check(postgres.Settings{Parameters: set.Parameters, HBA: set.HBA, Ident: set.Ident}); err != nil {
		return set, err
	}
	mode := ha.ModeQuorum
	if set.Durability != nil && set.Durability.Mode != "" {
		mode = set.Durability.Mode
	}
	for _, key := range slices.Sorted(maps.Keys(set.Parameters)) {
		if err := config.CheckParameter(key, set.Parameters[key], mode); err != nil {
			return set, err
		}
	}
	for _, line := range set.HBA {
		if err := config.CheckHBA(line); err != nil {
			return set, fmt.Errorf("hba %q: %w", line, err)
		}
		if config.SecretInHBA(line) {
			return set, errors.New("an hba line has a password in it, and everybody may read these settings; put the line into each member's pg.hcl")
		}
	}
	for _, line := range set.Ident {
		if len(strings.Fields(line)) < 3 {
			return set, fmt.Errorf("ident %q: expected a map, a system user and a role, such as \"people alice app\"", line)
		}
	}
	if set.FailoverSlots && version != 0 && version < oldestWithFailoverSlots {
		return set, errNoFailoverSlots
	}
	return set, nil
}

// checkTimeout refuses a failure_timeout of the settings that pg.hcl could not have
// beside this lease: one delayed heartbeat would be a failover.
func checkTimeout(text string, lease time.Duration) error {
	if text == "" {
		return nil
	}
	timeout, err := time.ParseDuration(text)
	if err == nil {
		err = config.CheckFailureTimeout(timeout, lease)
	}
	if err != nil {
		return fmt.Errorf("failover.%w", err)
	}
	return nil
}

// settingsChange is the account of one change of the settings.
type settingsChange struct {
	At     time.Time `json:"at"`
	Member string    `json:"member"` // who stored it
	By     string    `json:"by"`     // who asked: token, or the certificate's name
	Diff   string    `json:"diff"`   // lines with - that went, with + that came
}

// account writes a change into the history.
func (c control) account(ctx context.Context, before, after []byte) error {
	now := time.Now()
	text, err := json.Marshal(settingsChange{At: now, Member: c.config.Member, By: api.RequestedBy(ctx),
		Diff: changedKeys(before, after)})
	if err != nil {
		return err
	}
	return c.cluster.PutChange(ctx, now.UnixNano(), text)
}

// orEmpty is an empty object for settings that are not there.
func orEmpty(settings []byte) []byte {
	if len(settings) == 0 {
		return []byte("{}")
	}
	return settings
}

// changedKeys has a line with - for each setting that went, and one with + for
// each that came, sorted by their keys.
func changedKeys(before, after []byte) string {
	old, next := flat(before), flat(after)
	keys := slices.Sorted(maps.Keys(old))
	for key := range next {
		if _, is := old[key]; !is {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	var lines []string
	for _, key := range keys {
		was, is := old[key], next[key]
		if was == is {
			continue
		}
		if was != "" {
			lines = append(lines, "- "+key+" = "+was)
		}
		if is != "" {
			lines = append(lines, "+ "+key+" = "+is)
		}
	}
	return strings.Join(lines, "\n")
}

// flat is an object's values as JSON, by their keys with dots.
func flat(text []byte) map[string]string {
	values := map[string]string{}
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		if fields, is := v.(map[string]any); is && (len(fields) > 0 || prefix == "") {
			for key, inner := range fields {
				walk(strings.TrimPrefix(prefix+"."+key, "."), inner)
			}
			return
		}
		if b, err := json.Marshal(v); err == nil {
			values[prefix] = string(b)
		}
	}
	if fields, err := object(orEmpty(text)); err == nil {
		walk("", fields)
	}
	return values
}
