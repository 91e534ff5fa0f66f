// Package proxy follows a cluster for applications: it turns what Consul says into
// topologies and hands each to the templates' agent, which writes files and switches
// HAProxy and PgBouncer. Run is a whole process's; a member runs a Follower of its
// own. It never takes part in elections.
//
//	proxy.go       Run
//	follower.go    from Consul's view to topologies; what is not current is let go
//	sites.go       one topology of two sites
//	configure.go   the configuration's blocks as templates, HAProxy and PgBouncer
//	cache.go       the last topology on disk, for a start without Consul
//	replicalag.go  how far replicas are behind, for templates that ask
//	catalog.go     what else templates read of Consul
//	render.go      what would be written, shown and not written
//	status.go      /status, /metrics, /readiness, /liveness
//
// Goroutines: Run starts Consul's watches, the status server and, as the first process of a
// container, the one that reaps orphans (process.ReapOrphans); a Follower starts those of the
// other site's Consul, the agent, the reader of the catalog and, if a template wants to know,
// those that ask for lag and measure how far away the members are. Both wait for what they have started.
package proxy
