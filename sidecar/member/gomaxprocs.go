package member

import (
	"os"
	"runtime"
)

// processors lets a calm member run on one processor and any other on all. The
// few microseconds of work that a calm member wakes for are over before a second
// processor has been woken to help with them, which it is each time: that makes a
// fifth of the processor time of an idle member.
type processors struct {
	fixed bool // the environment says how many, or there is one
	one   bool
}

func newProcessors() *processors {
	return &processors{fixed: os.Getenv("GOMAXPROCS") != "" || runtime.GOMAXPROCS(0) == 1}
}

// calm changes the number if it must; that stops the process for less than a
// tenth of a millisecond.
func (p *processors) calm(calm bool) {
	if p.fixed || p.one == calm {
		return
	}
	p.one = calm
	if calm {
		runtime.GOMAXPROCS(1)
		return
	}
	runtime.SetDefaultGOMAXPROCS()
}
