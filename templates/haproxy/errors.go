package haproxy

import "errors"

// What can go wrong here, for errors.Is.
var (
	// ErrRuntime is returned when HAProxy answered a command with an error.
	ErrRuntime = errors.New("haproxy refused a command")
	// ErrReload is returned when HAProxy did not take its files up.
	ErrReload = errors.New("haproxy did not reload")
)
