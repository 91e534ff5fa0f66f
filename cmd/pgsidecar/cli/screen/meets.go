package screen

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Handover is one that a person is about to ask for.
type Handover struct {
	To       string // empty: to the best
	Failover bool   // where no leader is left to hand over
	Lose     bool   // the loss of acknowledged commits is accepted
}

// Meeting is what a handover would meet, for people, with what to type.
type Meeting struct {
	Stops []string // it cannot be done
	Notes []string // it can, and this is what comes with it
}

// handoverLag is how far a candidate may be behind (package ha's maxHandoverLag).
const handoverLag = 16 << 20

// Meets says what a handover would meet, as far as the status tells.
func Meets(st *api.Status, h Handover) Meeting {
	var m Meeting
	led := st.Leader != "" && st.Phase == ha.PhaseLeading && !Unheard(st, st.Leader)
	if st.Consul.Reachable == ha.No.String() {
		m.stop("Consul does not answer, and a handover needs it")
	}
	m.ofCluster(st, h, led)
	for i := range st.Members {
		switch member := &st.Members[i]; {
		case member.Member == h.To:
			m.ofCandidate(st, member, h, led)
		case member.Member == st.Leader && led:
			m.ofLeader(st, member)
		default:
			m.ofOther(st, member)
		}
	}
	if h.To == "" && !slices.ContainsFunc(st.Members, func(c api.MemberStatus) bool {
		return c.Member != st.Leader && c.Eligible && !Unheard(st, c.Member)
	}) {
		m.stop("no other member can lead now: pgsidecar status says why")
	}
	return m
}

func (m *Meeting) stop(format string, args ...any) {
	m.Stops = append(m.Stops, fmt.Sprintf(format, args...))
}

func (m *Meeting) note(format string, args ...any) {
	m.Notes = append(m.Notes, fmt.Sprintf(format, args...))
}

// ofCluster says what holds for any member that takes over.
func (m *Meeting) ofCluster(st *api.Status, h Handover, led bool) {
	paused := st.Paused && len(st.PausedMembers) == 0
	switch {
	case led && paused && h.To == "":
		m.stop("the cluster is paused, so name the member: --to MEMBER")
	case led && paused:
		m.note("the cluster is paused: nobody takes over from the new primary if it fails, until: pgsidecar resume")
	case paused && !h.Lose:
		m.stop("the cluster is paused, and members elect nobody until: pgsidecar resume")
	}
	if h.Failover && !led && !h.Lose {
		for _, b := range st.Blocks {
			m.stop("%s; it waits for: %s", b.What, b.Missing)
		}
	}
	if s := st.Scheduled; s != nil {
		m.note("the switchover planned for %s stays planned; to forget it: pgsidecar switchover --cancel", s.At.Local().Format(TimeWithZone))
	}
	for i := range st.Backups {
		if b := &st.Backups[i]; b.Running != nil && b.Running.Member == st.Leader {
			m.note("%s is making backup %s (%.0f %%): the switchover ends it, and it starts again afterwards", st.Leader, b.Name, 100*b.Running.Done)
		}
	}
	if st.Restore != nil {
		m.stop("a restore is under way; see pgsidecar status")
	}
}

// ofCandidate says what keeps a member from leading, or comes with it.
func (m *Meeting) ofCandidate(st *api.Status, c *api.MemberStatus, h Handover, led bool) {
	lag := uint64(0)
	if c.Lag != nil {
		lag = *c.Lag
	}
	switch behind := lag > handoverLag; {
	case Unheard(st, c.Member):
		m.stop("%s is unreachable", c.Member)
		return // what it said last is of no use
	case c.Blocked != "" && c.Override != "":
		m.stop("%s is blocked: %s. To end that: %s (%s)", c.Member, c.Blocked, c.Override, c.Cost)
	case c.Blocked != "" && !c.Eligible:
		m.stop("%s is blocked: %s", c.Member, c.Blocked)
	case c.Strayed != "" && !h.Lose:
		m.stop("%s has log that is none of this cluster's: %s", c.Member, c.Strayed)
	case c.Role == ha.RoleStopped:
		m.stop("the server of %s does not run", c.Member)
	case hasTag(c, "nofailover"):
		m.stop("%s has the tag nofailover; to take it off: pgsidecar settings set tags.%s.nofailover=", c.Member, c.Member)
	case !c.Recorded:
		m.stop("%s is not on the cluster's record yet: it joins when its server streams", c.Member)
	case led && behind && c.Paused != "":
		m.stop("%s replays nothing (%s) and is %s behind; if it was paused by hand: SELECT pg_wal_replay_resume()", c.Member, c.Paused, LagWords(st, *c))
	case led && behind:
		m.stop("%s is %s behind, and writes would wait for that; wait until it has caught up", c.Member, LagWords(st, *c))
	case led && !c.Streaming:
		m.stop("%s does not stream from %s", c.Member, st.Leader)
	case led && c.PortSilent && slices.ContainsFunc(st.Members, func(o api.MemberStatus) bool {
		return o.Member != c.Member && o.Member != st.Leader && o.Eligible && !o.PortSilent && !Unheard(st, o.Member)
	}):
		m.stop("the port of the server of %s does not answer on %s, so clients may not reach it either; is a firewall in front of it?", c.Member, st.Leader)
	case c.Paused != "":
		m.note("%s replays nothing (%s): it does so before it takes writes, which wait for that", c.Member, c.Paused)
	case behind:
		m.note("%s is %s behind: it replays that before it takes writes", c.Member, LagWords(st, *c))
	}
	m.ofServer(st, c)
}

// ofServer says what clients and the next start of a new primary's server meet.
func (m *Meeting) ofServer(st *api.Status, c *api.MemberStatus) {
	if problem := configProblem(st, c); problem != "" {
		m.note("PostgreSQL on %s refuses its configuration, and leads with the last that it accepted: %s", c.Member, problem)
	}
	if c.Restart {
		m.note("%s would lead with the old values of parameters that wait for a restart; to restart it before: pgsidecar restart %s --pending", c.Member, c.Member)
	}
	if c.Misled != "" {
		m.note("clients will not get to the server of %s: %s", c.Member, c.Misled)
	}
	if c.Hidden != "" {
		m.note("clients that ask Consul's DNS will not find %s: %s", c.Member, c.Hidden)
	}
	if all := differing(st, func(m *api.MemberStatus) string { return m.Software.Libc + m.Software.ICU }); all != "" {
		m.note("the members' collations differ (%s): indexes on text may miss rows on the new primary; see pgsidecar status", all)
	}
}

// An archive trails that has so many files to take, or one for so long: a few wait for a moment
// now and then.
const (
	manyFiles = 8
	longWait  = 30 * time.Second
)

// ofLeader says what the old primary meets when it stops, and when it comes back as a replica.
func (m *Meeting) ofLeader(st *api.Status, c *api.MemberStatus) {
	// PostgreSQL ends its archiver last of all, once that has tried all that waits.
	switch a, e := st.Archive, st.InEffect; {
	case a != nil && a.Leads && (a.Files >= manyFiles || a.Oldest > longWait.Seconds()):
		m.note("the archive lacks %[2]s (%[3]s) of %[1]s, the first for %.0[4]f s: %[1]s tries to archive them before it stops, and writes wait for that, for postgres { stop_timeout } at most. Mend the archive first, or accept the wait; "+
			"to see why they wait: pgsidecar status", c.Member, files(a.Files), BytesWords(uint64(a.Bytes)), a.Oldest)
	case a == nil && e != nil && e.Unarchived > 0 && (e.Unarchived >= manyFiles || e.UnarchivedFor > longWait.Seconds()):
		m.note("the archive lacks %[2]s of %[1]s, the first for %.0[3]f s: %[1]s tries to archive them before it stops, and writes wait for that, for postgres { stop_timeout } at most. Mend the archive first, or accept the wait; "+
			"to see why they wait: SELECT * FROM pg_stat_archiver, and postgresql.log", c.Member, files(e.Unarchived), e.UnarchivedFor)
	}
	if problem := configProblem(st, c); problem != "" {
		m.note("PostgreSQL on %s refuses its configuration, and starts again with the last that it accepted: %s", c.Member, problem)
	}
}

func files(n int) string {
	if n == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", n)
}

// ofOther says which members cannot take part.
func (m *Meeting) ofOther(st *api.Status, c *api.MemberStatus) {
	switch {
	case Unheard(st, c.Member) && c.Member != st.Leader:
		m.note("%s is unreachable: the new primary has one replica less", c.Member)
	case c.Blocked != "" && c.Override != "":
		m.note("%s is blocked: %s. To end that: %s (%s)", c.Member, c.Blocked, c.Override, c.Cost)
	case c.Blocked != "" && c.Member != st.Member: // what stops this one is said of the cluster
		m.note("%s is blocked: %s", c.Member, c.Blocked)
	}
}

// configProblem is what PostgreSQL refuses on a member; of the one that answers it is newer.
func configProblem(st *api.Status, c *api.MemberStatus) string {
	if c.Member == st.Member {
		return st.ConfigProblem
	}
	return c.ConfigProblem
}

func hasTag(c *api.MemberStatus, name string) bool {
	return slices.ContainsFunc(c.Tags, func(t ha.Tag) bool { return t.Name == name && t.Value == "true" })
}

// Words writes all of it, a line each.
func (m *Meeting) Words() string {
	var b strings.Builder
	for _, s := range m.Stops {
		b.WriteString("It cannot be done: " + s + "\n")
	}
	for _, n := range m.Notes {
		b.WriteString("Note: " + n + "\n")
	}
	return b.String()
}
