package settings

import (
	"maps"
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// DefaultFailureTimeoutMin is a heartbeat, a fifth of one for its being late, and the 200 ms
// in which a host that is there answers a connection attempt.
const DefaultFailureTimeoutMin = 800 * time.Millisecond

// Default is the policy of a cluster of which neither a configuration file nor the
// settings say anything.
func Default() ha.Policy {
	return ha.Policy{
		// Losing acknowledged commits must be chosen, not got by default.
		Mode: ha.ModeQuorum,
		// One standby besides the primary survives the loss of any one server; each
		// more costs the slower of two round trips.
		Standbys: 1,
		// Without it "a standby holds it" would hold only as long as nothing fails.
		Strict: true,
		// 0 follows Standbys: twice as many voters leave the slower half out.
		MaxVoters: 0,
		Automatic: true,
		// Silence of a lost host; a crashed process is noticed at once. A second is
		// within a stalled disk's or a busy hypervisor's reach, two hardly ever.
		FailureTimeout: 2 * time.Second,
		// Twice FailureTimeout, so that one lost renewal is not the end, and half a
		// second on each side to notice and to stop.
		Lease: 5 * time.Second,
		// A fast shutdown takes a checkpoint, which on a busy server takes many
		// seconds; an immediate one costs a crash recovery instead.
		StopTimeout: 30 * time.Second,
		// A handover takes a quarter of a second; a busy server's shutdown checkpoint
		// may take seconds. Clients wait this long at most.
		HandoverTimeout: 10 * time.Second,
		// An agent that is restarted or upgraded is back sooner.
		AgentTimeout: 30 * time.Second,
		// Async mode may lose what was not replicated; how much of that is too much only
		// its operator knows.
		MaxLag: 0,
		// Where members reach each other directly, a refusal is the kernel's word that the
		// port has no process.
		DistrustRefusal: false,
	}
}

// Apply returns the policy with these settings over it, as they hold for the
// member at the time. What follows from several sources together, as the number of
// standbys does from the mode, is settled here: no source alone knows the others.
func (set Settings) Apply(p ha.Policy, member string, now time.Time) ha.Policy {
	p.Paused = p.Paused || set.Paused.holds(member, now)
	if d := set.Durability; d != nil {
		if d.Mode != "" {
			p.Mode = d.Mode
		}
		p.Standbys, p.Strict, p.MaxVoters = or(d.Standbys, p.Standbys), or(d.Strict, p.Strict), or(d.MaxVoters, p.MaxVoters)
		p.Zones = or(d.Zones, p.Zones)
	}
	tags := set.Tags[member].Over(Tags{NoFailover: p.NoFailover, NoSync: p.NoSync, Priority: p.Priority, ReplicateFrom: p.ReplicateFrom, SyncPriority: p.SyncPriority, Own: map[string]string{ha.ZoneTag: p.Zone}})
	p.NoFailover, p.NoSync, p.Priority, p.ReplicateFrom, p.SyncPriority = tags.NoFailover, tags.NoSync, tags.Priority, tags.ReplicateFrom, tags.SyncPriority
	p.Zone = tags.Own[ha.ZoneTag]
	if f := set.Failover; f != nil {
		p.Automatic = or(f.Automatic, p.Automatic)
		// Others wait for the lease, so it is not among the settings; a time-out that
		// does not fit in would let one late heartbeat end it.
		if d, err := time.ParseDuration(f.FailureTimeout); err == nil && d > 0 && p.Lease >= 2*d {
			p.FailureTimeout = d
		}
		if size, err := ParseSize(f.MaxLag); err == nil {
			p.MaxLag = int64(size)
		}
		p.DistrustRefusal = !or(f.RefusedIsDead, !p.DistrustRefusal)
	}
	return settle(set.StandbyOf.over(p))
}

// settle makes a policy of several sources one that can be: mode async waits for
// nobody, and quorum for one standby or more.
func settle(p ha.Policy) ha.Policy {
	if p.Mode == ha.ModeAsync {
		p.Standbys, p.Strict, p.MaxVoters, p.Zones = 0, false, 0, 0
		return p
	}
	p.Standbys = max(p.Standbys, p.Zones-1, 1) // so many zones need so many copies
	if p.MaxVoters > 0 {
		p.MaxVoters = max(p.MaxVoters, p.Standbys)
	}
	return p
}

// Tags are a member's peculiarities.
type Tags struct {
	NoFailover    bool   // never leads
	Priority      int    // among equals the higher leads
	NoSync        bool   // is never a voter
	NoLoadBalance bool   // does not get the tag replica
	CloneFrom     bool   // is preferred as the source of clones
	ReplicateFrom string // follows this member rather than the primary
	// SyncPriority: of more replicas than may be voters the higher are. Zero: not set.
	SyncPriority int
	// Own are other programs' tags, by their names.
	Own map[string]string
}

// Over returns the tags with these over those that the member's own configuration
// says.
func (t TagSettings) Over(own Tags) Tags {
	return Tags{
		NoFailover: or(t.NoFailover, own.NoFailover), Priority: or(t.Priority, own.Priority), NoSync: or(t.NoSync, own.NoSync),
		NoLoadBalance: or(t.NoLoadBalance, own.NoLoadBalance), CloneFrom: or(t.CloneFrom, own.CloneFrom),
		ReplicateFrom: or(t.ReplicateFrom, own.ReplicateFrom), SyncPriority: or(t.SyncPriority, own.SyncPriority),
		Own: t.ownOver(own.Own),
	}
}

// ownOver returns another's own tags with these over them; an empty one removes it.
func (t TagSettings) ownOver(own map[string]string) map[string]string {
	if len(t.Own) == 0 {
		return own
	}
	all := maps.Clone(own)
	if all == nil {
		all = map[string]string{}
	}
	for name, value := range t.Own {
		all[name] = value
		if value == "" {
			delete(all, name)
		}
	}
	return all
}

// or is what the settings say, or else the member's own.
func or[T any](set *T, own T) T {
	if set != nil {
		return *set
	}
	return own
}

// Holds reports whether a pause, of whatever members, has not ended at the time.
func (p *Pause) Holds(now time.Time) bool {
	return p != nil && (p.Until.IsZero() || now.Before(p.Until))
}

// holds reports whether the pause holds for the member.
func (p *Pause) holds(member string, now time.Time) bool {
	return p.Holds(now) && (len(p.Members) == 0 || slices.Contains(p.Members, member))
}
