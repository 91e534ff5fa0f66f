package nomad

import "errors"

// Errors that callers tell apart with errors.Is.
var (
	// ErrEnvironment: a variable of the task's environment has no usable value.
	ErrEnvironment = errors.New("task environment is wrong")
	// ErrKillTimeout: the task's kill_timeout is too short for a handover.
	ErrKillTimeout = errors.New("kill_timeout is too short")
	// ErrEphemeral: the data directory would end with the allocation.
	ErrEphemeral = errors.New("data directory is not on a volume")
	// ErrIdentity: the data directory belongs to a member of another name.
	ErrIdentity = errors.New("data directory belongs to another member")
	// ErrNoJob: there is no job file of that name.
	ErrNoJob = errors.New("no such job")
	// ErrRelease: there are no job files for that release of Nomad.
	ErrRelease = errors.New("no job files for Nomad")
	// ErrVariable: a job file has no such variable, or not of that type.
	ErrVariable = errors.New("wrong variable")
)
