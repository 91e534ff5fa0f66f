package settings

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes.
type Size int64

// units are PostgreSQL's, each 1024 times the one before; the longest come first.
var units = []struct {
	name  string
	bytes int64
}{{"TB", 1 << 40}, {"GB", 1 << 30}, {"MB", 1 << 20}, {"kB", 1 << 10}, {"B", 1}}

// errSize says what a size looks like.
var errSize = errors.New(`expected a size such as "16MB" or "1GB", in B, kB, MB, GB or TB, or 0 for any`)

// ParseSize reads a size as PostgreSQL writes it, such as "16MB". A number without a
// unit is refused, as nobody can see what it counts; but for 0.
func ParseSize(text string) (Size, error) {
	if text == "0" {
		return 0, nil
	}
	for _, u := range units {
		digits, is := strings.CutSuffix(text, u.name)
		if !is {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
		if err != nil || n > math.MaxInt64/uint64(u.bytes) {
			return 0, errSize
		}
		return Size(int64(n) * u.bytes), nil
	}
	return 0, errSize
}

// String writes the size with the largest unit that divides it.
func (s Size) String() string {
	if s == 0 {
		return "0"
	}
	for _, u := range units {
		if int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return "" // one byte divides all
}
