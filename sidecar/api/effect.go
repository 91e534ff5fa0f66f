package api

import (
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// InEffect is the durability that a primary's server has, which need not be the one
// that the record asks for: a change takes time, and a person may have changed settings.
type InEffect struct {
	// K and Names are synchronous_standby_names in the postmaster; K 0: it is empty.
	K     int      `json:"k"`
	Names []string `json:"names"`
	// Unsure: a change was begun, and the server has not said yet which value it has.
	Unsure bool `json:"unsure,omitempty"`
	// Relaxed: the setting by which commits are acknowledged before a standby, or this
	// server's disk, has them; and where it comes from. Empty: none.
	Relaxed string `json:"relaxed,omitempty"`
	// SyncCommit is synchronous_commit of a session for which nothing else is set; empty:
	// not read yet. Weak are roles' and databases' that wait for less.
	SyncCommit string   `json:"synchronous_commit,omitempty"`
	Weak       []string `json:"weak,omitempty"`
	// ReadOnly are settings of the server and of databases by which transactions may not
	// write unless they ask to.
	ReadOnly []string `json:"read_only,omitempty"`
	// Reordered are databases and collations whose indexes on text were made with another
	// version of libc or ICU than the primary's machine has.
	Reordered []string `json:"reordered,omitempty"`
	// Unarchived is how many files wait to be archived, by whatever archive_command, and
	// UnarchivedFor for how many seconds the oldest has waited.
	Unarchived    int     `json:"unarchived_files,omitempty"`
	UnarchivedFor float64 `json:"unarchived_seconds,omitempty"`
	// CancelledWaits counts commits whose wait for standbys was cancelled since the
	// sidecar began: a failover may lose them.
	CancelledWaits uint64 `json:"cancelled_waits,omitempty"`
}

// Oddities are what is wrong with a member although it may work, and what of it should
// fit the others.
type Oddities struct {
	// Override ends what it is blocked by, at that cost.
	Override string `json:"override,omitempty"`
	Cost     string `json:"cost,omitempty"`
	// Strayed: it has log that no term of this cluster wrote, and why it is known.
	Strayed string `json:"strayed,omitempty"`
	// Hidden: Consul's DNS does not show it, and why.
	Hidden string `json:"hidden,omitempty"`
	// Paused: it replays nothing, and why.
	Paused string `json:"replay_paused,omitempty"`
	// ConfigProblem: PostgreSQL refuses to read one of its server's files.
	ConfigProblem string `json:"config_problem,omitempty"`
	// Misled: something else answers where the others and clients are told that its server
	// is, and what.
	Misled string `json:"misled,omitempty"`
	// PortSilent: its server's port does not answer the primary's member, which does hear its
	// sidecar.
	PortSilent bool `json:"port_silent,omitempty"`
	// Apart: its data and its state are on different file systems, and which.
	Apart string `json:"apart,omitempty"`
	// Upstream is the member that its server follows; empty: none.
	Upstream string `json:"upstream,omitempty"`
	// Tags are its own and the settings'.
	Tags []ha.Tag `json:"tags,omitempty"`
	// Lease is its own setting, in seconds; zero: not known.
	Lease float64 `json:"lease_seconds,omitempty"`
	// Zone is its tag of that name; empty: it has none.
	Zone string `json:"zone,omitempty"`
	// Software is its server's: versions that should be the same on all members.
	Software ha.Software `json:"software,omitzero"`
}

// looked reports whether the server runs as a primary and was looked at.
func (f facts) looked() bool {
	v := &f.Observation.Server
	return f.running() && v.SeenAt != 0 && v.InRecovery == ha.No
}

func (f facts) inEffect() *InEffect {
	if !f.looked() {
		return nil
	}
	v := &f.Observation.Server
	e := &InEffect{K: v.Sync.K, Names: slices.Concat([]string{}, v.Sync.Names), Unsure: v.SyncUnsure, Relaxed: v.Relaxed,
		SyncCommit: v.SyncCommit, Weak: v.Weak, ReadOnly: v.ReadOnly, Reordered: v.Reordered, Unarchived: v.Unarchived, CancelledWaits: v.CancelledWaits}
	if v.Unarchived > 0 {
		e.UnarchivedFor = time.Since(time.Unix(v.UnarchivedSince, 0)).Seconds()
	}
	return e
}

// oddities are what is known of a member: of this one more than of the others.
func (f facts) oddities(member string) Oddities {
	r, _ := f.reportOf(member)
	return Oddities{Override: r.Override, Cost: r.Cost, Strayed: f.strayed(member), Hidden: f.hidden(member), Paused: r.Paused, ConfigProblem: r.ConfigProblem, Misled: r.Misled, PortSilent: f.portSilent(member), Apart: r.Apart, Upstream: r.Leader, Tags: r.Tags, Lease: r.Lease.Seconds(), Zone: zoneOf(r), Software: r.Software}
}

// portSilent reports whether a member's port answers nobody at this one.
func (f facts) portSilent(member string) bool {
	return slices.ContainsFunc(f.Observation.Peers, func(p ha.Peer) bool { return p.Member == member && p.Link == ha.LinkUp && p.PortSilent })
}

// hidden says why DNS does not show a member; empty: it does, as far as is known.
func (f facts) hidden(member string) string {
	r, _ := f.reportOf(member)
	c := &f.Observation.Consul
	switch {
	case member == f.self() && c.HiddenAt != 0:
		return c.HiddenBy
	case member == f.self() && c.AgentLostAt != 0:
		return "its Consul agent does not answer"
	case member != f.self() && r.Hidden != "":
		return r.Hidden
	case member != f.self() && r.Agentless:
		return "its Consul agent does not answer"
	}
	return ""
}

// strayed says why a member's log is none of this cluster's, as far as is known; empty: it is.
func (f facts) strayed(member string) string {
	r, _ := f.reportOf(member)
	rec := &f.Observation.Consul.Record
	newest := func() bool { return rec.Exists() && rec.Term >= r.Record.Term && rec.Term >= r.Term }
	return rec.Strayed(ha.Diverged{Member: member, Copy: r.Copy}, r.Strayed, r.Position, newest)
}
