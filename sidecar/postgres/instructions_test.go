package postgres

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInstructions: what is told is read as PostgreSQL reads it, and said.
func TestInstructions(t *testing.T) {
	for name, c := range map[string]struct {
		signal     bool
		conf, auto string
		says       string // a part of it; empty: nothing is told
		pauses     bool
	}{
		"nothing":                 {false, "recovery_target_time = '2026-01-01'\n", "", "", false},
		"to the end":              {true, "restore_command = 'cp a'\n", "", "end of the archived log", false},
		"to a time":               {true, "", "RECOVERY_TARGET_TIME '2026-01-01 01:02:03+00' # here\n", "recovery_target_time = '2026-01-01 01:02:03+00'", true},
		"the last line holds":     {true, "recovery_target_name = a\n", "recovery_target_name = 'it''s'\n", `'it''s'`, true},
		"it goes on by itself":    {true, "recovery_target_lsn = '0/1'\n", "recovery_target_action = promote\n", "recovery_target_lsn", false},
		"a target taken back":     {true, "recovery_target_xid = 7\n", "recovery_target_xid = ''\n", "end of the archived log", false},
		"what is no target":       {true, "recovery_target_inclusive = off\nrecovery_target_timeline = 3\n", "", "end of the archived log", false},
		"a backup without signal": {false, "", "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Server{o: Options{DataDir: t.TempDir(), StateDir: t.TempDir()}}
			must(t, os.WriteFile(s.data("postgresql.conf"), []byte(c.conf), 0o600))
			must(t, os.WriteFile(s.data("postgresql.auto.conf"), []byte(c.auto), 0o600))
			must(t, os.WriteFile(s.data("backup_label"), nil, 0o600))
			if c.signal {
				must(t, os.WriteFile(s.data("recovery.signal"), nil, 0o600))
			}
			in, err := s.Instructions()
			must(t, err)
			if (in.String() == "") != (c.says == "") || !strings.Contains(in.String(), c.says) || in.PausesAtEnd() != c.pauses || !in.Label || in.Recovery != c.signal {
				t.Errorf("%+v says %q", in, in)
			}
		})
	}
}

// restored makes a directory as a person restores it: a base backup without log of a
// server that has n = 1 at the restore point "here" and n = 2 now, an archive, and what
// PostgreSQL is told.
func restored(t *testing.T, told string) *member {
	t.Helper()
	archive := filepath.Join(testDir(t), "archive")
	must(t, os.Mkdir(archive, 0o777))
	must(t, os.Chmod(archive, 0o777))
	a := newPrimary(t, "n1", func(o *Options) {
		o.Parameters = maps.Clone(o.Parameters)
		maps.Copy(o.Parameters, map[string]string{"archive_mode": "on", "archive_command": "cp %p " + archive + "/%f", "max_connections": "120"})
	})
	b := newMember(t, "r1")
	must(t, b.MakeState())
	must(t, b.writePassfile())
	_, err := b.program(soon(t), "pg_basebackup", []string{"-D", b.o.DataDir + ".copy", "-d", b.conninfo(a.source(), ""), "-X", "none", "-c", "fast"}, runOptions{dir: "/"})
	if err != nil { // the folder above is root's
		must(t, b.makeDir(b.o.DataDir))
		_, err = b.program(soon(t), "pg_basebackup", []string{"-D", b.o.DataDir, "-d", b.conninfo(a.source(), ""), "-X", "none", "-c", "fast"}, runOptions{dir: "/"})
	} else {
		err = os.Rename(b.o.DataDir+".copy", b.o.DataDir)
	}
	must(t, err)
	a.sql("insert into t values (1); select pg_create_restore_point('here'); insert into t values (2); select pg_switch_wal()")
	poll(t, "the archive", func() bool { return a.sql("select last_archived_wal is not null from pg_stat_archiver") == "t" })
	must(t, a.Stop(soon(t), false))
	b.append("recovery.signal", "")
	b.append("postgresql.auto.conf", "restore_command = 'cp "+archive+"/%f %p'\n"+told)
	return b
}

// TestInstructed: a directory restored by hand comes up where PostgreSQL was told to
// stop, also after a crash on the way, and nothing of what was told is taken away before.
func TestInstructed(t *testing.T) {
	for name, c := range map[string]struct{ told, rows string }{
		"to a point":       {"recovery_target_name = 'here'\nrecovery_target_action = 'promote'\n", "1"},
		"to the end":       {"", "2"},
		"with our default": {"recovery_target_name = 'here'\n", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			b := restored(t, c.told)
			if f := b.inspect(); f.Instructed == "" || !f.WasPrimary || f.CleanStop || f.Strayed != "" {
				t.Fatalf("%+v", f)
			}
			must(t, b.Start(soon(t), StartOptions{Primary: true, Hidden: true}))
			b.guard.crash()
			must(t, b.remove(b.data("postmaster.pid")))
			if b.inspect().Instructed == "" {
				t.Fatal("a crash made it forget what it was told")
			}
			must(t, b.Start(soon(t), StartOptions{Primary: true, Hidden: true}))
			b.up()
			must(t, b.Unhide(soon(t)))
			if !strings.Contains(c.told, "action") && c.told != "" {
				poll(t, "the target", func() bool { return b.sql("select pg_get_wal_replay_pause_state()") == "paused" })
				b.sql("select pg_wal_replay_resume()")
			}
			b.outOfRecovery()
			if rows := b.sql("select max(n) from t"); rows != c.rows {
				t.Errorf("max(n) is %s, not %s", rows, c.rows)
			}
			if tli := b.sql("select timeline_id from pg_control_checkpoint()"); tli == "1" && c.told == "" {
				b.sql("checkpoint")
			}
			must(t, b.Stop(soon(t), false))
			if f := b.inspect(); f.Instructed != "" || !f.WasPrimary || !f.CleanStop || f.Strayed != "" || f.End.TLI != 2 {
				t.Errorf("after it: %+v", f)
			}
			must(t, b.Start(soon(t), StartOptions{Primary: true}))
			b.up()
			if b.sql("show restore_command")+b.sql("show recovery_target_name") != "" {
				t.Error("the settings of the recovery outlive it")
			}
		})
	}
}

// TestInstructedRefused: where it cannot be carried out, nothing is changed.
func TestInstructedRefused(t *testing.T) {
	m := newPrimary(t, "n1")
	must(t, m.Stop(soon(t), false))
	told := "recovery_target_action = shutdown\nrecovery_target_name = 'x'\n"
	m.append("recovery.signal", "")
	m.append("postgresql.auto.conf", told)
	for as, o := range map[string]StartOptions{"a standby": {}, "a primary that is to shut down": {Primary: true}} {
		if err := m.Start(soon(t), o); !errors.Is(err, ErrInstructed) {
			t.Errorf("as %s: %v", as, err)
		}
	}
	if content, err := os.ReadFile(m.data("postgresql.auto.conf")); err != nil || !strings.HasSuffix(string(content), told) {
		t.Errorf("postgresql.auto.conf: %q, %v", content, err)
	}
	if _, err := os.Lstat(m.data("recovery.signal")); err != nil {
		t.Error(err)
	}
}
