package postgres

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// BinDir is the directory of PostgreSQL's server programs: of those that Debian's
// packages have installed the data directory's version, else the newest. It is empty
// if there are none, and they are looked for on PATH.
func BinDir(dataDir string) string { return binDir("/usr/lib/postgresql", dataDir) }

func binDir(root, dataDir string) string {
	entries, err := os.ReadDir(root)
	if err != nil {
		return ""
	}
	var versions []int // from 10 on they are whole numbers, and none before is supported
	for _, e := range entries {
		version, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(root, e.Name(), "bin", "postgres")); err == nil {
			versions = append(versions, version)
		}
	}
	if len(versions) == 0 {
		return ""
	}
	chosen := slices.Max(versions)
	if text, err := rights.OwnerOf(dataDir).ReadFile(filepath.Join(dataDir, "PG_VERSION")); err == nil {
		if has, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && slices.Contains(versions, has) {
			chosen = has
		}
	}
	return filepath.Join(root, strconv.Itoa(chosen), "bin")
}
