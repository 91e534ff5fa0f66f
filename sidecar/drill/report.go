package drill

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
)

// Objective is what is demanded of a drill.
type Objective struct {
	RTO time.Duration // longest pause in acknowledged writes; 0: none is demanded
	RPO int64         // acknowledged rows that may be lost
}

// Demand is an Objective as reports have it.
type Demand struct {
	RTOMs   float64 `json:"rto_ms"` // 0: none
	RPORows int64   `json:"rpo_rows"`
}

func (o Objective) demand() Demand { return Demand{RTOMs: ms(o.RTO), RPORows: o.RPO} }

// Report is what one drill measured. Times are this machine's.
type Report struct {
	Scenario string  `json:"scenario"`
	Why      string  `json:"why"`
	Expect   Outcome `json:"expect"`

	Objective Demand `json:"objective"`

	Initial Initial `json:"initial"`
	Machine Machine `json:"machine,omitzero"` // that measured
	// Measuring is what the measuring took of it; nil: nothing was held back.
	Measuring *Measuring `json:"measuring,omitempty"`
	Started   time.Time  `json:"started"`
	Fault     time.Time  `json:"fault"`
	FaultMs   float64    `json:"fault_ms"` // how long it took to inject it
	// Stopped is the last acknowledged write before the longest pause, on the
	// route where that began first. Where the role of primary stays, or is handed
	// over, it is the fault itself.
	Stopped   time.Time `json:"stopped"`
	Recovered time.Time `json:"recovered"`
	Undone    time.Time `json:"undone"`         // the fault was taken back; where nothing is, the fault itself
	Whole     time.Time `json:"whole,omitzero"` // all members are there again and stream; zero: it did not come to that

	// Seconds is how long all of it took, with the reading back; 0: not known.
	Seconds float64 `json:"seconds,omitempty"`

	Moved   bool             `json:"moved"`             // the role of primary went over
	Primary string           `json:"primary"`           // who has it now
	Account *failover.Record `json:"account,omitempty"` // the new leader's own, from Consul's history
	Phases  []Phase          `json:"phases,omitempty"`  // of the failover, in order; none if nothing moved
	Routes  []RouteReport    `json:"routes"`
	Reads   []ReadReport     `json:"reads,omitempty"`
	RTOMs   float64          `json:"rto_ms"` // the longest pause of all routes
	Rows    Verdict          `json:"rows"`
	Reigns  []Reign          `json:"reigns"`
	DNS     DNSReport        `json:"dns"`
	// Members is the state of each one's data afterwards.
	Members []MemberReport `json:"members,omitempty"`
	// Returned is the way back of the old primary; nil if it was not replaced,
	// or did not come back.
	Returned *Return `json:"returned,omitempty"`

	// Sites is of a drill of two sites alone; nil: it was of one.
	Sites *SitesReport `json:"sites,omitempty"`

	// Overlaps names second primaries, in words; there should be none.
	Overlaps []string `json:"overlaps,omitempty"`
	// Failures is what was not as demanded, in words; none: the drill passed.
	Failures []string `json:"failures,omitempty"`
	// Good is Passed, for those who read JSON.
	Good bool `json:"passed"`
}

// Who has seen a phase.
const (
	SeenByMember = "member"  // the new leader's own account
	SeenOutside  = "outside" // those who use the cluster
)

// Phase is one step of a failover.
type Phase struct {
	Name string    `json:"name"`
	Seen string    `json:"seen"` // SeenByMember or SeenOutside
	At   time.Time `json:"at"`
	Ms   float64   `json:"ms"` // after the fault
}

// Return is the way back of the old primary.
type Return struct {
	Member string `json:"member"`
	// AfterMs is when it streamed from the new primary, counted from when the
	// fault was undone (or, if nothing is undone, from the fault).
	AfterMs float64 `json:"after_ms"`
	// WholeMs is when the cluster was as before: it takes reads and votes again too.
	WholeMs float64 `json:"whole_ms"`
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
	Curve   Curve          `json:"curve"`
}

// DNSReport is what Consul's DNS said about the primary.
type DNSReport struct {
	Asked   int      `json:"asked"`
	Failed  int      `json:"failed"` // not answered
	Changes []Answer `json:"changes"`
	Doubles int      `json:"doubles"` // answers with two addresses
	// LateMs is when the new primary was first seen to be named, counted from the
	// first write that it took; negative if it never was. It is up to EveryMs more
	// than what the clients of a DNS that is asked all the time would wait.
	LateMs  float64 `json:"late_ms"`
	EveryMs float64 `json:"every_ms"`
}

// judge compares the report with what was expected and demanded; old says that the scenario
// may bring tags of earlier primaries back.
func (r *Report) judge(o Objective, old bool) {
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
	if r.Rows.Lost > max(o.RPO, r.Sites.allowed()) {
		fail("%d acknowledged rows are lost; the objective is %d", r.Rows.Lost, o.RPO)
	}
	if r.Sites != nil {
		r.Sites.judge(fail)
	}
	if r.Rows.Twice > 0 || r.Rows.Strange > 0 {
		fail("%d rows are there twice, %d were never sent", r.Rows.Twice, r.Rows.Strange)
	}
	if len(r.Overlaps) > 0 {
		fail("two primaries at once: %s", strings.Join(r.Overlaps, "; "))
	}
	if r.DNS.Doubles > 0 && !(old && r.DNS.doubled() <= takenBack) {
		fail("DNS named two primaries at once")
	}
	for _, m := range r.Members {
		if m.Differs != 0 {
			fail("%s has %d rows of the drill, the primary has %d", m.Name, m.Rows, m.Rows-m.Differs)
		}
		if m.ChecksumFailures > 0 {
			fail("%s has counted %d pages that do not match their checksum", m.Name, m.ChecksumFailures)
		}
		for _, damage := range m.Damage {
			fail("%s is damaged: %s", m.Name, damage)
		}
	}
	r.Good = r.Passed()
}

// takenBack is how long DNS may name an earlier primary too, whose registration came back
// with Consul's catalog or log.
const takenBack = time.Second

// doubled is the longest time for which DNS went on to name two primaries.
func (d *DNSReport) doubled() (longest time.Duration) {
	for i, a := range d.Changes {
		if len(a.Addresses) > 1 {
			longest = max(longest, stood(d.Changes, i))
		}
	}
	return longest
}

// stood is how long an answer was given, of all that were, in order.
func stood(all []Answer, i int) time.Duration {
	next := slices.IndexFunc(all[i+1:], func(b Answer) bool { return b.Type == all[i].Type })
	if next < 0 {
		return math.MaxInt64 // to the end
	}
	return all[i+1+next].At.Sub(all[i].At)
}

// PhaseMs returns how long after the fault a phase was done; ok says
// whether it is known.
func (r *Report) PhaseMs(name string) (after float64, ok bool) {
	i := slices.IndexFunc(r.Phases, func(p Phase) bool { return p.Name == name })
	if i < 0 {
		return 0, false
	}
	return r.Phases[i].Ms, true
}

// StaleReads returns how many reads on routes to the primary missed a row that
// had been acknowledged before: a server answered them that was primary no more.
func (r *Report) StaleReads() (n int) {
	for _, read := range r.Reads {
		if !read.Replica {
			n += read.Stale
		}
	}
	return n
}

// Passed reports whether everything was as expected and demanded.
func (r *Report) Passed() bool { return len(r.Failures) == 0 }

// Summary is what several drills of one scenario measured.
type Summary struct {
	Scenario       string
	Runs, Failed   int
	Median, Worst  time.Duration // of the longest pause, through the first route
	Lost           int64
	DNSMedian      time.Duration // until DNS named the new primary, after the first write that it took
	DNSWorst       time.Duration // the same
	DNSNever       int           // runs in which DNS did not name it
	Doubles        int
	ReturnedMedian time.Duration // until the old primary streamed again
	ReturnedWorst  time.Duration
	WholeWithin    time.Duration // worst time until the cluster was whole again
}

// Summarize returns the summary of reports of one scenario.
func Summarize(reports []*Report) Summary {
	var s Summary
	var pauses, dns, returns []time.Duration
	for _, r := range reports {
		s.Scenario = r.Scenario
		s.Runs++
		if !r.Passed() {
			s.Failed++
		}
		if len(r.Routes) > 0 { // else it was given up before anything was measured
			pauses = append(pauses, r.Routes[0].Pause.Length())
		}
		s.Lost += r.Rows.Lost
		switch {
		case r.DNS.LateMs < 0:
			s.DNSNever++
		case r.Moved:
			dns = append(dns, fromMs(r.DNS.LateMs))
		}
		s.Doubles += r.DNS.Doubles
		if r.Returned != nil {
			returns = append(returns, fromMs(r.Returned.AfterMs))
		}
		s.WholeWithin = max(s.WholeWithin, r.Whole.Sub(r.Undone))
	}
	s.Median, s.Worst = middle(pauses)
	s.DNSMedian, s.DNSWorst = middle(dns)
	s.ReturnedMedian, s.ReturnedWorst = middle(returns)
	return s
}

// middle returns the median and the highest; zero of nothing.
func middle(all []time.Duration) (median, worst time.Duration) {
	n := len(all)
	if n == 0 {
		return 0, 0
	}
	slices.Sort(all)
	median = all[n/2]
	if n%2 == 0 {
		median = (all[n/2-1] + all[n/2]) / 2
	}
	return median, all[n-1]
}

// String writes a summary in one line.
func (s Summary) String() string {
	return fmt.Sprintf("%s: %d runs, %d failed, pause median %d ms, worst %d ms; lost %d; "+
		"DNS median %d ms, at most %d ms late, never %d, %d doubles; old primary streams again after %.1f s, at most %.1f s; whole within %.1f s",
		s.Scenario, s.Runs, s.Failed, s.Median.Milliseconds(), s.Worst.Milliseconds(), s.Lost,
		s.DNSMedian.Milliseconds(), s.DNSWorst.Milliseconds(), s.DNSNever, s.Doubles,
		s.ReturnedMedian.Seconds(), s.ReturnedWorst.Seconds(), s.WholeWithin.Seconds())
}

func fromMs(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
