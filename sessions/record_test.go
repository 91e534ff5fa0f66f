package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// electing is a valid record of a term led by the member.
func electing(term uint64, leader string, index uint64) ha.Record {
	return ha.Record{
		Version: ha.RecordVersion, SystemID: "7", Term: term, Leader: leader, Phase: ha.PhaseElecting,
		Durability: ha.Durability{Mode: ha.ModeQuorum, K: 1, Voters: []string{"n1", "n2"}},
		Members:    []string{"n1", "n2"}, Index: index,
	}
}

// ballot is the change by which a member takes the lock and raises the term.
func ballot(m *member, name string) ha.Change {
	v := m.View().Consul
	return ha.Change{What: "ballot", Record: electing(v.Record.Term+1, name, v.Record.Index),
		Lock: ha.LockTake, Session: v.Session, Holder: name, Prior: v.Lock}
}

func keep(m *member, name string) ha.Change {
	v := m.View().Consul
	return ha.Change{What: "lead", Record: electing(v.Record.Term, name, v.Record.Index), Lock: ha.LockKeep, Session: v.Session, Holder: name}
}

func TestOneWinsTheBallot(t *testing.T) {
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	n1, n2 := run(t, options("n1", server.http)), run(t, options("n2", server.http))
	s1, s2 := n1.session(t), n2.session(t)

	late := ballot(n2, "n2")
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	v := n1.View().Consul
	if v.Record.Term != 1 || v.Record.Index == 0 || v.Lock.Session != s1 || v.Lock.Holder != "n1" {
		t.Fatalf("after the ballot the view is %+v", v)
	}
	if v.HeldAt == 0 || v.HeldTerm != 1 || v.SeenAt < v.HeldAt {
		t.Fatalf("the lease is not dated: %+v", v)
	}
	err := n2.Commit(ctx, late)
	wantErr(t, err, sessions.ErrConflict)
	if v := n2.View().Consul; v.Lock.Session != s1 || v.Record.Term != 1 || v.HeldAt != 0 {
		t.Fatalf("a lost ballot was not followed by a reading: %+v", v)
	}

	// A replacement: the old holder's session lives, and loses the lock.
	must(t, n2.Commit(ctx, ballot(n2, "n2")))
	if v := n2.View().Consul; v.Lock.Session != s2 || v.HeldTerm != 2 {
		t.Fatalf("after the replacement the view is %+v", v)
	}
	n1.await(t, 5*time.Second, "the new term", func(v sessions.View) bool { return v.Consul.Record.Term == 2 && v.Consul.Lock.Holder == "n2" })
	wantErr(t, n1.Commit(ctx, keep(n1, "n1")), sessions.ErrConflict)

	// The lock is passed back, and was never free.
	pass := ha.Change{What: "pass", Record: electing(3, "n1", n2.View().Consul.Record.Index),
		Lock: ha.LockTake, Session: s1, Holder: "n1", Prior: n2.View().Consul.Lock}
	must(t, n2.Commit(ctx, pass))
	v1 := n1.await(t, 5*time.Second, "the passed lock", func(v sessions.View) bool { return v.Consul.HeldTerm == 3 })
	if v1.Consul.Lock.Session != s1 || n2.View().Consul.HeldTerm == 3 {
		t.Fatalf("the lock was not passed: %+v", v1.Consul)
	}

	must(t, n1.Commit(ctx, keep(n1, "n1")))
	release := keep(n1, "n1")
	release.Lock = ha.LockRelease
	must(t, n1.Commit(ctx, release))
	if v := n1.View().Consul; v.Lock.Session != "" || v.Lock.Holder != "n1" || v.Lock.Index == 0 {
		t.Fatalf("after the release the lock is %+v", v.Lock)
	}
	// A free key with a prior index is just locked.
	must(t, n1.Commit(ctx, ballot(n1, "n1")))

	gone := ballot(n1, "n1")
	gone.Session = "00000000-0000-0000-0000-000000000000"
	gone.Prior = n1.View().Consul.Lock
	wantErr(t, n1.Commit(ctx, gone), sessions.ErrNoSession)
	gone.Session = ""
	wantErr(t, n1.Commit(ctx, gone), sessions.ErrNoSession)
	bad := ballot(n1, "n1")
	bad.Record.Phase = "dreaming"
	wantErr(t, n1.Commit(ctx, bad), ha.ErrRecord)
}

func TestBrokenRecord(t *testing.T) {
	server := newAgent(t, "server", "", "")
	n1 := run(t, options("n1", server.http))
	n1.session(t)
	for name, value := range map[string]string{
		"damaged": `{"version":1,`,
		"newer":   fmt.Sprintf(`{"version":%d,"term":"a string now"}`, ha.RecordVersion+1),
		"invalid": `{"version":1,"term":0}`,
	} {
		t.Run(name, func(t *testing.T) {
			old := n1.View().Consul.Broken
			_, err := server.api.KV().Put(&api.KVPair{Key: "pgsidecar/main/state", Value: []byte(value)}, nil)
			must(t, err)
			v := n1.await(t, 5*time.Second, "the broken record", func(v sessions.View) bool { return v.Consul.Broken != "" && v.Consul.Broken != old })
			if v.Consul.Record.Exists() || v.Consul.Record.Term != 0 {
				t.Fatalf("a broken record was acted on: %+v", v.Consul.Record)
			}
			pair, _, err := server.api.KV().Get("pgsidecar/main/state", nil)
			must(t, err)
			if v.Consul.BrokenIndex != pair.ModifyIndex || v.Consul.Newer != (name == "newer") {
				t.Errorf("the core is told of index %d of %d, and a newer version: %t", v.Consul.BrokenIndex, pair.ModifyIndex, v.Consul.Newer)
			}
			t.Log(v.Consul.Broken)
		})
	}
	_, err := server.api.KV().Delete("pgsidecar/main/state", nil)
	must(t, err)
	n1.await(t, 5*time.Second, "the end of the broken record", func(v sessions.View) bool {
		return v.Consul.Broken == "" && v.Consul.BrokenIndex == 0 && !v.Consul.Newer
	})
}

// Keys whose names begin like ours are not taken for them, and no reading of one key
// is a reading of both.
func TestNeighbouringKeys(t *testing.T) {
	server := newAgent(t, "server", "", "")
	n1 := run(t, options("n1", server.http))
	n1.session(t)
	for _, name := range []string{"state2", "state/x", "leaderboard", "leader/x", "leade", "stat"} {
		_, err := server.api.KV().Put(&api.KVPair{Key: "pgsidecar/main/" + name, Value: []byte(`{"version":1,`)}, nil)
		must(t, err)
	}
	must(t, n1.Confirm(background(t)))
	if v := n1.View().Consul; v.Record.Exists() || v.Broken != "" || v.Lock.Index != 0 {
		t.Fatalf("another key was read: %+v", v)
	}
	must(t, n1.Commit(background(t), ballot(n1, "n1")))
	must(t, n1.Confirm(background(t)))
	if v := n1.View().Consul; v.Record.Term != 1 || v.Lock.Holder != "n1" || v.HeldTerm != 1 {
		t.Fatalf("ours were not read: %+v", v)
	}
}

func TestSessionEnds(t *testing.T) {
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	n1, n2 := run(t, options("n1", server.http)), run(t, options("n2", server.http))
	s1 := n1.session(t)
	n2.session(t)
	must(t, n1.Commit(ctx, ballot(n1, "n1")))

	entry, _, err := server.api.Session().Info(s1, nil)
	must(t, err)
	if entry.LockDelay > 2*time.Millisecond || entry.TTL != "10s" || len(entry.NodeChecks)+len(entry.ServiceChecks)+len(entry.Checks) != 0 || entry.Behavior != "release" {
		t.Fatalf("the session is %+v", entry)
	}

	start := time.Now()
	_, err = server.api.Session().Destroy(s1, nil)
	must(t, err)
	v := n1.await(t, 5*time.Second, "a new session", func(v sessions.View) bool { return v.Consul.Session != "" && v.Consul.Session != s1 })
	t.Logf("new session after %s", time.Since(start).Round(10*time.Microsecond))
	if took := time.Since(start); took > time.Second {
		t.Errorf("a new session took %s: no event told of the end", took)
	}
	n1.await(t, 5*time.Second, "the free lock", func(v sessions.View) bool { return v.Consul.Lock.Session == "" && v.Consul.Lock.Holder == "n1" })
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	if n1.View().Consul.HeldTerm != 2 {
		t.Fatalf("the lock was not taken again: %+v", v.Consul)
	}

	// One that holds nothing is replaced as fast.
	s2 := n2.View().Consul.Session
	start = time.Now()
	_, err = server.api.Session().Destroy(s2, nil)
	must(t, err)
	n2.await(t, time.Second, "a new session", func(v sessions.View) bool { return v.Consul.Session != "" && v.Consul.Session != s2 })
	t.Logf("new session after %s", time.Since(start).Round(10*time.Microsecond))

	// A clean stop frees the lock at once, and makes no other session.
	must(t, n1.ReleaseSession(ctx))
	n2.await(t, 5*time.Second, "the released lock", func(v sessions.View) bool { return v.Consul.Record.Term == 2 && v.Consul.Lock.Session == "" })
	must(t, n2.Commit(ctx, ballot(n2, "n2")))
	if v := n1.View(); v.Consul.Session != "" {
		t.Fatalf("a session after the release: %s", v.Consul.Session)
	}
}

// The lock's delay of 1 ms, after a session that ended, is no lost ballot.
func TestBallotAtTheEndOfASession(t *testing.T) {
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	n1, n2 := run(t, options("n1", server.http)), run(t, options("n2", server.http))
	n1.session(t)
	n2.session(t)
	for range 20 {
		must(t, n1.Commit(ctx, ballot(n1, "n1")))
		old := n1.View().Consul.Session
		held := n2.await(t, 5*time.Second, "the lock", func(v sessions.View) bool { return v.Consul.Lock.Session == old }).Consul
		change := ha.Change{What: "ballot", Record: electing(held.Record.Term+1, "n2", held.Record.Index),
			Lock: ha.LockTake, Session: held.Session, Holder: "n2", Prior: ha.Lock{Holder: "n1", Index: held.Lock.Index}}
		_, err := server.api.Session().Destroy(old, nil)
		must(t, err)
		must(t, n2.Commit(ctx, change))
		n1.await(t, 5*time.Second, "a new session", func(v sessions.View) bool {
			return v.Consul.Session != "" && v.Consul.Session != old && v.Consul.Lock.Holder == "n2"
		})
	}
}

func TestSettingsAndHistory(t *testing.T) {
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	n1, n2 := run(t, options("n1", server.http)), run(t, options("n2", server.http))
	n1.session(t)

	must(t, n1.PutSettings(ctx, []byte(`{"paused":true}`), 0))
	first := n1.View()
	if string(first.Settings) != `{"paused":true}` || first.SettingsIndex == 0 {
		t.Fatalf("settings are not in the view: %q", first.Settings)
	}
	n2.await(t, 5*time.Second, "the settings", func(v sessions.View) bool { return v.SettingsIndex == first.SettingsIndex })
	must(t, n2.PutSettings(ctx, []byte(`{}`), first.SettingsIndex))
	wantErr(t, n1.PutSettings(ctx, []byte(`{"paused":false}`), first.SettingsIndex), sessions.ErrConflict)
	if v := n1.View(); string(v.Settings) != `{}` {
		t.Fatalf("after the conflict the settings are %q", v.Settings)
	}
	_, err := server.api.KV().Delete("pgsidecar/main/config", nil)
	must(t, err)
	n1.await(t, 5*time.Second, "the deletion", func(v sessions.View) bool { return v.SettingsIndex == 0 && v.Settings == nil })

	for _, term := range []uint64{9, 10, 100} {
		must(t, n1.PutHistory(ctx, term, fmt.Appendf(nil, `{"term":%d}`, term)))
	}
	history, err := n2.History(ctx, 2)
	must(t, err)
	if len(history) != 2 || string(history[0]) != `{"term":100}` || string(history[1]) != `{"term":10}` {
		t.Fatalf("history is %q", history)
	}
	last, err := n2.LastDrill(ctx)
	must(t, err)
	if last != nil {
		t.Fatalf("before any drill the last is %q", last)
	}
	must(t, n1.PutLastDrill(ctx, []byte(`{"scenario":"a"}`)))
	must(t, n1.PutLastDrill(ctx, []byte(`{"scenario":"b"}`)))
	last, err = n2.LastDrill(ctx)
	must(t, err)
	if string(last) != `{"scenario":"b"}` {
		t.Fatalf("the last drill is %q", last)
	}
}

// BenchmarkCommit reports the median time of a change at its member, and until
// another member's view shows it.
func BenchmarkCommit(b *testing.B) {
	server := newAgent(b, "server", "", "")
	n1, n2 := run(b, options("n1", server.http)), run(b, options("n2", server.http))
	n1.session(b)
	n2.session(b)
	ctx := background(b)
	var commits, seen []time.Duration
	for b.Loop() {
		change := ballot(n1, "n1")
		start := time.Now()
		must(b, n1.Commit(ctx, change))
		commits = append(commits, time.Since(start))
		n2.await(b, 5*time.Second, "the change", func(v sessions.View) bool { return v.Consul.Record.Term == change.Record.Term })
		seen = append(seen, time.Since(start))
	}
	b.ReportMetric(float64(median(commits).Microseconds()), "median-commit-µs")
	b.ReportMetric(float64(median(seen).Microseconds()), "median-seen-µs")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// TestHistoryIsBounded: the newest 200 terms, and the newest 200 changes of the
// settings, stay; requests are told of.
func TestHistoryIsBounded(t *testing.T) {
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	var puts atomic.Int32
	o := options("n1", server.http)
	o.Requested = func(operation string, took time.Duration, err error) {
		if operation == "kv put" && took > 0 && err == nil {
			puts.Add(1)
		}
	}
	n := run(t, o)
	for i := range 203 {
		must(t, n.PutHistory(ctx, uint64(i+1), fmt.Appendf(nil, "%d", i+1)))
		must(t, n.PutChange(ctx, int64(i+1), fmt.Appendf(nil, "%d", i+1)))
	}
	for name, read := range map[string]func(context.Context, int) ([][]byte, error){"history": n.History, "changes": n.Changes} {
		kept, err := read(ctx, 0)
		must(t, err)
		if len(kept) != 200 || string(kept[0]) != "203" || string(kept[199]) != "4" {
			t.Errorf("%s: %d kept", name, len(kept))
		}
	}
	if puts.Load() != 2*203 {
		t.Errorf("told of %d requests", puts.Load())
	}
}

// TestOutages: a month's journal is changed by several members at once, none of the changes is
// lost, months that are too old go, and what cannot be written changes nothing.
func TestOutages(t *testing.T) {
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	n1, n2 := run(t, options("n1", server.http)), run(t, options("n2", server.http))
	add := func(n interface {
		PutOutages(context.Context, string, func([]byte) ([]byte, error)) error
	}, month, line string) error {
		return n.PutOutages(ctx, month, func(journal []byte) ([]byte, error) { return append(journal, line+"\n"...), nil })
	}
	must(t, add(n1, "2019-01", "too old"))
	month := time.Now().UTC().Format("2006-01")
	var both errgroup.Group
	for i := range 3 {
		both.Go(func() error { return add(n1, month, fmt.Sprint("a", i)) })
		both.Go(func() error { return add(n2, month, fmt.Sprint("b", i)) })
	}
	must(t, both.Wait())
	wrong := errors.New("wrong")
	wantErr(t, n1.PutOutages(ctx, month, func([]byte) ([]byte, error) { return nil, wrong }), wrong)
	journals, err := n2.Outages(ctx)
	must(t, err)
	if len(journals) != 1 || strings.Count(string(journals[0]), "\n") != 6 {
		t.Errorf("%q", journals)
	}
}
