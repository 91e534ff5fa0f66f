package sim

// random is splitmix64 (Steele, Lea and Flood, 2014): small, fast, and good
// enough to draw schedules from. The zero value is a valid generator.
type random struct{ state uint64 }

func (r *random) next() uint64 {
	r.state += 0x9e3779b97f4a7c15
	z := r.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below returns a number in [0, n).
func (r *random) below(n int) int { return int(r.next() >> 1 % uint64(n)) }

// chance is true in permille of a thousand cases.
func (r *random) chance(permille int) bool { return r.below(1000) < permille }

// between returns a span of virtual time in [low, high), in nanoseconds.
func (r *random) between(low, high int64) int64 {
	return low + int64(r.next()>>1%uint64(high-low))
}

// Units of virtual time, in nanoseconds.
const (
	micro  = int64(1000)
	milli  = 1000 * micro
	second = 1000 * milli
)
