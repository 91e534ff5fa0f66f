package backup

import (
	"bufio"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// The sizes of a log segment that initdb --wal-segsize makes.
const (
	minSegment     = 1 << 20
	maxSegment     = 1 << 30
	DefaultSegment = 16 << 20
)

// ErrName is returned for what is not the name or content that PostgreSQL
// writes.
var ErrName = errors.New("not a name of PostgreSQL's log")

// validSegmentSize reports whether initdb could have made a server with it.
func validSegmentSize(size int64) bool {
	return size >= minSegment && size <= maxSegment && size&(size-1) == 0
}

// segmentID is a place in the log, in whole segments.
type segmentID struct {
	timeline ha.TLI
	number   uint64
}

// parseSegment reads a segment's name: timeline, log and segment, 8 hexadecimal
// digits each. It returns ErrName for all else, such as a history, backup or
// partial file, or a number that the size does not allow.
func parseSegment(name string, size int64) (segmentID, error) {
	if len(name) != 24 || !validSegmentSize(size) {
		return segmentID{}, fmt.Errorf("%q with segments of %d bytes: %w", name, size, ErrName)
	}
	var part [3]uint64
	for i := range part {
		n, err := strconv.ParseUint(name[8*i:8*i+8], 16, 32)
		if err != nil {
			return segmentID{}, fmt.Errorf("%q: %w", name, ErrName)
		}
		part[i] = n
	}
	perLog := uint64(1<<32) / uint64(size)
	if part[0] == 0 || part[2] >= perLog {
		return segmentID{}, fmt.Errorf("%q with segments of %d bytes: %w", name, size, ErrName)
	}
	return segmentID{timeline: ha.TLI(part[0]), number: part[1]*perLog + part[2]}, nil
}

// name writes a segment as PostgreSQL does.
func (s segmentID) name(size int64) string {
	perLog := uint64(1<<32) / uint64(size)
	return fmt.Sprintf("%08X%08X%08X", uint32(s.timeline), s.number/perLog, s.number%perLog)
}

// SegmentAt returns the name of the segment that has a position.
func SegmentAt(timeline ha.TLI, lsn ha.LSN, size int64) string {
	return segmentID{timeline: timeline, number: uint64(lsn) / uint64(size)}.name(size)
}

// SegmentTimeline returns the timeline of a segment's name; ErrName otherwise.
func SegmentTimeline(name string) (ha.TLI, error) {
	id, err := parseSegment(name, minSegment)
	return id.timeline, err
}

// HistoryTimeline returns the timeline that a history file's name is of.
func HistoryTimeline(name string) (ha.TLI, error) {
	digits, found := strings.CutSuffix(name, ".history")
	n, err := strconv.ParseUint(digits, 16, 32)
	if !found || err != nil || len(digits) != 8 || n == 0 {
		return 0, fmt.Errorf("%q: %w", name, ErrName)
	}
	return ha.TLI(n), nil
}

// ParseHistory reads a history file: lines with a timeline, where it was left, and
// a reason; blank lines and comments are skipped (PostgreSQL, timeline.c). A file
// of comments alone names no ancestor: a number that was claimed and never used.
func ParseHistory(content string) ([]ha.Fork, error) {
	var forks []ha.Fork
	for scan := bufio.NewScanner(strings.NewReader(content)); scan.Scan(); {
		fields := strings.Fields(scan.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 {
			return nil, fmt.Errorf("history line %q: %w", scan.Text(), ErrName)
		}
		tli, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil || tli == 0 {
			return nil, fmt.Errorf("history line %q: %w", scan.Text(), ErrName)
		}
		end, err := ha.ParseLSN(fields[1])
		if err != nil {
			return nil, fmt.Errorf("history line %q: %w", scan.Text(), ErrName)
		}
		if n := len(forks); n > 0 && forks[n-1].TLI >= ha.TLI(tli) {
			return nil, fmt.Errorf("history line %q goes back: %w", scan.Text(), ErrName)
		}
		forks = append(forks, ha.Fork{TLI: ha.TLI(tli), End: end})
	}
	return ha.Straight(forks), nil
}
