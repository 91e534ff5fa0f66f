package checks_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// A fenced standby of a living primary under load receives nothing more: its
// position stands still, the primary's commits hang, and all that was
// acknowledged is at or before the position.
func TestFenceFreezes(t *testing.T) {
	t.Run("fence", func(t *testing.T) {
		testFreezes(t, func(r *server) (ha.Position, error) {
			return r.conn.Fence(within(t, 10*time.Second), ha.SyncSetting{})
		})
	})
	t.Run("freeze", func(t *testing.T) {
		testFreezes(t, func(r *server) (ha.Position, error) { return r.conn.Freeze(within(t, 10*time.Second)) })
	})
}

func testFreezes(t *testing.T, fence func(*server) (ha.Position, error)) {
	p := primary(t, "n1")
	r := p.standby("n2")
	r.follow(p)
	r.streaming()
	_, err := p.conn.SetSync(within(t, 10*time.Second), ha.SyncSetting{K: 1, Names: []string{"n2"}})
	must(t, err)
	l := p.load(4)
	watch := p.sql()
	poll(t, 10*time.Second, "the load to run", func() bool {
		var n int
		must(t, watch.QueryRow(within(t, 5*time.Second), "select count(*) from load").Scan(&n))
		return n > 500
	})

	r.shut()
	began := time.Now()
	at, err := fence(r)
	must(t, err)
	t.Logf("fenced in %s at %s", time.Since(began), at)
	flushed := func() ha.LSN {
		return max(r.lsn("coalesce(pg_last_wal_receive_lsn(), '0/0')"), r.lsn("pg_last_wal_replay_lsn()"))
	}
	if now := flushed(); now != at.LSN {
		t.Fatalf("the vote says %s and the server is at %s", at.LSN, now)
	}
	poll(t, 10*time.Second, "commits to hang", func() bool {
		var n int
		must(t, watch.QueryRow(within(t, 5*time.Second),
			"select count(*) from pg_stat_activity where wait_event = 'SyncRep'").Scan(&n))
		return n == 4
	})
	acked := l.acked()
	timer := time.NewTimer(500 * time.Millisecond) // several retries of a walreceiver
	<-timer.C
	if now := flushed(); now != at.LSN {
		t.Fatalf("fenced at %s, and now at %s", at.LSN, now)
	}
	if now := l.acked(); !slices.Equal(acked, now) {
		t.Fatalf("commits were acknowledged after the fence: %v, then %v", acked, now)
	}
	var s checks.Facts
	poll(t, 5*time.Second, "a look between two walreceivers that the gate turns away", func() bool {
		var err error
		s, err = r.conn.Read(within(t, 5*time.Second))
		must(t, err)
		return s.Settled
	})
	if s.Receiving != ha.No || s.Upstream != "" || s.Position.LSN != at.LSN {
		t.Fatalf("a look at the fenced server: %+v", s)
	}

	// All that was acknowledged is there when the fenced one leads.
	_, err = r.conn.SetSync(within(t, 5*time.Second), ha.SyncSetting{})
	must(t, err)
	refusal := errors.New("the timeline is taken")
	var where ha.Position
	refuse := func(at ha.Position) error { where = at; return refusal }
	if _, err := r.conn.Promote(within(t, 10*time.Second), refuse); !errors.Is(err, refusal) || where.LSN != at.LSN || r.value("select pg_is_in_recovery()") != "true" {
		t.Fatalf("a promotion without its timeline: %v at %s", err, where)
	}
	now, err := r.conn.Promote(within(t, 10*time.Second), func(ha.Position) error { return nil })
	must(t, err)
	if now.TLI != 2 || len(now.History) != 1 || now.History[0].End != at.LSN {
		t.Fatalf("promoted to %+v", now)
	}
	c := r.sql()
	for w, n := range acked {
		var have int
		must(t, c.QueryRow(within(t, 5*time.Second), "select coalesce(max(n), 0) from load where writer = $1", w).Scan(&have))
		if have < n {
			t.Errorf("writer %d was told of %d rows and has %d", w, n, have)
		}
	}
}

// Only the gate holds a walreceiver that the startup process starts with a
// configuration it has not re-read; so with the gate shut and primary_conninfo
// still set nothing is received.
func TestGateHoldsWithoutTheSetting(t *testing.T) {
	p := primary(t, "n1")
	r := p.standby("n2")
	r.follow(p)
	r.streaming()
	r.shut()
	pid, err := strconv.Atoi(r.value("select pid from pg_stat_wal_receiver"))
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGTERM))
	poll(t, 5*time.Second, "the walreceiver to end", func() bool {
		return r.value("select count(*) from pg_stat_wal_receiver") == "0"
	})
	before := r.lsn("pg_last_wal_receive_lsn()")
	p.exec("create table t as select generate_series(1, 1000)")
	timer := time.NewTimer(600 * time.Millisecond) // several retries
	<-timer.C
	if now := r.lsn("pg_last_wal_receive_lsn()"); now != before {
		t.Fatalf("received from %s to %s through a shut gate", before, now)
	}
	r.follow(p) // opens the gate; the setting is what it was
	poll(t, 5*time.Second, "the table", func() bool {
		return r.lsn("pg_last_wal_replay_lsn()") >= p.lsn("pg_current_wal_flush_lsn()")
	})
}

// After a restart a standby has received nothing in this life: its vote is where
// its local log ends, and only once it has read all of it.
func TestFenceAfterRestart(t *testing.T) {
	p := primary(t, "n1")
	r := p.standby("n2")
	r.follow(p)
	r.streaming()
	p.exec("create table t as select generate_series(1, 200000) as n")
	end := p.lsn("pg_current_wal_flush_lsn()")
	poll(t, 10*time.Second, "the log to be received", func() bool { return r.lsn("pg_last_wal_receive_lsn()") >= end })
	for _, sig := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGINT} {
		r.stop(sig)
		r.makeStandby()
		r.start()
		at, err := r.conn.Fence(within(t, 20*time.Second), ha.SyncSetting{})
		must(t, err)
		if at.LSN < end || at.TLI != 1 || at.History != nil {
			t.Fatalf("after %s: voted %+v, had %s", sig, at, end)
		}
	}
}

// A standby that is delayed on purpose has to replay its own log first as well, after a restart,
// which takes as long as its delay: that is said, and it votes when it has.
func TestFenceOfADelayedStandby(t *testing.T) {
	p := primary(t, "n1")
	r := p.standby("n2")
	r.follow(p)
	r.streaming()
	conf := filepath.Join(r.data(), "postgresql.conf")
	plain, err := os.ReadFile(conf)
	must(t, err)
	must(t, os.WriteFile(conf, append(plain, "\nrecovery_min_apply_delay = '1h'\n"...), 0o600))
	r.exec("select pg_reload_conf()")
	poll(t, 10*time.Second, "the delay", func() bool { return r.value("current_setting('recovery_min_apply_delay')") == "1h" })
	p.exec("create table t as select generate_series(1, 1000) as n")
	end := p.lsn("pg_current_wal_flush_lsn()")
	poll(t, 10*time.Second, "the log to be received", func() bool { return r.lsn("pg_last_wal_receive_lsn()") >= end })
	for _, sig := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGINT} {
		r.stop(sig)
		r.makeStandby()
		r.start()
		if _, err := r.conn.Fence(within(t, 3*time.Second), ha.SyncSetting{}); !errors.Is(err, checks.ErrUnsettled) || !strings.Contains(err.Error(), "recovery_min_apply_delay") {
			t.Fatalf("after %s, a vote that cannot be given yet: %v", sig, err)
		}
		f, err := r.conn.Read(within(t, 10*time.Second))
		must(t, err)
		if f.Settled || f.Delayed != time.Hour {
			t.Errorf("after %s: settled %v, delayed by %s", sig, f.Settled, f.Delayed)
		}
	}
	must(t, os.WriteFile(conf, plain, 0o600))
	r.exec("select pg_reload_conf()")
	at, err := r.conn.Fence(within(t, 20*time.Second), ha.SyncSetting{})
	must(t, err)
	f, err := r.conn.Read(within(t, 10*time.Second))
	must(t, err)
	if at.LSN < end || !f.Settled || f.Delayed != 0 {
		t.Errorf("voted %+v, had %s; settled %v, delayed by %s", at, end, f.Settled, f.Delayed)
	}
}

// A standby whose replay is paused votes for what it has received, and not for
// what it has replayed.
func TestFenceWhilePaused(t *testing.T) {
	p := primary(t, "n1")
	r := p.standby("n2")
	r.follow(p)
	r.streaming()
	r.exec("select pg_wal_replay_pause()")
	p.exec("create table t as select generate_series(1, 100)")
	end := p.lsn("pg_current_wal_flush_lsn()")
	poll(t, 10*time.Second, "the log to be received", func() bool { return r.lsn("pg_last_wal_receive_lsn()") >= end })
	r.shut()
	at, err := r.conn.Fence(within(t, 5*time.Second), ha.SyncSetting{})
	must(t, err)
	if at.LSN < end || r.lsn("pg_last_wal_replay_lsn()") >= end {
		t.Fatalf("paused standby voted %s, received %s", at.LSN, end)
	}
}

// A walreceiver that is stopped (SIGSTOP) may still have something to flush:
// there is no vote while it is there.
func TestFenceWaitsForAWalreceiverThatSleeps(t *testing.T) {
	p := primary(t, "n1")
	r := p.standby("n2")
	r.follow(p)
	r.streaming()
	pid, err := strconv.Atoi(r.value("select pid from pg_stat_wal_receiver"))
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	r.shut()
	for range 2 {
		if at, err := r.conn.Fence(within(t, 500*time.Millisecond), ha.SyncSetting{}); !errors.Is(err, checks.ErrUnsettled) {
			t.Fatalf("fenced at %s, %v", at, err)
		}
	}
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	_, err = r.conn.Fence(within(t, 10*time.Second), ha.SyncSetting{})
	must(t, err)
}

func TestFenceRefusesAPrimary(t *testing.T) {
	p := primary(t, "n1")
	_, err := p.conn.Fence(within(t, 5*time.Second), ha.SyncSetting{})
	if !errors.Is(err, checks.ErrNotStandby) {
		t.Fatalf("fence of a primary: %v", err)
	}
}

// Medians of fence and promotion, as the budget for a failover knows them.
func BenchmarkFence(b *testing.B) {
	b.Run("fence", func(b *testing.B) {
		benchFence(b, func(r *server) error {
			_, err := r.conn.Fence(within(b, 10*time.Second), ha.SyncSetting{})
			return err
		})
	})
	b.Run("freeze", func(b *testing.B) {
		benchFence(b, func(r *server) error {
			_, err := r.conn.Freeze(within(b, 10*time.Second))
			return err
		})
	})
}

func benchFence(b *testing.B, fence func(*server) error) {
	p := primary(b, "n1")
	r := p.standby("n2")
	var times []time.Duration
	for b.Loop() {
		b.StopTimer()
		r.follow(p)
		r.streaming()
		must(b, warm(r))
		b.StartTimer()
		r.shut()
		began := time.Now()
		must(b, fence(r))
		times = append(times, time.Since(began))
		b.StopTimer()
		_, err := r.conn.Fence(within(b, 10*time.Second), ha.SyncSetting{})
		must(b, err)
		b.StartTimer()
	}
	report(b, times)
}

func BenchmarkPromote(b *testing.B) {
	p := primary(b, "n1")
	var times []time.Duration
	for b.Loop() {
		b.StopTimer()
		r := p.standby("n2")
		r.follow(p)
		r.streaming()
		p.exec("create table if not exists t (n int); insert into t select generate_series(1, 1000)")
		_, err := r.conn.Fence(within(b, 10*time.Second), ha.SyncSetting{K: 1, Names: []string{"n1"}})
		must(b, err)
		must(b, warm(r))
		b.StartTimer()
		began := time.Now()
		_, err = r.conn.Promote(within(b, 10*time.Second), func(ha.Position) error { return nil })
		must(b, err)
		times = append(times, time.Since(began))
		b.StopTimer()
		r.stop(syscall.SIGQUIT)
		os.RemoveAll(r.dir)
		b.StartTimer()
	}
	report(b, times)
}

func BenchmarkLook(b *testing.B) {
	p := primary(b, "n1")
	r := p.standby("n2")
	r.follow(p)
	r.streaming()
	for _, s := range []*server{p, r} {
		b.Run(s.name, func(b *testing.B) {
			for b.Loop() {
				must(b, warm(s))
			}
		})
	}
}

func warm(s *server) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := s.conn.Read(ctx)
	return err
}

func report(b *testing.B, times []time.Duration) {
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "ms-median")
	b.ReportMetric(float64(times[len(times)-1].Microseconds())/1000, "ms-worst")
}
