package sidecar_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// three returns a settled cluster of three, led by n1.
func three(t *testing.T) *world {
	w := newWorld(t)
	w.add("n1")
	w.primaryIs("n1", 20*time.Second)
	w.add("n2")
	w.add("n3")
	w.settled("n1")
	return w
}

// settled waits until both others stream from the leader and vote.
func (w *world) settled(leader string) {
	w.t.Helper()
	w.until("settled", 30*time.Second, func() bool {
		replicas := 0
		for _, m := range w.members {
			if m.running && m.upstream == leader && m.tag == "replica" {
				replicas++
			}
		}
		return replicas == 2 && w.record.Durability.K == 1 && len(w.record.Durability.Voters) == 2 && !w.record.Durability.Has(leader)
	})
}

func TestClusterForms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		if r := w.recorded(); len(r.Members) != 3 || r.SystemID != "7" {
			t.Errorf("record: %+v", r)
		}
	})
}

// TestRulesAreCounted: each action that is begun counts for the rule that asked for it,
// of whatever kind it is: a failover's, with its transactions, leases and registrations.
func TestRulesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		w.members["n1"].crash()
		w.until("another leads", time.Second, func() bool { return w.record.Phase == ha.PhaseLeading && w.record.Term == 2 })
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, rule := range []string{"founder-init", "start-primary", "founder-lease", "pass", "founder-leads", "clone", "claim", "promote", "announce"} {
			if w.rules[rule] == 0 {
				t.Errorf("nothing was begun by rule %s: %v", rule, w.rules)
			}
		}
		for rule := range w.rules {
			if !slices.Contains(ha.RuleNames(), rule) {
				t.Errorf("an action was begun by %q, which is not the name of a rule", rule)
			}
		}
	})
}

func TestServerCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		begun := time.Now()
		w.members["n1"].crash()
		w.until("another leads", time.Second, func() bool {
			return w.record.Phase == ha.PhaseLeading && w.record.Term == 2 && w.record.Leader != "n1" && w.members[w.record.Leader].tag == "primary"
		})
		// Fence 8 ms, promote 35 ms, and no wait beside them.
		if took := time.Since(begun); took > 60*time.Millisecond {
			t.Errorf("the failover took %s of virtual time", took)
		}
		w.settled(w.recorded().Leader)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.history) != 2 {
			t.Fatalf("%d records were stored, want one for each term: %+v", len(w.history), w.history)
		}
		r := w.history[1]
		last := r.Detected
		for _, p := range r.Phases() {
			if p.At.Before(last) || p.At.IsZero() {
				t.Errorf("%s at %s, and the phase before at %s", p.Name, p.At, last)
			}
			last = p.At
		}
		if took := r.Routed.Sub(r.Announced); took != catalogDelay {
			t.Errorf("routed %s after it was announced; the catalog had it after %s", took, catalogDelay)
		}
	})
}

// TestVouched: Consul need not be asked for the lease of a primary whose members' word
// keeps it, and must as soon as they are not heard.
func TestVouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		n1 := w.members["n1"]
		w.until("the members' word to count", time.Second, func() bool { return n1.holding && n1.vouched })
		w.members["n2"].kill()
		w.members["n3"].kill()
		w.until("the lock to be asked for", time.Second, func() bool { return n1.holding && !n1.vouched })
	})
}

// TestNeverRouted: a term is recorded also when the catalog does not lead to its leader,
// and says so: it was not routed.
func TestNeverRouted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.unnamed = true
		w.add("n1")
		w.primaryIs("n1", 20*time.Second)
		w.until("a record", 5*time.Second, func() bool { return len(w.history) == 1 })
		w.mu.Lock()
		defer w.mu.Unlock()
		if r := w.history[0]; !r.Routed.IsZero() || r.Announced.IsZero() {
			t.Errorf("announced %s, routed %s; want never", r.Announced, r.Routed)
		}
	})
}

// TestGuardKilled: the server ends with its guard, and the new guard knows nothing of
// it; the sidecar does, and hands over as after any crash.
func TestGuardKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		n1 := w.members["n1"]
		w.mu.Lock()
		n1.running, n1.clean, n1.armed, n1.leaseUntil, n1.startedAt, n1.exitedAt = false, false, false, 0, 0, 0
		w.wakeAll()
		w.mu.Unlock()
		w.until("another leads", time.Second, func() bool { return w.record.Phase == ha.PhaseLeading && w.record.Leader != "n1" })
		w.settled(w.recorded().Leader)
	})
}

// TestGuardKilledAfterCleanStop: a server that once stopped cleanly has run since, and
// has ended with its guard. What it was known to have then, or was last seen to have, is
// no final position, which would stand for all votes (S3).
func TestGuardKilledAfterCleanStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		n1 := w.members["n1"]
		var before ha.Instant
		w.look(func() { before = n1.startedAt })
		n1.sidecar.Restart()
		w.until("restarted", 5*time.Second, func() bool { return n1.running && n1.startedAt > before })
		w.settled("n1")
		w.primaryIs("n1", time.Second)
		change := func(f func()) {
			w.mu.Lock()
			f()
			w.wakeAll()
			w.mu.Unlock()
			synctest.Wait()
		}
		change(func() { n1.lost = true })
		change(func() {
			n1.lost, n1.running, n1.clean, n1.armed, n1.leaseUntil, n1.startedAt, n1.exitedAt = false, false, false, false, 0, 0, 0
		})
		w.until("another leads", time.Second, func() bool { return w.record.Phase == ha.PhaseLeading && w.record.Leader != "n1" })
		w.look(func() {
			if len(w.finals) > 0 {
				t.Errorf("a server that crashed told a final position: %v", w.finals)
			}
		})
		w.settled(w.recorded().Leader)
	})
}

func TestMemberKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		begun := time.Now()
		n1 := w.members["n1"]
		n1.kill()
		w.until("another leads", 2*time.Second, func() bool { return w.record.Phase == ha.PhaseLeading && w.record.Leader != "n1" })
		if took := time.Since(begun); took > 300*time.Millisecond {
			t.Errorf("the failover took %s of virtual time", took)
		}
		n1.run()
		w.settled(w.recorded().Leader)
	})
}

// TestRecordLost: Consul loses all it had of the cluster, its indexes too. The primary
// founds it anew, in the term that it leads: the others have promised to follow none of
// an earlier one. A failover is possible as before.
func TestRecordLost(t *testing.T) {
	for name, index := range map[string]uint64{"keys deleted": 1000, "another consul": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := three(t)
				defer w.stop()
				w.members["n1"].crash()
				w.until("another leads", time.Second, func() bool { return w.record.Phase == ha.PhaseLeading && w.record.Leader != "n1" })
				leader := w.recorded().Leader
				w.settled(leader)
				w.mu.Lock()
				w.record, w.lock, w.index = ha.Record{}, ha.Lock{}, w.index*index
				started := w.members[leader].startedAt
				w.wakeAll()
				w.mu.Unlock()
				w.primaryIs(leader, 10*time.Second)
				w.settled(leader)
				w.look(func() {
					if w.members[leader].startedAt != started {
						t.Error("the primary was restarted")
					}
				})
				w.members[leader].crash()
				w.until("another leads", 5*time.Second, func() bool { return w.record.Phase == ha.PhaseLeading && w.record.Leader != leader })
				w.settled(w.recorded().Leader)
			})
		})
	}
}

func TestSwitchover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		w.members["n1"].sidecar.Switchover("n3", 0)
		w.primaryIs("n3", time.Second)
		w.settled("n3")
	})
}

// TestRegistrationRefused: what Consul was to be told while it refused is told
// later by the cluster itself, so the sidecar must not take its last success for
// what is registered.
func TestRegistrationRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		n2 := w.members["n2"]
		w.mu.Lock()
		n2.refused, n2.owed = true, "nothing yet"
		w.mu.Unlock()
		n2.sidecar.Restart()
		w.until("n2 withdraws its tag", 10*time.Second, func() bool { return n2.owed == "" })
		w.until("n2 streams again", 30*time.Second, func() bool { return n2.report.Streaming })
		w.mu.Lock()
		n2.refused, n2.tag = false, n2.owed
		w.mu.Unlock()
		w.until("n2 is announced again", 10*time.Second, func() bool { return n2.tag == "replica" })
	})
}

// TestTagsChangeWhileAnnounced: the registration tells this member's tags; settings
// that change them while one is under way are in the next one, and what changes
// nothing of this member's asks for none.
func TestTagsChangeWhileAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		n2 := w.members["n2"]
		set := func(settings string) {
			w.mu.Lock()
			w.set = settings
			w.wakeAll()
			w.mu.Unlock()
		}
		const first, second, others = `{"tags":{"n2":{"noloadbalance":true}}}`, `{"tags":{"n2":{"priority":5}}}`, `{"tags":{"n2":{"priority":5},"n3":{"nosync":true}}}`
		slow := make(chan struct{})
		w.mu.Lock()
		n2.slow = slow
		w.mu.Unlock()
		set(first)
		w.until("a registration is under way", time.Second, func() bool { return n2.told == first })
		set(second)
		synctest.Wait()
		w.mu.Lock()
		n2.slow = nil
		w.mu.Unlock()
		close(slow)
		w.until("the tags of now are registered", time.Second, func() bool { return n2.told == second })
		set(others)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if n2.told != second {
			t.Error("registered anew for another member's tags")
		}
	})
}

// TestReloadWhileConfigured: a configuration file that is read again while the one
// before is being taken up is taken up after it.
func TestReloadWhileConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		n1 := w.members["n1"]
		reload := func(version int) {
			w.mu.Lock()
			n1.file = version
			w.mu.Unlock()
			n1.sidecar.SetPolicy(settings.Default())
		}
		reload(1)
		w.until("the file is being taken up", 20*time.Second, func() bool { return n1.configured == [2]int{1, 0} })
		reload(2)
		w.until("the file of now is taken up", 20*time.Second, func() bool { return n1.configured == [2]int{2, 2} })
	})
}

// TestProbeWaits: a write probe that could not be made, as another operation was
// under way, says nothing of the server: the primary keeps its tag. If none can be
// made for long the disk may hang, and another leads.
func TestProbeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		n1 := w.members["n1"]
		w.mu.Lock()
		n1.probe = sidecar.ErrOccupied
		w.mu.Unlock()
		for range 800 {
			time.Sleep(10 * time.Millisecond)
			w.look(func() {
				if n1.tag != "primary" {
					t.Fatalf("the tag is %q", n1.tag)
				}
			})
		}
		w.until("another leads", 30*time.Second, func() bool { return w.record.Phase == ha.PhaseLeading && w.record.Leader != "n1" })
	})
}

func TestShutdownHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		n1 := w.members["n1"]
		n1.sidecar.Shutdown()
		var exit *sidecar.ExitError
		if err := <-n1.ended; !errors.As(err, &exit) || exit.Code != 0 {
			t.Fatalf("Run returned %v", err)
		}
		n1.kill2()
		w.until("another leads", time.Second, func() bool { return w.record.Phase == ha.PhaseLeading && w.record.Leader != "n1" })
	})
}

// kill2 marks a member whose Run has returned.
func (m *member) kill2() {
	m.w.mu.Lock()
	m.sidecar, m.notify = nil, [3]func(){}
	m.w.mu.Unlock()
}

func TestSidecarReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		n1 := w.members["n1"]
		n1.cancel()
		if err := <-n1.ended; err != nil {
			t.Fatal(err)
		}
		n1.run()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.record.Term != 1 || !n1.running || n1.tag != "primary" {
			t.Errorf("the server did not live on: term %d, running %v, tag %q", w.record.Term, n1.running, n1.tag)
		}
	})
}

// TestUnreadableFilesAreReadAgain: the files of a running server cannot be read when
// its sidecar begins. They are read again, and the member goes on: what is not known
// yet is no reason to wait for ever.
func TestUnreadableFilesAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		n2 := w.members["n2"]
		n2.cancel()
		<-n2.ended
		w.mu.Lock()
		n2.unreadable = 1
		w.mu.Unlock()
		n2.run()
		w.until("n2 knows its files", 5*time.Second, func() bool {
			snap := n2.sidecar.Snapshot()
			return snap != nil && snap.Observation.Server.DataDir == ha.DataPresent && snap.State.Role == ha.RoleReplica
		})
	})
}

// TestAllKilled: all members lose power at once. LiteFS then had no primary (#76). Here
// one leads again when all are back, or, with the old primary's host gone, both others.
func TestAllKilled(t *testing.T) {
	for _, back := range [][]string{{"n3", "n2", "n1"}, {"n2", "n3"}} {
		t.Run(strings.Join(back, " "), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := three(t)
				defer w.stop()
				for _, name := range []string{"n1", "n2", "n3"} {
					w.members[name].kill()
				}
				time.Sleep(time.Minute)
				for _, name := range back {
					w.members[name].run()
				}
				w.until("a primary, and the other replicas", 30*time.Second, func() bool {
					primaries, replicas := 0, 0
					for _, m := range w.members {
						if !m.running {
							continue
						}
						switch m.tag {
						case "primary":
							primaries++
						case "replica":
							replicas++
						}
					}
					return w.record.Phase == ha.PhaseLeading && w.members[w.record.Leader].running && primaries == 1 && replicas == len(back)-1
				})
			})
		})
	}
}

// TestCandidateDies: a switchover whose target dies with the lock in its hand is
// rolled back, or goes on to the third member; writes are possible again within
// a second.
func TestCandidateDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := three(t)
		defer w.stop()
		w.members["n1"].sidecar.Switchover("n3", 0)
		w.until("n3 has the lock", time.Second, func() bool { return w.record.Leader == "n3" && w.record.Phase == ha.PhaseElecting })
		begun := time.Now()
		w.members["n3"].kill()
		w.until("another leads", 5*time.Second, func() bool { return w.record.Leader != "n3" && w.record.Phase == ha.PhaseLeading })
		if took := time.Since(begun); took > time.Second {
			t.Errorf("writes were possible again only after %s of virtual time", took)
		}
	})
}

// TestLastMemberStops: with nobody to hand over to, the primary stops cleanly,
// records its final position and releases the lock; started again it leads in
// place, in the same term.
func TestLastMemberStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n1 := w.add("n1")
		w.primaryIs("n1", 20*time.Second)
		n1.sidecar.Shutdown()
		var exit *sidecar.ExitError
		if err := <-n1.ended; !errors.As(err, &exit) || exit.Code != 0 {
			t.Fatalf("Run returned %v", err)
		}
		w.look(func() {
			if w.lock.Session != "" || w.record.Final == nil || w.running() != 0 {
				t.Fatalf("lock %+v, record %+v", w.lock, w.record)
			}
		})
		n1.run()
		defer w.stop()
		w.primaryIs("n1", 20*time.Second)
		if r := w.recorded(); r.Term != 1 || r.Final != nil {
			t.Errorf("record %+v", r)
		}
	})
}
