package rights_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// plain finds an operation on a path that is done with the process's own rights.
var plain = regexp.MustCompile(`\b(os\.(ReadFile|WriteFile|Rename|RemoveAll|Remove|Chown|Lchown|Chmod|Mkdir|MkdirAll|MkdirTemp|CreateTemp|Open|OpenFile|Create|Symlink|Stat|Lstat|ReadDir|Truncate|Readlink|Link)|filepath\.(Glob|WalkDir|EvalSymlinks))\(.*`)

// others are those that are on what is an administrator's, or the kernel's; or that only
// look at what a directory is.
var others = []string{"/proc", "os.ReadFile(list)", "os.DevNull", "oomScoreFile", // the kernel's
	"os.ReadDir(root)", "os.Stat(filepath.Join(root,", // where packages install programs
	"os.ReadFile(file)", "os.ReadFile(files[name])", // secrets that the configuration names
	"os.MkdirAll(options.StateDir, 0o700)", "os.Open(stateDir)", "os.Remove(address.Name)", // the guard's socket, which must be root's
	"os.Stat(dataDir)"}

// TestNoPlainOperations: the packages that work in the data and state directories do
// nothing there but with their owner's rights.
func TestNoPlainOperations(t *testing.T) {
	files := 0
	for _, dir := range []string{"postgres", "guard", "postmaster", "settings", "backup"} {
		err := filepath.WalkDir(filepath.Join("..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "backuptest") {
				return err
			}
			files++
			content, err := os.ReadFile(path)
			must(t, err)
			for _, fault := range plainOperations(string(content)) {
				t.Errorf("%s: %s: is on a path that another user may have made a link; use rights.User", path, fault)
			}
			return nil
		})
		must(t, err)
	}
	if files < 50 {
		t.Errorf("only %d files were looked at", files)
	}
}

func plainOperations(source string) (faults []string) {
	for line := range strings.Lines(source) {
		found := plain.FindString(strings.TrimRight(line, "\n"))
		for _, known := range others {
			if strings.Contains(found, known) {
				found = ""
			}
		}
		if found != "" {
			faults = append(faults, found)
		}
	}
	return faults
}

func TestPlainOperationsAreFound(t *testing.T) {
	for source, want := range map[string]int{
		"x, err := os.ReadFile(s.state(\"a\"))\n":              1,
		"x, err := s.files.ReadFile(s.state(\"a\"))\n":         0,
		"os.Stat(fmt.Sprintf(\"/proc/%d\", pid))\n":            0,
		"err := os.Chown(a, 1, 2)\nerr = os.RemoveAll(a)\n":    2,
		"real, err := filepath.EvalSymlinks(path)\n":           1,
		"if _, err := os.Stat(s.o.DataDir); err != nil {}\n\n": 1,
	} {
		if found := plainOperations(source); len(found) != want {
			t.Errorf("in %q: %q", source, found)
		}
	}
}
