package drill

import (
	"cmp"
	"fmt"
	"html"
	"html/template"
	"math"
	"slices"
	"strings"
	"time"
)

// The pictures' measures, in the units of their view boxes.
const (
	pictureWidth = 1000.0
	laneLeft     = 150.0 // where the lanes begin; left of it are their names
	laneRight    = 960.0
	laneHeight   = 26.0
	stripHeight  = 64.0 // of a route's latency
)

// picture collects the elements of one SVG drawing over a stretch of time.
type picture struct {
	b, words strings.Builder // what is written over the lines of marks
	from, to time.Time
	zero     time.Time // what the axis counts from
	y        float64   // how far down it is drawn
}

// x returns the place of a moment; what lies outside is put on the edge.
func (p *picture) x(t time.Time) float64 {
	span := max(p.to.Sub(p.from), time.Millisecond)
	share := float64(t.Sub(p.from)) / float64(span)
	return laneLeft + min(1, max(0, share))*(laneRight-laneLeft)
}

func (p *picture) add(format string, args ...any) {
	fmt.Fprintf(&p.b, format+"\n", args...)
}

func (p *picture) text(x, y float64, class, s string) {
	p.add(`<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, html.EscapeString(s))
}

// bar draws a stretch of a lane, with words in it if they fit, and a tooltip.
func (p *picture) bar(from, to time.Time, class, words string) {
	x1, x2 := p.x(from), p.x(to)
	if to.Before(p.from) || from.After(p.to) {
		return
	}
	p.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="3" class="%s"><title>%s</title></rect>`,
		x1, p.y+3, max(1.5, x2-x1), laneHeight-8, class, html.EscapeString(words))
	if textWidth(words) < x2-x1-6 {
		fmt.Fprintf(&p.words, `<text x="%.1f" y="%.1f" class="in %s">%s</text>`+"\n", (x1+x2)/2, p.y+laneHeight/2+3, class, html.EscapeString(words))
	}
}

// lane names the next lane and moves on by calling draw.
func (p *picture) lane(name string, draw func()) {
	p.text(laneLeft-10, p.y+laneHeight/2+3, "name", name)
	draw()
	p.y += laneHeight
}

// textWidth estimates the width of a text of 12 units.
func textWidth(s string) float64 { return 6.4 * float64(len([]rune(s))) }

// mark is a moment with a name.
type mark struct {
	at    time.Time
	name  string
	class string
}

// marks writes the names of moments in as many rows as they need, and returns
// the lines under them, to be drawn down to the axis later.
func (p *picture) marks(all []mark) func() {
	slices.SortStableFunc(all, func(a, b mark) int { return a.at.Compare(b.at) })
	all = slices.DeleteFunc(all, func(m mark) bool { return m.at.IsZero() || m.at.Before(p.from) || m.at.After(p.to) })
	var ends []float64 // of the last name in each row
	top := make([]float64, len(all))
	for i, m := range all {
		x, width := p.x(m.at), textWidth(m.name)
		left := x + 4
		if left+width > laneRight+10 {
			left = x - 4 - width
		}
		row := slices.IndexFunc(ends, func(end float64) bool { return end < left-6 })
		if row < 0 {
			row = len(ends)
			ends = append(ends, 0)
		}
		ends[row] = max(x, left+width)
		top[i] = p.y + 15*float64(row) + 4
		fmt.Fprintf(&p.words, `<text x="%.1f" y="%.1f" class="mark %s">%s</text>`+"\n", left, top[i]+8, m.class, html.EscapeString(m.name))
	}
	p.y += 15*float64(len(ends)) + 8
	return func() {
		for i, m := range all {
			p.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" class="line %s"/>`, p.x(m.at), p.x(m.at), top[i], p.y, m.class)
		}
	}
}

// axis draws the time axis below everything.
func (p *picture) axis() {
	span := p.to.Sub(p.from)
	step := niceStep(span / 8)
	p.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" class="axis"/>`, laneLeft, laneRight, p.y, p.y)
	first := p.from.Sub(p.zero).Truncate(step)
	for d := first; d <= p.to.Sub(p.zero); d += step {
		at := p.zero.Add(d)
		if at.Before(p.from) {
			continue
		}
		words := fmt.Sprintf("%d ms", d.Milliseconds())
		if step >= time.Second {
			words = fmt.Sprintf("%d s", int(d.Seconds()))
		}
		p.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" class="axis"/>`, p.x(at), p.x(at), p.y, p.y+5)
		p.text(p.x(at), p.y+18, "tick", words)
	}
	p.y += 26
}

// niceStep returns 1, 2 or 5 times a power of ten milliseconds, not below d.
func niceStep(d time.Duration) time.Duration {
	for unit := time.Millisecond; ; unit *= 10 {
		for _, n := range []time.Duration{1, 2, 5} {
			if n*unit >= d {
				return n * unit
			}
		}
	}
}

func (p *picture) svg(label string) template.HTML {
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`+"\n%s%s</svg>",
		pictureWidth, p.y, html.EscapeString(label), p.b.String(), p.words.String()))
}

// Timeline draws the failover: phases, who was primary, what DNS said, and the
// pause on each route.
func (r *Report) Timeline() template.HTML {
	from, end := r.Fault, r.Fault.Add(500*time.Millisecond)
	if r.Stopped.Before(from) {
		from = r.Stopped
	}
	for _, route := range r.Routes {
		if route.PauseMs > 2*route.QuietMs || r.Moved {
			end = later(end, route.Pause.To)
		}
	}
	for _, phase := range r.Phases {
		end = later(end, phase.At)
	}
	margin := end.Sub(from) / 12
	p := &picture{from: from.Add(-margin), to: end.Add(margin), zero: r.Fault}
	marks := []mark{{r.Fault, "fault", "bad"}}
	for _, phase := range r.Phases {
		if phase.Seen == SeenByMember {
			marks = append(marks, mark{phase.At, phase.Name + " " + msWords(phase.Ms), ""})
		}
	}
	lines := p.marks(marks)
	p.lane("primary", func() {
		for i, reign := range r.Reigns {
			p.bar(reign.First, reign.LastSent, fmt.Sprintf("m%d", i%4), fmt.Sprintf("%s, timeline %d", reign.Member, reign.Timeline))
		}
	})
	if r.DNS.Asked > 0 {
		p.lane("DNS names", func() { r.drawDNS(p) })
	}
	for _, route := range r.Routes {
		p.lane("writes, "+route.Name, func() {
			p.bar(p.from, route.Pause.From, "good", "")
			p.bar(route.Pause.From, route.Pause.To, "gap", msWords(route.PauseMs))
			p.bar(route.Pause.To, p.to, "good", "")
		})
	}
	p.y += 4
	lines()
	p.axis()
	return p.svg("timeline of " + r.Scenario)
}

// drawDNS draws what DNS answered to questions for SRV.
func (r *Report) drawDNS(p *picture) {
	var answers []Answer
	for _, a := range r.DNS.Changes {
		if a.Type == "SRV" {
			answers = append(answers, a)
		}
	}
	names := map[string]int{}
	for i, a := range answers {
		until := p.to
		if i+1 < len(answers) {
			until = answers[i+1].At
		}
		words := strings.Join(a.Addresses, " and ")
		if len(a.Addresses) != 1 {
			p.bar(a.At, until, "gap", cmp.Or(words, "nobody"))
			continue
		}
		if _, known := names[words]; !known {
			names[words] = len(names)
		}
		p.bar(a.At, until, fmt.Sprintf("m%d", names[words]%4), words)
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Latency draws how long writes took on each route over the whole drill.
func (r *Report) Latency() template.HTML {
	if len(r.Routes) == 0 || len(r.Routes[0].Curve.Acked) == 0 {
		return ""
	}
	c := r.Routes[0].Curve
	length := time.Duration(float64(len(c.Acked)) * c.StepMs * float64(time.Millisecond))
	p := &picture{from: c.From, to: c.From.Add(length), zero: r.Fault}
	marks := []mark{{r.Fault, "fault", "bad"}, {r.Whole, "all members are back", "well"}}
	if r.Undone.After(r.Fault) {
		marks = append(marks, mark{r.Undone, "fault undone", ""})
	}
	lines := p.marks(marks)
	for _, route := range r.Routes {
		p.strip(route)
	}
	lines()
	p.axis()
	return p.svg("latency of writes during " + r.Scenario)
}

// strip draws one route: for each step a bar up to the slowest write, on a
// logarithmic scale from a millisecond to ten seconds, and the mean as a line.
func (p *picture) strip(route RouteReport) {
	top, bottom := p.y+6, p.y+stripHeight
	level := func(ms float64) float64 {
		share := math.Log10(min(10_000, max(1, ms))) / 4
		return bottom - share*(bottom-top)
	}
	p.text(laneLeft-10, (top+bottom)/2+4, "name", route.Name)
	for _, ms := range []float64{1, 10, 100, 1000, 10_000} {
		p.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" class="grid"/>`, laneLeft, laneRight, level(ms), level(ms))
	}
	for _, ms := range []float64{10, 1000} {
		words := "10 ms"
		if ms == 1000 {
			words = "1 s"
		}
		p.text(laneRight+5, level(ms)+3, "scale", words)
	}
	c := route.Curve
	step := time.Duration(c.StepMs * float64(time.Millisecond))
	var worst, mean, errors strings.Builder
	pen := "M"
	for i, n := range c.Acked {
		x := p.x(c.From.Add(time.Duration(i) * step).Add(step / 2))
		if c.Errors[i] > 0 {
			fmt.Fprintf(&errors, "M%.1f %.1fv-5", x, bottom+5)
		}
		if n == 0 {
			pen = "M"
			continue
		}
		fmt.Fprintf(&worst, "M%.1f %.1fV%.1f", x, bottom, level(c.WorstMs[i]))
		fmt.Fprintf(&mean, "%s%.1f %.1f", pen, x, level(c.MeanMs[i]))
		pen = "L"
	}
	if x1, x2 := p.x(route.Pause.From), p.x(route.Pause.To); route.PauseMs >= 50 {
		p.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" class="pause"><title>no write for %s</title></rect>`,
			x1, top, max(1, x2-x1), bottom-top, msWords(route.PauseMs))
	}
	width := max(0.8, (laneRight-laneLeft)/float64(max(1, len(c.Acked)))*0.8)
	p.add(`<path d="%s" class="worst" stroke-width="%.2f"/>`, worst.String(), width)
	p.add(`<path d="%s" class="mean"/>`, mean.String())
	p.add(`<path d="%s" class="errors" stroke-width="%.2f"/>`, errors.String(), max(1.5, width))
	p.y = bottom + 10
}
