package cli

import (
	"os"
	"strings"
	"testing"
)

// TestFileOfNobody: a pg.hcl that happens to lie in the directory, and has faults, is in nobody's
// way who says where Consul is, who is told of it; where nothing else is said, or it is named, it counts.
func TestFileOfNobody(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("pg.hcl", []byte("clustre = \"other\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, c := range map[string]struct {
		code  int
		fault bool
	}{
		"status --consul 127.0.0.1:1": {ExitFailed, false},
		"status":                      {ExitUsage, true},
		"status --consul 127.0.0.1:1 --config pg.hcl": {ExitUsage, true},
	} {
		code, _, stderr := command(t, strings.Fields(line)...)
		if code != c.code || strings.Contains(stderr, "clustre") != c.fault {
			t.Errorf("%s: exit status %d, %s", line, code, stderr)
		}
		if told := strings.Contains(stderr, "pg.hcl is not used"); told == c.fault {
			t.Errorf("%s: that the file is passed over is said: %v\n%s", line, told, stderr)
		}
	}
}
