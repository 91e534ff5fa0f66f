package drill

import "time"

// curveStep is how finely answers are counted while a drill runs. A report
// takes several steps together, see curvePoints.
const curveStep = 20 * time.Millisecond

// curvePoints is how many points a curve in a report has at most: more than a
// picture has room for says nothing.
const curvePoints = 400

// Curve is how writing went over time: what was answered in each step. All
// slices are equally long.
type Curve struct {
	From    time.Time `json:"from"`
	StepMs  float64   `json:"step_ms"`
	Acked   []int     `json:"acked"`
	Errors  []int     `json:"errors"`
	MeanMs  []float64 `json:"mean_ms"`  // of the acknowledged writes; 0: there are none
	WorstMs []float64 `json:"worst_ms"` // the slowest of them
}

// steps counts answers by the time at which they came.
type steps struct {
	from time.Time
	all  []step
}

type step struct {
	acked, errors int
	total, worst  time.Duration
}

// at returns the step of a moment.
func (s *steps) at(t time.Time) *step {
	i := max(0, int(t.Sub(s.from)/curveStep))
	for len(s.all) <= i {
		s.all = append(s.all, step{})
	}
	return &s.all[i]
}

func (s *steps) acked(at time.Time, took time.Duration) {
	p := s.at(at)
	p.acked++
	p.total += took
	p.worst = max(p.worst, took)
}

func (s *steps) failed(at time.Time) { s.at(at).errors++ }

// curve returns what was counted between two moments.
func (s *steps) curve(from, to time.Time) Curve {
	first := max(0, int(from.Sub(s.from)/curveStep))
	last := min(len(s.all), int(to.Sub(s.from)/curveStep)+1)
	width := max(1, (last-first+curvePoints-1)/curvePoints)
	c := Curve{From: s.from.Add(time.Duration(first) * curveStep), StepMs: ms(time.Duration(width) * curveStep)}
	for i := first; i < last; i += width {
		var p step
		for _, one := range s.all[i:min(i+width, last)] {
			p.acked += one.acked
			p.errors += one.errors
			p.total += one.total
			p.worst = max(p.worst, one.worst)
		}
		c.Acked, c.Errors, c.WorstMs = append(c.Acked, p.acked), append(c.Errors, p.errors), append(c.WorstMs, ms(p.worst))
		c.MeanMs = append(c.MeanMs, ms(p.total/time.Duration(max(1, p.acked))))
	}
	return c
}
