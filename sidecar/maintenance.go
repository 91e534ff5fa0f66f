package sidecar

import (
	"context"
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// maintainEvery is how often roles and slots are compared with what is wanted.
const maintainEvery = 5 * time.Second

// maintainLoop makes roles and slots for the members: when there is a new one,
// when the server's role has changed, and from time to time.
func (s *Sidecar) maintainLoop(ctx context.Context) error {
	ticker := time.NewTicker(maintainEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-s.maintenance:
		}
		if snap := s.Snapshot(); snap != nil && snap.Observation.Server.InRecovery != ha.Unknown && !s.facts.stopping() {
			s.configure(ctx)
			if snap.Observation.Consul.SeenAt != 0 && !snap.Observation.SettingsUnread { // whose slots there are to be is not known before
				s.maintain(ctx, &snap.Observation)
			}
		}
	}
}

func (s *Sidecar) maintain(ctx context.Context, o *ha.Observation) {
	r := &o.Consul.Record
	founded := r.Phase == ha.PhaseLeading && r.SystemID == o.Server.SystemID
	work, cancel := context.WithTimeout(ctx, maintainEvery)
	defer cancel()
	outgrown, err := s.opts.Server.Maintain(work, knownMembers(o), founded)
	if err != nil && ctx.Err() == nil && !s.facts.stopping() {
		s.log.Warn("cannot keep roles and replication slots", "error", err)
	}
	if outgrown {
		s.configuration.stale()
		s.configure(ctx)
	}
}

// configure takes up the cluster-wide settings of the server when they, or the configuration
// file, have changed; not beside an operation on the server.
func (s *Sidecar) configure(ctx context.Context) {
	stored := s.opts.Cluster.View().Settings
	if stored.Unread {
		return
	}
	set := stored.Settings
	if s.configuration.has(set) || !s.operations.server.TryLock() {
		return
	}
	defer s.operations.server.Unlock()
	ctx, cancel := context.WithTimeout(ctx, settingTimeout)
	defer cancel()
	c := &s.configuration
	c.begin()
	if err := s.opts.Server.Configure(ctx, set); err != nil {
		c.stale()
		if !c.refused { // tried again each time
			s.log.Error("cannot take up the cluster's settings of the server; the ones before hold", "error", err)
		}
		c.refused = true
		return
	}
	c.refused = false
	c.took(set)
	s.log.Info("settings of the server taken up", "parameters", len(set.Parameters), "hba", len(set.HBA), "ident", len(set.Ident), "slots", len(set.Slots))
}

// knownMembers are the members on record and those that are yet to join: they need
// a slot before they can stream.
func knownMembers(o *ha.Observation) []string {
	members := slices.Clone(o.Consul.Record.Members)
	for i := range o.Peers {
		if p := &o.Peers[i]; p.ReceivedAt != 0 && !slices.Contains(members, p.Member) {
			members = append(members, p.Member)
		}
	}
	slices.Sort(members)
	return members
}

// wakeMaintenance wakes the maintenance when there is something new for it.
func (s *Sidecar) wakeMaintenance(o *ha.Observation) {
	key := o.Server.InRecovery.String()
	for _, m := range knownMembers(o) {
		key += " " + m
	}
	key += "\n" + string(s.opts.Cluster.View().Settings.Raw)
	if key == s.maintained || o.Server.InRecovery == ha.Unknown {
		return
	}
	s.maintained = key
	select {
	case s.maintenance <- struct{}{}:
	default:
	}
}
