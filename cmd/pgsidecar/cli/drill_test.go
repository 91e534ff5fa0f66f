package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDrillRefuses: what cannot be is refused with exit status 2 before a lab is
// made.
func TestDrillRefuses(t *testing.T) {
	dir := t.TempDir()
	labs := filepath.Join(dir, "lab")
	for _, c := range []struct {
		want string
		args []string
	}{
		{`no such scenario: "earthquake"`, []string{"earthquake"}},
		{"at least 1", []string{"--repeat", "0"}},
		{"1 to 50", []string{"--workers", "0"}},
		{"not negative", []string{"--rto", "-1s"}},
		{"not negative", []string{"--rpo", "-1"}},
		{"is a folder", []string{"--html", dir}},
		{"cannot be written", []string{"--json", filepath.Join(dir, "no", "such", "file")}},
		{"cannot be written", []string{"--junit", filepath.Join(dir, "no", "such", "file")}},
	} {
		code, stdout, stderr := command(t, append([]string{"drill", "--dir", labs}, c.args...)...)
		if code != ExitUsage || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: exit status %d, %q, %q", c.args, code, stdout, stderr)
		}
	}
	if _, err := os.Stat(labs); err == nil {
		t.Error("a lab was made")
	}
}

func TestDrillSchema(t *testing.T) {
	code, stdout, stderr := command(t, "drill", "--schema")
	if code != ExitOK || stderr != "" || !json.Valid([]byte(stdout)) {
		t.Errorf("exit status %d, %q, %q", code, stdout, stderr)
	}
}
