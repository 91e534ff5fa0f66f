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

// steadyTime is how long each half of BenchmarkSteadyState lasts;
// STEADY=5m is what the README's figure stands for.
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

// BenchmarkSteadyState reports, of a cluster to which nothing happens: the
// memory and the processor time of a sidecar and its guard while it idles (the
// greatest of the members), and how often Consul's key-value store and catalog
// changed while rows were written all the time.
func BenchmarkSteadyState(b *testing.B) {
	l := cluster(b, lab.Options{})
	length := steadyTime(b)
	members := l.Plan().Members()
	wait(b, 20*time.Second) // checkpoints and first looks

	before := make([]time.Duration, len(members))
	for i, m := range members {
		before[i], _ = usage(b, l, m.Name)
	}
	wait(b, length)
	cpu, memory := 0.0, 0
	for i, m := range members {
		used, resident := usage(b, l, m.Name)
		cpu, memory = max(cpu, 100*float64(used-before[i])/float64(length)), max(memory, resident)
	}
	b.ReportMetric(cpu, "%cpu-idle")
	b.ReportMetric(float64(memory)/(1<<20), "MB-resident")

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
	wait(b, length)
	last := indexes(b, client)
	rows := heart.Beat(time.Now()).Writes
	heart.Stop()
	changed := 0
	for name, index := range last {
		if index != first[name] {
			changed++
			b.Errorf("%s changed while nothing happened: index %d, then %d", name, first[name], index)
		}
	}
	b.ReportMetric(float64(changed), "consul-changes")
	b.ReportMetric(float64(rows), "rows/s")
	b.ReportMetric(0, "ns/op")
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

// usage returns the processor time and the resident memory, in bytes, of a
// member's sidecar and guard together. They run the same program, whose pages
// are in memory once: the larger's count.
func usage(b *testing.B, l *lab.Lab, member string) (cpu time.Duration, memory int) {
	program := 0
	for _, p := range []lab.Program{lab.Sidecar, lab.Guard} {
		pid, err := l.PID(member, p)
		if err != nil {
			b.Fatal(err)
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			b.Fatal(err)
		}
		// Behind the name, which may hold anything: state is the first field,
		// utime and stime the 12th and 13th in hundredths of a second (proc(5)).
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, text := range fields[11:13] {
			ticks, err := strconv.Atoi(text)
			if err != nil {
				b.Fatal(err)
			}
			cpu += time.Duration(ticks) * 10 * time.Millisecond
		}
		resident, anonymous := kilobytes(b, pid, "Rss:"), kilobytes(b, pid, "Anonymous:")
		memory += anonymous << 10
		program = max(program, (resident-anonymous)<<10)
	}
	return cpu, memory + program
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
