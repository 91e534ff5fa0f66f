package api

import (
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// patroniVersion is the version of Patroni whose answers these are. Clients
// read it as three plain integers, and expect a replica's state to be
// "streaming" from 3.0.4 on.
const patroniVersion = "4.1.4"

// patroniTime is how Patroni writes times.
const patroniTime = "2006-01-02 15:04:05.000000-07:00"

// memberStatus is the answer of /patroni and of the health paths, with the
// fields that Patroni's clients read.
type memberStatus struct {
	State            string            `json:"state"`
	PostmasterStart  string            `json:"postmaster_start_time,omitempty"`
	Role             string            `json:"role"`
	ServerVersion    int               `json:"server_version,omitempty"`
	XLog             *xlog             `json:"xlog,omitempty"`
	SyncStandby      bool              `json:"sync_standby,omitempty"`
	QuorumStandby    bool              `json:"quorum_standby,omitempty"`
	Timeline         ha.TLI            `json:"timeline"`
	ReplicationState string            `json:"replication_state,omitempty"`
	Replication      []replication     `json:"replication,omitempty"`
	ClusterUnlocked  bool              `json:"cluster_unlocked,omitempty"`
	Pause            bool              `json:"pause,omitempty"`
	DCSLastSeen      int64             `json:"dcs_last_seen"` // seconds since 1970; 0: never
	Tags             map[string]any    `json:"tags,omitempty"`
	SystemID         string            `json:"database_system_identifier,omitempty"`
	PendingRestart   bool              `json:"pending_restart,omitempty"`
	ScheduledRestart *patroniSchedule  `json:"scheduled_restart,omitempty"`
	Patroni          map[string]string `json:"patroni"`
}

// xlog has positions in bytes: location for a primary, the others for a replica.
type xlog struct {
	Location          *uint64 `json:"location,omitempty"`
	ReceivedLocation  *uint64 `json:"received_location,omitempty"`
	ReplayedLocation  *uint64 `json:"replayed_location,omitempty"`
	ReplayedTimestamp *string `json:"replayed_timestamp,omitempty"`
	Paused            *bool   `json:"paused,omitempty"`
}

type replication struct {
	ApplicationName string `json:"application_name"`
	State           string `json:"state"`
	SyncState       string `json:"sync_state"`
	SyncPriority    int    `json:"sync_priority"`
}

type patroniSchedule struct {
	At   string `json:"at,omitempty"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Schedule is what a restart calls At.
	Schedule string `json:"schedule,omitempty"`
}

// patroniStatus is this member's status. known is false before the first decision.
func (s *Server) patroniStatus(f facts, known bool) memberStatus {
	if !known {
		return memberStatus{State: "starting", Role: "uninitialized", ClusterUnlocked: true,
			Patroni: map[string]string{"version": patroniVersion, "scope": s.cluster, "name": s.member}}
	}
	v := &f.Observation.Server
	st := memberStatus{
		State: f.serverState(), Role: f.role(), ServerVersion: f.PostgresVersion, Timeline: v.Position.TLI,
		ClusterUnlocked: f.unlocked(), Pause: f.paused(), DCSLastSeen: f.consulSeen(), Tags: tagValues(f.Tags),
		SystemID: v.SystemID, PendingRestart: v.PendingRestart, ReplicationState: f.replicationState(),
		Patroni: map[string]string{"version": patroniVersion, "scope": s.cluster, "name": s.member},
	}
	if !f.PostgresStarted.IsZero() {
		st.PostmasterStart = f.PostgresStarted.Format(patroniTime)
	}
	if f.Restart != nil {
		st.ScheduledRestart = &patroniSchedule{Schedule: f.Restart.At.Format(time.RFC3339)}
	}
	if !f.running() {
		return st
	}
	at := uint64(v.Position.LSN)
	if v.InRecovery == ha.No {
		st.XLog = &xlog{Location: &at}
		st.Replication = f.replication()
		return st
	}
	st.XLog = &xlog{ReceivedLocation: &at, ReplayedLocation: new(uint64(f.replayed())), Paused: &f.ReplayPaused}
	if !f.ReplayedAt.IsZero() {
		st.XLog.ReplayedTimestamp = new(f.ReplayedAt.Format(patroniTime))
	}
	switch f.standing() {
	case synced:
		st.SyncStandby = true
	case quorum:
		st.QuorumStandby = true
	}
	return st
}

// replication is what a primary says of its walsenders.
func (f facts) replication() []replication {
	var all []replication
	for _, w := range f.Observation.Server.Walsenders {
		r := replication{ApplicationName: w.Member, State: "catchup", SyncState: "async"}
		if w.Streaming {
			r.State = "streaming"
		}
		if w.Sync {
			r.SyncState, r.SyncPriority = "quorum", 1
		}
		all = append(all, r)
	}
	return all
}

// replicationState is Patroni's word for where a replica's log comes from.
func (f facts) replicationState() string {
	if f.streaming() {
		return "streaming"
	}
	return ""
}

// consulSeen is when Consul last answered, in seconds since 1970; 0: never.
func (f facts) consulSeen() int64 {
	seen := f.Observation.Consul.SeenAt
	if seen == 0 {
		return 0
	}
	return time.Now().Add(-f.now.Sub(seen)).Unix()
}

// tagValues writes truth values as such, as Patroni does.
func tagValues(tags map[string]string) map[string]any {
	if len(tags) == 0 {
		return nil
	}
	values := make(map[string]any, len(tags))
	for k, v := range tags {
		values[k] = v
		if v == "true" || v == "false" {
			values[k] = v == "true"
		}
	}
	return values
}

// clusterMember is one member in the answer of /cluster. Lag is a number of
// bytes or "unknown", and absent from the leader.
type clusterMember struct {
	Name           string           `json:"name"`
	Role           string           `json:"role"`
	State          string           `json:"state"`
	APIURL         string           `json:"api_url,omitempty"`
	Host           string           `json:"host,omitempty"`
	Port           int              `json:"port,omitempty"`
	Timeline       ha.TLI           `json:"timeline"`
	PendingRestart bool             `json:"pending_restart,omitempty"`
	Scheduled      *patroniSchedule `json:"scheduled_restart,omitempty"`
	Tags           map[string]any   `json:"tags,omitempty"`
	LSN            string           `json:"lsn,omitempty"`
	Lag            any              `json:"lag,omitempty"`
}

type clusterStatus struct {
	Members   []clusterMember  `json:"members"`
	Pause     bool             `json:"pause,omitempty"`
	Scheduled *patroniSchedule `json:"scheduled_switchover,omitempty"`
	Scope     string           `json:"scope"`
}

// patroniCluster is the answer of /cluster.
func (s *Server) patroniCluster(f facts) clusterStatus {
	c := clusterStatus{Members: []clusterMember{}, Pause: f.paused(), Scope: s.cluster}
	if f.Scheduled != nil {
		c.Scheduled = &patroniSchedule{At: f.Scheduled.At.Format(time.RFC3339), From: f.Scheduled.From, To: f.Scheduled.To}
	}
	for _, name := range f.members() {
		m := s.patroniMember(f, name)
		if name == f.self() {
			m.Tags = tagValues(f.Tags)
			if f.Restart != nil {
				m.Scheduled = &patroniSchedule{Schedule: f.Restart.At.Format(time.RFC3339)}
			}
		}
		c.Members = append(c.Members, m)
	}
	return c
}

func (s *Server) patroniMember(f facts, name string) clusterMember {
	r, heard := f.reportOf(name)
	m := clusterMember{Name: name, Timeline: r.Position.TLI, PendingRestart: r.Pending, Role: "replica", State: "unreachable"}
	if r.API != "" {
		m.APIURL = s.scheme() + "://" + r.API + "/patroni"
	}
	if host, port, err := net.SplitHostPort(r.Postgres); err == nil {
		m.Host = host
		m.Port, _ = strconv.Atoi(port)
	}
	if r.Position.Known() {
		m.LSN = r.Position.LSN.String()
	}
	if name == f.leader() {
		m.Role = "leader"
		switch {
		case heard && r.Serving:
			m.State = "running"
		case heard:
			m.State = "starting"
		}
		return m
	}
	if r.Streaming {
		switch f.standingOf(name) {
		case synced:
			m.Role = "sync_standby"
		case quorum:
			m.Role = "quorum_standby"
		}
	}
	m.Lag = "unknown"
	if at := cmpOr(r.Replay, r.Position.LSN); heard {
		if lag, known := f.lagOf(r.Position, at); known {
			m.Lag = lag
		}
	}
	switch {
	case !heard:
	case name == f.self() && f.serverState() != "running":
		m.State = f.serverState()
	case r.Down:
		m.State = "stopped"
	case r.Streaming:
		m.State = "streaming"
	case r.Role == ha.RoleStopped:
		m.State = "starting"
	default:
		m.State = "running"
	}
	return m
}

// cmpOr is the first that is not zero.
func cmpOr(a, b ha.LSN) ha.LSN {
	if a != 0 {
		return a
	}
	return b
}

// patroniHistory is the answer of /history: rows of timeline, position in
// bytes, reason, time and new leader.
func patroniHistory(turns []Turn) [][]any {
	rows := make([][]any, 0, len(turns))
	for _, t := range turns {
		rows = append(rows, []any{t.Timeline, uint64(t.LSN), t.Reason, t.At.Format(time.RFC3339Nano), t.Leader})
	}
	return rows
}

// Status is the answer of /status: all that this member knows, in our own
// words. Ages are in seconds before the answer; -1 is never.
type Status struct {
	Cluster string `json:"cluster"`
	Member  string `json:"member"`
	Version string `json:"version"`

	Role        ha.Role       `json:"role"`
	Primary     bool          `json:"primary"` // /primary answers 200
	Server      string        `json:"server"`
	Problem     string        `json:"problem,omitempty"`
	Term        uint64        `json:"term"`
	Leader      string        `json:"leader"`
	Phase       ha.Phase      `json:"phase"`
	Reason      string        `json:"reason,omitempty"` // why this term began
	Durability  ha.Durability `json:"durability"`
	VotesNeeded int           `json:"votes_needed"`
	Paused      bool          `json:"paused"`
	PausedUntil time.Time     `json:"paused_until,omitzero"`
	// PausedMembers are those in maintenance while the others are not.
	PausedMembers []string `json:"paused_members,omitempty"`
	PausedReason  string   `json:"paused_reason,omitempty"`

	LeaseLeft  float64 `json:"lease_left_seconds"` // 0: none
	DecidedAge float64 `json:"decided_seconds_ago"`

	Consul  ConsulStatus   `json:"consul"`
	Members []MemberStatus `json:"members"` // sorted by name
	Blocks  []BlockStatus  `json:"blocks"`  // why it is stuck (S11)
	// Refused says why a switchover that was asked for cannot begin.
	Refused   string    `json:"switchover_refused,omitempty"`
	Scheduled *Schedule `json:"scheduled_switchover,omitempty"`
	History   []Turn    `json:"history"`
	// Recorded are the members on the cluster's record: those that may lead.
	Recorded []string `json:"recorded"`
	// Slots is how far the consumers of the permanent physical slots are here.
	Slots map[string]ha.LSN `json:"slots,omitempty"`
	// Reinit: a new clone of this member was asked for, and is not done.
	Reinit bool `json:"reinit,omitempty"`
	// Progress is how far this member's clone is, while it makes one.
	Progress *Progress `json:"progress,omitempty"`
	// Templates is how the files and proxies fare that this member itself writes
	// and switches (templates.AgentStatus).
	Templates json.RawMessage `json:"templates,omitempty"`
}

// ConsulStatus is what a member knows of Consul.
type ConsulStatus struct {
	Reachable  string  `json:"reachable"` // yes, no or unknown
	SeenAge    float64 `json:"seen_seconds_ago"`
	Session    string  `json:"session,omitempty"`
	LockHolder string  `json:"lock_holder,omitempty"`
	Problem    string  `json:"problem,omitempty"`
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

	Link     string  `json:"link"` // self, up, silent, refused or unknown
	HeardAge float64 `json:"heard_seconds_ago"`
}

// BlockStatus is ha.Block with an age.
type BlockStatus struct {
	What     string  `json:"what"`
	Missing  string  `json:"missing"`
	Override string  `json:"override,omitempty"`
	Cost     string  `json:"cost,omitempty"`
	Age      float64 `json:"since_seconds"`
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
		Role: f.State.Role, Primary: f.primary(), Server: f.serverState(), Problem: o.Server.Problem,
		Term: rec.Term, Leader: rec.Leader, Phase: rec.Phase, Reason: rec.Reason, Durability: rec.Durability,
		VotesNeeded: rec.Durability.VotesNeeded(), Paused: f.paused(), PausedUntil: f.PausedUntil, PausedMembers: f.PausedMembers, PausedReason: f.PausedReason,
		DecidedAge: f.age(o.Now), Refused: f.State.Refused, Scheduled: f.Scheduled,
		Consul: ConsulStatus{Reachable: o.Consul.Reachable.String(), SeenAge: f.age(o.Consul.SeenAt), Session: o.Consul.Session,
			LockHolder: o.Consul.Lock.Holder, Problem: f.View.Problem},
		Members: []MemberStatus{}, Blocks: []BlockStatus{}, History: slices.Concat([]Turn{}, f.History),
		Recorded: slices.Concat([]string{}, rec.Members), Slots: f.Slots, Progress: f.Progress, Reinit: o.Intent.Reinit,
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
	for _, name := range f.members() {
		st.Members = append(st.Members, f.memberStatus(name))
	}
	for _, b := range f.State.Blocks {
		st.Blocks = append(st.Blocks, BlockStatus{b.What, b.Missing, b.Override, b.Cost, f.age(b.Since)})
	}
	return st
}

func (f facts) memberStatus(name string) MemberStatus {
	r, _ := f.reportOf(name)
	m := MemberStatus{
		Member: name, Role: r.Role, Term: r.Term, Position: r.Position, Streaming: r.Streaming, Writable: r.Writable,
		Voter: f.Observation.Consul.Record.Durability.Has(name), Voted: r.Voted, Eligible: r.Eligible, Postgres: r.Postgres,
		API: r.API, Version: r.Version, Blocked: r.Blocked, Restart: r.Pending, Link: "unknown", HeardAge: -1,
	}
	if name == f.self() {
		m.Link, m.HeardAge = "self", 0
	}
	if lag, known := f.lagOf(r.Position, cmpOr(r.Replay, r.Position.LSN)); known {
		m.Lag, m.LagTime = &lag, new(f.lagTime(name))
	}
	m.Recorded = slices.Contains(f.Observation.Consul.Record.Members, name)
	for _, p := range f.Observation.Peers {
		if p.Member == name {
			m.Link, m.HeardAge = linkNames[p.Link], f.age(p.ReceivedAt)
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
