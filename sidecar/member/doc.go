// Package member is one running member: it reads the configuration, builds the
// adapters (sessions, checks, templates, sidecar/postgres, guard, peers, the API),
// and hands them to the shell (package sidecar), which owns time and order. With
// package proxy it is the only one that may import everything.
//
//	run.go          the member's life: start, signals, reload, end
//	server.go       the local server for the shell: files, process, SQL
//	judge.go        what `config validate`, `run` and the settings refuse alike
//	maintenance.go  roles, slots, settings of the local server
//	adapters.go     Consul, peers and guard in the shell's words
//	control.go      what the API's changes ask for; pause.go, restart.go, plans.go
//	apiview.go      what the API shows, and the history
//	elsewhere.go    where proxies of other hosts lead clients, for the page
//	backups.go      the engines of backups; archive.go  the archive of the log
//	routing.go      templates and proxies of the member's own configuration
//	hooks.go        what hooks and notices are told
//	outages.go      the outages that this member ended, for pgsidecar availability
//	records.go      what is known of the newest record, on disk
//	traces.go       spans of terms and backups, for a collector
//	faults.go       faults of drills, if the configuration allows them
//	nomad.go        the task, where the member is one of Nomad's
//
// Goroutines: Run starts the shell (see its package), the API's server, the one that
// reads the history (keepHistory), the one that does what was planned (keepPlans), the one that
// keeps what is known of the newest record (keepRecords), the one that tells
// hooks (keepHooks), the one that writes down outages (keepOutages), the one that sees whether a
// replica may serve reads (keepReads), those that see
// and export spans (keepTraces, trace.Exporter.Run), the one that runs templates and
// proxies (followed.run), those of archive and backups (runBackups, and one for each backup), and
// the one that turns signals into what
// they mean (handleSignals), and, as the first process of a container, the one that reaps
// orphans (process.ReapOrphans). Run waits for all of them.
package member
