package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
)

// TestBackupFails: a backup that failed is told at once, also while it is to be tried again.
func TestBackupFails(t *testing.T) {
	n1, n2 := fakeCluster(t)
	for _, m := range []*fakeMember{n1, n2} {
		m.status.Backups = []api.BackupStatus{{Name: "main", Engine: "pgbackrest", Age: -1,
			Failed: &api.BackupFailure{At: time.Unix(1, 0), Kind: backup.Full, By: "n2", Error: "of long ago", Tries: 5}}}
		asked := 0
		m.onStatus = func(st *api.Status) {
			if asked++; asked == 2 {
				st.Backups = []api.BackupStatus{{Name: "main", Engine: "pgbackrest", Age: -1,
					Failed:  &api.BackupFailure{At: time.Unix(2, 0), Kind: backup.Full, By: "n2", Error: "no repository", Tries: 1},
					Running: &api.BackupRun{Backup: "main", Kind: backup.Full}}}
			}
		}
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(fakeToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := command(t, "backup", "run", "--api", n2.address(), "--token-file", token)
	if want := "the backup failed on n2: no repository (it is tried again; pgsidecar backup cancel ends that)"; code != ExitFailed || !strings.Contains(stderr, want) {
		t.Errorf("exit status %d: %s\nwant %q", code, stderr, want)
	}
}
