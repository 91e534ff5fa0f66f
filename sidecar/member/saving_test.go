package member

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// TestBackupDue: a backup is begun when it is due, again when its maker was lost or it
// failed, each time later, and not for ever.
func TestBackupDue(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 0, 0, 0, time.UTC)
	nightly, err := backup.ParseSchedule(backup.Incremental, "0 4 * * *")
	if err != nil {
		t.Fatal(err)
	}
	good := &backup.Backup{Label: "b"}
	asked := func(tries int) *askedBackup { return &askedBackup{Kind: backup.Full, At: now, Tries: tries} }
	failed := func(ago time.Duration, tries int) *api.BackupFailure {
		return &api.BackupFailure{At: now.Add(-ago), Tries: tries}
	}
	for _, c := range []struct {
		name      string
		schedules []backup.Schedule
		state     keptBackups
		want      backup.Kind // empty: none
	}{
		{"the first", []backup.Schedule{nightly}, keptBackups{}, backup.Full},
		{"without a schedule", nil, keptBackups{}, ""},
		{"nightly", []backup.Schedule{nightly}, keptBackups{Good: good, Begun: map[backup.Kind]time.Time{backup.Incremental: now.Add(-25 * time.Hour)}}, backup.Incremental},
		{"done", []backup.Schedule{nightly}, keptBackups{Good: good, Begun: map[backup.Kind]time.Time{backup.Incremental: now.Add(-time.Hour)}}, ""},
		{"its maker was lost", nil, keptBackups{Good: good, Asked: asked(1)}, backup.Full},
		{"it failed just now", nil, keptBackups{Good: good, Asked: asked(1), Failed: failed(30*time.Second, 1)}, ""},
		{"it failed a while ago", nil, keptBackups{Good: good, Asked: asked(1), Failed: failed(50*time.Second, 1)}, backup.Full},
		{"it failed for the third time", nil, keptBackups{Good: good, Asked: asked(3), Failed: failed(50*time.Second, 3)}, ""},
		{"it fails again and again", nil, keptBackups{Good: good, Asked: asked(saveTries), Failed: failed(time.Hour, saveTries)}, ""},
	} {
		s := &saving{since: now.Add(-48 * time.Hour)}
		b := savingBlock{Backup: &config.Backup{Engine: config.EnginePgBackRest, Schedules: c.schedules}}
		if got := s.due(b, c.state, now); got != c.want {
			t.Errorf("%s: %q is due, want %q", c.name, got, c.want)
		}
	}
}
