package sidecar

import (
	"maps"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestLagClock: who has not replayed what the leader had a while ago is behind since
// then; who has, and whoever is not known, is not; a cluster at rest has nobody
// behind.
func TestLagClock(t *testing.T) {
	const second = ha.Instant(time.Second)
	var g lagClock
	at := func(now ha.Instant, head ha.LSN, replayed map[string]ha.LSN) map[string]ha.Instant {
		o := ha.Observation{Now: now, Self: "n1"}
		o.Consul.Record.Leader = "n1"
		for _, name := range []string{"n2", "n3"} {
			if lsn := replayed[name]; lsn != 0 {
				o.Peers = append(o.Peers, ha.Peer{Member: name, ReceivedAt: now, Report: ha.Report{Position: ha.Position{TLI: 3, LSN: head}, Replay: lsn}})
			}
		}
		return g.behind(&o, ha.Report{Position: ha.Position{TLI: 3, LSN: head}})
	}
	same := func(name string, got, want map[string]ha.Instant) {
		t.Helper()
		if !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	same("all there", at(10*second, 100, map[string]ha.LSN{"n2": 100, "n3": 100}), map[string]ha.Instant{})
	same("n3 stands", at(11*second, 200, map[string]ha.LSN{"n2": 200, "n3": 100}), map[string]ha.Instant{"n3": 11 * second})
	same("a while", at(15*second, 300, map[string]ha.LSN{"n2": 250, "n3": 150}), map[string]ha.Instant{"n2": 15 * second, "n3": 11 * second})
	same("at rest", at(1000*second, 300, map[string]ha.LSN{"n2": 300, "n3": 300}), map[string]ha.Instant{})
	same("not heard", at(1001*second, 400, map[string]ha.LSN{"n2": 300}), map[string]ha.Instant{"n2": 1001 * second})
	for i := range ha.LSN(2 * lagMarks) {
		at(2000*second+ha.Instant(i)*second, 1000+i, nil)
	}
	if n := len(g.marks); n > lagMarks {
		t.Errorf("%d marks are kept", n)
	}
	same("longer than is remembered", at(20000*second, 1<<20, map[string]ha.LSN{"n2": 300}), map[string]ha.Instant{"n2": g.marks[0].at})
}
