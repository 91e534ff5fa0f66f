package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// newer is a folder with PostgreSQL's programs of a newer minor version, to upgrade to;
// without it the upgrade is to a copy of the same programs.
var newer = flag.String("upgrade.newer", "", "upgrade to the programs in this `folder`, from those of the same major version")

// upgradable is a lab, and the folder of its programs, which can be replaced.
func upgradable(t *testing.T) (*operated, string) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	bin := labtest.Program(t, programs.PostgresBin)
	if *newer != "" {
		bin = filepath.Join("/usr/lib/postgresql", filepath.Base(filepath.Dir(*newer)), "bin")
		if _, err := os.Stat(filepath.Join(*newer, "postgres")); err != nil {
			t.Skip(err)
		}
	}
	dir := linkedPrograms(t, bin)
	o := newOperatedLab(t, lab.Options{PostgresBin: dir})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := o.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return o, dir
}

// TestUpgrade: with new programs on disk, restart --all --upgrade restarts all members
// with one switchover; without any it has nothing to do.
func TestUpgrade(t *testing.T) {
	o, dir := upgradable(t)
	st := o.whole(t)
	if said := o.good(t, "restart --all --upgrade"); !strings.Contains(said, "run the programs that are on disk") {
		t.Fatalf("nothing was upgraded, and it says %s", said)
	}
	runs := o.asked(t, st.Leader, "show server_version_num")
	o.until(t, "the version of each member in status", func() bool {
		return !slices.ContainsFunc(o.whole(t).Members, func(m api.MemberStatus) bool { return strconv.Itoa(m.Software.Postgres) != runs })
	})
	newPrograms(t, dir)
	st = o.whole(t)
	old := o.old(t)
	hands := 0
	if slices.Contains(old, st.Leader) { // on a busy machine a server may have been restarted already
		hands = 1
	}
	said := o.good(t, "restart --all --upgrade")
	now := o.whole(t)
	if now.Term != st.Term+uint64(hands) || strings.Count(said, "handing over") != hands || strings.Count(said, ": restarting") != len(old)-hands || len(o.old(t)) > 0 {
		t.Errorf("%s ran old programs, and %s do; term %d, before %d; it says\n%s", old, o.old(t), now.Term, st.Term, said)
	}
	if after := o.asked(t, now.Leader, "show server_version_num"); *newer != "" && after <= runs {
		t.Errorf("version %s was upgraded to %s", runs, after)
	} else {
		t.Logf("from %s to %s", runs, after)
	}
}

// TestUpgradeThroughFailover: the primary's server dies while members are upgraded, once
// after a replica was restarted and once while one is. The command ends well all the same, all
// servers run the new programs, and no acknowledged row is lost.
func TestUpgradeThroughFailover(t *testing.T) {
	o, dir := upgradable(t)
	for _, when := range []string{": streams", ": restarting (1 of "} {
		newPrograms(t, dir)
		st := o.whole(t)
		o.must(t, st.Leader, "drop table if exists rolled")
		ctx, stop := context.WithCancel(t.Context())
		wrote := make(chan []int)
		go func() { wrote <- o.write(ctx) }()
		out := &eavesdropper{when: when}
		out.then = func() {
			o.until(t, "a warning of two versions", func() bool {
				return *newer == "" || when != ": streams" || strings.Contains(o.good(t, "status"), "the members run different versions of PostgreSQL")
			})
			if err := o.Kill(st.Leader, lab.Postgres); err != nil {
				t.Error(err)
			}
			if when == ": streams" { // else the command goes on at once
				o.until(t, "another leader", func() bool { now := o.status(); return now.Primary && now.Leader != st.Leader })
			}
		}
		code := run(t.Context(), []string{"restart", "--all", "--upgrade"}, strings.NewReader(""), out, out)
		stop()
		acknowledged := <-wrote
		t.Logf("killed the server of %s at %q:\n%s", st.Leader, when, out)
		now := o.whole(t)
		if code != 0 || out.then != nil || now.Term == st.Term {
			t.Errorf("exit status %d, term %d became %d", code, st.Term, now.Term)
		}
		if when == ": streams" && !strings.Contains(out.String(), st.Leader+" did: waiting until that one streams") {
			t.Errorf("it does not say that another leads")
		}
		if said := o.good(t, "restart --all --upgrade"); !strings.Contains(said, "run the programs that are on disk") {
			t.Errorf("not all were upgraded: %s", said)
		}
		o.kept(t, now.Leader, acknowledged)
	}
}

// eavesdropper is what a command says, and what is done when it says certain words.
type eavesdropper struct {
	bytes.Buffer
	when string
	then func() // nil: it is done
}

func (w *eavesdropper) Write(b []byte) (int, error) {
	n, err := w.Buffer.Write(b)
	if then := w.then; then != nil && strings.Contains(w.String(), w.when) {
		w.then = nil
		then()
	}
	return n, err
}

// newPrograms replaces the programs in a folder, as a package's upgrade does.
func newPrograms(t *testing.T, dir string) {
	t.Helper()
	if runs, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres")); err != nil {
		t.Fatal(err)
	} else if *newer != "" && filepath.Dir(runs) != *newer && filepath.Dir(runs) != dir {
		linkPrograms(t, *newer, dir)
		return
	}
	text, err := os.ReadFile(filepath.Join(dir, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(dir, "postgres.new")
	if err := errors.Join(os.WriteFile(fresh, text, 0o755), os.Rename(fresh, filepath.Join(dir, "postgres"))); err != nil {
		t.Fatal(err)
	}
}

// old are the members whose servers run other programs than those on disk.
func (o *operated) old(t *testing.T) (names []string) {
	t.Helper()
	for _, m := range o.Plan().Members() {
		_, said := o.ask("GET", m.APIAddress(), "/status", "", "")
		var st api.Status
		if err := json.Unmarshal([]byte(said), &st); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		if st.NewPrograms {
			names = append(names, m.Name)
		}
	}
	return names
}

// linkedPrograms is a folder with links to PostgreSQL's programs in another.
func linkedPrograms(t *testing.T, bin string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	linkPrograms(t, bin, dir)
	return dir
}

// linkPrograms puts links to the programs of one folder into another.
func linkPrograms(t *testing.T, bin, dir string) {
	t.Helper()
	all, err := os.ReadDir(bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		fresh := filepath.Join(dir, e.Name()+".new")
		if err := errors.Join(os.Symlink(filepath.Join(bin, e.Name()), fresh), os.Rename(fresh, filepath.Join(dir, e.Name()))); err != nil {
			t.Fatal(err)
		}
	}
}
