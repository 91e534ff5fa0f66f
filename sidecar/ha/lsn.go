package ha

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// LSN is a position in PostgreSQL's write-ahead log, in bytes from its
// beginning (PostgreSQL documentation, section 30.6). Zero is invalid, as in
// PostgreSQL itself.
type LSN uint64

// String writes an LSN as PostgreSQL does: two hexadecimal halves.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// ErrSyntax is returned for text that is not what its type writes.
var ErrSyntax = errors.New("syntax error")

// ParseLSN reads what PostgreSQL's pg_lsn type prints. It returns ErrSyntax
// for anything else.
func ParseLSN(s string) (LSN, error) {
	high, low, found := strings.Cut(s, "/")
	h, err := strconv.ParseUint(high, 16, 32)
	if err != nil || !found {
		return 0, fmt.Errorf("parse LSN %q: %w", s, ErrSyntax)
	}
	l, err := strconv.ParseUint(low, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("parse LSN %q: %w", s, ErrSyntax)
	}
	return LSN(h<<32 | l), nil
}

// MarshalText writes an LSN into JSON as its readers know it.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText wrote; it returns ErrSyntax otherwise.
func (l *LSN) UnmarshalText(b []byte) error {
	v, err := ParseLSN(string(b))
	if err != nil {
		return err
	}
	*l = v
	return nil
}

// Instant is a moment on this machine's CLOCK_BOOTTIME, in nanoseconds: it
// counts suspend and never jumps. Instants of two machines must not be
// compared, so no Instant is ever sent. Zero means never.
type Instant int64

// Add returns the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// Within reports whether i lies no more than d before now. Never is not within
// anything.
func (i Instant) Within(d time.Duration, now Instant) bool { return i != 0 && now.Sub(i) <= d }

// Tri is a fact that may be unknown. Unknown is never treated as No.
type Tri uint8

// The three values of a fact.
const (
	Unknown Tri = iota
	No
	Yes
)

// String returns the value's name.
func (t Tri) String() string { return [...]string{"unknown", "no", "yes"}[t] }

// Known turns a claim into a fact.
func Known(claim bool) Tri {
	if claim {
		return Yes
	}
	return No
}
