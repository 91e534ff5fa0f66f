// Package postgres owns one local PostgreSQL server: its data directory, its
// configuration and its control data. It never speaks SQL (package checks
// does), and it never is the parent of the postmaster (the Guard is).
//
// # Two directories
//
// The data directory is PostgreSQL's. Nothing in it is written but what
// PostgreSQL's own programs write, standby.signal, postgresql.auto.conf, timeline
// history files, and a segment of log that PostgreSQL renamed (partial.go). Its
// postgresql.conf, pg_hba.conf and pg_ident.conf are the user's and are only
// read, so that an adopted server loses nothing, and pg_rewind and
// pg_basebackup, which copy the source's files over ours, do no harm.
//
// The state directory is ours:
//
//	postgresql.conf  what the server is started with: our defaults, the user's
//	                 own file, the configured parameters, and what must be so
//	pg_hba.conf      our lines, then the user's; or our lines alone (S9)
//	pg_ident.conf    who may be the local superuser, then the user's
//	passfile         the replication password, mode 0600
//	upstream         the gate: see below
//	promise          the highest term promised, and whether fenced for it (S2)
//	unfinished       the marker of a clone, rewind or initdb under way (S10)
//	rewound          whose log a rewound server still needs to be consistent
//	programs.lock    held by each program that changes the data directory
//	diverged/        what a rewind or clone was about to overwrite (S7)
//	sock/            the server's socket, unless its path would be too long
//
// # The gate
//
// A vote (S2) says that nothing more is received. That primary_conninfo is
// empty does not show it: the startup process reads the configuration when it
// gets to it, and may start one more walreceiver with what it knew before. So
// primary_conninfo names a service (libpq's connection service file) besides the
// host, and libpq refuses to connect if the file does not define it. The file
// has one empty section for the one upstream that is admitted, and none after
// Shut: each walreceiver that starts later fails before it connects. Once no
// walreceiver is seen after that moment, none can receive, whatever the startup
// process has yet to read.
//
// # Kill -9
//
// Each step that changes the data directory follows a marker on disk; Inspect
// reports it, and Discard ends what it names. A program that outlived its
// sidecar holds programs.lock by an inherited descriptor; whoever runs the next
// one ends it first.
//
// The package has no goroutines of its own but those that read the output of a
// running program, which end with it.
package postgres
