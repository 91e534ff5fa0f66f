package drill

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// WriteText writes a summary for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-19s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "\n%s: %s · RTO %s · RPO %d rows\n", r.Scenario, r.verdict(), msWords(r.RTOMs), r.Rows.Lost)
	line("fault", "%s", r.Why)
	line("before", "%s is primary on timeline %d, %s standby: %s", r.Initial.Primary, r.Initial.Timeline, strings.Join(r.Initial.Replicas, ", "), r.durability())
	if r.Moved {
		line("after", "%s is primary", r.Primary)
	} else {
		line("after", "%s is still primary", r.Primary)
	}
	if r.Machine.Processors > 0 {
		line("machine", "a load of %s processors before the fault", r.Machine.words())
	}
	if r.Measuring != nil {
		line("measuring", "%s", r.Measuring.words())
	}
	r.writePhases(line)
	if len(r.Routes) > 0 {
		r.writeRoutes(&b)
	}
	if r.Rows.Sent > 0 {
		line("rows", "%d acknowledged, %d lost (%d bytes); %d of unknown outcome are there", r.Rows.Acked, r.Rows.Lost, r.Rows.LostBytes, r.Rows.Unknown)
	}
	r.writeSites(line)
	dns := fmt.Sprintf("asked %d times, %d unanswered, %d answers with two primaries", r.DNS.Asked, r.DNS.Failed, r.DNS.Doubles)
	if r.Moved {
		dns += fmt.Sprintf("; named %s %s", r.Primary, r.DNS.LateWords())
	}
	if r.DNS.Asked > 0 {
		line("DNS", "%s", dns)
	}
	r.writeIntegrity(line)
	switch {
	case r.Returned != nil:
		line("return", "%s streams again %s after %s, without hands", r.Returned.Member, msWords(r.Returned.AfterMs), r.EndWords())
	case !r.Whole.IsZero():
		line("whole again", "%s after %s", msWords(ms(r.Whole.Sub(r.Undone))), r.EndWords())
	}
	for _, f := range r.Failures {
		line("FAILED", "%s", f)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// LateWords says when DNS first named the new primary, and how exact that is
// where it is not.
func (d DNSReport) LateWords() string {
	switch {
	case d.LateMs < 0:
		return "never"
	case d.LateMs == 0:
		return "before its first write was acknowledged"
	}
	late := msWords(d.LateMs) + " after its first write"
	if d.EveryMs >= ms(seldom) {
		late += fmt.Sprintf(" (it was asked every %s)", msWords(d.EveryMs))
	}
	return late
}

// durability says what a commit waits for.
func (r *Report) durability() string {
	if r.Initial.Mode != "quorum" {
		return r.Initial.Mode + " replication"
	}
	return fmt.Sprintf("%d of them has each commit", r.Initial.Standbys)
}

// EndWords says what the return of the old primary is counted from.
func (r *Report) EndWords() string {
	if r.Undone.Equal(r.Fault) {
		return "the fault"
	}
	return "the end of the fault"
}

// writeRoutes writes a table of what was seen on each route.
func (r *Report) writeRoutes(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  route\t\tlongest pause\tbefore the fault\tdone\tstale\terrors")
	for _, route := range r.Routes {
		fmt.Fprintf(t, "  %s\twrites\t%s\t%s\t%d\t-\t%s\n", route.Name, msWords(route.PauseMs), msWords(route.QuietMs), route.Acked, inWords(route.Errors))
	}
	for _, read := range r.Reads {
		fmt.Fprintf(t, "  %s\treads\t%s\t-\t%d\t%s\t%s\n", read.Name, msWords(read.PauseMs), read.Reads, read.staleness(), inWords(read.Errors))
	}
	_ = t.Flush() // a strings.Builder takes everything
}

func (r *Report) writePhases(line func(name, format string, args ...any)) {
	if detected, ok := r.PhaseMs("detected"); ok {
		promoted, _ := r.PhaseMs("promoted")
		line("failover", "detected %s, promoted %s after the fault", msWords(detected), msWords(promoted))
	}
	var inside, outside []string
	for _, p := range r.Phases {
		words := fmt.Sprintf("%s %s", p.Name, msWords(p.Ms))
		if p.Seen == SeenByMember {
			inside = append(inside, words)
		} else {
			outside = append(outside, words)
		}
	}
	if len(inside) > 0 {
		line("  from inside", "%s", strings.Join(inside, ", "))
	}
	if len(outside) > 0 {
		line("  from outside", "%s", strings.Join(outside, ", "))
	}
}

func (r *Report) writeIntegrity(line func(name, format string, args ...any)) {
	for i, m := range r.Members {
		name := ""
		if i == 0 {
			name = "integrity"
		}
		line(name, "%s: %s", m.Name, m.words())
	}
}

// words says how well the member's data is.
func (m *MemberReport) words() string {
	rows, checksums, indexes := "all rows", "data checksums are off", "amcheck is not installed"
	if m.Differs != 0 {
		rows = fmt.Sprintf("%+d rows", m.Differs)
	}
	if m.Checksums {
		checksums = fmt.Sprintf("%d checksum failures", m.ChecksumFailures)
	}
	if m.Indexes > 0 {
		indexes = fmt.Sprintf("amcheck of %d indexes found %s", m.Indexes, cmp.Or(strings.Join(m.Damage, "; "), "nothing wrong"))
	}
	return strings.Join([]string{rows, checksums, indexes}, ", ")
}

// staleness says how many reads were stale, and what that means.
func (r *ReadReport) staleness() string {
	switch {
	case r.Stale == 0:
		return "0"
	case r.Replica:
		return fmt.Sprintf("%d, behind by %s at most", r.Stale, msWords(r.BehindMs))
	}
	return fmt.Sprintf("%d, by %s at most: a server answered that was primary no more", r.Stale, msWords(r.BehindMs))
}

// msWords writes milliseconds with three digits or so.
func msWords(ms float64) string {
	switch {
	case ms < 0:
		return "-" + msWords(-ms)
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 10_000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}

func inWords(errors map[string]int) string {
	if len(errors) == 0 {
		return "none"
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(errors)) {
		parts = append(parts, fmt.Sprintf("%d × %s", errors[kind], kind))
	}
	return strings.Join(parts, ", ")
}
