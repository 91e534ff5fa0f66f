// Package guard is the small process between the sidecar and PostgreSQL: the
// parent of the postmaster, which ends it when its lease ends (rule S5), also
// when the sidecar is dead, stopped or starved.
//
//	pgsidecar run ──socket──> pgsidecar guard ──parent of──> postgres
//	  Client                    Serve, keeper                  backends
//
// # What it promises
//
// Nothing of an armed server runs when its lease ends. The deadline is an
// instant of CLOCK_BOOTTIME, which counts suspend, and a timerfd on that clock
// waits for it. A tenth of the lease before the end (50 ms to 500 ms) the
// postmaster gets SIGQUIT, PostgreSQL's immediate shutdown; a fifth of that time
// later SIGKILL goes to it and to all its descendants, from the keeper and, in
// case it is held up, from two sentinels (sentinel.go). Backends call setsid, so
// no process group holds them all: the guard is a child subreaper
// (PR_SET_CHILD_SUBREAPER), so a process that loses its parent becomes its child, and
// nothing is left exactly when wait says that it has no child.
//
// A machine that suspends itself across the end of the lease runs neither server nor
// guard; when it goes on, the guard kills first thing, and a backend may run for the
// few microseconds until then. A machine that its hypervisor stops (pause, snapshot,
// migration) is another case: its clocks stop with it, CLOCK_BOOTTIME too, so that
// guard and sidecar believe after it that the lease still runs. In async mode there can
// then be two primaries for up to a lease; only a watchdog outside of the machine could
// end that. Quorum mode loses nothing by it: no clock is in its argument.
//
// When the postmaster exits by itself, what it left is killed before anybody is
// told, so a server that is said to be down cannot acknowledge a commit.
//
// PostgreSQL dies with the guard: the kernel sends the postmaster SIGQUIT when
// the thread that started it ends (PR_SET_PDEATHSIG), and that thread ends only
// with the process. SIGQUIT and not SIGKILL, because backends outlive a killed
// postmaster until they next wait for their client, while on SIGQUIT it takes
// them with it. A stopped postmaster does not hear it; so the sidecar, who sees
// its connection break, starts a new guard at once, and a guard, before it
// listens, kills what the one before it left (Sweep). A server that somebody else
// started on the same data directory (pg_ctl, a unit of the distribution) is not the
// guard's to kill: it is told apart by its environment (Stranger), left running, and
// reported, and the sidecar decides. What remains is the case
// of sidecar, guard and postmaster all killed by SIGKILL at one moment: a
// backend then lives until its client pauses, or until the next start. Quorum
// mode loses nothing by it.
//
// # How it stays able to act
//
// What the start alone needed of the program is released (ReleaseProgram: 8 of 21
// MB); then memory is locked as it is touched, the OOM score is the lowest allowed, and
// the scheduling class is SCHED_RR, else nice -20, each if the system lets it.
// PostgreSQL inherits of the three only the postmaster's OOM score, as its
// documentation advises. The deadline's path does no disk or
// network I/O, and waits for nobody: log lines and answers are queued, and
// dropped (log) or the client with them (answers) when nobody takes them.
//
// # Files in the state directory
//
//	guard.lock   held (flock) by the living guard: there is never a second one
//	guard.sock   its socket, mode 0600; one JSON object a line (wire.go)
//	guard.server the data directory of the last server, for the next guard's sweep
//	guard.log    the guard's own log
//
// # Goroutines
//
//	guard process
//	  keeper    Serve, locked to its thread   owns all state, starts and kills
//	  sentinel  newSentinels                  two threads that kill at the end of the lease
//	  alarm     newAlarm                      timerfd to channel
//	  accept    Serve                         one reader and one writer a connection
//	  journal   newJournal                    writes the log
//	  lookout   keeper.watchFor               finds a server that somebody else started, while its own is down
//	  ending    keeper.endStranger            ends that at the end of the lease
//	  trim      keeper.start                  bounds the server's log file
//	sidecar process
//	  Client.run  Attach                      reads, reconnects, starts a new guard
package guard
