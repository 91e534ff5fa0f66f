package postgres

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestArchiveAgain: a segment that a standby took for archived waits again; what is
// gone, or waits already, is left as it is.
func TestArchiveAgain(t *testing.T) {
	s := &Server{o: Options{DataDir: t.TempDir()}}
	status := s.data("pg_wal", "archive_status")
	if err := os.MkdirAll(status, 0o700); err != nil {
		t.Fatal(err)
	}
	done, unmarked, ready, gone := "000000010000000000000003", "000000010000000000000004", "000000010000000000000005", "000000010000000000000006"
	for _, path := range []string{s.data("pg_wal", done), s.data("pg_wal", unmarked), s.data("pg_wal", ready),
		filepath.Join(status, done+".done"), filepath.Join(status, ready+".ready"), filepath.Join(status, gone+".done")} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, err := s.ArchiveAgain([]string{done, unmarked, ready, gone})
	if want := []string{done, unmarked, ready}; err != nil || !slices.Equal(again, want) {
		t.Errorf("got %v, %v; want %v", again, err, want)
	}
	entries, err := os.ReadDir(status)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{done + ".ready", unmarked + ".ready", ready + ".ready", gone + ".done"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
	if _, err := s.ArchiveAgain([]string{"../postgresql.conf"}); err == nil {
		t.Error("a name that is no segment's was taken")
	}
	if here, err := s.Segments(); err != nil || !slices.Equal(here, []string{done, unmarked, ready}) {
		t.Errorf("segments %v, %v", here, err)
	}
	c := control{segment: 16 << 20}
	if at, is := c.segmentStart("000000020000000100000003"); !is || at != ha.LSN(1<<32+3*16<<20) {
		t.Errorf("it begins at %s, %v", at, is)
	}
}
