package settings_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// TestCopy: what Consul had is there after a restart, with when that was; what is wrong,
// not known, or of the copy itself is not kept; and a damaged copy is none.
func TestCopy(t *testing.T) {
	dir := t.TempDir()
	open := func() (*settings.Copy, *settings.Reader) {
		c, err := settings.OpenCopy(dir)
		if err != nil {
			t.Fatal(err)
		}
		return c, new(settings.Reader)
	}
	c, r := open()
	if s := c.Last(r); !s.Unread {
		t.Fatalf("without a copy: %+v", s)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	keep := func(raw string, index uint64, at time.Time) {
		t.Helper()
		if err := c.Keep(new(settings.Reader).Read([]byte(raw), index), at); err != nil {
			t.Fatal(err)
		}
	}
	keep(`{"parameters":{"work_mem":"8MB"}}`, 7, at)
	keep(`{"parameters"`, 8, at.Add(time.Hour)) // no JSON
	c, r = open()
	s := c.Last(r)
	if s.Unread || s.Parameters["work_mem"] != "8MB" || s.Index != 7 || !s.CopiedAt.Equal(at) {
		t.Errorf("after a restart: %+v", s)
	}
	if err := c.Keep(s, at.Add(time.Hour)); err != nil || !c.Last(r).CopiedAt.Equal(at) {
		t.Errorf("a copy makes itself younger: %v", err)
	}
	if s := r.Read([]byte(`{"parameters"`), 9); s.Unread || s.Parameters["work_mem"] != "8MB" {
		t.Errorf("no JSON after the copy: %+v", s)
	}
	keep("", 0, at) // Consul has none: that is known too
	if s := c.Last(new(settings.Reader)); s.Unread || len(s.Raw) != 0 {
		t.Errorf("no settings: %+v", s)
	}
	if err := os.WriteFile(filepath.Join(dir, "settings.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := settings.OpenCopy(dir); err == nil || !c.Last(new(settings.Reader)).Unread {
		t.Error("a damaged copy is read")
	}
}
