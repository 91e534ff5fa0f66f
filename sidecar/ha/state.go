package ha

// State is what a member remembers from one decision to the next. None of it
// must survive the process: what must is on disk (Server.Promise) or in Consul.
type State struct {
	// WakeAt is when time alone may change the decision; zero: never.
	WakeAt Instant
	// LeaseUntil is until when this member may serve as primary (S5).
	LeaseUntil Instant
	// Role and Blocks are for people.
	Role   Role
	Blocks []Block
}

// MakeReport writes what this member tells the others. Seq, Echo and the
// addresses are the shell's to fill.
func MakeReport(s State, o Observation) Report { return Report{Member: o.Self} }
