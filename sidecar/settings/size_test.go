package settings_test

import (
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]settings.Size{"0": 0, "0B": 0, "1B": 1, "64kB": 64 << 10, "16MB": 16 << 20, "16 MB": 16 << 20, "2GB": 2 << 30, "8388607TB": 8388607 << 40} {
		if got, err := settings.ParseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "16", "-1MB", "16mb", "16KB", "MB", "1.5GB", "8388608TB", "18446744073709551615B", "1MBB"} {
		if got, err := settings.ParseSize(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

// FuzzSize: what is written is read as the same.
func FuzzSize(f *testing.F) {
	f.Add("16MB")
	f.Add("1025kB")
	f.Add("0")
	f.Fuzz(func(t *testing.T, text string) {
		size, err := settings.ParseSize(text)
		if err != nil {
			return
		}
		if again, err := settings.ParseSize(size.String()); err != nil || again != size {
			t.Errorf("%q is %d, written %s, read %d, %v", text, size, size, again, err)
		}
	})
}
