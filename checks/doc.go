// Package checks asks and tells one local PostgreSQL server everything that
// uses SQL: is it well, where is its log, does it take a write; and fence,
// follow, set the synchronous standbys, promote. Its files and its process are
// package postgres's.
//
// A Conn keeps three sessions to the server's socket. Look has one of its own, so
// that a hung operation does not look like a dead server; so have checkpoints,
// which may take minutes; all else shares the third, one at a time. They connect
// when they are first used and again after
// the server was restarted; every call has its deadline from its context, and a
// session whose call was cut short is dropped.
//
// # What proves a fence
//
// See Conn.Fence. The gate it speaks of is package postgres's.
//
// # What proves a setting of synchronous_standby_names
//
// A change of the file and a reload only ask for it. Three kinds of processes must have
// read it before it holds (PostgreSQL's syncrep.c): each walsender, which
// releases waiting commits by its own view of the names and of k; and the
// checkpointer, which tells all backends whether there is anything to wait for.
// pg_stat_replication shows a walsender's view only as sync_priority: in an ANY
// setting 1 for each name in it, 0 for others. So a removed name is seen to go,
// and a changed k is not. Where k changes (or where this process does not know
// what was set before) Conn.SetSync therefore freezes first: a FIRST setting
// whose first name is nobody's and whose number is never reached. Under it each
// walsender shows a priority of 2 or more, nothing is acknowledged, and a commit
// of our own that waits shows what the checkpointer knows. Then the wanted
// setting follows: whichever walsender has not read that yet still releases
// nothing. What the standbys confirmed meanwhile is released when they confirm
// something again, so something is written for them to confirm. Commits stall
// for some 10 ms.
//
// The package has one goroutine: the commit that SetSync wants to see waiting; it
// ends before SetSync returns.
package checks
