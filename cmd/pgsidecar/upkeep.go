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

// others is what the local server's upkeep needs of the other members.
type others struct {
	has    map[string]ha.LSN // what each is known to have received
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
	}
	return o
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
	pg, before := s.config.Postgres, s.slots
	s.slots = set.Slots
	s.mu.Unlock()
	next := postgres.Settings{Parameters: maps.Clone(pg.Parameters), HBA: pg.HBA, Ident: pg.Ident}
	if next.Parameters == nil {
		next.Parameters = make(map[string]string, len(set.Parameters))
	}
	if set.FailoverSlots {
		maps.Copy(next.Parameters, map[string]string{"sync_replication_slots": "on", "hot_standby_feedback": "on", "wal_level": "logical"})
	}
	maps.Copy(next.Parameters, set.Parameters)
	next.HBA = slices.Concat(set.HBA, next.HBA)
	next.Ident = slices.Concat(set.Ident, next.Ident)
	if err := s.files.Reload(ctx, next); err != nil {
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

// Upkeep keeps the roles (on a primary) and the replication slots: one for each
// other member, and those of the settings.
func (s *localServer) Upkeep(ctx context.Context, members []string, founded bool) error {
	if founded {
		if err := s.files.Founded(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	permanent, self := s.slots, s.config.Member
	s.mu.Unlock()
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
		st, err := known.ask(ctx, known.leader)
		if err != nil {
			return fmt.Errorf("ask the leader for its slots: %w", err)
		}
		at = st.Slots
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
	s.mu.Unlock()
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
		Diff: changedLines(difference(pretty(orEmpty(before)), pretty(after)))})
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

// changedLines leaves out what stayed, beside the lines above it that say where
// it is.
func changedLines(diff string) string {
	var kept, path []string
	for line := range strings.Lines(diff) {
		line = strings.TrimRight(line, "\n")
		text := strings.TrimLeft(line[2:], " ")
		depth := (len(line[2:]) - len(text)) / 2
		if line[0] != ' ' {
			kept = append(kept, path[:min(len(path), depth)]...)
			path = path[:0]
			kept = append(kept, line)
			continue
		}
		path = append(path[:min(len(path), depth)], line)
	}
	return strings.Join(kept, "\n")
}
