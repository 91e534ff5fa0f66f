package drill_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// steadyTime is how long each half of BenchmarkSteadyState lasts: STEADY, or a
// minute.
func steadyTime(b *testing.B) time.Duration {
	text := os.Getenv("STEADY")
	if text == "" {
		return time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// BenchmarkSteadyState reports, of a cluster to which nothing happens, first while
// it idles and then while rows are written all the time: the memory and the
// processor time of what runs a member (a sidecar and its guard, or Patroni; of
// the member that needs most), and how much is written to Consul. What Consul
// writes to itself is measured without members. With BENCHREPORT the figures go
// into the table (see benchReport).
func BenchmarkSteadyState(b *testing.B) {
	b.Run(consulAlone, func(b *testing.B) {
		l := up(b, lab.Options{})
		s := steady{Origin: system{name: consulAlone}.origin(b, "SteadyState"), Seconds: steadyTime(b).Seconds()}
		wait(b, 20*time.Second)
		s.IdleRaft = raftPerMinute(b, l, func() { wait(b, steadyTime(b)) })
		b.ReportMetric(s.IdleRaft, "raft/min-idle")
		b.ReportMetric(0, "ns/op")
		record(b, func(r *benchReport) { r.setSteady(s) })
	})
	for _, s := range systems() {
		b.Run(s.name, func(b *testing.B) { s.steadyState(b, cluster(b, s.options(b, lab.Options{}))) })
	}
}

func (s system) steadyState(b *testing.B, l *lab.Lab) {
	figures := steady{Origin: s.origin(b, "SteadyState"), Seconds: steadyTime(b).Seconds()}
	wait(b, 20*time.Second) // checkpoints and first looks
	half := func() (cpu float64) {
		before := s.usages(b, l)
		wait(b, steadyTime(b))
		for i, now := range s.usages(b, l) {
			cpu = max(cpu, 100*(now.cpu-before[i].cpu).Seconds()/steadyTime(b).Seconds())
			figures.RSS, figures.PSS = max(figures.RSS, now.rss), max(figures.PSS, now.pss)
		}
		return cpu
	}
	figures.IdleRaft = raftPerMinute(b, l, func() { figures.IdleCPU = half() })

	client, err := l.ConsulClient(l.Plan().App().Name)
	if err != nil {
		b.Fatal(err)
	}
	heart, err := drill.NewHeartbeat(b.Context(), l)
	if err != nil {
		b.Fatal(err)
	}
	wait(b, 5*time.Second)
	heart.Beat(time.Now())
	first := indexes(b, client)
	figures.BusyRaft = raftPerMinute(b, l, func() { figures.BusyCPU = half() })
	figures.RowsASec = heart.Beat(time.Now()).Writes
	last := indexes(b, client)
	heart.Stop()
	for name, index := range last {
		if index == first[name] {
			continue
		}
		figures.ChangesIn++
		if s.patroni == nil {
			b.Errorf("%s changed while nothing happened: index %d, then %d", name, first[name], index)
		}
	}
	b.ReportMetric(figures.IdleCPU, "%cpu-idle")
	b.ReportMetric(figures.BusyCPU, "%cpu-writing")
	b.ReportMetric(figures.RSS, "MB-rss")
	b.ReportMetric(figures.PSS, "MB-pss")
	b.ReportMetric(figures.IdleRaft, "raft/min-idle")
	b.ReportMetric(figures.BusyRaft, "raft/min-writing")
	b.ReportMetric(float64(figures.ChangesIn), "consul-changes")
	b.ReportMetric(float64(figures.RowsASec), "rows/s")
	b.ReportMetric(0, "ns/op")
	record(b, func(r *benchReport) { r.setSteady(figures) })
}

// raftPerMinute returns how many entries a minute Consul's servers append to their
// log while f runs: every write to Consul is one, whatever it concerns.
func raftPerMinute(b *testing.B, l *lab.Lab, f func()) float64 {
	client, err := l.ConsulClient(l.Plan().Servers()[0].Name)
	if err != nil {
		b.Fatal(err)
	}
	index := func() float64 {
		self, err := client.Agent().Self()
		if err != nil {
			b.Fatal(err)
		}
		raft, _ := self["Stats"]["raft"].(map[string]any)
		text, _ := raft["applied_index"].(string)
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			b.Fatalf("read Consul's applied_index: %v", err)
		}
		return float64(n)
	}
	before, began := index(), time.Now()
	f()
	return (index() - before) / time.Since(began).Minutes()
}

// wait lets time pass: it is what is measured here.
func wait(b *testing.B, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-b.Context().Done():
		b.Fatal(b.Context().Err())
	}
}

// usage is what processes have used and hold.
type usage struct {
	cpu      time.Duration
	rss, pss float64 // in MB; pss shares what several processes map among them
}

// usages returns, of each member, what runs it: all processes but PostgreSQL's.
func (s system) usages(b *testing.B, l *lab.Lab) (all []usage) {
	own := []lab.Program{lab.Sidecar, lab.Guard}
	if s.patroni != nil {
		own = own[:1]
	}
	for _, m := range l.Plan().Members() {
		var sum usage
		for _, program := range own {
			pid, err := l.PID(m.Name, program)
			if err != nil {
				b.Fatal(err)
			}
			sum.cpu += processorTime(b, pid)
			sum.rss += float64(kilobytes(b, pid, "Rss:")) / 1024
			sum.pss += float64(kilobytes(b, pid, "Pss:")) / 1024
		}
		all = append(all, sum)
	}
	return all
}

// processorTime returns how long a process has computed.
func processorTime(b *testing.B, pid int) (cpu time.Duration) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	// Behind the name, which may hold anything: state is the first field, utime
	// and stime the 12th and 13th in hundredths of a second (proc(5)).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, text := range fields[11:13] {
		ticks, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	return cpu
}

// kilobytes reads a line of what a process has in memory.
func kilobytes(b *testing.B, pid int, name string) int {
	all, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(all)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == name {
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatalf("process %d: smaps_rollup has no %s", pid, name)
	return 0
}

// indexes are those of what pgsidecar writes in Consul: each write to Raft that
// concerns it raises one of them. (Consul's own coordinates raise none.)
func indexes(b *testing.B, c *api.Client) map[string]uint64 {
	q := (&api.QueryOptions{RequireConsistent: true}).WithContext(b.Context())
	found := make(map[string]uint64)
	note := func(name string, meta *api.QueryMeta, err error) {
		if err != nil {
			b.Fatal(err)
		}
		found[name] = meta.LastIndex
	}
	_, meta, err := c.KV().List("", q)
	note("key-value store", meta, err)
	_, meta, err = c.Session().List(q)
	note("sessions", meta, err)
	_, meta, err = c.Health().State(api.HealthAny, q)
	note("checks", meta, err)
	_, meta, err = c.Catalog().Services(q)
	note("services", meta, err)
	_, meta, err = c.Catalog().Nodes(q)
	note("nodes", meta, err)
	return found
}
