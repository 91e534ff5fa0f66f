package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// subscriber is a server beside the cluster, with a subscription to it.
type subscriber struct {
	t    *testing.T
	dir  string
	port int
}

// newSubscriber starts the server; it ends with the test.
func newSubscriber(t *testing.T) *subscriber {
	t.Helper()
	bin := labtest.Program(t, programs.PostgresBin)
	dir, err := os.MkdirTemp("", "sub")
	if err != nil {
		t.Fatal(err)
	}
	s := &subscriber{t: t, dir: dir, port: freePort(t)}
	var credential *syscall.Credential
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid) //nolint:errcheck // it is a number on Linux
		gid, _ := strconv.Atoi(u.Gid) //nolint:errcheck // it is a number on Linux
		credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir = dir
		cmd.Env = []string{"LC_ALL=C.UTF-8", "PATH=/usr/bin:/bin"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential, Setpgid: true, Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	if out, err := command("initdb", "-D", "data", "-U", "postgres", "--auth=trust", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	server := command("postgres", "-D", "data", "-p", strconv.Itoa(s.port), "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off",
		"-c", "wal_retrieve_retry_interval=200ms", "-c", "wal_receiver_timeout=5s", "-c", "logging_collector=off")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server.Stderr = log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGQUIT) //nolint:errcheck // it may have ended
		server.Wait()                          //nolint:errcheck // it was told to
		if b, err := os.ReadFile(filepath.Join(dir, "log")); err == nil && t.Failed() {
			lines := strings.Split(string(b), "\n")
			t.Logf("the subscriber said:\n%s", strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
		os.RemoveAll(dir)
	})
	labtest.Until(t, 30*time.Second, "the subscriber's start", func() bool { _, err := s.query("select 1"); return err == nil })
	return s
}

// query returns the one value that a query has, as text.
func (s *subscriber) query(sql string) (value string, err error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", s.dir, s.port))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	if strings.HasPrefix(sql, "select") {
		err = conn.QueryRow(ctx, sql).Scan(&value)
	} else {
		_, err = conn.Exec(ctx, sql)
	}
	return value, err
}

// rows writes rows through the leader of the moment until it is told to stop. What came of a
// commit that failed is not known, so its number is not used again.
func (o *operated) rows(ctx context.Context, t *testing.T, table string) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	var writer sync.WaitGroup
	acknowledged := 0
	writer.Go(func() {
		var conn *pgx.Conn
		for n := 1; ctx.Err() == nil; n++ {
			if conn == nil || conn.IsClosed() {
				if conn = o.leads(ctx); conn == nil {
					continue
				}
			}
			once, done := context.WithTimeout(ctx, 5*time.Second)
			_, err := conn.Exec(once, "insert into "+table+" values ($1)", n)
			done()
			if err == nil {
				acknowledged++
				continue
			}
			conn.Close(ctx) //nolint:errcheck // it is given up
			conn = nil
		}
	})
	return func() int { cancel(); writer.Wait(); return acknowledged }
}

// leads connects to the member that takes writes; nil: nobody does now.
func (o *operated) leads(ctx context.Context) *pgx.Conn {
	for _, m := range o.Plan().Members() {
		config, err := o.ConnConfig(lab.SuperuserRole, m.Name)
		if err != nil {
			continue
		}
		once, done := context.WithTimeout(ctx, time.Second)
		conn, err := pgx.ConnectConfig(once, config)
		if err == nil {
			var standby bool
			if err = conn.QueryRow(once, "select pg_is_in_recovery()").Scan(&standby); err == nil && !standby {
				done()
				return conn
			}
			conn.Close(once) //nolint:errcheck // it is not the primary's
		}
		done()
	}
	return nil
}

// TestFailoverSlots: a subscriber follows its slot through ten changes of leader, clean
// and unclean in turn, under a writer: at the end it has each row of the publisher once,
// and no other. Needs PostgreSQL 17 or later.
func TestFailoverSlots(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	o := newOperated(t)
	st := o.whole(t)
	if version, err := strconv.Atoi(o.asked(t, st.Leader, "select current_setting('server_version_num')")); err != nil || version < 170000 {
		t.Skipf("PostgreSQL %d has no failover slots (%v)", version, err)
	}
	o.good(t, "config set failover_slots=true -yes")
	o.good(t, "restart --all")
	st = o.whole(t)
	o.must(t, st.Leader, "create table followed (n bigint); create publication p for table followed")
	sub := newSubscriber(t)
	sub.must("create table followed (n bigint)")
	sub.must("create subscription s connection " + quoted(o.conninfo(t)) + " publication p with (failover = true, copy_data = false)")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	stop := o.rows(ctx, t, "followed")
	for round := range 10 {
		st = o.whole(t)
		o.copied(t, st.Leader)
		if round%2 == 0 {
			o.good(t, "switchover")
			o.until(t, "another leader", func() bool { now := o.status(); return now.Primary && now.Term > st.Term })
			continue
		}
		if err := o.KillMember(ctx, st.Leader); err != nil {
			t.Fatal(err)
		}
		o.until(t, "another leader", func() bool { now := o.status(); return now.Primary && now.Term > st.Term })
		if err := o.Start(ctx, st.Leader, lab.Sidecar); err != nil {
			t.Fatal(err)
		}
	}
	st = o.whole(t)
	o.copied(t, st.Leader)
	acknowledged := stop()
	want := o.asked(t, st.Leader, "select count(*)::text || ' ' || md5(string_agg(n::text, ',' order by n)) from followed")
	got := ""
	o.until(t, "the subscriber to have all", func() bool {
		got, _ = sub.query("select count(*)::text || ' ' || md5(string_agg(n::text, ',' order by n)) from followed") //nolint:errcheck // asked again
		return got == want
	})
	doubles, err := sub.query("select (count(*) - count(distinct n))::text from followed")
	if err != nil || doubles != "0" {
		t.Errorf("%s rows are there twice (%v)", doubles, err)
	}
	t.Logf("%d rows acknowledged; the publisher and the subscriber have %s", acknowledged, want)
}

// copied waits until both standbys have a copy that would serve, and the primary's
// consumers wait for both.
func (o *operated) copied(t *testing.T, leader string) {
	t.Helper()
	last := ""
	defer func() {
		if t.Failed() {
			t.Log("last seen: ", last)
		}
	}()
	o.until(t, "copies of the slot", func() bool {
		last = o.asked(t, leader, "select current_setting('synchronized_standby_slots')")
		well := strings.Count(last, "pgsidecar_") == 2 && !strings.Contains(last, "pgsidecar_"+leader)
		for _, m := range o.Plan().Members() {
			if m.Name != leader {
				all := o.asked(t, m.Name, `select string_agg(slot_name || ' ' || synced || ' ' || temporary || ' ' || coalesce(invalidation_reason, 'valid'), '; ')
					from pg_replication_slots where slot_type = 'logical'`)
				well = well && all == "s true false valid"
				last += " | " + m.Name + ": " + all
			}
		}
		return well
	})
}

func (o *operated) must(t *testing.T, member, sql string) {
	t.Helper()
	config, err := o.ConnConfig(lab.SuperuserRole, member)
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (s *subscriber) must(sql string) {
	s.t.Helper()
	if _, err := s.query(sql); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// conninfo names all members, of which libpq takes the one that takes writes.
func (o *operated) conninfo(t *testing.T) string {
	t.Helper()
	var hosts, ports []string
	var c *pgx.ConnConfig
	for _, m := range o.Plan().Members() {
		var err error
		if c, err = o.ConnConfig(lab.SuperuserRole, m.Name); err != nil {
			t.Fatal(err)
		}
		host, port, err := net.SplitHostPort(net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))))
		if err != nil {
			t.Fatal(err)
		}
		hosts, ports = append(hosts, host), append(ports, port)
	}
	return fmt.Sprintf("host=%s port=%s user=%s password=%s dbname=postgres target_session_attrs=read-write connect_timeout=2",
		strings.Join(hosts, ","), strings.Join(ports, ","), c.User, c.Password)
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
