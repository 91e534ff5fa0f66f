package screen

import (
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// wellStatus is the leader's, n1, of three members that are well.
func wellStatus() *api.Status {
	of := func(name, link string, role ha.Role) api.MemberStatus {
		lag := uint64(0)
		return api.MemberStatus{Member: name, Link: link, Role: role, Recorded: true, Eligible: role == ha.RoleReplica, Streaming: role == ha.RoleReplica, Lag: &lag}
	}
	return &api.Status{Member: "n1", Leader: "n1", Phase: ha.PhaseLeading, Consul: api.ConsulStatus{Reachable: ha.Yes.String()},
		Members: []api.MemberStatus{of("n1", "self", ha.RolePrimary), of("n2", "up", ha.RoleReplica), of("n3", "up", ha.RoleReplica)}}
}

// TestMeets: what a switchover or failover would meet is said before, with what to type.
func TestMeets(t *testing.T) {
	big, small := uint64(200<<20), uint64(1<<20)
	byHand := func(c *api.MemberStatus) {
		c.Role, c.Eligible, c.Streaming = ha.RoleStopped, false, false
		c.Blocked, c.Override, c.Cost = "this member's server is not managed: the end of process 123", "pgsidecar resume", "that server is stopped"
	}
	for name, c := range map[string]struct {
		change func(s *api.Status, n2, n3 *api.MemberStatus)
		h      Handover
		stops  []string
		notes  []string
	}{
		"all is well":              {h: Handover{To: "n2"}},
		"all is well, to the best": {},
		"an archive that trails": {func(s *api.Status, _, _ *api.MemberStatus) {
			s.Archive = &api.Archive{Leads: true, Files: 12, Bytes: 192 << 20}
		}, Handover{To: "n2"}, nil, []string{"the archive lacks 12 files (192 MB) of n1", "stop_timeout"}},
		"an archive that is well": {func(s *api.Status, _, _ *api.MemberStatus) { s.Archive = &api.Archive{Leads: true, Files: 2} }, Handover{To: "n2"}, nil, nil},
		"one that is stuck": {func(s *api.Status, _, _ *api.MemberStatus) {
			s.Archive = &api.Archive{Leads: true, Files: 1, Oldest: 40}
		}, Handover{To: "n2"}, nil, []string{"the archive lacks 1 file (0 B) of n1, the first for 40 s"}},
		"an archive_command that fails": {func(s *api.Status, _, _ *api.MemberStatus) {
			s.InEffect = &api.InEffect{Unarchived: 3, UnarchivedFor: 60}
		}, Handover{To: "n2"}, nil, []string{"the archive lacks 3 files of n1, the first for 60 s", "stop_timeout", "pg_stat_archiver"}},
		"one that works": {func(s *api.Status, _, _ *api.MemberStatus) {
			s.InEffect = &api.InEffect{Unarchived: 3, UnarchivedFor: 1}
		}, Handover{To: "n2"}, nil, nil},
		"a backup from the primary": {func(s *api.Status, _, _ *api.MemberStatus) {
			s.Backups = []api.BackupStatus{{Name: "main", Running: &api.BackupRun{Member: "n1", Done: 0.42}}}
		}, Handover{To: "n2"}, nil, []string{"n1 is making backup main (42 %): the switchover ends it, and it starts again"}},
		"a backup from a replica": {func(s *api.Status, _, _ *api.MemberStatus) {
			s.Backups = []api.BackupStatus{{Name: "main", Running: &api.BackupRun{Member: "n3"}}}
		}, Handover{To: "n2"}, nil, nil},
		"a server of somebody else":  {func(_ *api.Status, n2, _ *api.MemberStatus) { byHand(n2) }, Handover{To: "n2"}, []string{"process 123", "pgsidecar resume (that server is stopped)"}, nil},
		"that of another member":     {func(_ *api.Status, _, n3 *api.MemberStatus) { byHand(n3) }, Handover{To: "n2"}, nil, []string{"n3 is blocked: ", "process 123", "pgsidecar resume"}},
		"a lagging replica":          {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.Lag = &big }, Handover{To: "n2"}, []string{"n2 is 200 MB behind", "wait until"}, nil},
		"one that lags a little":     {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.Lag = &small }, Handover{To: "n2"}, nil, nil},
		"a lagging one, failover":    {func(s *api.Status, n2, _ *api.MemberStatus) { n2.Lag = &big; s.Members[0].Link = "silent" }, Handover{To: "n2", Failover: true}, nil, []string{"n2 is 200 MB behind"}},
		"replay that pauses":         {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.Paused = "pg_wal_replay_pause() was called" }, Handover{To: "n2"}, nil, []string{"replays nothing (pg_wal_replay_pause"}},
		"replay that has paused":     {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.Paused, n2.Lag = "max_connections is 10 here", &big }, Handover{To: "n2"}, []string{"max_connections is 10", "pg_wal_replay_resume"}, nil},
		"one that does not stream":   {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.Streaming = false }, Handover{To: "n2"}, []string{"n2 does not stream from n1"}, nil},
		"a refused configuration":    {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.ConfigProblem = "postgresql.conf line 9" }, Handover{To: "n2"}, nil, []string{"n2 refuses its configuration", "line 9"}},
		"the old primary's":          {func(s *api.Status, _, _ *api.MemberStatus) { s.ConfigProblem = "pg_hba.conf line 3" }, Handover{To: "n2"}, nil, []string{"n1 refuses its configuration, and starts again", "line 3"}},
		"parameters wait":            {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.Restart = true }, Handover{To: "n2"}, nil, []string{"pgsidecar restart n2 --pending"}},
		"a paused cluster":           {func(s *api.Status, _, _ *api.MemberStatus) { s.Paused = true }, Handover{To: "n2"}, nil, []string{"nobody takes over", "pgsidecar resume"}},
		"a paused cluster, the best": {func(s *api.Status, _, _ *api.MemberStatus) { s.Paused = true }, Handover{}, []string{"--to MEMBER"}, nil},
		"a paused cluster, failover": {func(s *api.Status, _, _ *api.MemberStatus) { s.Paused = true; s.Members[0].Link = "silent" }, Handover{To: "n2", Failover: true}, []string{"members elect nobody until: pgsidecar resume"}, nil},
		"votes are missing": {func(s *api.Status, _, _ *api.MemberStatus) {
			s.Members[0].Link, s.Blocks = "silent", []api.BlockStatus{{What: "nobody leads", Missing: "a vote of n3"}}
		}, Handover{To: "n2", Failover: true}, []string{"nobody leads; it waits for: a vote of n3"}, nil},
		"their loss is accepted": {func(s *api.Status, _, _ *api.MemberStatus) {
			s.Members[0].Link, s.Blocks = "silent", []api.BlockStatus{{What: "nobody leads", Missing: "a vote of n3"}}
		}, Handover{To: "n2", Failover: true, Lose: true}, nil, nil},
		"a candidate that is gone":   {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.Link = "refused" }, Handover{To: "n2"}, []string{"n2 is unreachable"}, nil},
		"another that is gone":       {func(_ *api.Status, _, n3 *api.MemberStatus) { n3.Link = "silent" }, Handover{To: "n2"}, nil, []string{"n3 is unreachable"}},
		"a tag":                      {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.Tags = []ha.Tag{{Name: "nofailover", Value: "true"}} }, Handover{To: "n2"}, []string{"tags.n2.nofailover="}, nil},
		"one that has strayed":       {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.Strayed = "it was promoted by hand" }, Handover{To: "n2"}, []string{"promoted by hand"}, nil},
		"one that has not joined":    {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.Recorded = false }, Handover{To: "n2"}, []string{"record"}, nil},
		"a server that does not run": {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.Role, n2.Eligible = ha.RoleStopped, false }, Handover{To: "n2"}, []string{"server of n2 does not run"}, nil},
		"nobody":                     {func(_ *api.Status, n2, n3 *api.MemberStatus) { n2.Eligible, n3.Eligible = false, false }, Handover{}, []string{"no other member can lead"}, nil},
		"Consul is away":             {func(s *api.Status, _, _ *api.MemberStatus) { s.Consul.Reachable = ha.No.String() }, Handover{To: "n2"}, []string{"Consul does not answer"}, nil},
		"a silent port":              {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.PortSilent = true }, Handover{To: "n2"}, []string{"the port of the server of n2 does not answer on n1"}, nil},
		"every port silent":          {func(_ *api.Status, n2, n3 *api.MemberStatus) { n2.PortSilent, n3.PortSilent = true, true }, Handover{To: "n2"}, nil, nil},
		"a wrong address":            {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.Misled = "PgBouncer answers" }, Handover{To: "n2"}, nil, []string{"PgBouncer answers"}},
		"DNS hides it":               {func(_ *api.Status, n2, _ *api.MemberStatus) { n2.Hidden = "maintenance mode" }, Handover{To: "n2"}, nil, []string{"maintenance mode"}},
		"another libc": {func(s *api.Status, n2, _ *api.MemberStatus) {
			s.Members[0].Software.Libc, n2.Software.Libc = "2.31", "2.36"
		}, Handover{To: "n2"}, nil, []string{"collations differ (n1 2.31, n2 2.36)"}},
		"a planned one": {func(s *api.Status, _, _ *api.MemberStatus) { s.Scheduled = &api.Schedule{At: time.Now()} }, Handover{To: "n2"}, nil, []string{"--cancel"}},
	} {
		st := wellStatus()
		if c.change != nil {
			c.change(st, &st.Members[1], &st.Members[2])
		}
		m := Meets(st, c.h)
		for _, part := range []struct {
			said, want []string
		}{{m.Stops, c.stops}, {m.Notes, c.notes}} {
			said := strings.Join(part.said, "\n")
			if (len(part.want) == 0) != (said == "") {
				t.Errorf("%s: %q, want %q; all of it:\n%s", name, said, part.want, m.Words())
			}
			for _, words := range part.want {
				if !strings.Contains(said, words) {
					t.Errorf("%s: no %q in %q", name, words, said)
				}
			}
		}
	}
}
