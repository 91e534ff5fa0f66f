package drill

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Objective is what is demanded of a drill.
type Objective struct {
	RTO time.Duration // longest pause in acknowledged writes; 0: none is demanded
	RPO int64         // acknowledged rows that may be lost
}

// Report is what one drill measured. Times are this machine's.
type Report struct {
	Scenario string  `json:"scenario"`
	Why      string  `json:"why"`
	Expect   Outcome `json:"expect"`

	Initial   Initial   `json:"initial"`
	Started   time.Time `json:"started"`
	Fault     time.Time `json:"fault"`
	FaultMs   float64   `json:"fault_ms"` // how long it took to inject it
	Recovered time.Time `json:"recovered"`
	Undone    time.Time `json:"undone"` // the fault was taken back; where nothing is, the fault itself
	Whole     time.Time `json:"whole"`  // all members are there again and stream

	Moved   bool          `json:"moved"`             // the role of primary went over
	Primary string        `json:"primary"`           // who has it now
	Account *Account      `json:"account,omitempty"` // the sidecar's own, from Consul's history
	Routes  []RouteReport `json:"routes"`
	RTOMs   float64       `json:"rto_ms"` // the longest pause of all routes
	Rows    Verdict       `json:"rows"`
	Reigns  []Reign       `json:"reigns"`
	DNS     DNSReport     `json:"dns"`

	// Overlaps names second primaries, in words; there should be none.
	Overlaps []string `json:"overlaps,omitempty"`
	// Failures is what was not as demanded, in words; none: the drill passed.
	Failures []string `json:"failures,omitempty"`
}

// Initial is the state before the fault.
type Initial struct {
	Primary  string   `json:"primary"`
	Timeline uint32   `json:"timeline"`
	Replicas []string `json:"replicas"`
	Mode     string   `json:"mode"`
	Standbys int      `json:"standbys"`
	Isolated bool     `json:"isolated"`
}

// Account is the sidecar's account of a term, as it is in Consul: when the new
// leader's host saw each phase.
type Account struct {
	Term      uint64    `json:"term"`
	Leader    string    `json:"leader"`
	Reason    string    `json:"reason"`
	Detected  time.Time `json:"detected"`
	Elected   time.Time `json:"elected"`
	Fenced    time.Time `json:"fenced"`
	Promoted  time.Time `json:"promoted"`
	Writable  time.Time `json:"writable"`
	Announced time.Time `json:"announced"`
	Routed    time.Time `json:"routed,omitzero"`
}

// RouteReport is what an application saw that took one route.
type RouteReport struct {
	Name    string  `json:"name"`
	PauseMs float64 `json:"pause_ms"` // longest time without an acknowledged write
	Pause   Pause   `json:"pause"`
	// QuietMs is the longest pause in the second before the fault: what the
	// machine does to the measuring by itself.
	QuietMs float64        `json:"quiet_ms"`
	Acked   int            `json:"acked"`
	Errors  map[string]int `json:"errors"`
}

// DNSReport is what Consul's DNS said about the primary.
type DNSReport struct {
	Asked   int      `json:"asked"`
	Failed  int      `json:"failed"` // not answered
	Changes []Answer `json:"changes"`
	Doubles int      `json:"doubles"` // answers with two addresses
	// LateMs is when the new primary was first named, counted from the first
	// write that it took; negative if it never was.
	LateMs float64 `json:"late_ms"`
}

// judge compares the report with what was expected and demanded.
func (r *Report) judge(o Objective) {
	fail := func(format string, args ...any) { r.Failures = append(r.Failures, fmt.Sprintf(format, args...)) }
	switch {
	case r.Expect == Moves && !r.Moved:
		fail("the role of primary stayed with %s", r.Initial.Primary)
	case r.Expect == Stays && r.Moved:
		fail("the role of primary went to %s", r.Primary)
	}
	if o.RTO > 0 && r.RTOMs > ms(o.RTO) {
		fail("writes paused for %.0f ms; the objective is %v", r.RTOMs, o.RTO)
	}
	if r.Rows.Lost > o.RPO {
		fail("%d acknowledged rows are lost; the objective is %d", r.Rows.Lost, o.RPO)
	}
	if r.Rows.Twice > 0 || r.Rows.Strange > 0 {
		fail("%d rows are there twice, %d were never sent", r.Rows.Twice, r.Rows.Strange)
	}
	if len(r.Overlaps) > 0 {
		fail("two primaries at once: %s", strings.Join(r.Overlaps, "; "))
	}
	if r.DNS.Doubles > 0 {
		fail("DNS named two primaries at once")
	}
}

// Passed reports whether everything was as expected and demanded.
func (r *Report) Passed() bool { return len(r.Failures) == 0 }

// WriteJSON writes the report as JSON.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteText writes a summary for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-22s %s\n", name, fmt.Sprintf(format, args...))
	}
	verdict := "passed"
	if !r.Passed() {
		verdict = "FAILED"
	}
	fmt.Fprintf(&b, "%s: %s\n", r.Scenario, verdict)
	fmt.Fprintf(&b, "  %s\n", r.Why)
	line("before", "%s is primary on timeline %d; %s with %d standby(s)", r.Initial.Primary, r.Initial.Timeline, r.Initial.Mode, r.Initial.Standbys)
	if r.Moved {
		line("primary afterwards", "%s", r.Primary)
	} else {
		line("primary afterwards", "still %s", r.Primary)
	}
	if a := r.Account; a != nil && r.Moved {
		phase := func(t time.Time) string {
			if t.IsZero() {
				return "-"
			}
			return fmt.Sprintf("%.0f", ms(t.Sub(r.Routes[0].Pause.From)))
		}
		line("ms after last write", "detected %s, elected %s, fenced %s, promoted %s, writable %s, announced %s", phase(a.Detected),
			phase(a.Elected), phase(a.Fenced), phase(a.Promoted), phase(a.Writable), phase(a.Announced))
	}
	for _, route := range r.Routes {
		line("pause by "+route.Name, "%.0f ms (before the fault %.0f); %d rows; %s", route.PauseMs, route.QuietMs, route.Acked, inWords(route.Errors))
	}
	line("rows", "%d sent, %d acknowledged, %d of unknown outcome kept; lost %d (%d bytes)", r.Rows.Sent, r.Rows.Acked, r.Rows.Unknown, r.Rows.Lost, r.Rows.LostBytes)
	line("DNS", "asked %d times, %d unanswered, %d with two addresses", r.DNS.Asked, r.DNS.Failed, r.DNS.Doubles)
	if r.Moved {
		line("DNS, new primary", "%.0f ms after the first write that it took", r.DNS.LateMs)
	}
	if !r.Whole.IsZero() {
		line("whole again", "%.1f s after the end of the fault", r.Whole.Sub(r.Undone).Seconds())
	}
	for _, f := range r.Failures {
		line("FAILED", "%s", f)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func inWords(errors map[string]int) string {
	if len(errors) == 0 {
		return "no errors"
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(errors)) {
		parts = append(parts, fmt.Sprintf("%d × %s", errors[kind], kind))
	}
	return strings.Join(parts, ", ")
}

// Summary is what several drills of one scenario measured.
type Summary struct {
	Scenario       string
	Runs, Failed   int
	Median, Worst  time.Duration // of the longest pause, through the first route
	Lost           int64
	DNSWorst       time.Duration // longest time until DNS named the new primary
	Doubles        int
	ReturnedWithin time.Duration // worst time until the cluster was whole again
}

// Summarize returns the summary of reports of one scenario.
func Summarize(reports []*Report) Summary {
	var s Summary
	var pauses []time.Duration
	for _, r := range reports {
		s.Scenario = r.Scenario
		s.Runs++
		if !r.Passed() {
			s.Failed++
		}
		pauses = append(pauses, r.Routes[0].Pause.Length())
		s.Lost += r.Rows.Lost
		s.DNSWorst = max(s.DNSWorst, time.Duration(r.DNS.LateMs*float64(time.Millisecond)))
		s.Doubles += r.DNS.Doubles
		s.ReturnedWithin = max(s.ReturnedWithin, r.Whole.Sub(r.Undone))
	}
	slices.Sort(pauses)
	if n := len(pauses); n > 0 {
		s.Median, s.Worst = pauses[n/2], pauses[n-1]
		if n%2 == 0 {
			s.Median = (pauses[n/2-1] + pauses[n/2]) / 2
		}
	}
	return s
}

// String writes a summary in one line.
func (s Summary) String() string {
	return fmt.Sprintf("%s: %d runs, %d failed, pause median %d ms, worst %d ms; lost %d; DNS at most %d ms late, %d doubles; whole within %.1f s",
		s.Scenario, s.Runs, s.Failed, s.Median.Milliseconds(), s.Worst.Milliseconds(), s.Lost, s.DNSWorst.Milliseconds(), s.Doubles, s.ReturnedWithin.Seconds())
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
