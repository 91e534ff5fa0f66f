package drill_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// binary builds pgsidecar, or takes what PGSIDECAR_BINARY names.
func binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("PGSIDECAR_BINARY"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "pgsidecar")
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", path, "github.com/pgsidecar/pgsidecar/cmd/pgsidecar")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build pgsidecar: %v: %s", err, out)
	}
	return path
}

// cluster brings a whole cluster up for the length of the test. If the test
// fails, the members' logs are shown.
func cluster(t testing.TB, o lab.Options) *lab.Lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "drill") // short, and open to PostgreSQL's user
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	o.Dir, o.Binary = filepath.Join(dir, "lab"), binary(t)
	o.Isolated = o.Isolated && os.Geteuid() == 0
	l, err := lab.New(o)
	if errors.Is(err, programs.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, l)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := l.Up(ctx, func(what string) { t.Log(what) }); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return l
}

func showLogs(t testing.TB, l *lab.Lab) {
	for _, m := range l.Plan().Members() {
		b, err := os.ReadFile(filepath.Join(m.Dir, "sidecar.log"))
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		t.Logf("%s:\n%s", m.Name, strings.Join(lines[max(0, len(lines)-60):], "\n"))
	}
}

// TestFailovers does the failovers that have an objective, in one lab. How often
// is DRILL_RUNS, once if it is not set.
func TestFailovers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	runs, err := strconv.Atoi(os.Getenv("DRILL_RUNS"))
	if err != nil {
		runs = 1
	}
	l := cluster(t, lab.Options{Isolated: true})
	for name, median := range map[string]time.Duration{
		"postgres-killed": 150 * time.Millisecond,
		"member-killed":   600 * time.Millisecond,
		"host-lost":       3 * time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			s, err := drill.Find(name)
			if err != nil {
				t.Fatal(err)
			}
			reports, err := drill.Repeat(t.Context(), s, drill.Options{Lab: l, Routes: []string{"haproxy"}}, runs)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range reports {
				var b strings.Builder
				if err := r.WriteText(&b); err != nil {
					t.Fatal(err)
				}
				t.Log(b.String())
				for _, f := range r.Failures {
					t.Error(f)
				}
				if r.DNS.LateMs < 0 || r.DNS.LateMs > 100 {
					t.Errorf("DNS named the new primary %.0f ms after its first write", r.DNS.LateMs)
				}
			}
			summary := drill.Summarize(reports)
			t.Log(summary)
			// One run on a busy machine says little: three times the goal.
			if limit := 3 * median; summary.Median > limit {
				t.Errorf("median pause %v, want %v at most", summary.Median, limit)
			}
		})
	}
}
