package member

import (
	"runtime"
	"testing"
)

// TestProcessors: a calm member runs on one processor, any other on all, unless the
// environment says on how many.
func TestProcessors(t *testing.T) {
	all := runtime.GOMAXPROCS(0)
	p := newProcessors()
	if p.fixed {
		t.Skip("one processor, or GOMAXPROCS is set")
	}
	defer runtime.SetDefaultGOMAXPROCS()
	for _, calm := range []bool{true, true, false, false, true} {
		want := all
		if calm {
			want = 1
		}
		if p.calm(calm); runtime.GOMAXPROCS(0) != want {
			t.Errorf("calm %v: %d processors, want %d", calm, runtime.GOMAXPROCS(0), want)
		}
	}
	runtime.SetDefaultGOMAXPROCS()
	t.Setenv("GOMAXPROCS", "7")
	if p := newProcessors(); !p.fixed {
		t.Error("the environment is not heeded")
	} else if p.calm(true); runtime.GOMAXPROCS(0) != all {
		t.Errorf("it runs on %d processors in spite of the environment", runtime.GOMAXPROCS(0))
	}
}
