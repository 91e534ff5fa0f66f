package checks_test

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestPromoteBehindReaders: a promotion does not wait for those who read on the standby,
// though they may hold up replay for ever: one by its snapshot, one by its lock. Others
// stay.
func TestPromoteBehindReaders(t *testing.T) {
	p := primary(t, "n1")
	p.exec("create table t as select generate_series(1, 1000) as n; create table u (n int)")
	r := p.standby("n2")
	r.exec("alter system set max_standby_streaming_delay = -1")
	r.exec("select pg_reload_conf()")
	r.follow(p)
	r.streaming()
	end := p.lsn("pg_current_wal_flush_lsn()")
	poll(t, 20*time.Second, "n2 to replay", func() bool { return r.lsn("pg_last_wal_replay_lsn()") >= end })
	ctx := within(t, 2*time.Minute)
	for _, begin := range []string{"begin isolation level repeatable read; select count(*) from t", "begin; select count(*) from u"} {
		_, err := r.sql().Exec(ctx, begin)
		must(t, err)
	}
	bystander := r.sql()
	must(t, bystander.Ping(ctx))
	for _, q := range []string{"delete from t", "vacuum t", "truncate u", "insert into u values (1)"} {
		p.exec(q)
	}
	end = p.lsn("pg_current_wal_flush_lsn()")
	poll(t, 20*time.Second, "n2 to receive all", func() bool { return r.lsn("coalesce(pg_last_wal_receive_lsn(), '0/0')") >= end })
	poll(t, 20*time.Second, "replay to wait for a reader", func() bool {
		return r.value("select coalesce(wait_event, '') from pg_stat_activity where backend_type = 'startup'") == "RecoveryConflictSnapshot"
	})
	r.shut()
	_, err := r.conn.Fence(within(t, 20*time.Second), ha.SyncSetting{})
	must(t, err)
	_, err = r.conn.SetSync(within(t, 10*time.Second), ha.SyncSetting{})
	must(t, err)
	_, err = r.conn.Promote(within(t, 20*time.Second), func(ha.Position) error { return nil })
	must(t, err)
	if n := r.value("select count(*) from u"); n != "1" {
		t.Errorf("u has %s rows: not all was replayed", n)
	}
	if err := bystander.Ping(ctx); err != nil {
		t.Errorf("a session that held up nothing was ended: %v", err)
	}
}
