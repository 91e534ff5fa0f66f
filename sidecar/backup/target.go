package backup

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TargetKind is what a recovery stops at.
type TargetKind string

// The targets of a recovery (PostgreSQL documentation, Recovery Target).
const (
	Latest    TargetKind = "latest" // the end of the archived log
	ToTime    TargetKind = "time"   // the last commit before or at a moment
	ToLSN     TargetKind = "lsn"
	ToName    TargetKind = "name" // made by pg_create_restore_point
	ToXID     TargetKind = "xid"
	Immediate TargetKind = "immediate" // the end of the backup
)

// Target is how far a recovery goes. The zero Target is the latest.
type Target struct {
	Kind TargetKind
	Time time.Time
	LSN  ha.LSN
	Name string
	XID  uint32
	// Exclusive stops just before the target instead of just after.
	Exclusive bool
	// Timeline is the one to follow; 0: the latest.
	Timeline ha.TLI
}

// maxName is the longest name of a restore point (MAXFNAMELEN less the zero).
const maxName = 63

// ParseTarget reads a target from one word of the command line. It returns
// ErrTarget, with what was expected, for anything that PostgreSQL would refuse.
func ParseTarget(kind TargetKind, value string) (Target, error) {
	t := Target{Kind: kind}
	bad := func(expected string) (Target, error) {
		return Target{}, fmt.Errorf("%w: %q; expected %s", ErrTarget, value, expected)
	}
	var err error
	switch kind {
	case Latest, Immediate:
		if value != "" {
			return bad("no value")
		}
	case ToTime:
		if t.Time, err = parseTime(value); err != nil {
			return bad(`a moment with its zone, such as "2026-03-01 12:00:00+01" or "2026-03-01T11:00:00Z"`)
		}
	case ToLSN:
		if t.LSN, err = ha.ParseLSN(value); err != nil || t.LSN == 0 {
			return bad("a position in the log, such as 0/3000148")
		}
	case ToName:
		if value == "" || len(value) > maxName || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' }) {
			return bad("the name of a restore point, of 1 to 63 bytes")
		}
		t.Name = value
	case ToXID:
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n < 3 { // the first three are PostgreSQL's own
			return bad("a transaction id, 3 to 4294967295")
		}
		t.XID = uint32(n)
	default:
		return Target{}, fmt.Errorf("%w: unknown kind %q", ErrTarget, kind)
	}
	return t, nil
}

// parseTime takes a moment only with a zone: without one it would be another
// moment on another machine.
func parseTime(value string) (time.Time, error) {
	value = strings.TrimSpace(value)
	var err error
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00",
		"2006-01-02 15:04:05.999999999Z07", "2006-01-02 15:04:05.999999999Z0700", "2006-01-02T15:04:05.999999999Z07",
		"2006-01-02 15:04:05.999999999 MST"} {
		var t time.Time
		if t, err = time.Parse(layout, value); err == nil {
			if name, offset := t.Zone(); layout[len(layout)-3:] == "MST" && offset == 0 && name != "UTC" {
				return time.Time{}, fmt.Errorf("zone %s is not known", name)
			}
			return t, nil
		}
	}
	return time.Time{}, err
}

// String writes the target for people.
func (t Target) String() string {
	before := ""
	if t.Exclusive {
		before = "just before "
	}
	switch t.Kind {
	case ToTime:
		return before + t.Time.UTC().Format("2006-01-02 15:04:05.999999Z07:00")
	case ToLSN:
		return before + "position " + t.LSN.String()
	case ToName:
		return fmt.Sprintf("%sthe restore point %q", before, t.Name)
	case ToXID:
		return fmt.Sprintf("%stransaction %d", before, t.XID)
	case Immediate:
		return "the end of the backup"
	}
	return "the end of the archived log"
}

// Value writes the target as PostgreSQL's parameter takes it; empty for those
// that have none.
func (t Target) Value() string {
	switch t.Kind {
	case ToTime:
		return t.Time.UTC().Format("2006-01-02 15:04:05.999999+00")
	case ToLSN:
		return t.LSN.String()
	case ToName:
		return t.Name
	case ToXID:
		return strconv.FormatUint(uint64(t.XID), 10)
	}
	return ""
}

// Setting is one parameter of PostgreSQL.
type Setting struct{ Name, Value string }

// Settings returns the parameters that make PostgreSQL recover to the target and
// then take writes. recovery.signal must be there besides.
func (t Target) Settings(restoreCommand string) []Setting {
	timeline := "latest"
	if t.Timeline != 0 {
		timeline = strconv.FormatUint(uint64(t.Timeline), 10)
	}
	set := []Setting{{"restore_command", restoreCommand}, {"recovery_target_timeline", timeline}}
	switch t.Kind {
	case ToTime, ToLSN, ToName, ToXID:
		set = append(set, Setting{"recovery_target_" + string(t.Kind), t.Value()},
			Setting{"recovery_target_inclusive", map[bool]string{true: "off", false: "on"}[t.Exclusive]},
			Setting{"recovery_target_action", "promote"})
	case Immediate:
		set = append(set, Setting{"recovery_target", "immediate"}, Setting{"recovery_target_action", "promote"})
	}
	return set
}
