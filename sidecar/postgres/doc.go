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
//	postgresql.conf  what the server is started with: our defaults, the copy of the
//	                 user's own file, the configured parameters, and what must be so
//	user.conf        that copy, with all that it includes, as PostgreSQL last took it
//	control.conf     whom the server follows and who follows it
//	pg_hba.proven    the user's lines of pg_hba.conf that PostgreSQL last took
//	pg_hba.conf      our lines, then the user's; or our lines alone (S9)
//	pg_ident.proven  the user's lines of pg_ident.conf that PostgreSQL last took
//	pg_ident.conf    who may be the local superuser, then the user's
//	postgresql.auto.conf.refused  that file before lines were taken out of it
//	passfile         the replication password, mode 0600
//	upstream         the gate: see below
//	archive          the gate to the archive: see below
//	promise          the highest term promised, to whom, and whether fenced for it (S2)
//	record           which of the cluster's records this member knows as the newest
//	unfinished       the marker of a clone, rewind or initdb under way (S10)
//	life             as what this member last ran the server, and how it ended (S7)
//	logs             how long the log collector's files were at the start
//	copy             which copy of the data this is
//	owed             what the leader had when another member was cloned
//	layout           which links the data directory has: a copy gets the same
//	mounts           on which file system the data are: they are not copied below it
//	strayed          why the data has log that belongs to no term
//	rewound          whose log a server still needs to be consistent that was rewound, or
//	                 restored from a backup
//	rewind.conf      restore_command, for pg_rewind alone
//	verify/          where a backup is restored to look at it, for that time (backup/proof)
//	settings.json    the cluster's settings as Consul last had them (package settings)
//	programs.lock    held by each program that changes the data directory
//	reserve          space that is given up when the disk is full
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
// A restore_command has a gate as well (fetch.go), which Shut closes with the other: a
// file with the stretches of log that may be fetched. One that begins later fetches
// nothing, and the fence waits for the end of one that began before: only a startup
// process that has asked for a walreceiver, or waits to ask again, has read all. The
// stretches are those of the present leader's history: the archive may have more.
//
// # Nobody else's file stands in the way
//
// A reload with one line that PostgreSQL does not take changes nothing, and a start
// with it fails; ALTER SYSTEM can be forbidden, or its file unwritable. So the server
// reads a copy of the user's postgresql.conf and of all that it includes, which
// PostgreSQL has taken before (userconf.go): an edit is tried within seconds, and if it
// is refused the copy stays and ConfigProblem says which line of which file it is. What
// decisions change is in control.conf (controlfile.go), which nobody else writes, and
// what must be so for the server's whole life is on the command line, which comes
// before every file. The server reads a copy of the lines of pg_hba.conf and pg_ident.conf
// too, with what they include, and new ones only after PostgreSQL has read them in a
// folder of its own: with one refused line the last ones that it took stay (rules.go).
// An edit that PostgreSQL can read, and does not start with, is found as well: a start is
// tried in a folder of its own, up to where it would take memory (limits.go).
// postgresql.auto.conf, which PostgreSQL reads last, is only touched to take out of it
// what would undo that, or what no start bears (autoconf.go).
//
// # Who ran the server
//
// A server that somebody else ran as a primary (pg_promote, standby.signal removed,
// single-user mode) has log that no election allowed, and where the timeline kept its
// number nothing in the log says so. So the member writes down as what it starts the
// server, before it does, and that it promotes it, before it does (life.go); Inspect
// compares pg_control with that, and says why they disagree (Facts.Strayed).
//
// # A full disk
//
// A member whose disk is full still has to stop its server, to promise a term and to
// start as a standby, and each of these writes. So 32 MB lie in the state directory,
// which by default is on the data directory's file system (KeepReserve); they are given
// up when something that must be written now does not fit, and before a stop or a start
// on a full disk, and made again when there is room.
//
// # Kill -9
//
// Each step that changes the data directory follows a marker on disk; Inspect
// reports it, and Discard ends what it names. A program that outlived its
// sidecar holds programs.lock by an inherited descriptor; the process that runs the
// next one ends it first.
//
// The package has no goroutines of its own but those that read the output of a
// running program and watch whether it stands still, which end with it.
package postgres
