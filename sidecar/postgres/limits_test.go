package postgres

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// TestRaised: a standby starts, and replays, with at least what its primary has of each
// limit, whatever file says less.
func TestRaised(t *testing.T) {
	a := newPrimary(t, "n1")
	b := a.newStandby("n2")
	must(t, b.Stop(soon(t), false))
	for _, c := range []struct {
		name  string
		lower func()
		args  bool // only the command line comes before it
	}{
		{"the user's file", func() { must(t, os.WriteFile(b.data("postgresql.conf"), []byte("max_connections = 10\n"), 0o600)) }, false},
		{"ALTER SYSTEM", func() {
			must(t, os.WriteFile(b.data("postgresql.auto.conf"), []byte("max_connections = '12'\n"), 0o600))
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.lower()
			set, err := b.forStandby(soon(t), Settings{Parameters: map[string]string{"work_mem": "5MB"}})
			must(t, err)
			if args := strings.Join(b.raisedArguments(), " "); set.Parameters["max_connections"] != "100" || set.Parameters["work_mem"] != "5MB" || strings.Contains(args, "max_connections=100") != c.args {
				t.Errorf("%v, arguments %q", set.Parameters, args)
			}
		})
	}
	must(t, b.Start(soon(t), StartOptions{}))
	b.up()
	if got := b.sql("show max_connections"); got != "100" {
		t.Errorf("it runs with %s", got)
	}
	if why := b.Lacking(soon(t), []int64{10, 8, 16, 0, 64}); why != "max_connections is 10 here and 100 on its primary" {
		t.Errorf("lacking: %q", why)
	}
}

// TestTriedAsAStart: what only a start would show is refused before it is stored, beside
// the running server.
func TestTriedAsAStart(t *testing.T) {
	a := newPrimary(t, "n1")
	if a.version < 15 {
		t.Skip("PostgreSQL 15 is the first that can begin a start and end it")
	}
	for _, c := range []struct{ name, value, says string }{
		{"shared_preload_libraries", "nosuch", `could not access file "nosuch"`},
		{"shared_preload_libraries", "auto_explain", ""},
		{"shared_buffers", "4TB", "shared memory"},
		{"shared_buffers", "32MB", ""},
		{"huge_pages", "on", "huge pages"},
		{"max_connections", "200", ""},
	} {
		err := a.Try(soon(t), Settings{Parameters: map[string]string{c.name: c.value}})
		if c.name == "huge_pages" && meminfo()["HugePages_Total"] > 0 {
			continue // there are some
		}
		if (err != nil) != (c.says != "") || err != nil && (!errors.Is(err, ErrSetting) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s = %s: %v", c.name, c.value, err)
		}
	}
	if a.sql("show shared_buffers") != "16MB" {
		t.Error("the server was touched")
	}
	if _, err := os.Stat(a.state("try")); err == nil {
		t.Error("the folder of the trial is left")
	}
}
