package api

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Status is the answer of /status: all that this member knows, in our own
// words. Ages are in seconds before the answer; -1 is never.
type Status struct {
	Cluster string `json:"cluster"`
	Member  string `json:"member"`
	Version string `json:"version"`

	Role    ha.Role `json:"role"`
	Primary bool    `json:"primary"` // /primary answers 200
	Server  string  `json:"server"`
	// Upstream is the member that the server of this one follows; empty: none.
	Upstream string `json:"upstream,omitempty"`
	// ConfigProblem: PostgreSQL refuses to read one of the server's files.
	ConfigProblem string        `json:"config_problem,omitempty"`
	Problem       string        `json:"problem,omitempty"`
	Term          uint64        `json:"term"`
	Leader        string        `json:"leader"`
	Phase         ha.Phase      `json:"phase"`
	Reason        string        `json:"reason,omitempty"` // why this term began
	Durability    ha.Durability `json:"durability"`       // what the record asks for
	VotesNeeded   int           `json:"votes_needed"`
	// InEffect is what the server that answers really does; nil: it is not a primary, or was not looked at yet.
	InEffect    *InEffect `json:"durability_in_effect,omitempty"`
	Paused      bool      `json:"paused"`
	PausedUntil time.Time `json:"paused_until,omitzero"`
	// PausedMembers are those in maintenance while the others are not.
	PausedMembers []string `json:"paused_members,omitempty"`
	PausedReason  string   `json:"paused_reason,omitempty"`

	LeaseLeft  float64 `json:"lease_left_seconds"` // 0: none
	DecidedAge float64 `json:"decided_seconds_ago"`

	Consul  ConsulStatus   `json:"consul"`
	Members []MemberStatus `json:"members"` // sorted by name
	Blocks  []BlockStatus  `json:"blocks"`  // why it is stuck (S11)
	Rules   []string       `json:"rules"`   // of package ha: those that held in the last decision, in their order
	// Refused says why a requested switchover cannot begin.
	Refused   string            `json:"switchover_refused,omitempty"`
	Scheduled *Schedule         `json:"scheduled_switchover,omitempty"`
	History   []failover.Record `json:"history"`
	// Recorded are the members on the cluster's record: those that may lead.
	Recorded []string `json:"recorded"`
	// Pending are the parameters of this member that wait for a restart.
	Pending []PendingParameter `json:"pending_parameters,omitempty"`
	// Site is the other site's cluster; nil: there is none.
	Site *SiteStatus `json:"site,omitempty"`
	// Slots is how far the consumers of the permanent physical slots are here.
	Slots map[string]ha.LSN `json:"slots,omitempty"`
	// Held are the slots of this server that keep log, or have lost it, those that keep most
	// first.
	Held []HeldSlot `json:"slots_held,omitempty"`
	// NewPrograms: this member's server runs others than those in its bin_dir.
	NewPrograms bool `json:"new_programs,omitempty"`
	// Reinit: a new clone of this member was requested, and is not done.
	Reinit bool `json:"reinit,omitempty"`
	// Progress is how far this member's clone is, while it makes one.
	Progress *Progress `json:"progress,omitempty"`
	// Archive is how the archive of the log fares; nil: the member has none.
	Archive *Archive `json:"archive,omitempty"`
	// Backups are how each block's backups fare, as the leader knows.
	Backups []BackupStatus `json:"backups,omitempty"`
	// Restore is a restore in place that is under way, and Restored the newest with whose
	// data the cluster went on.
	Restore  *RestoreStatus `json:"restore,omitempty"`
	Restored string         `json:"restored,omitempty"`
	// Templates is how the files and proxies fare that this member itself writes
	// and switches (templates.AgentStatus).
	Templates json.RawMessage `json:"templates,omitempty"`
	// Scraped is who read this member's metrics last; nil: nobody has since it began.
	Scraped *Scraped `json:"metrics_read,omitempty"`
	// Traces: this member exports traces.
	Traces bool `json:"traces,omitempty"`
}

// ConsulStatus is what a member knows of Consul.
type ConsulStatus struct {
	Reachable  string  `json:"reachable"` // yes, no or unknown
	SeenAge    float64 `json:"seen_seconds_ago"`
	Session    string  `json:"session,omitempty"`
	LockHolder string  `json:"lock_holder,omitempty"`
	Problem    string  `json:"problem,omitempty"`
	// SettingsCopied: the cluster's settings are the member's own copy, which held then.
	SettingsCopied time.Time `json:"settings_copied_at,omitzero"`
}

// MemberStatus is one member, as the answering one knows it.
type MemberStatus struct {
	Member    string      `json:"member"`
	Role      ha.Role     `json:"role"`
	Term      uint64      `json:"term"`
	Position  ha.Position `json:"position"`
	Lag       *uint64     `json:"lag_bytes"`   // of what it has replayed; null: unknown
	LagTime   *float64    `json:"lag_seconds"` // since when it lacks that; null: unknown
	Streaming bool        `json:"streaming"`
	Writable  bool        `json:"writable"`
	Voter     bool        `json:"voter"`
	Voted     bool        `json:"voted"`
	Recorded  bool        `json:"recorded"` // it is on the cluster's record: it may lead
	Eligible  bool        `json:"eligible"`
	Postgres  string      `json:"postgres,omitempty"`
	API       string      `json:"api,omitempty"`
	Version   string      `json:"version,omitempty"`
	Blocked   string      `json:"blocked,omitempty"`
	Restart   bool        `json:"pending_restart"`
	Oddities

	Link     string  `json:"link"` // self, up, silent, refused or unknown
	HeardAge float64 `json:"heard_seconds_ago"`
}

// BlockStatus is ha.Block with an age.
type BlockStatus struct {
	What     string  `json:"what"`
	Missing  string  `json:"missing"`
	Override string  `json:"override,omitempty"`
	Cost     string  `json:"cost,omitempty"`
	Rule     string  `json:"rule,omitempty"` // of package ha: the one that says so
	Age      float64 `json:"since_seconds"`
}

// linkName is "silent" also while a peer is only taken for unreachable: to a person both
// mean that nothing comes.
func linkName(p *ha.Peer) string {
	if p.Unreachable && p.Link == ha.LinkUp {
		return linkNames[ha.LinkSilent]
	}
	return linkNames[p.Link]
}

var linkNames = [...]string{ha.LinkUnknown: "unknown", ha.LinkUp: "up", ha.LinkSilent: "silent", ha.LinkRefused: "refused"}

// age is the time since at in seconds; -1: never.
func (f facts) age(at ha.Instant) float64 {
	if at == 0 {
		return -1
	}
	return f.now.Sub(at).Seconds()
}

// leaseLeft is for how long this member may still serve as primary, in seconds.
func (f facts) leaseLeft() float64 {
	return max(f.leaseUntil().Sub(f.now).Seconds(), 0)
}

// status is the answer of /status.
func (s *Server) status(f facts) Status {
	o, rec := &f.Observation, &f.Observation.Consul.Record
	st := Status{
		Cluster: s.cluster, Member: s.member, Version: s.version,
		Role: f.State.Role, Primary: f.primary(), Server: f.serverState(), Upstream: o.Server.Upstream, Problem: o.Server.Problem, ConfigProblem: o.Server.ConfigProblem,
		Term: rec.Term, Leader: rec.Leader, Phase: rec.Phase, Reason: rec.Reason, Durability: rec.Durability,
		VotesNeeded: rec.Durability.VotesNeeded(), Paused: f.paused(), PausedUntil: f.PausedUntil, PausedMembers: f.PausedMembers, PausedReason: f.PausedReason,
		DecidedAge: f.age(o.Now), Refused: cmp.Or(f.State.Refused, f.PlanFailed), Scheduled: f.Scheduled,
		Consul: ConsulStatus{Reachable: o.Consul.Reachable.String(), SeenAge: f.age(o.Consul.SeenAt), Session: o.Consul.Session,
			LockHolder: o.Consul.Lock.Holder, Problem: f.View.Problem, SettingsCopied: f.ConfigCopied},
		Members: []MemberStatus{}, Blocks: []BlockStatus{}, Rules: slices.Concat([]string{}, f.State.Rules), History: slices.Concat([]failover.Record{}, f.History),
		Recorded: slices.Concat([]string{}, rec.Members), Slots: f.Slots, Held: f.Held, Pending: f.Pending, NewPrograms: f.NewPrograms, Progress: f.Progress, Reinit: o.Intent.Reinit,
		Archive: f.Archive, Backups: f.Backups, Restore: f.restoring(), Restored: f.Observation.Consul.Record.Restored,
		Scraped: s.scraped.last(), Traces: f.Traces,
	}
	if f.Templates != nil {
		st.Templates = f.Templates()
	}
	if o.Consul.Broken != "" {
		st.Consul.Problem = o.Consul.Broken
	}
	if f.leader() == f.self() {
		st.LeaseLeft = f.leaseLeft()
	}
	st.InEffect, st.Site = f.inEffect(), f.site()
	for _, name := range f.members() {
		st.Members = append(st.Members, f.memberStatus(name))
	}
	for _, b := range f.State.Blocks {
		st.Blocks = append(st.Blocks, BlockStatus{b.What, b.Missing, b.Override, b.Cost, b.Rule, f.age(b.Since)})
	}
	return st
}

func (f facts) memberStatus(name string) MemberStatus {
	r, _ := f.reportOf(name)
	m := MemberStatus{
		Member: name, Role: r.Role, Term: r.Term, Position: r.Position, Streaming: r.Streaming, Writable: r.Writable,
		Voter: f.Observation.Consul.Record.Durability.Has(name), Voted: r.Voted, Eligible: r.Eligible, Postgres: r.Postgres,
		API: r.API, Version: r.Version, Blocked: r.Blocked, Restart: r.Pending, Link: "unknown", HeardAge: -1, Oddities: f.oddities(name),
	}
	if name == f.self() {
		m.Link, m.HeardAge = "self", 0
	}
	if lag, known := f.lagOf(r.Position, cmp.Or(r.Replay, r.Position.LSN)); known {
		m.Lag, m.LagTime = &lag, new(f.lagTime(name))
	}
	m.Recorded = slices.Contains(f.Observation.Consul.Record.Members, name)
	for _, p := range f.Observation.Peers {
		if p.Member == name {
			m.Link, m.HeardAge = linkName(&p), f.age(p.ReceivedAt)
		}
	}
	return m
}

// writeJSON writes an answer. Its length is known before the first byte, so
// that HEAD has it too.
func (s *Server) writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.logger.Error("answer cannot be written", "path", r.URL.Path, "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	s.writeRaw(w, r, status, append(b, '\n'))
}

func (s *Server) writeRaw(w http.ResponseWriter, r *http.Request, status int, b []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if r.Method == http.MethodOptions {
		w.WriteHeader(status)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b) // the client may be gone
	}
}
