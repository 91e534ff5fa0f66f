package postgres

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadUserConf: the user's file and all that it includes become one text, as
// PostgreSQL reads them, and each line knows where it came from.
func TestReadUserConf(t *testing.T) {
	dir := t.TempDir()
	s := &Server{o: Options{DataDir: dir, StateDir: t.TempDir()}}
	put := func(name, text string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	if c, err := s.readUserConf(); err != nil || c.text != "" {
		t.Fatalf("no file: %q, %v", c.text, err)
	}
	put("more/b.conf", "b = 1\nINCLUDE 'c.conf' # beside it\n")
	put("more/c.conf", "c = 'it''s'")
	put("conf.d/2.conf", "d2 = 1\n")
	put("conf.d/10.conf", "d10 = 1\n")
	put("conf.d/.hidden.conf", "no = 1\n")
	put("conf.d/readme", "no = 1\n")
	put("postgresql.conf", "a = 1 # include 'x'\r\n  include = 'more/b.conf'\ninclude_if_exists 'nothing.conf'\ninclude_dir conf.d\n#include 'y'\nincluded = 2\n")
	c, err := s.readUserConf()
	must(t, err)
	want := "a = 1 # include 'x'\nb = 1\nc = 'it''s'\nd10 = 1\nd2 = 1\n#include 'y'\nincluded = 2\n"
	if c.text != want {
		t.Errorf("read\n%s\nwant\n%s", c.text, want)
	}
	said := c.translate(`LOG:  syntax error in file "/x/user.conf.try-AB" line 3, near end of line; in file "/x/other.conf" line 3`)
	if want := `in file "` + filepath.Join(dir, "more/c.conf") + `" line 1,`; !strings.Contains(said, want) || !strings.Contains(said, `"/x/other.conf" line 3`) {
		t.Errorf("translated: %s", said)
	}
	// Of a value that it refuses PostgreSQL names no line.
	for said, want := range map[string]string{
		`invalid value for parameter "D10": "x"; FATAL:  configuration file "/x/user.conf.try-AB" contains errors`: `configuration file "` + filepath.Join(dir, "conf.d/10.conf") + `" contains errors: line 1`,
		`FATAL:  configuration file "/x/user.conf" contains errors`:                                                `configuration file "` + filepath.Join(dir, "postgresql.conf") + `", or one that it includes, contains errors`,
		`configuration file "/x/postgresql.auto.conf" contains errors`:                                             `configuration file "/x/postgresql.auto.conf" contains errors`,
	} {
		if got := c.translate(said); !strings.HasSuffix(got, want) {
			t.Errorf("%s\ntranslated: %s\nwant: %s", said, got, want)
		}
	}

	put("postgresql.conf", "a = 1\ninclude 'gone.conf'\n")
	if _, err := s.readUserConf(); err == nil || !strings.Contains(err.Error(), "postgresql.conf line 2") || !strings.Contains(err.Error(), "gone.conf") {
		t.Errorf("a lost include: %v", err)
	}
	put("postgresql.conf", "include 'postgresql.conf'\n")
	if _, err := s.readUserConf(); err == nil {
		t.Error("a file that includes itself is read")
	}
}

func TestControlFile(t *testing.T) {
	s := &Server{o: Options{DataDir: t.TempDir(), StateDir: t.TempDir()}, sock: t.TempDir()}
	odd := `service='pgsidecar:n1' host='it''s \ odd'`
	must(t, s.SetControl(map[string]string{"primary_conninfo": odd, "restore_command": "x"}))
	must(t, s.SetControl(map[string]string{"restore_command": ""}))
	got, err := s.Control()
	must(t, err)
	if len(got) != 2 || got["primary_conninfo"] != odd || got["restore_command"] != "" {
		t.Errorf("read %q", got)
	}
	for _, bad := range []map[string]string{{"port": "1"}, {"restore_command": "a\nport = 1"}} {
		if err := s.SetControl(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// brokenFiles are what other people's files say that must not keep a server from
// being fenced, promoted and started.
var brokenFiles = map[string]struct {
	breaks func(m *member)
	says   string // in ConfigProblem; empty: nothing is wrong with it
}{
	"an unclosed quote": {func(m *member) { m.append("postgresql.conf", "work_mem = '64MB\n") }, "postgresql.conf"},
	"a lost include":    {func(m *member) { m.append("postgresql.conf", "include 'lost.conf'\n") }, "lost.conf"},
	"an unknown name":   {func(m *member) { m.append("postgresql.conf", "max_conections = 3\n") }, "max_conections"},
	"a refused value":   {func(m *member) { m.append("postgresql.conf", "work_mem = 12XB\n") }, "12XB"},
	"recovery targets": {func(m *member) {
		m.append("postgresql.conf", "recovery_target = immediate\nrecovery_target_action = promote\nrestore_command = 'false'\n")
	}, ""},
	"other ports and sockets": {func(m *member) {
		m.append("postgresql.auto.conf", "port = 1\nunix_socket_directories = '/nowhere'\nlisten_addresses = ''\nhba_file = '/nowhere'\n")
	}, ""},
	"an immutable ALTER SYSTEM": {func(m *member) {
		m.append("postgresql.auto.conf", "unix_socket_directories = '/nowhere'\nport = 1\n")
		must(m.t, os.Chown(m.data("postgresql.auto.conf"), 0, 0))
		must(m.t, os.Chmod(m.data("postgresql.auto.conf"), 0o644))
	}, ""},
	"ALTER SYSTEM to nowhere": {func(m *member) {
		must(m.t, os.Remove(m.data("postgresql.auto.conf")))
		must(m.t, os.Symlink("/dev/null", m.data("postgresql.auto.conf")))
	}, ""},
	"a refused access rule":   {func(m *member) { m.append("pg_hba.conf", "host all all 0.0.0.0/0 peer\n") }, "pg_hba.conf line "},
	"a refused user map":      {func(m *member) { m.append("pg_ident.conf", "m1 \"/^(.*\" app\n") }, "pg_ident.conf line "},
	"half a line of user map": {func(m *member) { m.append("pg_ident.conf", "m1 app\n") }, "missing entry"},
}

func (m *member) append(name, text string) {
	m.t.Helper()
	f, err := os.OpenFile(m.data(name), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	must(m.t, err)
	_, err = f.WriteString(text)
	must(m.t, err)
	must(m.t, f.Close())
	must(m.t, m.own(m.data(name)))
}

// controls proves that the running server takes what replication is controlled by.
func (m *member) controls(conninfo string) {
	m.t.Helper()
	must(m.t, m.SetControl(map[string]string{"primary_conninfo": conninfo}))
	m.sql("select pg_reload_conf()")
	poll(m.t, "the server to take "+conninfo, func() bool { return m.sql("show primary_conninfo") == conninfo })
}

// TestBrokenFiles: a running server with such a file is still controlled, says what is
// wrong, and starts again.
func TestBrokenFiles(t *testing.T) {
	m := newPrimary(t, "n1")
	must(t, m.JudgeRules(nil))
	must(t, m.Stop(soon(t), false))
	must(t, m.Start(soon(t), StartOptions{}))
	m.up()
	files := []string{"postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"}
	whole := map[string][]byte{}
	for _, name := range files {
		content, err := os.ReadFile(m.data(name))
		must(t, err)
		whole[name] = content
	}
	for name, broken := range brokenFiles {
		t.Run(name, func(t *testing.T) {
			m.t = t
			broken.breaks(m)
			m.sql("select pg_reload_conf()") // a person does it at once
			m.controls("host=" + strings.ReplaceAll(name, " ", "."))
			must(t, m.Refresh(soon(t)))
			must(t, m.JudgeRules(m.wrongRules()))
			if said := m.ConfigProblem(); (said == "") != (broken.says == "") || !strings.Contains(said, broken.says) {
				t.Errorf("it says %q, want %q", said, broken.says)
			}
			m.controls("host=later")
			must(t, m.Stop(soon(t), true))
			must(t, m.Start(soon(t), StartOptions{}))
			m.up()
			if said := m.ConfigProblem(); !strings.Contains(said, broken.says) {
				t.Errorf("after a start it says %q, want %q", said, broken.says)
			}
			m.controls("host=again")
			if name == "recovery targets" && m.sql("select pg_is_in_recovery()") != "t" {
				t.Error("it left recovery by itself")
			}
			must(t, m.Stop(soon(t), true))
			for _, file := range files {
				must(t, m.remove(m.data(file)))
				must(t, m.write(m.data(file), whole[file]))
			}
			must(t, m.Start(soon(t), StartOptions{}))
			m.up()
			if said := m.ConfigProblem(); said != "" {
				t.Errorf("mended, it says %q", said)
			}
		})
	}
}

func (m *member) wrongRules() []string {
	m.t.Helper()
	var wrong []string
	for _, line := range strings.Split(m.sql("select 'hba: ' || error from pg_hba_file_rules where error is not null"), "\n") {
		if line != "" {
			wrong = append(wrong, line)
		}
	}
	return wrong
}

// TestRulesRefusedWhileRunning: rules that the running server refuses are said, and the
// next start has those that it took before.
func TestRulesRefusedWhileRunning(t *testing.T) {
	m := newPrimary(t, "n1")
	testRules(t, m)
	set := Settings{Parameters: m.o.Parameters, HBA: []string{"local all all trust"}}
	must(t, m.Reload(soon(t), set))
	poll(t, "good rules", func() bool {
		return m.sql("select count(*) from pg_hba_file_rules where error is null and auth_method = 'trust'") == "1"
	})
	must(t, m.JudgeRules(m.wrongRules()))
	set.HBA = []string{"host all all 0.0.0.0/0 peer"}
	must(t, m.Reload(soon(t), set))
	must(t, m.JudgeRules(m.wrongRules()))
	if said := m.ConfigProblem(); !strings.Contains(said, "peer") {
		t.Errorf("it says %q", said)
	}
	must(t, m.Stop(soon(t), false))
	must(t, m.Start(soon(t), StartOptions{Primary: true}))
	m.up()
	if got := m.sql("select count(*) from pg_hba_file_rules where auth_method = 'trust'"); got != "1" {
		t.Errorf("the rules that it took before are not there: %s", got)
	}
	set.HBA = []string{"local all all trust", "host all all 127.0.0.1/32 scram-sha-256"}
	must(t, m.Reload(soon(t), set))
	must(t, m.JudgeRules(m.wrongRules()))
	if said := m.ConfigProblem(); said != "" {
		t.Errorf("mended, it says %q", said)
	}
}

// TestDurable: where standbys are to hold each commit, what the user's file says of
// synchronous_commit is raised to on, and what is stronger stays.
func TestDurable(t *testing.T) {
	m := newPrimary(t, "n1")
	for _, c := range []struct {
		says    string
		durable bool
		want    string
	}{{"off", true, "on"}, {"local", true, "on"}, {"remote_write", true, "on"}, {"remote_apply", true, "remote_apply"}, {"off", false, "off"}} {
		must(t, m.write(m.data("postgresql.conf"), []byte("synchronous_commit = "+c.says+"\n")))
		must(t, m.Reload(soon(t), Settings{Parameters: m.o.Parameters, Durable: c.durable}))
		poll(t, c.says+" to be "+c.want, func() bool { return m.sql("show synchronous_commit") == c.want })
	}
}

// TestCancelledWaits: a commit whose wait for standbys somebody cancelled is counted.
func TestCancelledWaits(t *testing.T) {
	m := newPrimary(t, "n1")
	if n, err := m.CancelledWaits(); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	must(t, m.SetControl(map[string]string{"synchronous_standby_names": frozen}))
	m.sql("select pg_reload_conf()")
	poll(t, "the setting", func() bool { return m.sql("show synchronous_standby_names") == frozen })
	done := make(chan error, 1)
	go func() { _, err := m.psql("set application_name = 'waits'; insert into t values (1)"); done <- err }()
	for cancelled := false; !cancelled; {
		poll(t, "a commit to wait", func() bool {
			return m.sql("select count(*) from pg_stat_activity where application_name = 'waits' and wait_event = 'SyncRep'") == "1"
		})
		cancelled = m.sql("select pg_cancel_backend(pid) from pg_stat_activity where application_name = 'waits'") == "t"
	}
	<-done
	poll(t, "it to be counted", func() bool { n, err := m.CancelledWaits(); must(t, err); return n == 1 })
	must(t, os.Truncate(m.logFile(), 0))
	if n, err := m.CancelledWaits(); n != 1 || err != nil {
		t.Errorf("a log that begins anew: %d, %v", n, err)
	}
}

// TestRefusedMaps: lines of pg_ident.conf that PostgreSQL refused are not tried again, which
// would cost time in a failover; those that could not be tried are left out, and said.
func TestRefusedMaps(t *testing.T) {
	m := newPrimary(t, "n1")
	whole := m.o.BinDir
	for _, c := range []struct{ line, bin, says string }{
		{"m1 app", whole, "missing entry"},
		{"", t.TempDir(), "missing entry"}, // nothing there that could try them
		{"m2 app app", t.TempDir(), "not tried"},
	} {
		if c.line != "" {
			m.append("pg_ident.conf", c.line+"\n")
		}
		m.o.BinDir = c.bin
		lines, err := m.acceptedRules(soon(t), identFile, nil)
		m.o.BinDir = whole
		if said := m.ConfigProblem(); err != nil || !onlyComments(lines) || !strings.Contains(said, c.says) {
			t.Errorf("%q: %v, it says %q, want %q; the server gets\n%s", c.line, err, said, c.says, lines)
		}
	}
}
