package drill

import (
	"fmt"
	"os"
	"runtime"
)

// Machine is what the machine had to do when the fault was injected: a pause
// that was measured on a busy one says less of the cluster.
type Machine struct {
	Processors int `json:"processors"`
	// Load is the mean number of processes that ran or waited to run in the
	// minute before (getloadavg(3)); 0: unknown.
	Load float64 `json:"load"`
}

// thisMachine looks at the machine. What it cannot see is zero.
func thisMachine() Machine {
	m := Machine{Processors: runtime.NumCPU()}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(b), &m.Load) // stays 0
	}
	return m
}

func (m Machine) words() string {
	if m.Processors == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f of %d", m.Load, m.Processors)
}
