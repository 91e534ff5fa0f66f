// Package nomad is the way into Nomad: what an allocation tells the sidecar
// that runs in it, and the job files that make the allocation.
//
//	allocation.go  the environment of a task, in the words of a configuration
//	identity.go    the member's name, which stays with the data directory
//	volume.go      is the data directory on something that outlives the allocation?
//	stop.go        was the last stop cut short by kill_timeout?
//	jobs.go        the job files, with their variables set; and the same as a pack
//
// A task is one member: pgsidecar is the task's process, the guard and
// PostgreSQL are its children, and Nomad ends all of them together. So every
// planned end (stop, drain, update) has to be a handover first: kill_signal
// starts it, and kill_timeout must be longer than it takes.
//
// Nomad's word is not taken for safety. It restarts, moves and forgets
// allocations by its own clock; who is primary is decided by the lock in
// Consul and the guard's lease, whatever Nomad believes. For the same reason an
// allocation's index is no identity: Nomad gives it to another node's data as
// soon as it likes (Nomad documentation, Runtime environment settings).
//
// The facts about Nomad hold for 1.6 to 1.11; they are from its documentation
// and its source, at v1.6.1 (.tools/nomad/go.mod) and v1.11.1. There are two forms
// of each job file (Release): what 1.6 does not know is in the newer one only.
// Watch starts one goroutine, which ends with the function that it returns;
// nothing else runs.
package nomad
