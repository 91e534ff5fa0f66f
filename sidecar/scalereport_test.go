package sidecar_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
)

// cpuOf is what a process has used of the processor, in ticks of 10 ms.
func cpuOf(b testing.TB, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), ") ")
	words := strings.Fields(after)
	user, err := strconv.Atoi(words[11])
	system, err2 := strconv.Atoi(words[12])
	if err := errors.Join(err, err2); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// residentOf is the memory of a process, in MB.
func residentOf(b testing.TB, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		b.Fatal(err)
	}
	return float64(pages) * float64(os.Getpagesize()) / 1e6
}

// connectionsOf is how many sockets a process has open.
func connectionsOf(b testing.TB, pid int) (n int) {
	b.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	files, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	for _, file := range files {
		if to, err := os.Readlink(filepath.Join(dir, file.Name())); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// scaleFigures are a line of the table. Shares are in percent of one core, requests a
// minute and member.
type scaleFigures struct {
	Clusters, Members, Agents, Faults      int
	ServerCPU, AgentsCPU, OwnCPU, ProxyCPU float64
	Raft                                   float64 // writes a minute
	ServerMB, OwnMB, ProxyMB               float64
	Asked                                  map[string]float64
	Goroutines, Connections                float64 // of a member
	LastTag, LastRecord                    time.Duration
	Phases                                 map[string][2]time.Duration // after the loss: at the median, and the last
}

func (r *scaleFigures) total() (sum float64) {
	for _, n := range r.Asked {
		sum += n
	}
	return sum
}

func (r *scaleFigures) report(b *testing.B) {
	b.ReportMetric(0, "ns/op")
	for unit, value := range map[string]float64{
		"server-cpu-%": r.ServerCPU, "agents-cpu-%": r.AgentsCPU, "sidecars-cpu-%": r.OwnCPU, "proxy-cpu-%": r.ProxyCPU, "raft/min": r.Raft,
		"server-MB": r.ServerMB, "proxy-MB": r.ProxyMB, "requests/min-member": r.total(), "goroutines/member": r.Goroutines,
		"connections/member": r.Connections, "last-tag-s": r.LastTag.Seconds(), "last-record-s": r.LastRecord.Seconds(),
	} {
		b.ReportMetric(value, unit)
	}
	for _, p := range new(failover.Record).Phases() {
		b.Logf("%s after %s at the median, %s at last", p.Name, r.Phases[p.Name][0], r.Phases[p.Name][1])
	}
	for _, operation := range slices.Sorted(maps.Keys(r.Asked)) {
		b.Logf("%6.2f requests a minute and member: %s", r.Asked[operation], operation)
	}
}

// scaleReport is the file that make bench-scale writes.
func scaleReport(rows []scaleFigures) string {
	var text strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) }
	line("# Many clusters on one Consul\n")
	line("Written by `make bench-scale`. Sidecars and Consul are real; PostgreSQL, guards and the streams between")
	line("members are stand-ins. Each is looked at for %s while nothing changes; then the servers of so many", scaleWindow)
	line("primaries are killed at once. The proxy is one process that follows every cluster, and the last record and")
	line("the last tag are what it saw last. Processor: percent of one core. Requests: a minute and member, without")
	line("blocking queries. Members share the client agents, of which in life each host has one.\n")
	line("| clusters | members | Consul server | agents | sidecars | proxy | Raft writes a minute | server | proxy | goroutines | connections | requests | killed | last record | last tag |")
	line("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, r := range rows {
		line("| %d | %d | %.1f %% | %.1f %% | %.1f %% | %.1f %% | %.0f | %.0f MB | %.0f MB | %.0f | %.1f | %.0f | %d | %.1f s | %.1f s |", r.Clusters, r.Clusters*r.Members,
			r.ServerCPU, r.AgentsCPU, r.OwnCPU, r.ProxyCPU, r.Raft, r.ServerMB, r.ProxyMB, r.Goroutines, r.Connections, r.total(), r.Faults, r.LastRecord.Seconds(), r.LastTag.Seconds())
	}
	line("\nWhen the clusters whose primaries were killed went through each phase, by their own account, in ms after")
	line("the loss: at the median, and the last.\n")
	names := each(rows, func(r scaleFigures) string { return fmt.Sprintf("%d × %d", r.Clusters, r.Members) })
	line("| phase | %s |\n|:--|%s", strings.Join(names, " | "), strings.Repeat("--:|", len(rows)))
	for _, p := range new(failover.Record).Phases() {
		line("| %s | %s |", p.Name, strings.Join(each(rows, func(r scaleFigures) string {
			return fmt.Sprintf("%d, %d", r.Phases[p.Name][0].Milliseconds(), r.Phases[p.Name][1].Milliseconds())
		}), " | "))
	}
	line("\nGoroutines, connections and requests are a member's. What a member asks of Consul in a minute:\n")
	line("| request | %s |", strings.Join(names, " | "))
	line("|:--|%s", strings.Repeat("--:|", len(rows)))
	for _, operation := range slices.Sorted(maps.Keys(rows[0].Asked)) {
		if cells := each(rows, func(r scaleFigures) string { return fmt.Sprintf("%.1f", r.Asked[operation]) }); strings.Trim(strings.Join(cells, ""), "0.") != "" {
			line("| %s | %s |", operation, strings.Join(cells, " | "))
		}
	}
	return text.String()
}

func each(rows []scaleFigures, cell func(scaleFigures) string) (cells []string) {
	for _, r := range rows {
		cells = append(cells, cell(r))
	}
	return cells
}
