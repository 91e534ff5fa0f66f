package drill_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// chaosSlice is how long one lab is used: rows, logs and what is kept aside are
// then thrown away with it.
const chaosSlice = 15 * time.Minute

// wholeTime tells a cluster that is stuck from one that is slow: where sixty processes
// wait for two cores, one pg_rewind takes a minute.
const wholeTime = 5 * time.Minute

// TestChaos injects random faults into real clusters, with writers all the time:
// in quorum mode no acknowledged row is lost and registers are linearizable, and in no mode two servers take
// writes at once. It runs for CHAOSTIME (make chaos: 2h, CI: 5m; none: not at all), a
// quarter of it in async mode, in slices of at most 15 minutes. CHAOSSEED repeats the faults of a
// run whose seed was printed. CHAOSWITHOUT names scenarios to leave out. CHAOSDIR is where reports and, after a failure,
// the logs go; none: they are only printed. ACTS=operator plays what operators do in place
// of the faults, in a lab of CHAOSMEMBERS members (5): at the end all are healthy without a command that no status named.
func TestChaos(t *testing.T) {
	if os.Getenv("CHAOSTIME") == "" {
		t.Skip("CHAOSTIME says for how long: run make chaos")
	}
	total, err := time.ParseDuration(os.Getenv("CHAOSTIME"))
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64N(1_000_000)
	if s := os.Getenv("CHAOSSEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for _, mode := range []struct {
		name string
		time time.Duration
	}{{"quorum", total - total/4}, {"async", total / 4}} {
		if only := os.Getenv("CHAOSMODE"); only != "" && only != mode.name {
			continue
		}
		for left := mode.time; left > 0; left -= chaosSlice {
			t.Run(mode.name+"/seed="+strconv.FormatUint(seed, 10), func(t *testing.T) {
				chaos(t, mode.name, seed, min(left, chaosSlice))
			})
			seed++
			if t.Failed() {
				return // nothing is gained by more of it
			}
		}
	}
}

// chaos is one slice in a lab of its own.
func chaos(t *testing.T, mode string, seed uint64, length time.Duration) {
	root := os.Geteuid() == 0
	options := lab.Options{Mode: mode, Isolated: root, Breakable: root, ConsulServers: 3}
	acts := os.Getenv("ACTS") == "operator"
	if acts {
		members, err := strconv.Atoi(cmp.Or(os.Getenv("CHAOSMEMBERS"), "5"))
		if err != nil {
			t.Fatal(err)
		}
		options.Members, options.Breakable, options.ConsulServers = members, false, 1
	}
	l := cluster(t, options)
	t.Cleanup(func() {
		if t.Failed() {
			keepLogs(t, l, "failed-"+mode+"-"+strconv.FormatUint(seed, 10))
		}
	})
	t.Logf("seed %d: ACTS=%s CHAOSSEED=%d CHAOSMODE=%s CHAOSTIME=%v", seed, os.Getenv("ACTS"), seed, mode, length)
	report, err := drill.Chaos(t.Context(), drill.ChaosOptions{Lab: l, Seed: seed, Acts: acts, Time: length, Deadline: wholeTime, Without: strings.Fields(os.Getenv("CHAOSWITHOUT")),
		Progress: func(what string) { t.Logf("%s %s", time.Now().UTC().Format("15:04:05"), what) }})
	if report != nil {
		if mode == "quorum" {
			report.Failures = append(report.Failures, disorder(report.Operations)...)
			report.Registers.Checked = len(report.Operations)
		}
		var text strings.Builder
		if err := drill.WriteChaos(&text, []*drill.ChaosReport{report}); err != nil {
			t.Fatal(err)
		}
		t.Log("\n" + text.String())
		keepReport(t, report)
		for _, f := range report.Failures {
			t.Error(f)
		}
	}
	if err != nil {
		t.Error(err)
	}
	if report != nil && len(report.Faults) == 0 {
		t.Error("no fault was injected")
	}
}

// keepReport adds a report to chaos.json in CHAOSDIR, and writes all that are in
// it to chaos.md.
func keepReport(t *testing.T, report *drill.ChaosReport) {
	dir := os.Getenv("CHAOSDIR")
	if dir == "" {
		return
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "chaos.json")
	var all []*drill.ChaosReport
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	all = append(all, report)
	if b, err = json.MarshalIndent(all, "", " "); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := drill.WriteChaos(&text, all); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "chaos.md"), []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// keepLogs copies the logs of all programs, and the plan, to CHAOSDIR.
func keepLogs(t *testing.T, l *lab.Lab, name string) {
	dir := os.Getenv("CHAOSDIR")
	if dir == "" {
		return
	}
	if err := l.CopyLogs(filepath.Join(dir, name)); err != nil {
		t.Error(err)
	}
}
