package checks_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

func names(n ...string) []string { return n }

// A setting is in effect when SetSync returns, however it changes; commits go on
// afterwards, and the walsenders are shown as using it.
func TestSetSync(t *testing.T) {
	p := primary(t, "n1")
	a, b := p.standby("n2"), p.standby("n3")
	for _, r := range []*server{a, b} {
		r.follow(p)
		r.streaming()
	}
	l := p.load(2)
	for _, set := range []ha.SyncSetting{
		{K: 1, Names: names("n2", "n3")}, // none to some: the checkpointer counts
		{K: 2, Names: names("n2", "n3")}, // k alone, which no view shows
		{K: 1, Names: names("n2", "n3")},
		{K: 1, Names: names("n3")}, // a name goes
		{K: 1, Names: names("n2", "n3")},
		{},
		{K: 1, Names: names("n2", "n3")},
	} {
		before := p.lsn("pg_current_wal_flush_lsn()")
		began := time.Now()
		at, err := p.conn.SetSync(within(t, 20*time.Second), set)
		must(t, err)
		t.Logf("%+v after %s", set, time.Since(began))
		if at < before {
			t.Fatalf("%+v in effect at %s, before %s", set, at, before)
		}
		s, err := p.conn.Read(within(t, 5*time.Second))
		must(t, err)
		if s.Sync.K != set.K || !slices.Equal(s.Sync.Names, set.Names) {
			t.Fatalf("set %+v, seen %+v", set, s.Sync)
		}
		if len(s.Walsenders) != 2 {
			t.Fatalf("walsenders: %+v", s.Walsenders)
		}
		for _, w := range s.Walsenders {
			if want := slices.Contains(set.Names, w.Member); w.Sync && !want || set.K > 0 && want && !w.Fresh {
				t.Fatalf("under %+v: %+v", set, w)
			}
		}
	}
	n := l.acked()[0]
	poll(t, 10*time.Second, "commits to go on", func() bool { return l.acked()[0] > n+10 })

	// It is in effect for commits: with a voter fewer than k they wait.
	_, err := p.conn.SetSync(within(t, 20*time.Second), ha.SyncSetting{K: 2, Names: names("n2", "n3")})
	must(t, err)
	a.stop(syscall.SIGQUIT)
	watch := p.sql()
	poll(t, 10*time.Second, "commits to hang", func() bool {
		var waiting int
		must(t, watch.QueryRow(within(t, 5*time.Second), "select count(*) from pg_stat_activity where wait_event = 'SyncRep'").Scan(&waiting))
		return waiting == 2
	})
}

// A walsender that is stopped (SIGSTOP) has not read the new setting: nobody may
// believe that it is in effect.
func TestSetSyncSeesAWalsenderThatSleeps(t *testing.T) {
	p := primary(t, "n1")
	a, b := p.standby("n2"), p.standby("n3")
	for _, r := range []*server{a, b} {
		r.follow(p)
		r.streaming()
	}
	_, err := p.conn.SetSync(within(t, 10*time.Second), ha.SyncSetting{K: 1, Names: names("n2", "n3")})
	must(t, err)
	pid, err := strconv.Atoi(p.value("select pid from pg_stat_replication where application_name = 'n2'"))
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	for _, set := range []ha.SyncSetting{{K: 1, Names: names("n3")}, {K: 2, Names: names("n2", "n3")}} {
		_, err = p.conn.SetSync(within(t, 2*time.Second), set)
		if !errors.Is(err, checks.ErrUnproved) {
			t.Fatalf("%+v with a sleeping walsender: %v", set, err)
		}
	}
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	poll(t, 10*time.Second, "the proof", func() bool {
		at, err := p.conn.SyncInEffect(within(t, 5*time.Second))
		return err == nil && at > 0
	})
}

// quiet makes a standby confirm only what is new, and nothing of time.
func quiet(t *testing.T, p *server, standbys ...*server) {
	t.Helper()
	p.exec("alter system set wal_sender_timeout = '60s'") // half of it on, the primary asks
	p.exec("select pg_reload_conf()")
	for _, r := range standbys {
		r.exec("alter system set wal_receiver_status_interval = '10s'")
		r.exec("alter system set wal_receiver_timeout = '60s'")
		r.exec("select pg_reload_conf()")
	}
}

// pause stops a process until the returned function is called.
func pause(t *testing.T, s *server, query string) (resume func()) {
	t.Helper()
	pid, err := strconv.Atoi(s.value(query))
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	resume = sync.OnceFunc(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	t.Cleanup(resume)
	return resume
}

// releasedWithin bounds how long a commit waits that has all it waits for. With
// nothing done about it that is 10 s here.
const releasedWithin = time.Second

// released waits until all writers have gone on.
func (l *load) released(t *testing.T, from []int) {
	t.Helper()
	began := time.Now()
	poll(t, releasedWithin, "the commits that had their voter to go", func() bool {
		now := l.acked()
		for writer, n := range from {
			if now[writer] == n {
				return false
			}
		}
		return true
	})
	t.Logf("the commits went after %s", time.Since(began))
}

// A new sidecar has to prove the setting of a server that runs. Commits that were
// confirmed while nothing counted, so that no standby has anything more to say of
// them, go when it is proved, and when it cannot be.
func TestCommitsThatWaitedThroughAProofGo(t *testing.T) {
	for name, proved := range map[string]bool{"proved": true, "not proved": false} {
		t.Run(name, func(t *testing.T) {
			p := primary(t, "n1")
			a, b := p.standby("n2"), p.standby("n3")
			quiet(t, p, a, b)
			for _, r := range []*server{a, b} {
				r.follow(p)
				r.streaming()
			}
			_, err := p.conn.SetSync(within(t, 10*time.Second), ha.SyncSetting{K: 1, Names: names("n2", "n3")})
			must(t, err)
			watch := p.sql()
			// The freeze lasts as long as this walsender sleeps; later it must not
			// be n3 that lets the commits go.
			pause(t, b, "select pid from pg_stat_wal_receiver")
			wake := pause(t, p, "select pid from pg_stat_replication where application_name = 'n3'")

			l := p.load(2)
			successor, err := checks.New(checks.Options{Socket: p.dir, Port: p.port, User: "postgres", Member: "n1", Now: now})
			must(t, err)
			t.Cleanup(successor.Close)
			ended := make(chan error, 1)
			ctx := within(t, 3*time.Second)
			go func() {
				_, err := successor.SyncInEffect(ctx)
				ended <- err
			}()
			poll(t, 2*time.Second, "all commits to wait, confirmed", func() bool {
				var frozen, confirmed bool
				must(t, watch.QueryRow(within(t, 5*time.Second), `select
					(select count(*) = 2 from pg_stat_activity where wait_event = 'SyncRep'),
					(select sync_priority = 2 and flush_lsn >= pg_current_wal_flush_lsn() from pg_stat_replication where application_name = 'n2')`).
					Scan(&frozen, &confirmed))
				return frozen && confirmed
			})
			waiting := l.acked()
			if proved {
				wake()
			}
			err = <-ended
			if proved != (err == nil) {
				t.Fatalf("proof: %v", err)
			}
			l.released(t, waiting)
		})
	}
}

// Commits that waited for a voter that is gone go when another takes its place
// that has them.
func TestCommitsGoWithANewVoter(t *testing.T) {
	p := primary(t, "n1")
	a, b := p.standby("n2"), p.standby("n3")
	quiet(t, p, a, b)
	for _, r := range []*server{a, b} {
		r.follow(p)
		r.streaming()
	}
	_, err := p.conn.SetSync(within(t, 10*time.Second), ha.SyncSetting{K: 1, Names: names("n2")})
	must(t, err)
	watch := p.sql()
	l := p.load(2)
	a.stop(syscall.SIGQUIT)
	poll(t, 10*time.Second, "all commits to wait, with n3", func() bool {
		var wait, confirmed bool
		must(t, watch.QueryRow(within(t, 5*time.Second), `select
			(select count(*) = 2 from pg_stat_activity where wait_event = 'SyncRep'),
			(select flush_lsn >= pg_current_wal_flush_lsn() from pg_stat_replication where application_name = 'n3')`).
			Scan(&wait, &confirmed))
		return wait && confirmed
	})
	waiting := l.acked()
	_, err = p.conn.SetSync(within(t, 10*time.Second), ha.SyncSetting{K: 1, Names: names("n2", "n3")})
	must(t, err)
	l.released(t, waiting)
}

// A checkpointer that is stopped has not told the backends to wait.
func TestSetSyncSeesACheckpointerThatSleeps(t *testing.T) {
	p := primary(t, "n1")
	r := p.standby("n2")
	r.follow(p)
	r.streaming()
	pid, err := strconv.Atoi(p.value("select pid from pg_stat_activity where backend_type = 'checkpointer'"))
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	_, err = p.conn.SetSync(within(t, 2*time.Second), ha.SyncSetting{K: 1, Names: names("n2")})
	if !errors.Is(err, checks.ErrUnproved) {
		t.Fatalf("with a sleeping checkpointer: %v", err)
	}
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	_, err = p.conn.SetSync(within(t, 10*time.Second), ha.SyncSetting{K: 1, Names: names("n2")})
	must(t, err)
}

func TestLookPrimaryAndRestart(t *testing.T) {
	p := primary(t, "n1")
	s, err := p.conn.Read(within(t, 5*time.Second))
	must(t, err)
	if s.InRecovery != ha.No || s.Position.TLI != 1 || !s.Checkpointed || s.RecoveryEnd == 0 || s.SystemID == "" || s.Version < 150000 || s.Settled {
		t.Fatalf("%+v", s)
	}
	p.stop(syscall.SIGQUIT)
	if _, err := p.conn.Read(within(t, 5*time.Second)); !errors.Is(err, checks.ErrStopped) {
		t.Fatalf("look at a stopped server: %v", err)
	}
	p.start()
	again, err := p.conn.Read(within(t, 5*time.Second))
	must(t, err)
	if !again.StartedAt.After(s.StartedAt) || again.RecoveryEnd < s.Position.LSN {
		t.Fatalf("after the restart: %+v", again)
	}
}

func TestLookIsNotHeldUpByAnOperation(t *testing.T) {
	p := primary(t, "n1")
	must(t, warm(p))
	c := p.sql()
	_, err := c.Exec(within(t, 5*time.Second), "begin; lock pg_authid in access exclusive mode")
	must(t, err)
	hung := make(chan error, 1)
	ctx := within(t, time.Second)
	go func() { _, err := p.conn.EnsureRoles(ctx, []checks.Role{{Name: "x"}}); hung <- err }()
	must(t, warm(p))
	if err := <-hung; err == nil {
		t.Fatal("the operation did not hang")
	}
	_, err = c.Exec(within(t, 5*time.Second), "rollback")
	must(t, err)
	must(t, p.conn.WriteProbe(within(t, 5*time.Second)))
}

func TestWriteProbe(t *testing.T) {
	p := primary(t, "n1")
	r := p.standby("n2")
	// It does not wait for replicas that are not there.
	ctx := within(t, 20*time.Second)
	_, err := p.conn.SetSync(ctx, ha.SyncSetting{K: 1, Names: names("n9")})
	must(t, err)
	must(t, p.conn.WriteProbe(ctx))
	if err := r.conn.WriteProbe(ctx); !errors.Is(err, checks.ErrReadOnly) {
		t.Fatalf("probe of a standby: %v", err)
	}
	if _, err := r.conn.Read(ctx); err != nil {
		t.Fatalf("after the failed probe: %v", err)
	}
}

func TestRolesAndSlots(t *testing.T) {
	p := primary(t, "n1")
	ctx := within(t, 20*time.Second)
	roles := []checks.Role{{Name: "replicator", Password: "it's a \\ secret"}, {Name: "postgres", Password: "root's", Superuser: true}}
	for _, want := range []bool{true, false} {
		changed, err := p.conn.EnsureRoles(ctx, roles)
		if err != nil || changed != want {
			t.Fatalf("changed %v, %v", changed, err)
		}
	}
	verifier := p.value("select rolpassword from pg_authid where rolname = 'replicator'")
	if !strings.HasPrefix(verifier, "SCRAM-SHA-256$4096:") {
		t.Fatalf("password kept as %q", verifier)
	}
	roles[0].Password = "another"
	if changed, err := p.conn.EnsureRoles(ctx, roles); err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	if p.value("select rolpassword from pg_authid where rolname = 'replicator'") == verifier {
		t.Fatal("the password did not change")
	}
	p.exec("select pg_create_physical_replication_slot('theirs')")
	p.exec("select pg_create_physical_replication_slot('keeps', true)")
	p.exec("select pg_logical_emit_message(true, 'test', repeat('x', 100000))") // the commit writes it
	if held, err := p.conn.HeldSlots(ctx); err != nil || len(held) != 2 || held[0].Name != "keeps" || held[0].Bytes < 100000 || held[0].Active || held[0].Lost || held[1].Bytes != 0 {
		t.Errorf("slots keep %+v, %v", held, err)
	}
	p.exec("select pg_drop_replication_slot('keeps')")
	ensure := func(s *server, want ...checks.Slot) map[string]ha.LSN {
		t.Helper()
		all, err := s.conn.EnsureSlots(ctx, want)
		must(t, err)
		at := map[string]ha.LSN{}
		for _, slot := range all {
			at[slot.Name] = slot.At
		}
		return at
	}
	ensure(p, checks.MemberSlot("n2", 0), checks.MemberSlot("N-2", 0), checks.Slot{Name: "backup"})
	ensure(p, checks.MemberSlot("n2", 0), checks.Slot{Name: "backup"})
	if got := p.value("select string_agg(slot_name, ' ' order by slot_name) from pg_replication_slots"); got != "backup pgsidecar_n2 theirs" {
		t.Fatalf("slots %q", got)
	}

	// A standby keeps what each consumer is not known to have.
	r := p.standby("n2")
	unknown := ensure(r, checks.MemberSlot("n1", 0), checks.MemberSlot("n3", 0))
	made := r.value("select restart_lsn from pg_replication_slots where slot_name = 'pgsidecar_n3'")
	p.exec("create table more as select generate_series(1, 1000)")
	r.follow(p)
	end := p.lsn("select pg_current_wal_flush_lsn()")
	poll(t, 10*time.Second, "the replay", func() bool {
		facts, err := r.conn.Read(ctx)
		return err == nil && facts.Replayed >= end
	})
	if len(unknown) != 2 {
		t.Fatalf("a standby has %d slots", len(unknown))
	}
	ensure(r, checks.MemberSlot("n1", 0), checks.MemberSlot("n3", 0))
	if now := r.value("select restart_lsn from pg_replication_slots where slot_name = 'pgsidecar_n3'"); now != made {
		t.Errorf("the slot of a silent member went from %s to %s", made, now)
	}
	// What n3 has may be more than this standby has replayed.
	at := ensure(r, checks.MemberSlot("n1", 0), checks.MemberSlot("n3", 1<<60))
	if now := r.value("select restart_lsn > '" + made + "'::pg_lsn and restart_lsn <= pg_last_wal_replay_lsn() from pg_replication_slots where slot_name = 'pgsidecar_n3'"); now != "true" {
		t.Errorf("the slot did not move on: %v", at)
	}

	if wrong, err := p.conn.WrongLines(ctx); err != nil || len(wrong) > 0 {
		t.Errorf("%q, %v", wrong, err)
	}
}

// TestPreparedPasswords: a password outside ASCII is kept as PostgreSQL itself keeps it, so
// that its owner can log in. Where we cannot be sure of that, the password is refused.
func TestPreparedPasswords(t *testing.T) {
	p := primary(t, "n1")
	p.exec("create role odd login")
	for _, password := range []string{
		"plain", "größe", "pa\u0308\u00df", "x\u00a0y", "a\u00adb", "\ufb01sh", "\uff41\uff42 wide", "no\u200bspace", "\u2168 and \u00bd", "\u00ad", "日本語", "\u30ac\uff76\uff9e",
		"\u0645\u0631\u062d\u0628\u0627", "emoji \U0001f600", "\u0440\u0443\u0441\u0441\u043a\u0438\u0439", "tab\tx", "\u200e\u00e4", "\ue000",
	} {
		p.exec("alter role odd superuser password '" + password + "'")
		if changed, err := p.conn.EnsureRoles(within(t, 5*time.Second), []checks.Role{{Name: "odd", Password: password, Superuser: true}}); err != nil || changed {
			t.Errorf("%q: PostgreSQL keeps another (changed %t), %v", password, changed, err)
		}
	}
	for _, password := range []string{"\u00a0\U0001f600", "e\u0301\u05d0", "\ufb01\ue000"} {
		if _, err := p.conn.EnsureRoles(within(t, 5*time.Second), []checks.Role{{Name: "odd", Password: password, Superuser: true}}); !errors.Is(err, checks.ErrOddPassword) {
			t.Errorf("%q: %v", password, err)
		}
	}
}

// The verifier that we make is one that the server takes the password for.
func TestScramVerifier(t *testing.T) {
	p := primary(t, "n1")
	_, err := p.conn.EnsureRoles(within(t, 5*time.Second), []checks.Role{{Name: "postgres", Password: "se cret", Superuser: true}})
	must(t, err)
	must(t, writeHBA(p, "local all all scram-sha-256\n"))
	for password, want := range map[string]error{"se cret": nil, "wrong": checks.ErrDenied} {
		c, err := checks.New(checks.Options{Socket: p.dir, Port: p.port, User: "postgres", Member: "n1", Now: now,
			Password: func() (string, error) { return password, nil }})
		must(t, err)
		defer c.Close()
		_, err = c.Read(within(t, 5*time.Second))
		if want == nil && err != nil || !errors.Is(err, want) {
			t.Errorf("with password %q: %v", password, err)
		}
		if err != nil && strings.Contains(err.Error(), "wrong") {
			t.Errorf("the password is in the error: %v", err)
		}
	}
}

// control is a control file in a test.
type control struct{ path string }

func (c control) Control() (map[string]string, error) {
	content, err := os.ReadFile(c.path)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
		values[name] = strings.ReplaceAll(strings.Trim(value, "'"), "''", "'")
	}
	return values, nil
}

func (c control) SetControl(values map[string]string) error {
	all, err := c.Control()
	if err != nil {
		return err
	}
	maps.Copy(all, values)
	text := ""
	for name, value := range all {
		if name != "" {
			text += name + " = '" + strings.ReplaceAll(value, "'", "''") + "'\n"
		}
	}
	return os.WriteFile(c.path, []byte(text), 0o644)
}

// TestControlFile: a server that reads the control file is controlled by it whatever
// ALTER SYSTEM said before and may say later; one that does not read it yet keeps its
// settings, and is controlled by ALTER SYSTEM.
func TestControlFile(t *testing.T) {
	p := primary(t, "n1")
	file := control{filepath.Join(p.dir, "control.conf")}
	must(t, os.WriteFile(file.path, nil, 0o644))
	conn, err := checks.New(checks.Options{Socket: p.dir, Port: p.port, User: "postgres", Member: "n1", Now: now, Control: file})
	must(t, err)
	defer conn.Close()
	names := func() string { return p.value("select current_setting('synchronous_standby_names')") }
	set := func(member string) {
		t.Helper()
		ctx := within(t, 10*time.Second)
		_, err := conn.SetSync(ctx, ha.SyncSetting{K: 1, Names: []string{member}})
		must(t, err)
		if want := `ANY 1 ("` + member + `")`; names() != want {
			t.Fatalf("it is %s, not %s", names(), want)
		}
	}
	auto := func() string {
		content, err := os.ReadFile(filepath.Join(p.data(), "postgresql.auto.conf"))
		must(t, err)
		return string(content)
	}
	set("n2")
	if !strings.Contains(auto(), "n2") {
		t.Error("a server that does not read the file was not controlled by ALTER SYSTEM")
	}
	conf, err := os.OpenFile(filepath.Join(p.data(), "test.conf"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = conf.WriteString("include '" + file.path + "'\n")
	must(t, err)
	must(t, conf.Close())
	set("n3")
	if strings.Contains(auto(), "synchronous_standby_names") {
		t.Errorf("ALTER SYSTEM still has it:\n%s", auto())
	}
	p.exec("alter system set synchronous_standby_names = 'somebody'")
	p.exec("select pg_reload_conf()")
	set("n4")
}
