// Package gather looks up the evidence for an assessment (package assess): the members'
// API (package client), Consul through it, Prometheus's API, and the runbook's address.
//
//	gather.go      the parts that the members know
//	around.go      what Consul knows: nodes, proxies, its servers
//	prometheus.go  alert rules and Alertmanagers; whether an address answers
//
// Every request has a deadline, and what cannot be looked up is unknown with its reason;
// only that no member answers at all is an error. Its goroutines, which ask members side
// by side, end before Evidence returns.
package gather
