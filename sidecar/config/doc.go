// Package config turns pg.hcl and proxy.hcl into a typed Config, or into
// diagnostics that name the file, the line, and what was expected there.
//
// Load does, in this order:
//
//	Default      every number, with its reason
//	read         HCL 2 into the Config: names, types, functions (decode.go, blocks.go)
//	derive       what follows from the rest: state_dir from data_dir, advertise from listen,
//	             the token from the environment (derive.go)
//	check        what each value may be, and what goes with what (check.go)
//
// It reports all faults of a file at once, and returns a Config only when there
// are none. A file cannot hold a secret: passwords and tokens come from files
// or from the environment, and Secret never prints itself.
//
// What a running sidecar takes over from a changed file is a type of its own,
// Reloadable. This package starts no goroutine and keeps no state.
package config
