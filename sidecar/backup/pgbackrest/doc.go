// Package pgbackrest makes backups, archives the log and restores by pgBackRest
// (2.45 and newer), which must be installed.
//
//	config.go      what is configured, and the two files that are written from it
//	engine.go      the commands
//	info.go        what `pgbackrest info` and `repo-ls` say
//	failure.go     pgBackRest's errors as those of package backup
//	unarchived.go  why log was not archived, as its spool has it
//
// # Files
//
// In Config.Dir, which must be ours alone:
//
//	pgbackrest.conf      no secret; mode 0640
//	conf.d/secrets.conf  the encryption key and the store's credentials; mode 0600
//	spool/, lock/, log/  pgBackRest's
//
// Both are read by pgBackRest each time it is started, by PostgreSQL's archiver
// too, so that a new secret counts at once. They are replaced whole.
//
// # Archiving
//
// archive_command runs pgBackRest itself, which must outlive the sidecar:
// archiving does not stop while that is down or replaced. It is asynchronous:
// pgBackRest sends ahead what is ready, and answers PostgreSQL from its spool.
//
// # Kill -9
//
// A backup is in `pgbackrest info` only after its manifest was saved, which is
// last. What was killed before is taken up or removed by the next backup. A pgbackrest
// that outlives its sidecar is ended by the next backup. A restore writes pg_control
// last, without which PostgreSQL does not start.
//
// # Backup from a replica
//
// pgBackRest copies from a replica only if it reaches the primary too: it begins
// and ends the backup there. Config.Primary says how, by its TLS server on another
// host. It has no limit of bandwidth; Config.Processes, and the lower priority that
// backups and verifications run with, take its place.
//
// The package starts no goroutine.
package pgbackrest
