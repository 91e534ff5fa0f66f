package nomad

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// CheckVolume returns ErrEphemeral if dataDir would end with the allocation: it
// is in one of the allocation's directories, or in the root file system of a
// task that has its own (drivers exec and docker), with no volume mounted over
// it.
func (a Allocation) CheckVolume(dataDir string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list this task's mounts: %w", err)
	}
	defer f.Close()
	mounts, err := readMounts(f)
	if err != nil {
		return err
	}
	return a.checkVolume(realPath(dataDir), mounts)
}

func (a Allocation) checkVolume(dataDir string, mounts []string) error {
	for _, dir := range []string{a.AllocDir, a.TaskDir, a.SecretsDir} {
		if dir != "" && within(realPath(dir), dataDir) {
			return fmt.Errorf("%w: %s is in the allocation, and Nomad removes it with that; %s", ErrEphemeral, dataDir, remedy)
		}
	}
	deepest := "/"
	for _, m := range mounts {
		if within(m, dataDir) && len(m) > len(deepest) {
			deepest = m
		}
	}
	// A task with a file system of its own has its directories at the top of it.
	if isolated := filepath.Dir(a.AllocDir) == "/"; isolated && deepest == "/" {
		return fmt.Errorf("%w: %s is in the task's own file system, which Nomad removes with the allocation; %s", ErrEphemeral, dataDir, remedy)
	}
	return nil
}

const remedy = `expected a volume of the group, and volume_mount { volume = "data"  destination = "` + VolumeDir + `" } in the task`

// within reports whether path is dir or lies in it.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// realPath resolves the links in as much of a path as there is.
func realPath(path string) string {
	path = filepath.Clean(path)
	for dir, rest := path, ""; ; dir, rest = filepath.Dir(dir), filepath.Join(filepath.Base(dir), rest) {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			return filepath.Join(real, rest)
		}
		if dir == filepath.Dir(dir) {
			return path
		}
	}
}

// readMounts returns the mount points of a mountinfo file (proc(5): the fifth
// field, with space, tab, newline and backslash in octal).
func readMounts(r io.Reader) ([]string, error) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var mounts []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) >= 5 {
			mounts = append(mounts, unescape.Replace(fields[4]))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list this task's mounts: %w", err)
	}
	return mounts, nil
}
