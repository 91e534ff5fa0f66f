// Package proof shows that a backup restores: it restores the newest one into a
// scratch folder, starts PostgreSQL there, lets it recover all the log that is
// archived, and looks at what came out.
//
//	proof.go   the steps, and the report
//	server.go  the scratch server
//	look.go    the checks: a mark, pg_amcheck, pg_checksums
//
// # The scratch server
//
// It listens on a socket in the scratch folder alone, never archives, follows
// nobody, runs nothing of its own accord (no autovacuum, no preloaded library but
// those that are configured), and writes its tablespaces into the scratch folder.
// Its parameters are given on the command line, where nothing that was restored
// overrides them. After a kill -9 the next run ends the server that is left, which
// it knows by the folder, and begins with an empty one.
//
// # The mark
//
// A mark is a moment that the primary wrote into a table (Options.Mark reads the
// newest). How old it is at the moment when the restore begins is what a disaster
// then would have lost: RPO. The time from there to a server that answers is RTO.
//
// Run has one goroutine besides the caller's, which runs the scratch server and ends
// with it (start); Run waits for it.
package proof
