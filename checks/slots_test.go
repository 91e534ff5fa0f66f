package checks_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// slot is what a server says of a member's slot.
func (s *server) slot(member, what string) string {
	s.t.Helper()
	return s.value("select coalesce(" + what + "::text, '') from pg_replication_slots where slot_name = '" + checks.SlotName(member) + "'")
}

// A primary that was deposed keeps the slots of its standbys, and with them the
// oldest transaction that their queries needed then (hot_standby_feedback). As a
// standby it would report that for ever, and the new primary never clean up what is
// younger (pg_auto_failover #814). What a silent member needs is kept all the same.
func TestSlotsOfAFormerPrimary(t *testing.T) {
	p := primary(t, "n1")
	ctx := within(t, 60*time.Second)
	ensure := func(slots ...checks.Slot) {
		t.Helper()
		_, err := p.conn.EnsureSlots(ctx, slots)
		must(t, err)
	}
	ensure(checks.MemberSlot("n2", 0), checks.MemberSlot("n3", 0))
	for _, name := range []string{"n2", "n3"} {
		r := p.standby(name)
		r.exec("alter system set hot_standby_feedback = on")
		r.followBySlot(p, checks.SlotName(name))
		r.streaming()
		p.exec("create table if not exists t (n int)")
		poll(t, 20*time.Second, "feedback of "+name, func() bool { return p.slot(name, "xmin") != "" })
		r.stop(syscall.SIGQUIT)
	}
	p.stop(syscall.SIGINT)
	p.makeStandby()
	p.start()

	from := p.slot("n2", "restart_lsn")
	ensure(checks.MemberSlot("n2", 0), checks.MemberSlot("n3", 0))
	if now := p.slot("n2", "restart_lsn"); now != from {
		t.Errorf("the slot of a member that nothing is known of went from %s to %s", from, now)
	}
	end := p.lsn("select pg_last_wal_replay_lsn()")
	ensure(checks.MemberSlot("n2", end), checks.MemberSlot("n3", 0))
	if pinned := p.slot("n2", "xmin"); pinned != "" {
		t.Errorf("a standby keeps everything since transaction %s", pinned)
	}
	if at, err := ha.ParseLSN(p.slot("n2", "restart_lsn")); err != nil || at > end {
		t.Errorf("the slot of n2 begins at %s, %v; n2 has %s", at, err, end)
	}
	if p.slot("n3", "xmin") == "" {
		t.Error("what a silent member needs is given up")
	}
}

// A slot that has lost its log is of no use to its member, which is cloned or
// rewound and then needs one (Patroni did so from 4.1.4 on). Another program's is its
// own matter.
func TestLostSlot(t *testing.T) {
	p := primary(t, "n1")
	ctx := within(t, 60*time.Second)
	p.exec("alter system set wal_keep_size = 0")
	p.exec("alter system set max_slot_wal_keep_size = '1MB'")
	p.exec("select pg_reload_conf()")
	ensure := func() {
		t.Helper()
		_, err := p.conn.EnsureSlots(ctx, []checks.Slot{checks.MemberSlot("n2", 0)})
		must(t, err)
	}
	ensure()
	p.exec("select pg_create_physical_replication_slot('theirs', true)")
	for i := range 4 {
		p.exec(fmt.Sprintf("select pg_logical_emit_message(true, 'test', '%d')", i))
		p.exec("select pg_switch_wal()")
	}
	p.exec("checkpoint")
	if got := p.slot("n2", "wal_status"); got != "lost" {
		t.Fatalf("the slot is %s", got)
	}
	ensure()
	if got := p.slot("n2", "wal_status"); got != "reserved" {
		t.Errorf("the member's slot is %s", got)
	}
	if got := p.value("select wal_status from pg_replication_slots where slot_name = 'theirs'"); got != "lost" {
		t.Errorf("another program's slot is %s", got)
	}
}
