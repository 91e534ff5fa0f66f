package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// TestUpgrade: with new programs on disk, restart --all --upgrade restarts all members
// with one switchover; without any it has nothing to do.
func TestUpgrade(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	bin := labtest.Program(t, programs.PostgresBin)
	o := newOperated(t)
	st := o.whole(t)
	if said := o.good(t, "restart --all --upgrade"); !strings.Contains(said, "run the programs that are on disk") {
		t.Fatalf("nothing was upgraded, and it says %s", said)
	}
	fresh := copiedPrograms(t, bin)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, m := range o.Plan().Members() {
		path := filepath.Join(m.Dir, "pg.hcl")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(text), bin, fresh, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := o.Kill(m.Name, lab.Sidecar); err != nil {
			t.Fatal(err)
		}
		if err := o.Start(ctx, m.Name, lab.Sidecar); err != nil {
			t.Fatal(err)
		}
		o.until(t, m.Name+" to answer", func() bool {
			conn, err := net.DialTimeout("tcp", m.APIAddress(), time.Second)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	o.whole(t)
	said := o.good(t, "restart --all --upgrade")
	now := o.whole(t)
	if now.Term != st.Term+1 || strings.Count(said, "handing over") != 1 {
		t.Errorf("term %d, before %d; it says\n%s", now.Term, st.Term, said)
	}
}

// copiedPrograms is a folder with a copy of the server's program; the others are links.
func copiedPrograms(t *testing.T, bin string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadDir(bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.Name() == "postgres" {
			continue
		}
		if err := os.Symlink(filepath.Join(bin, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(bin, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "postgres"), text, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
