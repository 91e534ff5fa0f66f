// Package install has what an operator installs beside the program: the systemd unit,
// a Dockerfile, the least ACL policy for Consul.
package install
