package postgres

import (
	"fmt"
	"slices"
	"testing"
)

// Each attempt that got no connection gives the next one more time, up to a bound; one
// that got it, whatever came of it then, begins anew.
func TestReach(t *testing.T) {
	var r reach
	var given []int
	for range 6 {
		given = append(given, r.seconds())
		r.learn(fmt.Errorf("rewind: %w", ErrUnreachable))
	}
	if want := []int{5, 10, 20, 40, 60, 60}; !slices.Equal(given, want) {
		t.Errorf("attempts are given %v seconds, want %v", given, want)
	}
	r.learn(fmt.Errorf("rewind: %w", ErrStandstill))
	if r.seconds() != firstReach {
		t.Errorf("after a connection an attempt is given %d s", r.seconds())
	}
}
