package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// good runs a command line that must succeed, and returns what it prints.
func (o *operated) good(t *testing.T, line string) string {
	t.Helper()
	code, stdout, stderr := command(t, strings.Fields(line)...)
	if code != cli.ExitOK {
		t.Fatalf("pgsidecar %s: exit status %d\n%s%s", line, code, stdout, stderr)
	}
	return stdout
}

// whole waits until all members stream from a primary, and returns its status.
func (o *operated) whole(t *testing.T) *api.Status {
	t.Helper()
	var st *api.Status
	o.until(t, "whole cluster", func() bool {
		st = o.status()
		return st.Primary && len(st.Members) == 3 && st.Durability.K == 1 && len(st.Durability.Voters) == 2 &&
			!slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool {
				return m.Member != st.Leader && !m.Streaming || m.Link != "self" && m.Link != "up"
			})
	})
	return st
}

func (o *operated) replicas(st *api.Status) (names []string) {
	for _, m := range st.Members {
		if m.Member != st.Leader {
			names = append(names, m.Member)
		}
	}
	return names
}

func (o *operated) api(t *testing.T, member string) string {
	t.Helper()
	h, err := o.Plan().Host(member)
	if err != nil {
		t.Fatal(err)
	}
	return h.APIAddress()
}

// asked asks one member's server for one value.
func (o *operated) asked(t *testing.T, member, query string) (value string) {
	t.Helper()
	config, err := o.ConnConfig(lab.SuperuserRole, member)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err.Error()
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, query).Scan(&value); err != nil {
		return err.Error()
	}
	return value
}

// tags in the cluster's settings hold at once: in the health paths, in Consul, and
// for who may lead.
func (o *operated) tags(t *testing.T) {
	st := o.whole(t)
	m := o.replicas(st)[0]
	consul, err := o.ConsulClient(o.Plan().App().Name)
	if err != nil {
		t.Fatal(err)
	}
	isReplica := func() bool {
		services, _, err := consul.Catalog().Service(o.Plan().Cluster, "replica", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range services {
			if s.ServiceMeta["member"] == m {
				return true
			}
		}
		return false
	}
	answers := func() int { code, _ := o.ask(http.MethodGet, o.api(t, m), "/replica", "", ""); return code }
	if !isReplica() || answers() != 200 {
		t.Fatalf("%s is no replica before", m)
	}
	o.good(t, fmt.Sprintf("config set tags.%[1]s.noloadbalance=true tags.%[1]s.nofailover=true tags.%[1]s.priority=5 -yes", m))
	o.until(t, "end of the tag replica", func() bool { return !isReplica() && answers() == 503 })
	o.until(t, "refusal of "+m, func() bool {
		code, _, stderr := command(t, "switchover", "--to", m)
		return code == cli.ExitFailed && strings.Contains(stderr, m+" cannot lead now")
	})
	if st := o.status(); st.Leader == m {
		t.Errorf("%s leads", m)
	}
	o.good(t, fmt.Sprintf("config set tags.%[1]s.noloadbalance= tags.%[1]s.nofailover= tags.%[1]s.priority= -yes", m))
	o.until(t, "tag replica", func() bool { return isReplica() && answers() == 200 })

	// Without a tag, one that is too far behind gets no reads either.
	o.good(t, "config set service.replica_max_lag=1kB -yes")
	_ = o.asked(t, m, "select pg_wal_replay_pause()::text")
	o.until(t, "end of the tag of one that is behind", func() bool {
		_ = o.asked(t, st.Leader, "select pg_logical_emit_message(false, 'test', repeat('x', 4000))::text")
		return !isReplica() && answers() == 503
	})
	_ = o.asked(t, m, "select pg_wal_replay_resume()::text")
	o.good(t, "config set service.replica_max_lag= -yes")
	o.until(t, "tag of one that has caught up", func() bool { return isReplica() && answers() == 200 })
}

// fewerConnections: a standby needs as many as its primary has, so with fewer in the
// settings a restarted replica keeps what it had until the primary was restarted.
func (o *operated) fewerConnections(t *testing.T) {
	st := o.whole(t)
	replicas := o.replicas(st)
	has := func(member string) string { return o.asked(t, member, "show max_connections") }
	pending := func(member string) bool {
		_, body := o.ask(http.MethodGet, o.api(t, member), "/patroni", "", "")
		var own struct {
			Pending bool `json:"pending_restart"`
		}
		return json.Unmarshal([]byte(body), &own) == nil && own.Pending
	}
	o.good(t, "config set parameters.max_connections=60 -yes")
	o.until(t, "pending restart of the primary", func() bool { return pending(st.Leader) })
	o.good(t, "restart "+replicas[0])
	o.whole(t)
	if got := has(replicas[0]); got != "100" {
		t.Errorf("%s, whose primary has 100 connections, has %s", replicas[0], got)
	}
	o.good(t, "restart --role primary")
	after := o.whole(t)
	if got := has(after.Leader); got != "60" || after.Leader != st.Leader || after.Term != st.Term {
		t.Errorf("the primary was %s in term %d; %s leads term %d with %s connections", st.Leader, st.Term, after.Leader, after.Term, got)
	}
	o.until(t, "pending restarts of the replicas", func() bool { return pending(replicas[0]) && pending(replicas[1]) })
	o.good(t, "restart --pending")
	o.whole(t)
	for _, h := range o.Plan().Members() {
		if got := has(h.Name); got != "60" || pending(h.Name) {
			t.Errorf("%s has %s connections, and a restart is pending: %t", h.Name, got, pending(h.Name))
		}
	}
}

// pauseEnds: a pause ends by itself.
func (o *operated) pauseEnds(t *testing.T) {
	o.good(t, "pause --for 3s --reason drill")
	o.until(t, "pause", func() bool { return o.status().Paused })
	if shown := o.good(t, "status"); !strings.Contains(shown, "PAUSED until") || !strings.Contains(shown, "(drill)") {
		t.Errorf("status shows\n%s", shown)
	}
	began := time.Now()
	o.until(t, "end of the pause", func() bool { return !o.status().Paused })
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it ended after %v", took)
	}
}

// planned: what is planned is seen by Patroni's clients, and can be forgotten.
func (o *operated) planned(t *testing.T) {
	st := o.whole(t)
	m := o.replicas(st)[0]
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	o.good(t, "switchover --to "+m+" --at "+later)
	o.good(t, "restart "+m+" --at "+later)
	cluster := func() (scheduled, restart string) {
		_, body := o.ask(http.MethodGet, o.api(t, m), "/cluster", "", "")
		var c struct {
			Switchover struct{ At, To string } `json:"scheduled_switchover"`
			Members    []struct {
				Name    string
				Restart struct{ Schedule string } `json:"scheduled_restart"`
			}
		}
		if err := json.Unmarshal([]byte(body), &c); err != nil {
			t.Fatal(err)
		}
		for _, member := range c.Members {
			restart += member.Restart.Schedule
		}
		return c.Switchover.At + " " + c.Switchover.To, restart
	}
	shown := strings.TrimSuffix(later, "Z") + "+00:00"
	o.until(t, "plans", func() bool { s, r := cluster(); return s == shown+" "+m && r == shown })
	o.good(t, "switchover --cancel")
	o.good(t, "restart "+m+" --cancel")
	o.until(t, "end of the plans", func() bool { s, r := cluster(); return s == " " && r == "" })
	if code, _, stderr := command(t, "switchover", "--cancel"); code != cli.ExitFailed || !strings.Contains(stderr, "no switchover is scheduled") {
		t.Errorf("nothing to forget: exit status %d, %s", code, stderr)
	}
	o.plannedInVain(t, m)
}

// plannedInVain plans a switchover that an open transaction forbids: it is tried for as long
// as its window is open, and what came of it is in status.
func (o *operated) plannedInVain(t *testing.T, to string) {
	st := o.whole(t)
	config, err := o.ConnConfig(lab.SuperuserRole, st.Leader)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is lost with it
	if _, err := conn.Exec(ctx, "begin; select pg_current_xact_id()"); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(3 * time.Second).UTC().Format(time.RFC3339)
	o.good(t, "switchover --to "+to+" --at "+at+" --within 8s")
	shown := func(words ...string) func() bool {
		return func() bool {
			said := o.good(t, "status")
			return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(said, w) })
		}
	}
	o.until(t, "a try in vain", shown("the switchover planned for "+at+" is tried again: ", "open transactions did not end"))
	o.until(t, "the end of its window", shown("the switchover planned for "+at+" was not done: ", "open transactions did not end"))
	if now := o.status(); now.Leader != st.Leader || now.Scheduled != nil {
		t.Errorf("%s leads, and planned is %+v", now.Leader, now.Scheduled)
	}
}

// reinit clones from the member that is named, and shows how far it is.
func (o *operated) reinit(t *testing.T) {
	st := o.whole(t)
	replicas := o.replicas(st)
	said := o.good(t, "reinit "+replicas[0]+" --from "+replicas[1]+" -yes")
	if !strings.HasSuffix(said, replicas[0]+": streams\n") {
		t.Errorf("it says\n%s", said)
	}
	h, err := o.Plan().Host(replicas[0])
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(h.Dir, "sidecar.log"))
	if err != nil || !bytes.Contains(log, []byte("cloning: from="+replicas[1])) {
		t.Errorf("the log of %s does not say that it cloned from %s, %v", replicas[0], replicas[1], err)
	}
	o.whole(t)
}

// slots: a permanent slot is on every member, and after a switchover it is where its
// consumer was, so that nothing is missing.
func (o *operated) slots(t *testing.T) {
	st := o.whole(t)
	o.good(t, `config set slots.backup={"type":"physical"} -yes`)
	const there = "select count(*)::text from pg_replication_slots where slot_name = 'backup'"
	for _, h := range o.Plan().Members() {
		o.until(t, "slot on "+h.Name, func() bool { return o.asked(t, h.Name, there) == "1" })
	}
	o.until(t, "reserved log", func() bool {
		return o.asked(t, st.Leader, "select coalesce(restart_lsn::text, '') from pg_replication_slots where slot_name = 'backup'") != ""
	})
	at := o.asked(t, st.Leader, "select restart_lsn::text from pg_replication_slots where slot_name = 'backup'")
	o.good(t, "switchover")
	after := o.whole(t)
	if got := o.asked(t, after.Leader, "select (restart_lsn <= '"+at+"')::text from pg_replication_slots where slot_name = 'backup'"); got != "true" {
		t.Errorf("the consumer was at %s; on %s its log is kept from there: %s", at, after.Leader, got)
	}
	o.good(t, "config set slots.backup= -yes")
	for _, h := range o.Plan().Members() {
		o.until(t, "end of the slot on "+h.Name, func() bool { return o.asked(t, h.Name, there) == "0" })
	}
}

// consulAway: without Consul commands find the cluster by the members themselves,
// writes go on, and what needs Consul fails with the reason.
func (o *operated) consulAway(t *testing.T) {
	st := o.whole(t)
	server := o.Plan().Servers()[0].Name
	if err := o.Kill(server, lab.Consul); err != nil {
		t.Fatal(err)
	}
	defer func() {
		os.Unsetenv("PGSIDECAR_TOKEN") // this test's own, which Consul need not inherit
		if err := o.Start(context.WithoutCancel(t.Context()), server, lab.Consul); err != nil {
			t.Error(err)
		}
		os.Setenv("PGSIDECAR_TOKEN", o.token)
		o.whole(t)
	}()
	o.until(t, "sight of it", func() bool {
		return strings.Contains(o.good(t, "status"), "Consul, as "+st.Leader+" sees it: reachable: no")
	})
	if now := o.status(); now.Leader != st.Leader || !now.Primary || len(now.Members) != 3 {
		t.Errorf("%+v", now)
	}
	if got := o.asked(t, st.Leader, "select count(*)::text from (select pg_logical_emit_message(true, 'a', 'b')) m"); got != "1" {
		t.Errorf("a write: %s", got)
	}
	if code, _, stderr := command(t, "pause"); code != cli.ExitFailed || !strings.Contains(stderr, "onsul") {
		t.Errorf("pause: exit status %d, %s", code, stderr)
	}
	began := func() string { return o.asked(t, st.Leader, "select pg_postmaster_start_time()::text") }
	before := began()
	if code, _, stderr := command(t, "switchover"); code != cli.ExitFailed || !strings.Contains(stderr, "Consul does not answer") {
		t.Errorf("switchover: exit status %d, %s", code, stderr)
	}
	if after := began(); after != before {
		t.Errorf("a switchover that could not be done restarted the primary: %s, before %s", after, before)
	}
}

// pauses add up, and one of the whole cluster takes the place of members'. Wrong
// names are refused, and so are settings that would depose a healthy primary.
func (o *operated) pauses(t *testing.T) {
	paused := func() []string {
		st := o.status()
		if !st.Paused && len(st.PausedMembers) == 0 {
			return nil
		}
		return append([]string{fmt.Sprint("all: ", len(st.PausedMembers) == 0), st.PausedReason}, st.PausedMembers...)
	}
	are := func(line string, want ...string) {
		t.Helper()
		o.good(t, line)
		o.until(t, fmt.Sprint("pause ", want, " after ", line), func() bool { return slices.Equal(paused(), want) })
	}
	refused := func(line, why string) {
		t.Helper()
		if code, stdout, stderr := command(t, strings.Fields(line)...); code != cli.ExitFailed || !strings.Contains(stderr, why) {
			t.Errorf("%s: exit status %d, %s%s", line, code, stdout, stderr)
		}
	}
	refused("pause n9", "there is no member n9; there are n1, n2, n3")
	are("pause n1 --for 10m --reason upgrade", "all: false", "upgrade", "n1")
	are("pause n3 --for 5m", "all: false", "upgrade", "n1", "n3")
	if left := time.Until(o.status().PausedUntil); left < 6*time.Minute {
		t.Errorf("the second pause ends the first in %v", left)
	}
	refused("resume n2", "n2 is not paused; paused: n1, n3")
	are("resume n1", "all: false", "upgrade", "n3")
	are("pause", "all: true", "")
	refused("pause n2", "the whole cluster is paused")
	are("resume")

	refused("config set failover.failure_timeout=100ms -yes", "expected 500ms or more")
	refused("config set failover.failure_timeout=10s -yes", "half of the lease")
}
