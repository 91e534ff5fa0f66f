// Package process has what each process of this program begins with, member and
// proxy alike: its environment, its log, how Consul is reached, the passwords that
// may change while it runs, and short turns on the processor.
package process
