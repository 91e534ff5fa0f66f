package sim

// Shrink looks for a shorter run with fewer faults that breaks the same promise
// as o does. What happens otherwise is drawn anew, so it is another run of the
// same seed, easier to read. It returns o as it is if o breaks nothing.
func Shrink(o Options) Options {
	w := NewWorld()
	o.Story = false
	first := w.Run(o)
	if first.Violation == "" {
		return o
	}
	faults := len(w.faults)
	fails := func(try Options) (Result, bool) {
		r := w.Run(try)
		return r, r.Rule == first.Rule
	}
	best := o
	best.Length = first.Length
	for _, part := range [...]int64{1, 2, 4, 8, 12, 16, 20, 24, 28} {
		try := best
		try.Length = best.Length * part / 32
		if r, same := fails(try); same && r.At <= first.At {
			best = try
			break
		}
	}
	best.Drop = make([]bool, max(faults, len(o.Drop)))
	copy(best.Drop, o.Drop)
	for size := faults; size > 0; size /= 2 {
		for from := 0; from < len(best.Drop); from += size {
			try := best
			try.Drop = append([]bool(nil), best.Drop...)
			changed := false
			for i := from; i < min(from+size, len(try.Drop)); i++ {
				changed = changed || !try.Drop[i]
				try.Drop[i] = true
			}
			if !changed {
				continue
			}
			if _, same := fails(try); same {
				best = try
			}
		}
	}
	best.Story = true
	return best
}
