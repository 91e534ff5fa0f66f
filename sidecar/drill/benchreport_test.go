package drill_test

import (
	"bytes"
	_ "embed" // the table's text
	"encoding/json"
	"fmt"
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

	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// benchReport is what `make bench` has measured of failovers and of the steady
// state: bench.json, of which bench.md is the
// table (testdata/bench.md.tmpl). A slice that is measured
// again takes the place of what was there of it, so that slices add up.
type benchReport struct {
	Failovers []measuredFailover `json:"failovers"`
	Steady    []steady           `json:"steady"`
}

// origin is where figures come from.
type origin struct {
	System   string            `json:"system"`
	Measured time.Time         `json:"measured"`
	Machine  string            `json:"machine"`
	Programs map[string]string `json:"programs"` // versions
	Load     float64           `json:"load"`     // of one minute, before it began: what else the machine did
	Command  string            `json:"command"`
}

// measuredFailover is what was measured of one fault.
type measuredFailover struct {
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
	// Stuck is in how many runs writes had not gone on when the drill gave up: then
	// their pauses were longer than what was measured.
	Stuck int `json:"stuck"`
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

func (f *measuredFailover) add(r *drill.Report) {
	f.Pauses = append(f.Pauses, r.Routes[0].PauseMs)
	f.Quiet = append(f.Quiet, r.Routes[0].QuietMs)
	f.Lost += r.Rows.Lost
	if len(r.Overlaps) > 0 {
		f.Doubled++
	}
	if r.Routes[0].Pause.Open {
		f.Stuck++
	}
}

func (f measuredFailover) median() float64 {
	sorted := slices.Sorted(slices.Values(f.Pauses))
	n := len(sorted)
	if n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[n/2]
}

func (f measuredFailover) worst() float64 { return slices.Max(f.Pauses) }

func (r *benchReport) setFailover(f measuredFailover) {
	if os.Getenv("BENCHADD") != "" {
		f = r.together(f)
	}
	r.Failovers = slices.DeleteFunc(r.Failovers, func(old measuredFailover) bool {
		return old.Origin.System == f.Origin.System && old.Fault == f.Fault && old.Mode == f.Mode
	})
	r.Failovers = append(r.Failovers, f)
	order := func(f measuredFailover) string {
		return fmt.Sprintf("%s %s %03d %s", f.Origin.System, f.Mode, slices.Index(slices.Concat(beside, alone), f.Fault), f.Fault)
	}
	slices.SortFunc(r.Failovers, func(a, b measuredFailover) int { return strings.Compare(order(a), order(b)) })
}

// together is a slice with what was measured before of the same, by the same programs:
// a round after the other, with those of another system between them.
func (r *benchReport) together(f measuredFailover) measuredFailover {
	for _, old := range r.Failovers {
		if old.Origin.System != f.Origin.System || old.Fault != f.Fault || old.Mode != f.Mode || !maps.Equal(old.Origin.Programs, f.Origin.Programs) {
			continue
		}
		old.Origin.Load = max(old.Origin.Load, f.Origin.Load)
		old.Pauses, old.Quiet = append(old.Pauses, f.Pauses...), append(old.Quiet, f.Quiet...)
		old.Lost, old.Doubled, old.Stuck = old.Lost+f.Lost, old.Doubled+f.Doubled, old.Stuck+f.Stuck
		return old
	}
	return f
}

func (r *benchReport) setSteady(s steady) {
	r.Steady = slices.DeleteFunc(r.Steady, func(old steady) bool { return old.Origin.System == s.Origin.System })
	r.Steady = append(r.Steady, s)
	slices.SortFunc(r.Steady, func(a, b steady) int { return strings.Compare(a.Origin.System, b.Origin.System) })
}

// origin describes the system, the machine, and how to measure again.
func (s system) origin(b testing.TB, benchmark string) origin {
	o := origin{System: s.name, Measured: time.Now().UTC().Truncate(time.Second), Machine: machine(), Programs: map[string]string{"Go": runtime.Version()},
		Command: os.Getenv("BENCHCOMMAND")}
	if o.Command == "" {
		o.Command = fmt.Sprintf("go test -bench '%s/%s' ./sidecar/drill%s", benchmark, s.name, s.settings(benchmark))
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(text), &o.Load)
	}
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
		o.Programs["pgsidecar"] = revision(b)
	}
	return o
}

// settings are those of make bench-beside that were not left to it, as far as
// they matter.
func (s system) settings(benchmark string) (text string) {
	names := []string{"FEWRUNS"}
	switch {
	case benchmark == "SteadyState":
		names = []string{"STEADY"}
	case s.patroni == nil:
		names = []string{"BENCHRUNS", "FEWRUNS"}
	}
	for _, name := range names {
		if value := os.Getenv(name); value != "" {
			text += " " + name + "=" + value
		}
	}
	return text
}

// revision is the commit that is measured. The report itself may have changed
// since.
func revision(b testing.TB) string {
	if known := os.Getenv("REVISION"); known != "" { // where there is no git
		return known
	}
	out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	commit := strings.TrimSpace(string(out))
	if exec.Command("git", "diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)sidecar/drill/bench.*").Run() != nil {
		commit += " with changes"
	}
	return commit
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
// PATH.json and PATH.md); without it nothing is kept. Two slices may be measured at
// once.
func record(t testing.TB, change func(*benchReport)) {
	t.Helper()
	path := os.Getenv("BENCHREPORT")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path+".json", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // and with it the lock
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	r, err := loadBenchReport(path + ".json")
	if err != nil {
		t.Fatal(err)
	}
	change(r)
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".json", append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".md", r.table(t), 0o644); err != nil {
		t.Fatal(err)
	}
}

func loadBenchReport(path string) (*benchReport, error) {
	r := new(benchReport)
	text, err := os.ReadFile(path)
	if err != nil || len(text) == 0 {
		return r, err
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
	i := slices.IndexFunc(r.Failovers, func(f measuredFailover) bool {
		return f.Origin.System == system && f.Fault == fault && f.Mode == mode
	})
	if i < 0 {
		return notMeasured
	}
	f := r.Failovers[i]
	if f.Stuck > 0 {
		return fmt.Sprintf("no writes for more than %s in %d of %d", duration(f.worst()), f.Stuck, len(f.Pauses))
	}
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
		return notMeasured
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

// quietest is the median and the longest pause before the faults with a system.
func (r *benchReport) quietest(system string) string {
	var f measuredFailover
	for _, other := range r.Failovers {
		if other.Origin.System == system {
			f.Pauses = append(f.Pauses, other.Quiet...)
		}
	}
	if len(f.Pauses) == 0 {
		return notMeasured
	}
	return fmt.Sprintf("%s / %s", duration(f.median()), duration(f.worst()))
}

// patroniSync says by which synchronous mode of Patroni its figures were measured.
func (r *benchReport) patroniSync() string {
	for _, f := range r.Failovers {
		if version := f.Origin.Programs["Patroni"]; syncMode(version, true) == "quorum" {
			return "synchronous_mode quorum: any one of two standbys holds each commit"
		}
	}
	return "synchronous_mode with one synchronous standby (quorum commit came later than this version)"
}

// loads is what else the machine did while a system was measured.
func (r *benchReport) loads(system string) string {
	var all []float64
	for _, f := range r.Failovers {
		if f.Origin.System == system {
			all = append(all, f.Origin.Load)
		}
	}
	if len(all) == 0 {
		return notMeasured
	}
	return fmt.Sprintf("%.1f to %.1f", slices.Min(all), slices.Max(all))
}

const notMeasured = "not measured"

//go:embed testdata/bench.md.tmpl
var benchText string

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
	page := template.Must(template.New("bench.md").Funcs(template.FuncMap{"cell": r.cell, "quiet": r.quietest, "load": r.loads, "origins": r.origins, "sync": r.patroniSync}).Parse(benchText))
	var b bytes.Buffer
	err := page.Execute(&b, map[string]any{"Columns": columns, "Beside": beside, "Alone": alone, "Steady": rows,
		"Background": fmt.Sprintf("%.0f", background), "Why": why})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestBenchReport holds bench.md to what bench.json says. With BENCHREPORT=bench it
// writes it anew.
func TestBenchReport(t *testing.T) {
	record(t, func(*benchReport) {})
	r, err := loadBenchReport("bench.json")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("bench.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := r.table(t); !bytes.Equal(text, want) {
		t.Errorf("bench.md is not the table of bench.json; BENCHREPORT=bench go test -run TestBenchReport writes it:\n%s", want)
	}
}

// TestBenchReportAddsUp measures twice, by hand: a slice takes the place of what
// was there of it and of nothing else, and what is bad is in the table.
func TestBenchReportAddsUp(t *testing.T) {
	t.Setenv("BENCHREPORT", filepath.Join(t.TempDir(), "bench"))
	set := func(system, fault string, lost int64, pauses ...float64) {
		record(t, func(r *benchReport) {
			r.setFailover(measuredFailover{Origin: origin{System: system}, Fault: fault, Mode: "quorum", Pauses: pauses, Lost: lost, Doubled: min(1, int(lost))})
		})
	}
	set(ownSystem, "cut-off", 0, 100)
	set("patroni-fastest", "cut-off", 7, 30_000, 20_000, 22_340)
	set(ownSystem, "switchover", 0, 50)
	set(ownSystem, "cut-off", 0, 2100, 2300)
	t.Setenv("BENCHADD", "yes") // the rounds of another are kept
	set(ownSystem, "host-lost", 0, 2000)
	set(ownSystem, "host-lost", 0, 3000, 2500)
	record(t, func(r *benchReport) { r.setSteady(steady{Origin: origin{System: consulAlone}, IdleRaft: 10}) })
	record(t, func(r *benchReport) {
		r.setSteady(steady{Origin: origin{System: ownSystem}, IdleRaft: 12, BusyRaft: 9, RSS: 43})
	})
	text, err := os.ReadFile(os.Getenv("BENCHREPORT") + ".md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| switchover | 50 ms / 50 ms (1) | not measured | not measured |",
		"| host-lost | 2.5 s / 3.0 s (3) | not measured | not measured |",
		"| cut-off | 2.2 s / 2.3 s (2) | 22.3 s / 30.0 s (3); 7 rows lost; two primaries in 1 of 3 | not measured |",
		"| Raft writes a minute, idle | 2 | not measured | not measured |",
		"| Raft writes a minute, rows being written | 0 | not measured | not measured |",
		"| memory, RSS | 43 MB |",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the table lacks %q:\n%s", want, text)
		}
	}
}
