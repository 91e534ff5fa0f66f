package guard_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/guard"
)

// TestServerIsOrdinary: the guard's privileges stay with the guard. The
// postmaster has the processor sooner than others, and its children have not.
func TestServerIsOrdinary(t *testing.T) {
	r := newRig(t, "polite")
	r.start(t)
	pid := r.Status().PID
	for _, name := range []string{"Max locked memory", "Max open files", "Max nice priority"} {
		if mine, its := limit(t, os.Getpid(), name), limit(t, pid, name); mine != its && name != "Max open files" {
			t.Errorf("%s: mine %s, the server's %s", name, mine, its)
		}
	}
	// proc(5): field 19 of stat is nice, 41 the policy.
	stat := statFields(t, pid)
	if nice, policy := stat[19-3], stat[41-3]; policy != "0" || nice != "-10" && (nice != "0" || os.Geteuid() == 0) {
		t.Errorf("the postmaster has nice %s and policy %s", nice, policy)
	}
	for child := range r.beats() {
		stat := statFields(t, child)
		if nice, policy := stat[19-3], stat[41-3]; child != pid && (nice != "0" || policy != "0") {
			t.Errorf("a child of the postmaster has nice %s and policy %s", nice, policy)
		}
	}
	if session := stat[6-3]; session != strconv.Itoa(pid) {
		t.Errorf("the server %d is in session %s", pid, session)
	}
	if session := statFields(t, r.GuardPID())[6-3]; session != strconv.Itoa(r.GuardPID()) {
		t.Errorf("the guard %d is in session %s", r.GuardPID(), session)
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	must(t, err)
	if !strings.Contains(string(env), "PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj\x00") {
		t.Errorf("environment %q", env)
	}
	score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", r.GuardPID()))
	must(t, err)
	guardStat := statFields(t, r.GuardPID())
	t.Logf("guard: OOM score adjustment %s, nice %s, policy %s (2 is SCHED_RR)",
		strings.TrimSpace(string(score)), guardStat[19-3], guardStat[41-3])
	if os.WriteFile("/proc/self/oom_score_adj", []byte("-1"), 0) == nil && strings.TrimSpace(string(score)) != "-1000" {
		t.Errorf("guard's OOM score adjustment is %s", score)
	}
}

func limit(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.Join(strings.Fields(rest), " ")
		}
	}
	t.Fatalf("no limit %q", name)
	return ""
}

// statFields returns the fields of /proc/pid/stat from the third on.
func statFields(t *testing.T, pid int) []string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
}

// TestFootprint: the guard is small and idle, and its memory is locked.
func TestFootprint(t *testing.T) {
	r := newRig(t, "polite")
	r.start(t)
	must(t, r.Stop(deadline(t), true))
	cpu := func() int {
		f := statFields(t, r.GuardPID())
		user, _ := strconv.Atoi(f[14-3])
		system, _ := strconv.Atoi(f[15-3])
		return user + system // in ticks of 10 ms
	}
	before := cpu()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 10 {
		<-tick.C
		must(t, r.Lease(deadline(t), guard.Now().Add(time.Hour)))
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.GuardPID()))
	must(t, err)
	kb := func(name string) (n int) {
		_, rest, _ := strings.Cut(string(b), name+":")
		fmt.Sscan(rest, &n)
		return n
	}
	t.Logf("guard: RSS %d kB, locked %d kB; %d ms of CPU for 10 leases in a second", kb("VmRSS"), kb("VmLck"), 10*(cpu()-before))
	if kb("VmRSS") > 20<<10 && !raceDetector {
		t.Errorf("RSS %d kB", kb("VmRSS"))
	}
	if os.Getuid() == 0 && kb("VmLck") == 0 {
		t.Error("memory is not locked")
	}
}
