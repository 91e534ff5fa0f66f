package drill

import (
	"math"
	"testing"
	"time"
)

// A drill stays below a quarter of the machine, and asks as often as it may.
func TestMeasuringIsHeldBack(t *testing.T) {
	of := measured{writes: 16, direct: 3, reads: 6, dns: 2 * time.Millisecond}
	for _, test := range []struct {
		name                     string
		processors               float64
		row, answer              float64
		write, direct, read, dns float64 // ms
		share                    float64
	}{
		{"a large machine", 64, 0.5, 0.05, 1.25, 10, 10, 2, 0.1074},
		{"two processors", 2, 1, 0.05, 80, 30, 60, 2, 0.2125},
		{"a cheap row", 2, 0.2, 0.05, 16, 10, 12, 2, 0.1925},
		// Nothing is asked so rarely that a short pause is not seen.
		{"half a processor that is slow", 0.5, 20, 1, 100, 100, 100, 20, 10.1},
		{"nothing is known", 2, 0, 0, 0, 10, 10, 2, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := Measuring{RowMs: test.row, AnswerMs: test.answer}
			m.plan(test.processors, of)
			got := []float64{m.WriteEveryMs, m.DirectEveryMs, m.ReadEveryMs, m.DNSEveryMs, m.Share}
			for i, want := range []float64{test.write, test.direct, test.read, test.dns, test.share} {
				if math.Abs(got[i]-want) > 0.01*want {
					t.Errorf("got %v; number %d should be %v", got, i, want)
				}
			}
		})
	}
}

// A client is patient enough for a slow machine on which all come at once, and no more.
func TestCrowd(t *testing.T) {
	for _, test := range []struct {
		one        time.Duration
		processors float64
		clients    int
		want       time.Duration
	}{
		{3 * time.Millisecond, 2, 21, 126 * time.Millisecond}, // less than what a client has anyway
		{35 * time.Millisecond, 2, 21, 1470 * time.Millisecond},
		{35 * time.Millisecond, 0.5, 21, 5880 * time.Millisecond},
		{60 * time.Millisecond, 0.5, 42, longestPatience},
		{0, 2, 21, 0},
	} {
		if got := crowd(test.one, test.processors, test.clients); got != test.want {
			t.Errorf("%d connections of %v on %v processors: %v, want %v", test.clients, test.one, test.processors, got, test.want)
		}
	}
}

// A control group's quota counts, where there is one.
func TestQuota(t *testing.T) {
	for limit, want := range map[string]float64{"max 100000": 2, "50000 100000": 0.5, "": 2, "0 0": 2, "-1 100": 2} {
		if got := parseQuota(limit, 2); got != want {
			t.Errorf("cpu.max %q is %v processors, want %v", limit, got, want)
		}
	}
}
