// Package sessions is the cluster's place in Consul: the session, the leader
// lock, the record, the settings, the history, and the registered service.
package sessions
