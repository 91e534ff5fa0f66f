// Package client is the Go client of a member's API (sidecar/api), for the commands
// that people type and for members that ask one another.
//
// A Client has addresses that are tried in turn. If none answers, a Registry finds
// the members in Consul's catalog. Each request has a deadline and a connection of
// its own, so a client holds nothing and starts no goroutine.
package client
