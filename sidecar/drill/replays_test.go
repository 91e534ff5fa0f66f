package drill

import (
	"testing"
	"time"
)

// TestReplayedDoubles: two addresses in an answer are excused only for a moment, and only
// while all of Consul's servers have just started.
func TestReplayedDoubles(t *testing.T) {
	base := time.Unix(1000, 0)
	at := func(s float64) time.Time { return base.Add(time.Duration(s * float64(time.Second))) }
	two, one := []string{"a", "b"}, []string{"a"}
	for _, c := range []struct {
		name           string
		all            []Answer
		left, replayed int
	}{
		{"none", []Answer{{at(1), "A", one}}, 0, 0},
		{"soon gone", []Answer{{at(11), "A", two}, {at(11.2), "SRV", two}, {at(11.5), "A", one}, {at(11.6), "SRV", one}}, 0, 2},
		{"too long", []Answer{{at(11), "A", two}, {at(12.5), "A", one}}, 1, 0},
		{"for good", []Answer{{at(11), "A", two}}, 1, 0},
		{"at another time", []Answer{{at(9), "A", two}, {at(9.1), "A", one}}, 1, 0},
	} {
		r := &ChaosReport{replays: []period{{at(10), at(20)}}}
		if left := r.doubles(c.all); len(left) != c.left || r.Replayed != c.replayed {
			t.Errorf("%s: %d left, %d replayed", c.name, len(left), r.Replayed)
		}
	}
}
