package templates

import "errors"

// What can go wrong here, for errors.Is.
var (
	// ErrUnsafe is returned for a name, address or value that could end the
	// line it is written on, or the word.
	ErrUnsafe = errors.New("value is not safe in a configuration file")
	// ErrRefused is returned when a file's checker did not accept it.
	ErrRefused = errors.New("checker refused the file")
	// ErrNotReady is returned while something that a template asks for has
	// never been read.
	ErrNotReady = errors.New("data not there yet")
	// ErrNotFound is returned for a key that does not exist.
	ErrNotFound = errors.New("key not found")
	// ErrCommand is returned when a program to be told of a change failed.
	ErrCommand = errors.New("command failed")
	// ErrNotTaken is returned when HAProxy runs with an earlier file than the one that
	// was written.
	ErrNotTaken = errors.New("HAProxy still runs with an earlier version of this file")
	// ErrTopology is returned by Build when a member's registration cannot be used.
	ErrTopology = errors.New("registration cannot be used")
)
