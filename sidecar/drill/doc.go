// Package drill breaks a cluster on purpose and measures from outside, as an
// application sees it, what that did.
//
// # What is measured
//
// Writers insert numbered rows through each way that an application may take
// (Route), and remember which of them were acknowledged, when, and by which
// server on which timeline. A pause is a time in which no row was acknowledged
// on a route. After the drill all rows are read back: one that was acknowledged
// and is not there is lost (Verify). A poller asks Consul's DNS for the primary
// every two milliseconds (DNSPoller), and each member is asked directly, all
// the time, whether it takes a write (Direct); acknowledgements of two servers
// that cannot both have been primary are a second primary (Primaries).
//
// Readers ask by each route, to the primary and to replicas, for the newest row
// that was acknowledged before they ask (Reader): one that a route to the
// primary does not find was answered by a server that is primary no more. When
// the cluster is whole again every member is inspected (Inspect): the same rows,
// no page that fails its checksum, and no index that disagrees with its table.
//
// All clocks are this process's monotonic one: the whole lab is on one machine.
//
// # What measuring costs
//
// On a small machine the measuring would be the load: without a pace the writers of four
// routes took all of two cores. So a drill finds first what a row, a connection and an
// answer of DNS cost there, on all sides together, and asks no more often than a quarter of
// the machine is enough for (Measuring, which the report shows). A pause is then exact to
// the time between two writes of a route.
//
// # A drill
//
// Run starts the measuring, injects the fault of a Scenario, waits for writes
// to go on, undoes the fault, waits for the cluster to be whole, and returns a
// Report.
//
// What a fault breaks is noted in the lab's journal before, so that a drill that
// is killed in the middle is undone by the next one in the same lab.
//
// # Chaos
//
// Chaos injects random faults of the same scenarios, one after the other and now
// and then two at once, while writers go on through HAProxy and beside every
// server; after each fault all rows since the beginning are read back. The seed
// determines the faults, not what they meet (TestChaos, make chaos). With Acts it
// plays what operators do in the faults' place (make chaos ACTS=operator): settings,
// restarts, maintenance, files edited, passwords changed, members that leave, come,
// move and are renamed. After each the cluster is to be healthy again with no command
// but those that a member's status names.
//
// Live.Run does the same with a cluster that is no lab, through its members' API
// and an application's connection string, with fewer faults.
//
// # Results
//
// Results are written as JSON (Schema describes it), as JUnit's XML, and as one
// page with pictures; Report.WriteText is the summary for a terminal. What is
// kept of the last drill, and of nine before it, (Last) lies in Consul under drill/last, where the
// members' API finds it.
//
// # Beside Patroni
//
// The benchmarks (make bench) play the faults with pgsidecar and, where it is
// installed, with Patroni, in the same lab and with the same writers, and measure
// what each needs while nothing happens. What they found last is in bench.md, each
// figure of it in bench.json; a slice that is measured again takes the place of
// the old one. Patroni is run by the tests alone (patroni_test.go).
//
// # Goroutines
//
// Writer.Start starts a goroutine for each of its workers, Reader.Start and
// DNSPoller.Start one; their Stop methods end them and wait for that.
package drill
