package postgres

import (
	"os"
	"path/filepath"
	"testing"
)

// TestBinDir: the data directory's version counts, and 10 is newer than 9.
func TestBinDir(t *testing.T) {
	root, data := t.TempDir(), t.TempDir()
	if got := binDir(root, data); got != "" {
		t.Errorf("nothing is installed: %q", got)
	}
	for _, dir := range []string{"9/bin/postgres", "15/bin/postgres", "17/bin/psql", "16/bin/postgres", "9.6/bin/postgres"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for version, want := range map[string]string{"": "16", "15\n": "15", "17\n": "16", "old": "16"} {
		if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte(version), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := binDir(root, data); got != filepath.Join(root, want, "bin") {
			t.Errorf("data of %q: %q", version, got)
		}
	}
	if got := binDir(root, filepath.Join(data, "none")); got != filepath.Join(root, "16", "bin") {
		t.Errorf("no data: %q", got)
	}
}
