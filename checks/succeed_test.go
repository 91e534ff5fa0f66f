package checks_test

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestEarlierSession: a sidecar that was killed in the middle of a change of the
// synchronous standbys may have left its session at work, and a setting in the
// file that is not in effect. A new sidecar's first look ends the one and sees the
// other.
func TestEarlierSession(t *testing.T) {
	p := primary(t, "n1")
	left := p.sql()
	var pid int
	must(t, left.QueryRow(within(t, 5*time.Second), "select pg_backend_pid() from set_config('application_name', 'pgsidecar work', false)").Scan(&pid))
	_, err := left.Exec(within(t, 5*time.Second), `alter system set synchronous_standby_names = 'ANY 1 ("n2")'`)
	must(t, err)
	working := make(chan error, 1)
	go func() {
		_, err := left.Exec(within(t, time.Minute), "select pg_sleep(60)")
		working <- err
	}()
	watch := p.sql()
	poll(t, 5*time.Second, "the earlier session to work", func() bool {
		var n int
		must(t, watch.QueryRow(within(t, 5*time.Second), "select count(*) from pg_stat_activity where pid = $1 and state = 'active'", pid).Scan(&n))
		return n == 1
	})
	p.conn.Close() // as a new process begins
	s, err := p.conn.Read(within(t, 10*time.Second))
	must(t, err)
	if want := (ha.SyncSetting{K: 1, Names: []string{"n2"}}); s.Sync.K != want.K || len(s.Sync.Names) != 1 || s.Sync.Names[0] != "n2" {
		t.Errorf("the look saw %+v, and %+v comes into effect with the next reload", s.Sync, want)
	}
	if err := <-working; err == nil {
		t.Error("the earlier session worked to its end")
	}
}
