package drill_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// benchReport is what `make bench` has measured of failovers and of the steady
// state: bench.json, of which bench.md is the table. A slice that is measured
// again takes the place of what was there of it, so that slices add up.
type benchReport struct {
	Failovers []failover `json:"failovers"`
	Steady    []steady   `json:"steady"`
}

// origin is where figures come from.
type origin struct {
	System   string            `json:"system"`
	Measured time.Time         `json:"measured"`
	Machine  string            `json:"machine"`
	Programs map[string]string `json:"programs"` // versions
	Command  string            `json:"command"`
}

// failover is what was measured of one fault.
type failover struct {
	Origin origin `json:"origin"`
	Fault  string `json:"fault"`
	Mode   string `json:"mode"` // of durability
	// Pauses are the longest times without an acknowledged row, one of each run,
	// in milliseconds; Quiet those of the second before each fault, which is what
	// the machine does to the measuring by itself.
	Pauses []float64 `json:"pauses_ms"`
	Quiet  []float64 `json:"quiet_ms"`
	Lost   int64     `json:"rows_lost"` // in all runs
	// Doubled is in how many runs two servers took writes at once.
	Doubled int `json:"two_primaries"`
}

// steady is what was measured of a cluster to which nothing happens.
type steady struct {
	Origin  origin  `json:"origin"`
	Seconds float64 `json:"seconds"` // each half lasted
	// Of the member that needs most: sums of its processes without PostgreSQL.
	RSS       float64 `json:"rss_mb"`
	PSS       float64 `json:"pss_mb"`
	IdleCPU   float64 `json:"cpu_idle_percent"`
	BusyCPU   float64 `json:"cpu_writing_percent"`
	IdleRaft  float64 `json:"raft_idle_per_minute"` // entries in Consul's Raft log
	BusyRaft  float64 `json:"raft_writing_per_minute"`
	RowsASec  int     `json:"rows_per_second"`
	ChangesIn int     `json:"consul_changes"` // parts of Consul's state that changed while rows were written
}

// consulAlone is the system whose steady state is that of Consul with no members.
const consulAlone = "consul"

func (f *failover) add(r *drill.Report) {
	f.Pauses = append(f.Pauses, r.Routes[0].PauseMs)
	f.Quiet = append(f.Quiet, r.Routes[0].QuietMs)
	f.Lost += r.Rows.Lost
	if len(r.Overlaps) > 0 {
		f.Doubled++
	}
}

func (f failover) median() float64 {
	sorted := slices.Sorted(slices.Values(f.Pauses))
	n := len(sorted)
	if n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[n/2]
}

func (f failover) worst() float64 { return slices.Max(f.Pauses) }

func (r *benchReport) setFailover(f failover) {
	r.Failovers = slices.DeleteFunc(r.Failovers, func(old failover) bool {
		return old.Origin.System == f.Origin.System && old.Fault == f.Fault && old.Mode == f.Mode
	})
	r.Failovers = append(r.Failovers, f)
	order := func(f failover) string {
		return fmt.Sprintf("%s %s %03d %s", f.Origin.System, f.Mode, slices.Index(slices.Concat(beside, alone), f.Fault), f.Fault)
	}
	slices.SortFunc(r.Failovers, func(a, b failover) int { return strings.Compare(order(a), order(b)) })
}

func (r *benchReport) setSteady(s steady) {
	r.Steady = slices.DeleteFunc(r.Steady, func(old steady) bool { return old.Origin.System == s.Origin.System })
	r.Steady = append(r.Steady, s)
	slices.SortFunc(r.Steady, func(a, b steady) int { return strings.Compare(a.Origin.System, b.Origin.System) })
}

// origin describes the system, the machine, and how to measure again.
func (s system) origin(b testing.TB, benchmark string) origin {
	o := origin{System: s.name, Measured: time.Now().UTC().Truncate(time.Second), Machine: machine(), Programs: map[string]string{"Go": runtime.Version()},
		Command: fmt.Sprintf("make bench BENCH='%s/%s'", benchmark, s.name)}
	note := func(name string, words int, argv ...string) {
		out, err := exec.Command(argv[0], argv[1:]...).Output()
		if err != nil {
			b.Fatalf("ask %s for its version: %v", name, err)
		}
		if fields := strings.Fields(string(out)); len(fields) > words {
			o.Programs[name] = strings.TrimPrefix(fields[words], "v")
		}
	}
	consul, err := programs.Consul()
	if err != nil {
		b.Fatal(err)
	}
	haproxy, err := programs.HAProxy()
	if err != nil {
		b.Fatal(err)
	}
	bin, err := programs.PostgresBin()
	if err != nil {
		b.Fatal(err)
	}
	note("Consul", 1, consul, "version")
	note("HAProxy", 2, haproxy, "-v")
	note("PostgreSQL", 2, filepath.Join(bin, "postgres"), "--version")
	switch {
	case s.patroni != nil:
		version, _ := patroniVersion()
		o.Programs["Patroni"] = version
	case s.name == ownSystem:
		note("pgsidecar", 0, "git", "describe", "--tags", "--always", "--dirty")
	}
	return o
}

// machine says on what the figures were measured.
func machine() string {
	value := func(file, key string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			return ""
		}
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, key); ok {
				return strings.Trim(strings.TrimSpace(strings.TrimLeft(rest, " \t:=")), `"`)
			}
		}
		return ""
	}
	var kilobytes int
	_, _ = fmt.Sscanf(value("/proc/meminfo", "MemTotal"), "%d", &kilobytes)
	kernel := value("/proc/version", "Linux version")
	if fields := strings.Fields(kernel); len(fields) > 0 {
		kernel = fields[0]
	}
	return fmt.Sprintf("%d cores (%s), %d GB, Linux %s, %s", runtime.NumCPU(), value("/proc/cpuinfo", "model name"), (kilobytes+1<<19)>>20,
		kernel, value("/etc/os-release", "PRETTY_NAME"))
}

// record changes the report that BENCHREPORT names (a path without an ending:
// PATH.json and PATH.md); without it nothing is kept.
func record(b testing.TB, change func(*benchReport)) {
	path := os.Getenv("BENCHREPORT")
	if path == "" {
		return
	}
	r, err := loadBenchReport(path + ".json")
	if err != nil {
		b.Fatal(err)
	}
	change(r)
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path+".json", append(text, '\n'), 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path+".md", r.table(b), 0o644); err != nil {
		b.Fatal(err)
	}
}

func loadBenchReport(path string) (*benchReport, error) {
	r := new(benchReport)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

// duration writes milliseconds as a person would.
func duration(ms float64) string {
	if ms < 1000 {
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}

// cell is what the table says of a fault with a system.
func (r *benchReport) cell(system, fault, mode string) string {
	i := slices.IndexFunc(r.Failovers, func(f failover) bool {
		return f.Origin.System == system && f.Fault == fault && f.Mode == mode
	})
	if i < 0 {
		return "not measured"
	}
	f := r.Failovers[i]
	text := fmt.Sprintf("%s / %s (%d)", duration(f.median()), duration(f.worst()), len(f.Pauses))
	if f.Lost > 0 {
		text += fmt.Sprintf("; %d rows lost", f.Lost)
	}
	if f.Doubled > 0 {
		text += fmt.Sprintf("; two primaries in %d of %d", f.Doubled, len(f.Pauses))
	}
	return text
}

// steadyCell writes one figure of a system's steady state.
func (r *benchReport) steadyCell(system, format string, figure func(steady) float64) string {
	i := slices.IndexFunc(r.Steady, func(s steady) bool { return s.Origin.System == system })
	if i < 0 {
		return "not measured"
	}
	return fmt.Sprintf(format, figure(r.Steady[i]))
}

// origins are the different ones of a system, in words.
func (r *benchReport) origins(system string) []string {
	var all []origin
	for _, f := range r.Failovers {
		all = append(all, f.Origin)
	}
	for _, s := range r.Steady {
		all = append(all, s.Origin)
	}
	var lines []string
	for _, o := range all {
		if o.System != system {
			continue
		}
		var versions []string
		for _, name := range slices.Sorted(maps.Keys(o.Programs)) {
			versions = append(versions, name+" "+o.Programs[name])
		}
		line := fmt.Sprintf("%s, %s; on %s: `%s`", o.Measured.Format("2006-01-02"), strings.Join(versions, ", "), o.Machine, o.Command)
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// quietest is the longest pause before any fault with a system.
func (r *benchReport) quietest(system string) string {
	var all []float64
	for _, f := range r.Failovers {
		if f.Origin.System == system {
			all = append(all, f.Quiet...)
		}
	}
	if len(all) == 0 {
		return "not measured"
	}
	slices.Sort(all)
	return fmt.Sprintf("%s / %s", duration(all[len(all)/2]), duration(all[len(all)-1]))
}

var benchTemplate = template.Must(template.New("bench.md").Parse(`# Failovers and the steady state, beside Patroni

Written by ` + "`make bench`" + `, with every single figure in bench.json.

Three members, one Consul server with an agent on each host, HAProxy, and four connections that write rows as fast as they are
acknowledged, on one machine, each host in a network namespace of its own. A pause is the longest time in which no row was
acknowledged through HAProxy: median / worst (runs). Nothing was lost and no two servers took writes at once, but where it is said.

| fault | {{range .Columns}}{{.Title}} | {{end}}
|---|{{range .Columns}}--:|{{end}}
{{range $fault := .Beside}}| {{$fault}} | {{range $.Columns}}{{$.Report.Cell .System $fault "quorum"}} | {{end}}
{{end}}| sidecar-stopped, async | {{range .Columns}}{{$.Report.Cell .System "sidecar-stopped" "async"}} | {{end}}
| the second before a fault | {{range .Columns}}{{$.Report.Quietest .System}} | {{end}}

{{range .Why}}- {{.}}
{{end}}
The other faults in which the role of primary moves, with pgsidecar alone (some are of what Patroni does not have):

| fault | pgsidecar |
|---|--:|
{{range $fault := .Alone}}| {{$fault}} | {{$.Report.Cell "pgsidecar" $fault "quorum"}} |
{{end}}
## The steady state

Of the member that needs most, without PostgreSQL itself. Raft: entries in the log of Consul's servers, less those of the same
Consul with no members ({{.Alone1}} a minute).

| | {{range .Columns}}{{.Title}} | {{end}}
|---|{{range .Columns}}--:|{{end}}
{{range $row := .Steady}}| {{$row.Title}} | {{range $row.Cells}}{{.}} | {{end}}
{{end}}
## What was measured, and how

- pgsidecar: quorum mode, one of two standbys holds each commit; its defaults. Processes: sidecar and guard.
- Patroni, fastest: ttl 20 (half of it is the session's TTL, of which Consul accepts 10 s as the least), loop_wait 1 and
  retry_timeout 3 (the least that its documentation accepts), primary_start_timeout 0, HAProxy ` + "`inter 1s fall 1 rise 1`" + `.
- Patroni, defaults: ttl 30, loop_wait 10, retry_timeout 10, primary_start_timeout 300, HAProxy ` + "`inter 3s fall 3 rise 2`" + ` as in
  the example of its package.
- Both of Patroni: synchronous_mode with one synchronous standby (this version has no quorum commit), use_pg_rewind, checksums, the
  PostgreSQL parameters that pgsidecar sets for a fast failover, no watchdog; HAProxy asks ` + "`OPTIONS /primary`" + ` and ends the
  sessions of a server that is down. member-killed is Patroni and PostgreSQL there, sidecar-stopped is Patroni stopped (SIGSTOP).
- In async mode (Patroni: synchronous_mode off) one more client writes beside each server all the time, past HAProxy.
{{range .Columns}}{{$title := .Title}}{{range $.Report.Origins .System}}- {{$title}}: {{.}}
{{end}}{{end}}`))

// Cell, Quietest and Origins are for the template.
func (r *benchReport) Cell(system, fault, mode string) string { return r.cell(system, fault, mode) }
func (r *benchReport) Quietest(system string) string          { return r.quietest(system) }
func (r *benchReport) Origins(system string) []string         { return r.origins(system) }

// table is bench.md.
func (r *benchReport) table(t testing.TB) []byte {
	t.Helper()
	type column struct{ System, Title string }
	columns := []column{{ownSystem, "pgsidecar"}, {"patroni-fastest", "Patroni, fastest"}, {"patroni-defaults", "Patroni, defaults"}}
	type row struct {
		Title string
		Cells []string
	}
	background := 0.0
	for _, s := range r.Steady {
		if s.Origin.System == consulAlone {
			background = s.IdleRaft
		}
	}
	var rows []row
	add := func(title, format string, figure func(steady) float64) {
		cells := row{Title: title}
		for _, c := range columns {
			cells.Cells = append(cells.Cells, r.steadyCell(c.System, format, figure))
		}
		rows = append(rows, cells)
	}
	add("memory, RSS", "%.0f MB", func(s steady) float64 { return s.RSS })
	add("memory, PSS", "%.0f MB", func(s steady) float64 { return s.PSS })
	add("processor, idle", "%.2f %%", func(s steady) float64 { return s.IdleCPU })
	add("processor, rows being written", "%.2f %%", func(s steady) float64 { return s.BusyCPU })
	add("Raft writes a minute, idle", "%.0f", func(s steady) float64 { return max(0, s.IdleRaft-background) })
	add("Raft writes a minute, rows being written", "%.0f", func(s steady) float64 { return max(0, s.BusyRaft-background) })
	add("rows written a second", "%.0f", func(s steady) float64 { return float64(s.RowsASec) })
	var why []string
	for _, name := range slices.Concat(beside, alone) {
		s, err := drill.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		why = append(why, fmt.Sprintf("%s: %s", s.Name, s.Why))
	}
	var b bytes.Buffer
	err := benchTemplate.Execute(&b, map[string]any{"Report": r, "Columns": columns, "Beside": beside, "Alone": alone, "Steady": rows,
		"Alone1": fmt.Sprintf("%.0f", background), "Why": why})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
