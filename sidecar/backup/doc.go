// Package backup is what pgsidecar knows of backups and recovery, whichever
// program makes them: the types, the small interfaces of an engine, and the
// decisions that are pure functions.
//
//	engine.go      Maker and Engine: what an adapter does
//	backup.go      a Backup, a Repository, an Archive
//	errors.go      what can be wrong, each with one sentinel
//	target.go      how far a recovery goes, and its settings in PostgreSQL
//	plan.go        which backup a recovery begins with, how much log it reads
//	segment.go     names of log segments and history files
//	archiving.go   what a new primary archives of its predecessor's log
//	continuity.go  gaps in an archive, and the time they make unrestorable
//	retention.go   which backups may go
//	schedule.go    when the next one is due
//	choose.go      which member makes it
//
// The adapters are beside it, each with one vendor: pgbackrest; command, for
// any other program; logical, for pg_dump; proof restores a backup into a
// scratch folder and checks it. program runs their programs as PostgreSQL's
// user. None imports another, nor package sidecar.
//
// # What counts as a backup
//
// Only what the engine itself lists as finished, and without a damaged page. A
// program that is killed half-way leaves nothing in that list, and the next run
// cleans up after it. Nobody deletes the last good backup.
//
// # Time
//
// A repository knows the time at which a backup ended and, where it can tell,
// when a segment arrived. A segment's arrival is later than each commit in it,
// so a moment read from it errs towards saying that less can be restored.
//
// Nothing here starts a goroutine, reads a clock or does I/O.
package backup
