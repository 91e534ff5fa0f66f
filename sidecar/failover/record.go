// Package failover has the one type that says what became of a term. The member
// that leads it writes it, Consul keeps it as JSON (key history/TERM), and the API,
// the drills and the command line read it.
//
// The package has no goroutine and no I/O.
package failover

import (
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Record is what became of one term, with the time of each phase: the first by the wall
// clock of its leader's host, the others as long after it as they were, however that clock
// was set meanwhile. A phase that was not gone through has the zero time. It is stored in
// Consul when the catalog leads to the term's leader, or does not a second after that
// was announced.
type Record struct {
	Term      uint64    `json:"term"`
	Leader    string    `json:"leader"`
	From      string    `json:"from,omitempty"` // the leader before; empty: this term founded the cluster
	Reason    string    `json:"reason"`
	Planned   bool      `json:"planned,omitempty"` // the leader before had stopped cleanly, for a switchover
	Timeline  ha.TLI    `json:"timeline"`
	Detected  time.Time `json:"detected,omitzero"`  // the leader before was lost, or began to hand over
	Elected   time.Time `json:"elected,omitzero"`   // the ballot was seen
	Fenced    time.Time `json:"fenced,omitzero"`    // the votes were enough
	Promoted  time.Time `json:"promoted,omitzero"`  // the server left recovery
	Writable  time.Time `json:"writable,omitzero"`  // it took a write
	Announced time.Time `json:"announced,omitzero"` // Consul's service has the primary tag
	Routed    time.Time `json:"routed,omitzero"`    // who asks Consul's catalog, or DNS, is led to it, and to nobody else
	Forked    ha.LSN    `json:"forked,omitempty"`   // where the timeline before ended
}

// Kind is how the term began: bootstrap, switchover or failover.
func (r *Record) Kind() string {
	switch {
	case r.From == "":
		return "bootstrap"
	case r.Planned:
		return "switchover"
	}
	return "failover"
}

// Phase is one step of a failover.
type Phase struct {
	Name string
	At   time.Time     // zero: it was not gone through
	Took time.Duration // since Detected; zero where At is
}

// Phases are the steps in their order.
func (r *Record) Phases() [6]Phase {
	phases := [6]Phase{{Name: "elected", At: r.Elected}, {Name: "fenced", At: r.Fenced}, {Name: "promoted", At: r.Promoted},
		{Name: "writable", At: r.Writable}, {Name: "announced", At: r.Announced}, {Name: "routed", At: r.Routed}}
	for i := range phases {
		if p := &phases[i]; !p.At.IsZero() {
			p.Took = p.At.Sub(r.Detected)
		}
	}
	return phases
}
