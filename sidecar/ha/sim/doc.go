// Package sim drives the product's core, ha.Decide, through a simulated world
// of faults and looks for a broken promise after every step.
//
// One seed is one run, byte for byte: the only sources of order are the event
// queue (time, then the sequence in which events were made) and generators
// seeded from the run's seed. There is no goroutine, no clock and no map in a
// run. A World is used by one goroutine at a time.
//
// # What is simulated
//
//   - time: each member's Instant is its own drifting clock (clock.go);
//   - Consul: a linearizable record and lock, sessions whose TTL ends anywhere
//     in one to two TTLs, requests and replies that are late or lost, watches
//     (consul.go is the server, client.go a member's connection to it);
//   - PostgreSQL: write-ahead log as records with an owner timeline, receive
//     and flush apart, walsenders with each its own view of
//     synchronous_standby_names, standbys of standbys, crash recovery,
//     promotion, pg_rewind, after which a server takes no connections before it
//     has received what it needs (server.go, wal.go, stream.go, files.go);
//   - the guard: ends the server at the end of its lease, whatever became of
//     the sidecar (guard.go);
//   - the sidecar's shell: observe, decide, act, report (sidecar.go, observe.go,
//     act.go, operation.go), and the streams between members (reports.go);
//   - writers beside every server, so that a deposed primary is written to as
//     well: that is what finds lost commits (wal.go);
//   - faults: crashes, pauses, partitions, lost sessions, full disks, operators,
//     at any time or at the very step that they may spoil (draw.go, faults.go,
//     operator.go);
//   - faults from outside of the protocol, each off by default (outside.go):
//     hosts and disks that do not come back, and disks that hang (disk.go),
//     histories that people make (byhand.go), Consul put back, emptied or
//     damaged, and programs of two versions (restore.go), the cluster restored in
//     place from a backup (inplace.go); and an operator, who
//     types what status names where a cluster does not mend itself (rescue.go).
//
// A script (script.go, testdata) is an incident by hand: nothing is drawn in it.
//
// # What is checked
//
// See check.go: acknowledged commits survive every later promotion (loss.go: what may
// be lost), S4 holds at
// every acknowledgement and every change of the record or of the setting as any
// walsender sees it, async mode has one writer at a time, one leader per term,
// one history per timeline, nothing half-made serves, nothing unsafe becomes
// visible, a healthy primary is left alone, and when faults cease the cluster
// comes back in bounded time.
//
// # A failing seed
//
// The tests print its story, shrunk: Shrink drops faults and shortens the run
// while it still fails. Mutations (mutation.go) break one rule each, and the
// tests demand that the simulation notices.
package sim
