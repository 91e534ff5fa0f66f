package ha

// Decide looks at what is known and says what to do now. It is total and
// deterministic: the same state and observation give the same answer, and
// trouble is a value in it. It must be called again after every change of the
// observation, and no later than State.WakeAt.
func Decide(s State, o Observation) (State, []Action) {
	return s, nil
}
