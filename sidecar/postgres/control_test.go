package postgres

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestDamagedControl: what a damaged pg_control says is not believed, although it can be
// read.
func TestDamagedControl(t *testing.T) {
	m := newMember(t, "n1")
	must(t, m.Init(soon(t)))
	path := m.data("global", "pg_control")
	content, err := os.ReadFile(path)
	must(t, err)
	content[24]++ // a byte of the time of its last change
	must(t, os.WriteFile(path, content, 0o600))
	if f := m.inspect(); f.DataDir != ha.DataForeign || !strings.Contains(f.Problem, "its checksum is wrong") {
		t.Errorf("%+v", f)
	}
}

// TestControlWarnings: the warning is understood in the words of each version.
func TestControlWarnings(t *testing.T) {
	for version, script := range map[int]string{
		15: `echo 'WARNING: Calculated CRC checksum does not match value stored in file.'
			echo 'Either the file is corrupt, or it has a different layout than this program'`,
		17: `echo 'pg_controldata: warning: calculated CRC checksum does not match value stored in control file' >&2
			echo 'pg_controldata: detail: Either the control file is corrupt, or it has a different layout' >&2`,
	} {
		base := testDir(t)
		bin, data := filepath.Join(base, "bin"), filepath.Join(base, "data")
		must(t, os.MkdirAll(filepath.Join(data, "global"), 0o755))
		must(t, os.Mkdir(bin, 0o755))
		for name, text := range map[string]string{"postgres": fmt.Sprintf("echo 'postgres (PostgreSQL) %d.1'", version), "pg_controldata": script} {
			must(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755))
		}
		must(t, os.WriteFile(filepath.Join(data, "global", "pg_control"), make([]byte, controlFileSize), 0o644))
		s, err := New(Options{Member: "n1", DataDir: data, BinDir: bin, Listen: "127.0.0.1:1", Guard: &testGuard{}})
		must(t, err)
		if _, err := s.control(soon(t), data); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "its checksum is wrong") {
			t.Errorf("PostgreSQL %d: %v", version, err)
		}
	}
}
