package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// ChaosReport is what a run of random faults showed.
type ChaosReport struct {
	Seed    uint64    `json:"seed"`
	Mode    string    `json:"mode"` // durability: quorum or async
	Members int       `json:"members"`
	Servers int       `json:"consul_servers"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`

	Faults []ChaosFault `json:"faults"`
	Rows   Verdict      `json:"rows"`
	// Overlaps names second primaries, in words; Doubles counts answers of DNS
	// with two addresses.
	Overlaps []string `json:"overlaps,omitempty"`
	Doubles  int      `json:"dns_doubles"`
	// Replayed are those of the doubles that came while all of Consul's servers started
	// anew, and were soon gone (Scenario.Replays).
	Replayed int `json:"dns_replayed,omitempty"`
	replays  []period
	// Operations is what was done to registers, for a checker; Registers is how
	// many those were, and what the checker said.
	Operations []Operation   `json:"-"`
	Registers  RegisterCount `json:"registers"`
	Reads      []ReadReport  `json:"reads,omitempty"`
	// Failures is what was not as it must be, in words; none: the run passed.
	Failures []string `json:"failures,omitempty"`
}

// RegisterCount sums up what was done to registers. Checked operations have an
// order in which all of them can have happened one at a time, each between its
// call and its answer: they are linearizable.
type RegisterCount struct {
	Keys       int `json:"keys"`
	Operations int `json:"operations"`
	Unknown    int `json:"unknown"`
	Checked    int `json:"checked"`
}

// Count returns how many operations on how many registers there were, none of
// them checked.
func Count(operations []Operation) RegisterCount {
	c := RegisterCount{Operations: len(operations)}
	keys := map[int64]bool{}
	for _, o := range operations {
		keys[o.Key] = true
		if o.Unknown {
			c.Unknown++
		}
	}
	c.Keys = len(keys)
	return c
}

// ChaosFault is one fault, or two at once.
type ChaosFault struct {
	Number    int      `json:"number"`
	Scenarios []string `json:"scenarios"`
	Moved     bool     `json:"moved"`    // another primary, or the same on a new timeline
	FaultMs   float64  `json:"fault_ms"` // how long it lasted
	PauseMs   float64  `json:"pause_ms"` // longest time without an acknowledged write through HAProxy
	WholeMs   float64  `json:"whole_ms"` // from its end until the cluster was whole
	// Typed are the commands that a status named and an operator typed until then.
	Typed []string `json:"typed,omitempty"`
}

func (f ChaosFault) name() string { return strings.Join(f.Scenarios, " + ") }

// errUnread is returned when the rows could not be read back now, which says
// nothing of them: the cluster may have moved on meanwhile.
var errUnread = errors.New("the rows cannot be read back")

// verify reads all rows back and keeps what became of them. A lost one is an
// error in quorum mode.
func (r *ChaosReport) verify(ctx context.Context, of *rehearsal) error {
	ctx, cancel := context.WithTimeout(ctx, of.Deadline)
	defer cancel()
	conn, err := of.primary(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnread, err)
	}
	defer closeNow(conn)
	rows, err := Verify(ctx, conn, slices.Concat(of.routes, of.direct)...)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnread, err)
	}
	r.Rows = rows
	if r.Mode == "quorum" && r.Rows.Lost > 0 {
		return fmt.Errorf("%d acknowledged rows are lost: %s", r.Rows.Lost, strings.Join(r.Rows.Samples, "; "))
	}
	if overlaps := of.primaries.Overlaps(); len(overlaps) > 0 {
		return fmt.Errorf("two primaries at once: %s", strings.Join(overlaps, "; "))
	}
	// Said at the fault that did it: the cluster's logs of that moment are kept.
	if doubles := r.doubles(of.dns.Answers()); len(doubles) > 0 {
		first, last := doubles[0].At.Add(-time.Second), doubles[len(doubles)-1].At.Add(time.Second)
		return fmt.Errorf("DNS named two primaries at once: %s", answers(slices.DeleteFunc(of.dns.Answers(), func(a Answer) bool {
			return a.At.Before(first) || a.At.After(last)
		})))
	}
	return nil
}

// period is from one moment to another.
type period struct{ from, to time.Time }

// doubles are the answers with two addresses that no start of all of Consul's servers
// explains.
func (r *ChaosReport) doubles(all []Answer) (left []Answer) {
	r.Replayed = 0
	for i, a := range all {
		switch {
		case len(a.Addresses) < 2:
		case stood(all, i) <= takenBack && slices.ContainsFunc(r.replays, func(p period) bool { return !a.At.Before(p.from) && !a.At.After(p.to) }):
			r.Replayed++
		default:
			left = append(left, a)
		}
	}
	return left
}

// answers names what DNS said, and when.
func answers(of []Answer) string {
	var said []string
	for _, a := range of {
		said = append(said, fmt.Sprintf("%s %s: %s", a.At.UTC().Format("15:04:05.000"), a.Type, strings.Join(a.Addresses, ", ")))
	}
	return strings.Join(said, "; ")
}

// judge adds what the faults' own checks do not see.
func (r *ChaosReport) judge() {
	if r.Rows.Twice > 0 || r.Rows.Strange > 0 {
		r.Failures = append(r.Failures, fmt.Sprintf("%d rows are there twice, %d were never sent", r.Rows.Twice, r.Rows.Strange))
	}
	if r.Doubles > 0 {
		r.Failures = append(r.Failures, fmt.Sprintf("DNS named two primaries at once, %d times", r.Doubles))
	}
}

// WriteChaos writes runs as one Markdown page.
func WriteChaos(w io.Writer, runs []*ChaosReport) error {
	var b strings.Builder
	for _, mode := range []string{"quorum", "async"} {
		of := slices.DeleteFunc(slices.Clone(runs), func(r *ChaosReport) bool { return r.Mode != mode })
		if len(of) > 0 {
			writeChaosMode(&b, mode, of)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// kindSum is what faults of one kind add up to.
type kindSum struct {
	times, moved int
	pauses       []float64
	pause, whole float64 // worst, in ms
}

func writeChaosMode(b *strings.Builder, mode string, runs []*ChaosReport) {
	kinds := map[string]*kindSum{}
	var seconds float64
	var faults, overlaps, doubles, replayed int
	var rows Verdict
	var registers RegisterCount
	var reads, stale int
	var behind float64
	var seeds, failures, typed []string
	for _, r := range runs {
		seconds += r.Seconds
		faults += len(r.Faults)
		rows.Sent, rows.Acked, rows.Lost = rows.Sent+r.Rows.Sent, rows.Acked+r.Rows.Acked, rows.Lost+r.Rows.Lost
		overlaps, doubles, replayed = overlaps+len(r.Overlaps), doubles+r.Doubles, replayed+r.Replayed
		registers.add(r.Registers)
		for _, read := range r.Reads {
			if !read.Replica {
				reads, stale, behind = reads+read.Reads, stale+read.Stale, max(behind, read.BehindMs)
			}
		}
		seeds = append(seeds, fmt.Sprint(r.Seed))
		for _, f := range r.Failures {
			failures = append(failures, fmt.Sprintf("seed %d: %s", r.Seed, f))
		}
		for _, f := range r.Faults {
			name := f.name()
			if len(f.Scenarios) > 1 {
				name = "two at once"
			}
			k := kinds[name]
			if k == nil {
				k = new(kindSum)
				kinds[name] = k
			}
			k.add(f)
			if len(f.Typed) > 0 {
				typed = append(typed, fmt.Sprintf("seed %d, %d (%s): pgsidecar %s", r.Seed, f.Number, f.name(), strings.Join(f.Typed, "; pgsidecar ")))
			}
		}
	}
	fmt.Fprintf(b, "## Mode %s: %d faults in %.0f minutes\n\n", mode, faults, seconds/60)
	fmt.Fprintf(b, "%d rows sent, %d acknowledged, **%d acknowledged and lost**; %d times two primaries at once; %d answers of DNS with two primaries, and %d for less than %s after all of Consul's servers had started anew.\n",
		rows.Sent, rows.Acked, rows.Lost, overlaps, doubles, replayed, takenBack)
	fmt.Fprintf(b, "%d operations on %d registers, %d of unknown outcome; an order was found for all of %d.\n",
		registers.Operations, registers.Keys, registers.Unknown, registers.Checked)
	fmt.Fprintf(b, "%d reads by the route to the primary, %d of them without a row that had been acknowledged before (at most %.0f ms before).\n", reads, stale, behind)
	fmt.Fprintf(b, "Seeds: %s.\n\n", strings.Join(seeds, ", "))
	fmt.Fprintf(b, "| fault | times | primary moved | pause, median | pause, longest | whole again within |\n|---|--:|--:|--:|--:|--:|\n")
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		k := kinds[name]
		slices.Sort(k.pauses)
		fmt.Fprintf(b, "| %s | %d | %d | %.0f ms | %.0f ms | %.1f s |\n", name, k.times, k.moved, k.pauses[len(k.pauses)/2], k.pause, k.whole/1000)
	}
	b.WriteString("\n")
	for _, commands := range typed {
		fmt.Fprintf(b, "- typed, as a status said, after %s\n", commands)
	}
	for _, f := range failures {
		fmt.Fprintf(b, "- FAILED: %s\n", f)
	}
	if len(failures)+len(typed) > 0 {
		b.WriteString("\n")
	}
}

func (c *RegisterCount) add(other RegisterCount) {
	c.Keys, c.Operations = c.Keys+other.Keys, c.Operations+other.Operations
	c.Unknown, c.Checked = c.Unknown+other.Unknown, c.Checked+other.Checked
}

func (k *kindSum) add(f ChaosFault) {
	k.times++
	if f.Moved {
		k.moved++
	}
	k.pauses = append(k.pauses, f.PauseMs)
	k.pause, k.whole = max(k.pause, f.PauseMs), max(k.whole, f.WholeMs)
}
