package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestWhose: who made the data directory another user's is told so, and what to do; of other
// errors nothing is said.
func TestWhose(t *testing.T) {
	s := serverOfFiles(t)
	s.o.User = "postgres"
	denied := func(path string) error {
		return fmt.Errorf("look at the data directory: %w", &fs.PathError{Op: "open", Path: path, Err: syscall.EACCES})
	}
	for name, c := range map[string]struct {
		uid  uint32
		err  error
		says bool
	}{
		"another's":    {uint32(os.Getuid()) + 1, denied(s.o.DataDir), true},
		"a file in it": {uint32(os.Getuid()) + 1, denied(s.data("global", "pg_control")), true},
		"its own":      {uint32(os.Getuid()), denied(s.o.DataDir), false},
		"gone":         {uint32(os.Getuid()) + 1, denied(filepath.Join(s.o.DataDir, "none")), false},
		"another kind": {uint32(os.Getuid()) + 1, fmt.Errorf("x: %w", &fs.PathError{Op: "open", Path: s.o.DataDir, Err: syscall.EIO}), false},
		"no path":      {uint32(os.Getuid()) + 1, fs.ErrPermission, false},
		"none":         {uint32(os.Getuid()) + 1, nil, false},
	} {
		s.uid = c.uid
		got := s.whose(c.err)
		if !errors.Is(got, c.err) {
			t.Errorf("%s: %v", name, got)
		}
		if said := got != nil && strings.Contains(got.Error(), "chown -R postgres "+s.o.DataDir); said != c.says {
			t.Errorf("%s: %v", name, got)
		}
	}
}
