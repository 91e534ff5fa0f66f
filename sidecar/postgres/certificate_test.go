package postgres

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestFilesState: each way in which certificates are renewed is another state, and nothing
// else is.
func TestFilesState(t *testing.T) {
	dir := t.TempDir()
	s := &Server{o: Options{DataDir: dir}}
	cert, elsewhere := filepath.Join(dir, "server.crt"), filepath.Join(dir, "v2")
	must(t, errors.Join(os.WriteFile(cert, []byte("one"), 0o600), os.WriteFile(elsewhere, []byte("two"), 0o600)))
	names := []string{"server.crt", filepath.Join(dir, "gone.crt")}
	before := s.FilesState(names)
	if s.FilesState(names) != before {
		t.Fatal("two states of what has not changed")
	}
	for what, change := range map[string]func() error{
		"written in place": func() error {
			return errors.Join(os.WriteFile(cert, []byte("ONE"), 0o600), os.Chtimes(cert, time.Time{}, time.Now().Add(time.Hour)))
		},
		"replaced by a rename": func() error {
			return errors.Join(os.WriteFile(cert+".new", []byte("ONE"), 0o600), os.Rename(cert+".new", cert))
		},
		"a link":  func() error { return errors.Join(os.Remove(cert), os.Symlink("v2", cert)) },
		"removed": func() error { return os.Remove(cert) },
	} {
		was := s.FilesState(names)
		must(t, change())
		if s.FilesState(names) == was {
			t.Errorf("%s: the same state", what)
		}
		must(t, errors.Join(os.RemoveAll(cert), os.WriteFile(cert, []byte("one"), 0o600)))
	}
}
