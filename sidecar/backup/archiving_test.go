package backup

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestUnarchived: what a lost primary sent and had not archived is archived by the member that
// leads next; nothing that is not whole, nor of another history.
func TestUnarchived(t *testing.T) {
	const size = 16 << 20
	at := func(n int) ha.LSN { return ha.LSN(n * size) }
	left := []ha.Fork{{TLI: 1, End: at(6) + 100}, {TLI: 2, End: at(9) + 5}}
	name := func(timeline ha.TLI, n int) string { return SegmentAt(timeline, at(n), size) }
	for _, c := range []struct {
		what           string
		archived, here []string
		want           []string
	}{
		{"the last two of timeline 1", []string{name(1, 2), name(1, 3)}, []string{name(1, 3), name(1, 5), name(1, 4), name(1, 6), name(2, 6), name(3, 9)},
			[]string{name(1, 4), name(1, 5), name(2, 6)}},
		{"one in the middle", []string{name(1, 2), name(1, 4)}, []string{name(1, 3), name(1, 4)}, []string{name(1, 3)}},
		{"the segment in which a timeline was left is the next one's", []string{name(1, 5)}, []string{name(1, 6), name(2, 9)}, nil},
		{"beyond the fork, and of another timeline", []string{name(1, 5)}, []string{name(1, 7), name(2, 5), name(4, 7)}, nil},
		{"before anything was archived", []string{name(1, 4)}, []string{name(1, 2), name(1, 3), name(1, 5)}, []string{name(1, 5)}},
		{"nothing is archived yet", nil, []string{name(1, 2)}, nil},
		{"no segments", []string{name(1, 2)}, []string{"00000002.history", name(1, 3) + ".partial", "archive_status"}, nil},
		{"nothing is missing", []string{name(1, 2), name(1, 3)}, []string{name(1, 2), name(1, 3)}, nil},
	} {
		a := Archive{SegmentSize: size}
		for _, n := range c.archived {
			a.Segments = append(a.Segments, Segment{Name: n})
		}
		if got := Unarchived(a, c.here, left); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %s, want %s", c.what, strings.Join(got, " "), strings.Join(c.want, " "))
		}
	}
}
