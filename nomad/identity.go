package nomad

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// identityFile, in the state directory beside the data, holds the name of the
// member whose data it is. A clone replaces the data and leaves it.
const identityFile = "member"

// notName is what may not be in a member's name.
var notName = regexp.MustCompile(`[^a-z0-9-]+`)

// Member returns the name of the member whose data is beside stateDir. Where
// there is none yet it is the node's name, or <group>-<index>; Keep makes it
// stay.
func (a Allocation) Member(stateDir string) (string, error) {
	name, err := kept(stateDir)
	if err != nil || name != "" {
		return name, err
	}
	name = a.Group + "-" + a.Index
	if a.Node != "" {
		name, _, _ = strings.Cut(a.Node, ".")
	}
	name = strings.Trim(notName.ReplaceAllString(strings.ToLower(name), "-"), "-")
	return name[:min(len(name), 63)], nil
}

// Keep writes the member's name beside its data, unless it is there already. It
// returns ErrIdentity if another is: two data directories with one name, or
// one with two, would each undo what the other's votes have promised.
func Keep(stateDir, member string) error {
	name, err := kept(stateDir)
	switch {
	case err != nil || name == member:
		return err
	case name != "":
		return fmt.Errorf("%w: %s says %q, and the configuration %q; expected no member in the configuration, or the same",
			ErrIdentity, filepath.Join(stateDir, identityFile), name, member)
	}
	return writeFile(filepath.Join(stateDir, identityFile), member+"\n")
}

func kept(stateDir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(stateDir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the member's name: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// writeFile makes a file that is there wholly or not at all, also after a crash
// of the machine.
func writeFile(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("make a temporary file: %w", err)
	}
	defer os.Remove(f.Name()) // nothing is left to remove after the rename
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("put the file in place: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("open the directory: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	return nil
}
