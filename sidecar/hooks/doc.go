// Package hooks tells the world outside what becomes of a member: by commands that
// it runs (block hook) and by requests that it sends (block notify). Patroni calls
// the first callbacks.
//
//	member ── Tell(Event) ──> a line for each target ──> command or request
//
// A target is a hook or a notice. Each has a line of its own and a goroutine of its
// own, so that one that hangs delays no other, and nothing here is ever in the way of
// a failover: Tell returns at once.
//
// What a target is told:
//
//   - Roles (primary, replica, stopped) are states. Only the newest counts: it takes
//     the place of one that still waits, and ends a command that still runs for an
//     earlier one. A slow command that moves an address is so never run for a role
//     that is over, after the one for the role that holds.
//   - The rest (failover, blocked, unblocked, drill, backup, founded) are events. They are told
//     in their order; of more than lineLength that wait, the oldest are dropped, which
//     is logged.
//
// before_promote and before_stop are the exception: the operation waits for their
// commands (Before), for the hook's time-out at most.
//
// # Goroutines
//
//	name    owner            ends when                       does
//	target  Dispatcher.Set   ctx is done, or Set drops it    runs the command, or sends the request
package hooks
