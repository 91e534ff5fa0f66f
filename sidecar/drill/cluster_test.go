package drill_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// binary builds pgsidecar, or takes what PGSIDECAR_BINARY names.
func binary(t testing.TB) string {
	t.Helper()
	labtest.NeedPrograms(t)
	if path := os.Getenv("PGSIDECAR_BINARY"); path != "" {
		return path
	}
	dir, err := os.MkdirTemp("", "pgsidecar") // open to every user, unlike t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "pgsidecar")
	build := exec.Command("go", "build", "-o", path, "github.com/pgsidecar/pgsidecar/cmd/pgsidecar")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build pgsidecar: %v: %s", err, out)
	}
	return path
}

// cluster brings a whole cluster up for the length of the test.
func cluster(t testing.TB, o lab.Options) *lab.Lab {
	t.Helper()
	if o.Agent == nil {
		o.Binary = binary(t)
	}
	l := up(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := l.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return l
}

// up brings a lab up for the length of the test, whatever it is made of. If the
// test fails, the members' logs are shown.
func up(t testing.TB, o lab.Options) *lab.Lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "drill") // short, and open to PostgreSQL's user
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	o.Dir = filepath.Join(dir, "lab")
	o.Isolated = o.Isolated && os.Geteuid() == 0
	labtest.NeedPrograms(t)
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
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := l.Up(ctx, func(what string) { t.Log(what) }); err != nil {
		t.Fatal(err)
	}
	return l
}

func showLogs(t testing.TB, l *lab.Lab) {
	for _, m := range l.Plan().Members() {
		for _, log := range []struct {
			path  string
			lines int
		}{{filepath.Join(m.Dir, "sidecar.log"), 60}, {filepath.Join(m.DataDir()+".pgsidecar", "postgresql.log"), 12}} {
			b, err := os.ReadFile(log.path)
			if err != nil {
				continue
			}
			lines := strings.Split(strings.TrimSpace(string(b)), "\n")
			t.Logf("%s, %s:\n%s", m.Name, filepath.Base(log.path), strings.Join(lines[max(0, len(lines)-log.lines):], "\n"))
		}
	}
}

// TestFailovers plays each failover once: no acknowledged row is lost (also none
// of a client beside a primary whose cable is out), DNS never gives two answers, and the cluster becomes whole again without hands. How long
// it takes is BenchmarkFailovers' matter; here it is only bounded.
func TestFailovers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	l := cluster(t, lab.Options{Isolated: true})
	for _, g := range goals {
		t.Run(g.scenario, func(t *testing.T) {
			r := play(t, l, g.scenario)
			if pause := r.Routes[0].Pause.Length(); pause > time.Minute {
				t.Errorf("pause of %v", pause)
			}
			if a := r.Account; a == nil || a.Routed.Before(a.Announced) {
				t.Errorf("the record does not say when the routes led to the new primary: %+v", a)
			}
			if r.DNS.LateMs < 0 || r.DNS.LateMs > 10000 {
				t.Errorf("DNS named the new primary %.0f ms after its first write", r.DNS.LateMs)
			}
		})
	}
}

// play runs a scenario once, and fails for what its report calls a failure.
func play(t *testing.T, l *lab.Lab, name string) *drill.Report {
	t.Helper()
	s, err := drill.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := drill.Run(t.Context(), s, drill.Options{Lab: l, Routes: []string{"haproxy"}})
	if err != nil {
		t.Fatal(err)
	}
	if m := r.Measuring; m == nil || m.RowMs <= 0 || m.ConnectionMs <= m.RowMs || m.WriteEveryMs <= 0 {
		t.Errorf("what the measuring costs here: %+v", m)
	}
	show(t, r)
	for _, f := range r.Failures {
		t.Error(f)
	}
	return r
}

// show logs a report as it is for people.
func show(t testing.TB, r *drill.Report) {
	t.Helper()
	var text strings.Builder
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	t.Log(text.String())
}

var siteSplit = flag.Bool("drill.sitesplit", false, "play TestSiteSplit")

// TestSiteDrills plays the drills of two sites, once each: nothing is lost but what site
// promote had announced, no site takes writes beside the other, and both become whole.
func TestSiteDrills(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two clusters, for four minutes")
	}
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	l := cluster(t, lab.Options{Isolated: true, Sites: 2})
	for _, name := range []string{"site-switch", "site-lost", "site-cut-off", "witness-lost"} {
		moves := name == "site-switch" || name == "site-lost"
		t.Run(name, func(t *testing.T) {
			s, err := drill.Find(name)
			if err != nil {
				t.Fatal(err)
			}
			r, err := drill.Run(t.Context(), s, drill.Options{Lab: l, Workers: 2})
			if err != nil {
				t.Fatal(err)
			}
			show(t, r)
			for _, f := range append(r.Failures, describedBySchema(t, drill.NewResults("test", []*drill.Report{r}))...) {
				t.Error(f)
			}
			if r.Sites == nil || (r.Sites.After != r.Sites.Before) != moves {
				t.Errorf("the sites are %+v", r.Sites)
			}
			if (r.Sites.Announced != nil) != (name == "site-lost") || (r.Sites.Refused != "") == moves {
				t.Errorf("announced %+v, refused %q", r.Sites.Announced, r.Sites.Refused)
			}
		})
	}
}

// TestSiteSplit: two sites without a witness, cut off from each other, both take writes where
// a person promotes the second, for as long as the cut lasts; then the later one stays, and
// the other loses what was announced, and keeps it aside. Where nobody promotes it, nothing
// is lost. It takes two clusters for two minutes, and longer on a busy machine:
//
//	go test ./sidecar/drill -run SiteSplit -drill.sitesplit -timeout 10m -v
func TestSiteSplit(t *testing.T) {
	if !*siteSplit {
		t.Skip("-drill.sitesplit is not set")
	}
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	l := cluster(t, lab.Options{Isolated: true, Sites: 2, Unwitnessed: true})
	for _, name := range []string{"site-split", "site-cut-off"} {
		t.Run(name, func(t *testing.T) {
			s, err := drill.Find(name)
			if err != nil {
				t.Fatal(err)
			}
			r, err := drill.Run(t.Context(), s, drill.Options{Lab: l, Workers: 2, Hold: 8 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			show(t, r)
			for _, f := range append(r.Failures, describedBySchema(t, drill.NewResults("test", []*drill.Report{r}))...) {
				t.Error(f)
			}
			if split := name == "site-split"; (r.Sites.After != r.Sites.Before) != split || (r.Sites.BothMs > 0) != split || (r.Rows.Lost > 0) != split {
				t.Errorf("the sites are %+v, and %d rows are lost", r.Sites, r.Rows.Lost)
			}
		})
	}
}
