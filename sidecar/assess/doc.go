// Package assess says how mature a cluster is: levels 0 to 4, each a list of lines that
// are yes, no or unknown, by evidence that was looked up.
//
//	Evidence  what was looked up; each part may be unknown, and then says why
//	Judge     the report: the level reached, what is missing for the next, and the command
//	          that begins it
//	lines.go  the lines themselves
//
// A level is reached when every line of it, and of those below, is yes: what is unknown
// does not count as there. Nothing that only a person says is a yes, but the runbook's
// address, and that is asked whether it answers.
//
// The package has no goroutine and no I/O. The caller (package cli) gathers the evidence.
package assess
