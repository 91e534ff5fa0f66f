// Package pgbouncer holds the clients of a PgBouncer while the primary changes, by its
// administration console.
//
//	Pooler ─┬─> console    PAUSE, RELOAD, RESUME: a connection for each command
//	        └─> watchdog   a process that resumes if this one dies while clients wait
//
// PAUSE lets the transactions end that are under way and keeps all other clients
// waiting, without an error. A login of PgBouncer's own that PAUSE finds under way
// is cut off and would fail clients later, so such logins are let end first, for
// Options.LoginWait (see console.pause).
//
// After each change it is looked at where PgBouncer leads clients to (SHOW DATABASES): it
// answers RELOAD as if all were well when it cannot read its file.
//
// While clients wait the file is written with the new primary's address; then come
// RELOAD, if the file has changed, and RESUME. What failed is tried again until it
// succeeds. Nobody waits for longer than Options.HoldFor, whatever happens: a timer of
// this process ends the pause, and so does the watchdog, which was given its order
// before PAUSE was sent. It is started before it is needed: to start a process takes
// longer than the pause should.
//
// # Goroutines
//
//	Pooler.Run   pauses and resumes, one step after the other
//	expire       a timer: ends a pause that took too long
//
// Hold and EndHold only wake Run; Pause, Resume and Reload do their work in the caller's
// goroutine, one at a time.
package pgbouncer
