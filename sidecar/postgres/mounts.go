package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// ErrMounts: the data directory and the state directory do not go together: a file system
// of one of them is not mounted, or its content was lost.
var ErrMounts = errors.New("data_dir and state_dir do not belong together")

// mounts is where the data were when the server was last started.
type mounts struct {
	// Data is the mount point that the data directory was on.
	Data string `json:"data_mount"`
}

const (
	mountsFile = "mounts"
	// acceptedFile is made by a person who knows that the state is lost.
	acceptedFile = "state-lost"
)

// CheckMounts refuses, before anything is started, data without the state that was kept of
// them, and state whose data are not mounted. Without the state a member may vote for what
// it has promised to another, and serve a copy that is half-made; without the mount a copy of
// all the data would fill the disk below it.
//
// What this process may not read it cannot judge, as where `config validate` is run by
// somebody else.
func CheckMounts(stateDir, dataDir string) error {
	files := rights.OwnerOf(stateDir)
	err := errors.Join(checkMounted(files, stateDir, dataDir), checkState(files, stateDir, dataDir))
	if errors.Is(err, fs.ErrPermission) && !errors.Is(err, ErrMounts) {
		return nil
	}
	return err
}

// checkState refuses data whose state is not there.
func checkState(files rights.User, stateDir, dataDir string) error {
	kept, err := hasState(files, stateDir)
	if err != nil || kept {
		return err
	}
	started, err := files.ReadFile(filepath.Join(dataDir, "postmaster.opts"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at how the server was last started: %w", err)
	}
	of := lastState(string(started))
	switch {
	case of == stateDir:
		if _, err := files.Lstat(filepath.Join(stateDir, acceptedFile)); err == nil {
			return nil
		}
		return fmt.Errorf("%w: the server in %[2]s was last run with the state in %[3]s, which is empty now. Is its file system mounted? "+
			"Without it this member may vote for what it has given up, or serve a copy that is half-made. Mount it, or put back what was there. "+
			"If it is lost: move %[2]s away, and this member is cloned anew; or, where no other member has the data, make an empty file %[3]s/%[4]s, and they are used as they are",
			ErrMounts, dataDir, stateDir, acceptedFile)
	case of == "":
		return nil
	}
	if ours, err := hasState(files, of); err != nil || !ours {
		return err // another program's, such as Debian's
	}
	return fmt.Errorf("%w: the server in %[2]s was last run with the state in %[3]s, and state_dir is %[4]s, which is empty. "+
		"Move %[3]s there, with all that is in it, or set postgres { state_dir = %[3]q }", ErrMounts, dataDir, of, stateDir)
}

// lastState is the state directory with which the server was last started, by
// postmaster.opts, which no copy and no rewind brings from another member; empty: none.
func lastState(started string) string {
	_, rest, found := strings.Cut(started, `"config_file=`)
	file, _, _ := strings.Cut(rest, `"`)
	if !found || filepath.Base(file) != "postgresql.conf" {
		return ""
	}
	return filepath.Dir(file)
}

// hasState reports whether a directory has the state of a member.
func hasState(files rights.User, dir string) (bool, error) {
	for _, name := range []string{"promise", "life", "copy", "unfinished"} {
		_, err := files.Lstat(filepath.Join(dir, name))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return false, fmt.Errorf("look for the member's state: %w", err)
		}
	}
	return false, nil
}

// checkMounted refuses an empty data directory where another file system was mounted before.
func checkMounted(files rights.User, stateDir, dataDir string) error {
	var was mounts
	if err := readJSON(files, filepath.Join(stateDir, mountsFile), &was); err != nil || was.Data == "" {
		return err
	}
	if _, err := files.Stat(filepath.Join(dataDir, "PG_VERSION")); err == nil {
		return nil
	}
	now, err := mountOf(files, dataDir)
	if err != nil {
		return err
	}
	if below, err := filepath.Rel(now, was.Data); err != nil || below == "." || below == ".." || strings.HasPrefix(below, "../") {
		return nil
	}
	return fmt.Errorf("%w: %s was on the file system mounted at %s, and is empty on that of %s now. Mount it: a copy of all the data would go to the disk below it. "+
		"If the data are to be there from now on, remove %s", ErrMounts, dataDir, was.Data, now, filepath.Join(stateDir, mountsFile))
}

// noteMounts keeps where the data are, which are whole.
func (s *Server) noteMounts() error {
	mount, err := mountOf(s.files, s.o.DataDir)
	if err != nil {
		return err
	}
	content, err := json.Marshal(mounts{Data: mount})
	if err != nil {
		return fmt.Errorf("keep where the data are: %w", err)
	}
	if was, err := s.files.ReadFile(s.state(mountsFile)); err == nil && string(was) == string(content) {
		return nil
	}
	return s.write(s.state(mountsFile), content)
}

// Apart says for people that the two directories are on different file systems; empty: they
// are not, or nobody can tell yet.
func Apart(stateDir, dataDir string) string {
	files := rights.OwnerOf(stateDir)
	state, err1 := mountOf(files, stateDir)
	data, err2 := mountOf(files, dataDir)
	if err1 != nil || err2 != nil || state == data {
		return ""
	}
	return fmt.Sprintf("state_dir (%s) is on the file system mounted at %s, and data_dir (%s) on that at %s: keep both for as long as the cluster, and restore a snapshot of both or of neither",
		stateDir, state, dataDir, data)
}

// mountOf is the mount point of the file system that a path is on, or will be made on.
func mountOf(files rights.User, path string) (string, error) {
	if to, err := files.Readlink(path); err == nil {
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	for {
		real, err := files.EvalSymlinks(path)
		if err == nil {
			path = real
			break
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) || path == "/" {
			return "", fmt.Errorf("find the file system: %w", err)
		}
		path = filepath.Dir(path)
	}
	for path != "/" {
		own, err1 := files.Stat(path)
		above, err2 := files.Stat(filepath.Dir(path))
		if err := errors.Join(err1, err2); err != nil {
			return "", fmt.Errorf("find the file system: %w", err)
		}
		if own.Sys().(*syscall.Stat_t).Dev != above.Sys().(*syscall.Stat_t).Dev {
			break
		}
		path = filepath.Dir(path)
	}
	return path, nil
}
