package availability

import (
	"math"
	"slices"
	"time"
)

// Period is how available a cluster was in one time.
type Period struct {
	Name string    `json:"name"` // such as 2026-11-29, 2026-11 or "in all"
	From time.Time `json:"from"`
	To   time.Time `json:"to"`

	Total   Seconds `json:"total_seconds"`   // of the period, as far as the cluster was there
	Down    Seconds `json:"down_seconds"`    // without what was planned
	Planned Seconds `json:"planned_seconds"` // down as somebody asked
	Unknown Seconds `json:"unknown_seconds"` // nobody saw

	Outages int     `json:"outages"` // that began in it and were not planned
	Longest Seconds `json:"longest_seconds"`

	// Availability is (known − down − planned) / known; nil where nothing is known.
	Availability *float64 `json:"availability"`
	// MTBF and MTTR are the mean times between failures and to repair, of what was not
	// planned; zero without an outage.
	MTBF Seconds `json:"mtbf_seconds"`
	MTTR Seconds `json:"mttr_seconds"`
	// ByMeans is MTBF / (MTBF + MTTR), the availability without what was planned; nil without
	// an outage.
	ByMeans *float64 `json:"availability_by_mtbf,omitempty"`
	// Budget is what of the objective's error budget is left; below zero it is spent.
	// Zero without an objective.
	Budget Seconds `json:"budget_left_seconds"`
}

// Seconds is a length of time, as JSON has it.
type Seconds float64

func seconds(d time.Duration) Seconds { return Seconds(d.Seconds()) }

// Nines is the number of nines of the availability: 3 for 0.999. It is infinite for 1, and 0
// where nothing is known.
func (p Period) Nines() float64 {
	if p.Availability == nil {
		return 0
	}
	return -math.Log10(1 - *p.Availability)
}

// Spans are how finely Compute divides a time.
type Spans string

// The spans of periods, which begin and end in UTC.
const (
	Daily   Spans = "day"
	Monthly Spans = "month"
	Yearly  Spans = "year"
	Whole   Spans = "all"
)

// Question is what Compute is asked.
type Question struct {
	From, To  time.Time // in which the cluster was there
	By        Spans
	Objective float64 // such as 0.9999; zero: there is none
}

// Compute returns the periods of a time, the oldest first.
func Compute(q Question, outages []Outage) []Period {
	from, to := q.From.UTC(), q.To.UTC()
	times := timesOf(outages)
	var periods []Period
	for at := from; at.Before(to); {
		p := Period{From: at, To: to, Name: "in all"}
		if name, next := q.By.next(at); name != "" {
			p.Name = name
			if next.Before(to) {
				p.To = next
			}
		}
		p.fill(times, outages, q.Objective)
		periods = append(periods, p)
		at = p.To
	}
	return periods
}

// next is the name of the period that a moment is in, and when the next begins.
func (s Spans) next(at time.Time) (name string, next time.Time) {
	y, m, d := at.Date()
	switch s {
	case Daily:
		return at.Format("2006-01-02"), time.Date(y, m, d+1, 0, 0, 0, 0, time.UTC)
	case Monthly:
		return at.Format(monthForm), time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)
	case Yearly:
		return at.Format("2006"), time.Date(y+1, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return "", time.Time{}
}

func (p *Period) fill(t times, outages []Outage, objective float64) {
	total := p.To.Sub(p.From)
	lost, asked, unseen := within(t.down, p.From, p.To), within(t.planned, p.From, p.To), within(t.unknown, p.From, p.To)
	p.Total, p.Down, p.Planned, p.Unknown = seconds(total), seconds(lost), seconds(asked), seconds(unseen)
	for _, o := range outages {
		if o.Kind == Unseen || o.Planned || o.From.Before(p.From) || !o.From.Before(p.To) {
			continue
		}
		p.Outages++
		p.Longest = max(p.Longest, seconds(o.Took()))
	}
	known := total - unseen
	if known > 0 {
		share := float64(known-lost-asked) / float64(known)
		p.Availability = &share
	}
	if p.Outages > 0 {
		p.MTBF = seconds(known-lost-asked) / Seconds(p.Outages)
		p.MTTR = p.Down / Seconds(p.Outages)
		if sum := p.MTBF + p.MTTR; sum > 0 {
			share := float64(p.MTBF / sum)
			p.ByMeans = &share
		}
	}
	if objective > 0 {
		p.Budget = Seconds((1-objective)*known.Seconds()) - p.Down - p.Planned
	}
}

// span is a time; spans of a list do not overlap, and are in order.
type span struct{ from, to time.Time }

// times are those of each sort. Where outages overlap, which those of two leaders may by
// their clocks, a moment counts once: as down before as planned before as unknown.
type times struct{ down, planned, unknown []span }

func timesOf(outages []Outage) times {
	var down, planned, unknown []span
	for _, o := range outages {
		s := span{o.From.UTC(), o.To.UTC()}
		switch {
		case !s.from.Before(s.to):
		case o.Kind == Unseen:
			unknown = append(unknown, s)
		case o.Planned:
			planned = append(planned, s)
		default:
			down = append(down, s)
		}
	}
	down = join(down)
	planned = without(join(planned), down)
	unknown = without(without(join(unknown), down), planned)
	return times{down, planned, unknown}
}

// join makes spans that overlap or touch one.
func join(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	var all []span
	for _, s := range spans {
		if n := len(all); n > 0 && !all[n-1].to.Before(s.from) {
			if s.to.After(all[n-1].to) {
				all[n-1].to = s.to
			}
			continue
		}
		all = append(all, s)
	}
	return all
}

// without is what of spans is in no hole.
func without(spans, holes []span) []span {
	var all []span
	for _, s := range spans {
		for _, h := range holes {
			if !h.to.After(s.from) || !h.from.Before(s.to) {
				continue
			}
			if s.from.Before(h.from) {
				all = append(all, span{s.from, h.from})
			}
			s.from = h.to
			if !s.from.Before(s.to) {
				break
			}
		}
		if s.from.Before(s.to) {
			all = append(all, s)
		}
	}
	return all
}

// within is how much of spans is in a time.
func within(spans []span, from, to time.Time) (sum time.Duration) {
	for _, s := range spans {
		a, b := s.from, s.to
		if a.Before(from) {
			a = from
		}
		if b.After(to) {
			b = to
		}
		sum += max(b.Sub(a), 0)
	}
	return sum
}
