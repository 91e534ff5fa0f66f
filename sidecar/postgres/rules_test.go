package postgres

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// logsIn reports whether a client that has no password is let in over TCP.
func (m *member) logsIn(user string) bool {
	cmd := exec.Command(m.o.BinDir+"/psql", "-h", "127.0.0.1", "-p", fmt.Sprint(m.Port()), "-U", user, "-d", "postgres", "-XAtqwc", "select 1")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "PGCONNECT_TIMEOUT=5"}
	return cmd.Run() == nil
}

// TestBrokenRules: a line of pg_hba.conf that PostgreSQL does not take, written while the
// server was stopped, costs no start: it is named at once, and the lines that were taken
// before let clients in.
func TestBrokenRules(t *testing.T) {
	m := newPrimary(t, "n1")
	m.sql("create role early login; create role late login")
	whole := "host all early 127.0.0.1/32 trust\n"
	put := func(name, text string) {
		t.Helper()
		must(m.t, os.RemoveAll(m.data(name)))
		must(m.t, m.write(m.data(name), []byte(text)))
	}
	start := func() {
		t.Helper()
		must(m.t, m.Start(soon(t), StartOptions{Primary: true}))
		m.up() // the guard has started it once
	}
	restarted := func() {
		t.Helper()
		again, err := New(m.o) // a sidecar that knows nothing yet
		must(m.t, err)
		m.Server = again
		start()
	}
	put("pg_hba.conf", whole)
	must(t, m.Refresh(soon(t)))
	poll(t, "the lines to be read", func() bool { return m.logsIn("early") })
	must(t, m.JudgeRules(m.wrongRules()))
	for name, broken := range map[string]struct {
		breaks func()
		says   string
		from   int // version of PostgreSQL
	}{
		"a method that needs another connection": {func() { put("pg_hba.conf", "host all late all trust\nhost all all 0.0.0.0/0 peer\n"+whole) }, "pg_hba.conf line 2: peer auth", 0},
		"half a line":                            {func() { put("pg_hba.conf", "host all\n"+whole) }, "pg_hba.conf line 1: end-of-line", 0},
		"an unclosed name":                       {func() { put("pg_hba.conf", "host all \"all 127.0.0.1/32 trust\n"+whole) }, "pg_hba.conf line 1: ", 0},
		"a lost list":                            {func() { put("pg_hba.conf", whole+"\nlocal @lost all trust\n") }, "pg_hba.conf line 3: open ", 0},
		"two bad lines":                          {func() { put("pg_hba.conf", "local all all pear\nhost all all nowhere/8 trust\n") }, "pg_hba.conf line 2: ", 0},
		"nobody may read it": {func() {
			must(m.t, os.Chown(m.data("pg_hba.conf"), 0, 0))
			must(m.t, os.Chmod(m.data("pg_hba.conf"), 0o600))
		}, "permission denied", 0},
		"a lost include": {func() { put("pg_hba.conf", "include lost.conf\n"+whole) }, "lost.conf", 16},
		"a bad line in an include": {func() {
			put("more.conf", "\nlocal all all pear\n")
			put("pg_hba.conf", "include more.conf\n"+whole)
		}, "more.conf line 2: ", 16},
	} {
		t.Run(name, func(t *testing.T) {
			if m.version < broken.from {
				t.Skipf("PostgreSQL %d reads no such line", m.version)
			}
			m.t = t
			must(t, m.Stop(soon(t), true))
			broken.breaks()
			for _, again := range []func(){start, restarted} {
				again()
				must(t, m.JudgeRules(m.wrongRules()))
				if said := m.ConfigProblem(); !strings.Contains(said, broken.says) {
					t.Errorf("it says %q, want %q", said, broken.says)
				}
				if !m.logsIn("early") || m.logsIn("late") {
					t.Error("clients are not let in by the lines that were taken before")
				}
				must(t, m.Stop(soon(t), true))
			}
			put("pg_hba.conf", whole)
			start()
			if said := m.ConfigProblem(); said != "" || !m.logsIn("early") {
				t.Errorf("mended, it says %q", said)
			}
		})
	}
	m.t = t
	must(t, m.Stop(soon(t), true))
	must(t, m.remove(m.state(hbaFile.proven))) // as where a server is taken over
	put("pg_hba.conf", whole+"host all early,late 127.0.0.1/32 rejct\nhost all late 127.0.0.1/32 trust\n")
	start()
	if !m.logsIn("early") || m.logsIn("late") {
		t.Error("the lines before the refused one count, and none after it")
	}
}
