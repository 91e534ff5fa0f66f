// Package cli is the command line: a file for each command, which turns flags into
// one call of the package that does the work, and its answer into text.
//
// What runs for long is elsewhere: a member (sidecar/member), what runs beside
// HAProxy and PgBouncer (sidecar/proxy), a lab (sidecar/lab), a drill
// (sidecar/drill). A member's API is asked by sidecar/client. So nothing here knows
// PostgreSQL, Consul or HAProxy.
//
// A command has its process's streams, environment and version from a Process, and
// never reaches for its own, so that tests run commands side by side. It owns no
// goroutine but the lab's screen: readKeys (it ends with the input) and lookAtLab
// (it ends with the context), and one for each key that was pressed.
package cli
