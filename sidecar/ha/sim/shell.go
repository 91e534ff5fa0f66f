package sim

// What the shipped shell does about faults from outside, where the core has no
// part in it: the simulation does the same. Each is false as long as the shell
// does not.
const (
	keepsAddresses = true // a recorded member is dialled where it was, although Consul's catalog names it no more
	heedsOwed      = true // no member votes whose copy owes something (Files.Owed) or has strayed: the core's part, and then S4 counts it neither way
	keepsHistories = true // a leader writes the timeline history files that its own history implies
)
