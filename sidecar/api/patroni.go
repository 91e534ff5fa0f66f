package api

import (
	"cmp"
	"net"
	"strconv"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// patroniVersion is the version of Patroni whose answers these are. Clients
// read it as three plain integers, and expect a replica's state to be
// "streaming" from 3.0.4 on.
const patroniVersion = "4.1.4"

// patroniTime is how Patroni writes times of the server.
const patroniTime = "2006-01-02 15:04:05.000000-07:00"

// isoTime is how Patroni writes other times: microseconds only where there are any.
func isoTime(t time.Time) string {
	if t.Nanosecond()/1000 == 0 {
		return t.Format("2006-01-02T15:04:05-07:00")
	}
	return t.Format("2006-01-02T15:04:05.000000-07:00")
}

// memberStatus is the answer of /patroni and of the health paths, with the
// fields that Patroni's clients read.
type memberStatus struct {
	State            string            `json:"state"`
	PostmasterStart  string            `json:"postmaster_start_time,omitempty"`
	Role             string            `json:"role"`
	ServerVersion    int               `json:"server_version,omitempty"`
	XLog             any               `json:"xlog,omitempty"` // primaryLog or replicaLog
	SyncStandby      bool              `json:"sync_standby,omitempty"`
	QuorumStandby    bool              `json:"quorum_standby,omitempty"`
	Timeline         ha.TLI            `json:"timeline,omitempty"` // of a running server
	ReplicationState string            `json:"replication_state,omitempty"`
	Replication      []replication     `json:"replication,omitempty"`
	ClusterUnlocked  bool              `json:"cluster_unlocked,omitempty"`
	Failsafe         bool              `json:"failsafe_mode_is_active,omitempty"`
	Pause            bool              `json:"pause,omitempty"`
	DCSLastSeen      int64             `json:"dcs_last_seen"` // seconds since 1970; 0: never
	Tags             map[string]any    `json:"tags,omitempty"`
	SystemID         string            `json:"database_system_identifier,omitempty"`
	PendingRestart   bool              `json:"pending_restart,omitempty"`
	PendingReason    pendingReason     `json:"pending_restart_reason,omitempty"`
	ScheduledRestart *restartSchedule  `json:"scheduled_restart,omitempty"`
	Patroni          map[string]string `json:"patroni"`
}

// pendingReason has, by its name, each parameter that waits for a restart.
type pendingReason map[string]pendingValues

type pendingValues struct {
	Old string `json:"old_value"`
	New string `json:"new_value"`
}

// pendingReasonOf is a member's, as it reports it itself.
func pendingReasonOf(r ha.Report) pendingReason {
	if len(r.PendingWhat) == 0 || !r.Pending {
		return nil
	}
	reason := pendingReason{}
	for _, p := range r.PendingWhat {
		reason[p.Name] = pendingValues{p.Now, p.Wanted}
	}
	return reason
}

// primaryLog and replicaLog have positions in bytes.
type primaryLog struct {
	Location uint64 `json:"location"`
}

type replicaLog struct {
	ReceivedLocation  uint64  `json:"received_location"`
	ReplayedLocation  uint64  `json:"replayed_location"`
	ReplayedTimestamp *string `json:"replayed_timestamp"` // null: nothing was replayed
	Paused            bool    `json:"paused"`
}

// replication is one connection that receives the log.
type replication struct {
	User            string  `json:"usename"`
	ApplicationName string  `json:"application_name"`
	Address         *string `json:"client_addr"` // null: a local socket
	State           string  `json:"state"`
	SyncState       string  `json:"sync_state"`
	SyncPriority    int     `json:"sync_priority"`
}

// switchoverSchedule and restartSchedule are what is planned.
type switchoverSchedule struct {
	At   string `json:"at"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

type restartSchedule struct {
	Schedule        string `json:"schedule"`
	Role            string `json:"role,omitempty"`
	PostgresVersion string `json:"postgres_version,omitempty"`
	RestartPending  bool   `json:"restart_pending,omitempty"`
	Timeout         int    `json:"timeout,omitempty"` // seconds
}

// restartOf is a member's planned restart; nil: it has none.
func (f facts) restartOf(member string) *restartSchedule {
	r, planned := f.Restarts[member]
	if !planned {
		return nil
	}
	return &restartSchedule{isoTime(r.At), r.Role, r.PostgresVersion, r.Pending, int(r.Timeout / time.Second)}
}

// patroniStatus is this member's status. known is false before the first decision.
func (s *Server) patroniStatus(f facts, known bool) memberStatus {
	own := map[string]string{"version": patroniVersion, "scope": s.cluster, "name": s.member}
	if !known {
		return memberStatus{State: "starting", Role: "uninitialized", ClusterUnlocked: true, Patroni: own}
	}
	v := &f.Observation.Server
	st := memberStatus{
		State: f.serverState(), Role: f.role(), ServerVersion: f.PostgresVersion, Patroni: own,
		ClusterUnlocked: f.unlocked(), Failsafe: f.failsafe(), Pause: f.paused(), DCSLastSeen: f.consulSeen(), Tags: tagValues(f.Tags),
		SystemID: v.SystemID, PendingRestart: v.PendingRestart, PendingReason: pendingReasonOf(f.Report), ReplicationState: f.replicationState(),
		ScheduledRestart: f.restartOf(f.self()),
	}
	if !f.PostgresStarted.IsZero() {
		st.PostmasterStart = f.PostgresStarted.Format(patroniTime)
	}
	if !f.running() {
		return st
	}
	at := uint64(v.Position.LSN)
	st.Timeline, st.Replication = v.Position.TLI, f.replication()
	if v.InRecovery == ha.No {
		st.XLog = primaryLog{at}
		return st
	}
	log := replicaLog{ReceivedLocation: at, ReplayedLocation: uint64(f.replayed()), Paused: f.ReplayPaused}
	if !f.ReplayedAt.IsZero() {
		log.ReplayedTimestamp = new(f.ReplayedAt.Format(patroniTime))
	}
	st.XLog = log
	switch f.standing() {
	case synced:
		st.SyncStandby = true
	case quorum:
		st.QuorumStandby = true
	}
	return st
}

// replication is what the server says of those who receive its log.
func (f facts) replication() []replication {
	var all []replication
	for _, w := range f.Senders {
		r := replication{User: w.User, ApplicationName: w.Name, State: w.State, SyncState: w.SyncState, SyncPriority: w.SyncPriority}
		if w.Address != "" {
			r.Address = &w.Address
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

// unlocked: nobody is known to hold the leader lock, as none is or Consul is away.
func (f facts) unlocked() bool {
	return f.Observation.Consul.Lock.Session == "" || f.Observation.Consul.Reachable == ha.No
}

// failsafe: Consul is away, and the members go on by what they tell each other.
func (f facts) failsafe() bool {
	return f.Observation.Consul.Reachable == ha.No && (f.primary() || f.State.Hears)
}

// consulSeen is when Consul last answered, in seconds since 1970; 0: never.
func (f facts) consulSeen() int64 {
	seen := f.Observation.Consul.SeenAt
	if seen == 0 {
		return 0
	}
	return time.Now().Add(-f.now.Sub(seen)).Unix()
}

// tagValues writes truth values and priorities as such, as Patroni does.
func tagValues(tags map[string]string) map[string]any {
	if len(tags) == 0 {
		return nil
	}
	values := make(map[string]any, len(tags))
	for k, v := range tags {
		values[k] = v
		n, err := strconv.Atoi(v)
		switch {
		case v == "true" || v == "false":
			values[k] = v == "true"
		case err == nil && (k == "failover_priority" || k == "sync_priority"):
			values[k] = n
		}
	}
	return values
}

// reportedTags are a member's, as it reports them itself.
func reportedTags(r ha.Report) map[string]any {
	tags := make(map[string]string, len(r.Tags))
	for _, t := range r.Tags {
		tags[t.Name] = t.Value
	}
	return tagValues(tags)
}

// unknownLag stands for a position or a lag that is not known.
const unknownLag = "unknown"

// clusterMember is one member in the answer of /cluster.
type clusterMember struct {
	Name           string           `json:"name"`
	Role           string           `json:"role"`
	State          string           `json:"state"`
	APIURL         string           `json:"api_url,omitempty"`
	Host           string           `json:"host,omitempty"`
	Port           int              `json:"port,omitempty"`
	Timeline       ha.TLI           `json:"timeline,omitempty"`
	PendingRestart bool             `json:"pending_restart,omitempty"`
	PendingReason  pendingReason    `json:"pending_restart_reason,omitempty"`
	Scheduled      *restartSchedule `json:"scheduled_restart,omitempty"`
	Tags           map[string]any   `json:"tags,omitempty"`
	*replicaPositions
}

// replicaPositions are where a replica is: positions as text and numbers of bytes, or
// "unknown". The leader has none.
type replicaPositions struct {
	ReceiveLSN string `json:"receive_lsn"`
	ReceiveLag any    `json:"receive_lag"`
	ReplayLSN  string `json:"replay_lsn"`
	ReplayLag  any    `json:"replay_lag"`
	LSN        string `json:"lsn"`
	Lag        any    `json:"lag"`
}

type clusterStatus struct {
	Members   []clusterMember     `json:"members"`
	Pause     bool                `json:"pause,omitempty"`
	Scheduled *switchoverSchedule `json:"scheduled_switchover,omitempty"`
	Scope     string              `json:"scope"`
}

// patroniCluster is the answer of /cluster.
func (s *Server) patroniCluster(f facts) clusterStatus {
	c := clusterStatus{Members: []clusterMember{}, Pause: f.paused(), Scope: s.cluster}
	if f.Scheduled != nil {
		c.Scheduled = &switchoverSchedule{At: isoTime(f.Scheduled.At), From: f.Scheduled.From, To: f.Scheduled.To}
	}
	for _, name := range f.members() {
		c.Members = append(c.Members, s.patroniMember(f, name))
	}
	return c
}

func (s *Server) patroniMember(f facts, name string) clusterMember {
	r, heard := f.reportOf(name)
	m := clusterMember{Name: name, Timeline: r.Position.TLI, PendingRestart: r.Pending, PendingReason: pendingReasonOf(r), Role: "replica",
		State: f.memberState(name), APIURL: s.apiOf(r), Scheduled: f.restartOf(name), Tags: reportedTags(r)}
	if host, port, err := net.SplitHostPort(r.Postgres); err == nil {
		m.Host = host
		m.Port, _ = strconv.Atoi(port)
	}
	if name == f.leader() {
		m.Role = "leader"
		if f.follows() {
			m.Role = "standby_leader"
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
	m.replicaPositions = f.positionsOf(r, heard)
	return m
}

// apiOf is where a member's status is; empty: not known.
func (s *Server) apiOf(r ha.Report) string {
	if r.API == "" {
		return ""
	}
	return s.scheme() + "://" + r.API + "/patroni"
}

// memberState is Patroni's word for the state of a member's server.
func (f facts) memberState(name string) string {
	r, heard := f.reportOf(name)
	switch {
	case !heard:
		return "unreachable"
	case name == f.leader() && r.Serving:
		return "running"
	case name == f.leader():
		return "starting"
	case name == f.self() && f.serverState() != "running":
		return f.serverState()
	case r.Down:
		return "stopped"
	case r.Streaming:
		return "streaming"
	case r.Role == ha.RoleStopped:
		return "starting"
	}
	return "running"
}

// positionsOf is where a replica is.
func (f facts) positionsOf(r ha.Report, heard bool) *replicaPositions {
	at := func(lsn ha.LSN) (string, any) {
		switch lag, known := f.lagOf(r.Position, lsn); {
		case lsn == 0:
			return unknownLag, unknownLag
		case !known || !heard:
			return lsn.String(), unknownLag
		default:
			return lsn.String(), lag
		}
	}
	p := &replicaPositions{}
	p.ReceiveLSN, p.ReceiveLag = at(r.Position.LSN)
	p.ReplayLSN, p.ReplayLag = at(cmp.Or(r.Replay, r.Position.LSN))
	p.LSN, p.Lag = p.ReceiveLSN, p.ReceiveLag
	return p
}

// patroniHistory is the answer of /history: for each timeline that ended its number, the
// position in bytes, the reason, the time and the new leader.
func patroniHistory(terms []failover.Record) [][]any {
	rows := make([][]any, 0, len(terms))
	for i := range terms {
		t := &terms[i]
		ended := t.Timeline - 1 // of the first that is known: PostgreSQL takes the next number
		if i > 0 {
			ended = terms[i-1].Timeline
		}
		if t.From == "" || t.Forked == 0 || ended == 0 || ended >= t.Timeline {
			continue // the cluster was founded, or its primary went on
		}
		rows = append(rows, []any{ended, uint64(t.Forked), t.Reason, isoTime(t.Announced), t.Leader})
	}
	return rows
}

// failsafeMembers is the answer of /failsafe: who confirms a primary while Consul is
// away, with the addresses of their APIs. It is always so.
func (s *Server) failsafeMembers(f facts) map[string]string {
	all := map[string]string{}
	for _, name := range f.members() {
		r, _ := f.reportOf(name)
		all[name] = s.apiOf(r)
	}
	return all
}

// configOf is the settings as stored, so that their keys keep their order.
func configOf(stored []byte) []byte {
	if len(stored) == 0 {
		return []byte("{}\n")
	}
	return stored
}
