package backup

import (
	"slices"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Unarchived returns, in order, those of the segments on a server that are whole, on
// the way of its history before its own timeline, and not in the archive: what a lost
// primary had sent to its standbys, and had not archived. legs are the timelines that
// the server has left, oldest first, as its history file says.
//
// Segments before the first that is archived do not count: they are from before
// anything was archived. With an empty archive none does.
func Unarchived(a Archive, here []string, left []ha.Fork) []string {
	have := map[segmentID]bool{}
	first := ^uint64(0)
	for _, s := range a.Segments {
		if id, err := parseSegment(s.Name, a.SegmentSize); err == nil {
			have[id] = true
			first = min(first, id.number)
		}
	}
	var missing []string
	for _, name := range here {
		id, err := parseSegment(name, a.SegmentSize)
		if err != nil || have[id] || id.number < first {
			continue
		}
		begins := uint64(0)
		for _, f := range left {
			// The segment in which a timeline was left is not whole on it.
			ends := uint64(f.End) / uint64(a.SegmentSize)
			if f.TLI == id.timeline && id.number >= begins && id.number < ends {
				missing = append(missing, name)
			}
			begins = ends
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}
