// Package command is an engine of backups made of a person's own commands: for
// Barman, WAL-G, or anything else that package pgbackrest is not.
//
//	command.go  what is configured; words with placeholders
//	engine.go   the commands as an engine
//	list.go     what the list commands print
//	recover.go  the settings of a recovery, which most programs do not write
//
// Each command is a list of words, run without a shell, in which {name} stands for
// a value; {{ is a brace. A placeholder is replaced within its word, so that no
// value becomes two words or a command. What PostgreSQL runs itself is quoted for
// its shell.
//
//	prepare   once, and repeated            {data_dir}
//	archive   store a file of log           {path} {name}
//	fetch     get one                       {name} {path}
//	backup    make a backup                 {kind} {data_dir}
//	list      print the finished ones       (see Format)
//	wal       print what is archived        names, one a line; the last word counts
//	restore   write a data directory        {label} {data_dir}
//	expire    remove what may go            {full} {days}, or {label} for each
//	check     exit 0 if all is well         {data_dir}
//
// archive, fetch, backup, list and restore are needed. WAL-G, by this engine:
//
//	archive = ["wal-g", "wal-push", "{path}"]
//	fetch   = ["wal-g", "wal-fetch", "{name}", "{path}"]
//	backup  = ["wal-g", "backup-push", "{data_dir}"]
//	list    = ["wal-g", "backup-list", "--detail", "--json"]   # format = "wal-g"
//	wal     = ["wal-g", "st", "ls", "wal_005/"]
//	restore = ["wal-g", "backup-fetch", "{data_dir}", "{label}"]
//	expire  = ["wal-g", "delete", "retain", "FULL", "{full}", "--confirm"]
//
// Environment and Secrets reach all of them, those that PostgreSQL runs too, by a
// file of mode 0600 in Dir that a shell reads first.
//
// A command that failed or was killed leaves what its program makes of it: only
// what list prints with an end counts as a backup, and a directory whose restore
// did not return nil is half made (S10).
//
// The package starts no goroutine.
package command
