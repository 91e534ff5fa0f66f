package screen

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/proxy"
)

// WriteStatus writes a status for people.
func WriteStatus(b *strings.Builder, st *api.Status) {
	fmt.Fprintf(b, "cluster %s · term %d · %s · %s\n", st.Cluster, st.Term, LeaderWords(st), durabilityWords(st.Durability))
	if words := effectWords(st); words != "" {
		fmt.Fprintf(b, "the primary's server %s\n", words)
	}
	if st.Archive != nil {
		fmt.Fprintf(b, "archive %s: %s\n", st.Archive.Backup, archiveWords(st.Archive))
	}
	for i := range st.Backups {
		fmt.Fprintf(b, "backup %s: %s\n", st.Backups[i].Name, backupWords(&st.Backups[i]))
	}
	if st.Reason != "" {
		fmt.Fprintf(b, "this term began because: %s\n", st.Reason)
	}
	if st.Paused || len(st.PausedMembers) > 0 {
		until := "until pgsidecar resume"
		if !st.PausedUntil.IsZero() {
			until = "until " + st.PausedUntil.Local().Format(TimeWithZone)
		}
		who := "nobody fails over"
		if len(st.PausedMembers) > 0 {
			who = "only " + strings.Join(st.PausedMembers, ", ") + "; the others fail over without"
		}
		if st.PausedReason != "" {
			who += " (" + st.PausedReason + ")"
		}
		fmt.Fprintf(b, "PAUSED %s: %s\n", until, who)
	}
	if st.Scheduled != nil {
		fmt.Fprintf(b, "switchover to %s at %s\n", cmp.Or(st.Scheduled.To, "the best"), st.Scheduled.At.Local().Format(TimeWithZone))
	}
	b.WriteByte('\n')
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	tagged, heading := slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool { return len(m.Tags) > 0 }), ""
	if tagged {
		heading = "\tTAGS"
	}
	fmt.Fprintln(w, "MEMBER\tROLE\tSTATE\tFROM\tTERM\tTL\tPOSITION\tLAG\tHEARD\tSERVER"+heading)
	for _, m := range st.Members {
		timeline, position := "-", "-"
		if m.Position.Known() {
			timeline, position = strconv.FormatUint(uint64(m.Position.TLI), 10), m.Position.LSN.String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s", m.Member, RoleWords(st, m), MemberState(st, m), fromWords(st, m), m.Term,
			timeline, position, LagWords(st, m), heardWords(m), cmp.Or(m.Postgres, "-"))
		if tagged {
			fmt.Fprintf(w, "\t%s", tagWords(m.Tags))
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	writeTrouble(b, st)
}

// writeTrouble writes what is wrong, and what would help (S11).
func writeTrouble(b *strings.Builder, st *api.Status) {
	if st.Consul.Reachable == ha.No.String() || st.Consul.Problem != "" {
		fmt.Fprintf(b, "\nConsul, as %s sees it: reachable: %s, last answer %s ago. %s\n", st.Member,
			st.Consul.Reachable, Seconds(st.Consul.SeenAge), st.Consul.Problem)
	}
	if st.Problem != "" && !slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool {
		return m.Member == st.Member && strings.Contains(m.Blocked, st.Problem) // it is below
	}) {
		fmt.Fprintf(b, "\n%s: %s\n", st.Member, st.Problem)
	}
	for _, trouble := range proxy.Troubles(st.Templates) {
		fmt.Fprintf(b, "\nRouting on %s: %s\n", st.Member, trouble)
	}
	writeOddities(b, st)
	writeSoftware(b, st)
	writeArchiveTrouble(b, st)
	writeHeld(b, st)
	if st.Refused != "" {
		fmt.Fprintf(b, "\nThe switchover cannot begin: %s\n", st.Refused)
	}
	for _, block := range st.Blocks {
		fmt.Fprintf(b, "\nBLOCKED for %s: %s\n  waiting for: %s\n", Seconds(block.Age), block.What, block.Missing)
		if block.Override != "" {
			fmt.Fprintf(b, "  override:    %s\n  risk:        %s\n", block.Override, cmp.Or(block.Cost, "nothing"))
		}
	}
	if slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool { return m.Restart }) {
		b.WriteString("\nA parameter waits for a restart: pgsidecar restart --pending\n")
	}
	for _, m := range st.Members {
		if m.Blocked != "" && (m.Member != st.Member || len(st.Blocks) == 0) { // its own are above
			fmt.Fprintf(b, "\n%s is blocked: %s\n", m.Member, m.Blocked)
			if m.Override != "" {
				fmt.Fprintf(b, "  override:    %s\n  risk:        %s\n", m.Override, cmp.Or(m.Cost, "nothing"))
			}
		}
	}
}

func LeaderWords(st *api.Status) string {
	switch {
	case st.Leader == "":
		return "no leader yet"
	case st.Phase != ha.PhaseLeading:
		return fmt.Sprintf("%s is to lead (%s)", st.Leader, st.Phase)
	case Unheard(st, st.Leader):
		return fmt.Sprintf("leader %s, which is unreachable", st.Leader)
	case st.Leader == st.Member && st.LeaseLeft > 0:
		return fmt.Sprintf("leader %s, whose lease has %s left", st.Leader, Seconds(st.LeaseLeft))
	}
	return "leader " + st.Leader
}

// Unheard reports whether the member that answered hears nothing of this one.
func Unheard(st *api.Status, name string) bool {
	return slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool {
		return m.Member == name && (m.Link == "silent" || m.Link == "refused")
	})
}

// RoleWords is a member's role; of one that is not heard it is what it was, and two
// primaries are never shown.
func RoleWords(st *api.Status, m api.MemberStatus) string {
	switch {
	case m.Role == "":
		return "-"
	case Unheard(st, m.Member):
		return "was " + string(m.Role)
	}
	return string(m.Role)
}

func durabilityWords(d ha.Durability) string {
	if d.Mode != ha.ModeQuorum {
		return "async: a failover may lose what was not replicated"
	}
	if d.K == 0 {
		return "quorum: only the primary has the newest commits"
	}
	return fmt.Sprintf("quorum: %d of %s hold each acknowledged commit", d.K, strings.Join(d.Voters, ", "))
}

func MemberState(st *api.Status, m api.MemberStatus) string {
	var words []string
	switch {
	case m.Link == "silent" || m.Link == "refused":
		return m.Link
	case m.Link == "unknown":
		return "not heard yet"
	case m.Writable:
		words = append(words, "writable")
	case m.Paused != "":
		words = append(words, "replay paused")
	case m.Streaming:
		words = append(words, "streaming")
	case m.Member == st.Member && st.Progress != nil:
		words = append(words, ProgressWords(st.Progress))
	case m.Member == st.Member:
		words = append(words, st.Server)
	case m.Role == ha.RoleStopped:
		words = append(words, "no server") // it is being made, mended or started
	default:
		words = append(words, "up")
	}
	if m.Voter {
		words = append(words, "voter")
	}
	if m.Hidden != "" {
		words = append(words, "not in DNS")
	}
	if m.Strayed != "" {
		words = append(words, "strayed")
	}
	if m.Restart {
		words = append(words, "restart pending")
	}
	return strings.Join(words, ", ")
}

// fromWords is the member whose log a member's server receives.
func fromWords(st *api.Status, m api.MemberStatus) string {
	if Unheard(st, m.Member) {
		return "-" // what it was is of no use
	}
	return cmp.Or(m.Upstream, "-")
}

// tagWords writes a member's tags: one that is only on or off by its name.
func tagWords(tags []ha.Tag) string {
	var words []string
	for _, t := range tags {
		switch t.Value {
		case "true":
			words = append(words, t.Name)
		case "false", "":
		default:
			words = append(words, t.Name+"="+t.Value)
		}
	}
	return cmp.Or(strings.Join(words, ", "), "-")
}

func LagWords(st *api.Status, m api.MemberStatus) string {
	switch {
	case m.Member == st.Leader:
		return "-"
	case m.Lag == nil:
		return "unknown"
	}
	if m.LagTime != nil && *m.LagTime >= 1 {
		return BytesWords(*m.Lag) + ", " + Seconds(*m.LagTime)
	}
	return BytesWords(*m.Lag)
}

// ProgressWords writes how far a copy has come.
func ProgressWords(p *api.Progress) string {
	if p.Total <= 0 {
		return p.What + " from " + p.From
	}
	return fmt.Sprintf("%s from %s: %s of %s (%d %%)", p.What, p.From, BytesWords(uint64(p.Done)), BytesWords(uint64(p.Total)), 100*p.Done/p.Total)
}

// BytesWords writes a size with the unit that gives at most four digits.
func BytesWords(n uint64) string {
	size, unit := float64(n), "B"
	for _, next := range []string{"kB", "MB", "GB", "TB"} {
		if size < 1024 {
			break
		}
		size, unit = size/1024, next
	}
	return fmt.Sprintf("%.4g %s", size, unit)
}

func heardWords(m api.MemberStatus) string {
	if m.Link == "self" {
		return "self"
	}
	if m.HeardAge < 0 {
		return "never"
	}
	return Seconds(m.HeardAge) + " ago"
}

// Seconds writes an age; a negative one is never.
func Seconds(s float64) string {
	if s < 0 {
		return "never"
	}
	return time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond).String()
}

// TimeWithZone is how times are written for people.
const TimeWithZone = "2006-01-02 15:04:05 MST"
