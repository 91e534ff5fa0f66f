package member

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/hooks"
)

// TestHookNews: what hooks are told of a series of decisions.
func TestHookNews(t *testing.T) {
	start := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	var after time.Duration
	var history *failover.Record
	w := hookWatch{member: "n1"}
	snap := func(role ha.Role, writable bool, term uint64, phase ha.Phase, blocks ...string) *sidecar.Snapshot {
		s := &sidecar.Snapshot{State: ha.State{Role: role}, Report: ha.Report{Writable: writable}}
		s.Observation.Consul.Record = ha.Record{Index: 1, Term: term, Leader: "n1", Phase: phase}
		for _, b := range blocks {
			s.State.Blocks = append(s.State.Blocks, ha.Block{What: b, Missing: "a person"})
		}
		return s
	}
	step := func(s *sidecar.Snapshot, want ...hooks.Kind) {
		t.Helper()
		var got []string
		for _, e := range w.news(s, history, start.Add(after)) {
			got = append(got, string(e.Kind))
			if e.Summary == "" {
				t.Errorf("%s without a summary", e.Kind)
			}
		}
		var all []string
		for _, k := range want {
			all = append(all, string(k))
		}
		if strings.Join(got, " ") != strings.Join(all, " ") {
			t.Errorf("after %s: told %q, want %q", after, got, all)
		}
	}
	step(nil)
	history = &failover.Record{Term: 6, Leader: "n1"} // before this process was there
	step(snap(ha.RoleReplica, false, 6, ha.PhaseLeading), hooks.Replica)
	step(snap(ha.RoleReplica, false, 6, ha.PhaseLeading))
	step(snap(ha.RoleCandidate, false, 7, ha.PhaseElecting, "no votes"))
	step(snap(ha.RolePrimary, false, 7, ha.PhasePromoting)) // it takes no writes yet
	step(snap(ha.RolePrimary, true, 7, ha.PhaseLeading), hooks.Primary)
	history = &failover.Record{Term: 7, Leader: "n1", From: "n2"}
	step(snap(ha.RolePrimary, true, 7, ha.PhaseLeading), hooks.Failover)
	step(snap(ha.RolePrimary, true, 7, ha.PhaseLeading))
	step(snap(ha.RolePrimary, true, 7, ha.PhaseLeading, "commits wait"))
	after = blockedAfter
	step(snap(ha.RolePrimary, true, 7, ha.PhaseLeading, "commits wait"), hooks.Blocked)
	step(snap(ha.RolePrimary, true, 7, ha.PhaseLeading, "commits wait"))
	step(snap(ha.RolePrimary, true, 7, ha.PhaseLeading, "commits wait", "no failover"), hooks.Blocked)
	step(snap(ha.RolePrimary, true, 7, ha.PhaseLeading), hooks.Unblocked)
	history = &failover.Record{Term: 8, Leader: "n2", From: "n1"} // another's: it tells
	step(snap(ha.RoleReplica, false, 8, ha.PhaseLeading), hooks.Replica)
	step(snap(ha.RoleStopped, false, 8, ha.PhaseLeading), hooks.Stopped)
}

func TestBackupEvent(t *testing.T) {
	run := &api.BackupRun{Member: "n1", Backup: "main", Kind: backup.Full}
	if e := backupEvent(run, backup.Backup{Label: "20261129F", Size: 7}, nil); e.Details["label"] != "20261129F" || e.Details["bytes"] != "7" || e.Summary == "" {
		t.Errorf("%+v", e)
	}
	if e := backupEvent(run, backup.Backup{}, errors.New("the repository is full")); e.Details["error"] != "the repository is full" || !strings.Contains(e.Summary, "failed") {
		t.Errorf("%+v", e)
	}
}

// TestHooksOfAMember: a command hears that its member is the primary, and that it
// stopped, before the member has ended.
func TestHooksOfAMember(t *testing.T) {
	a := newAlone(t)
	told := a.addHook()
	stop := a.run()
	a.until("the hook of the primary", func() bool { return strings.HasSuffix(told(), "primary\n") })
	stop()
	lines := strings.Fields(told())
	if n := len(lines); lines[n-1] != "stopped" || lines[n-2] != "before_stop" {
		t.Errorf("told %q", lines)
	}
}
