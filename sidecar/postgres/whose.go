package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// whose adds to an error of a file that PostgreSQL's user may not use whose that is: a
// copy, or a restore, that root has made belongs to root.
func (s *Server) whose(err error) error {
	var at *fs.PathError
	if !errors.Is(err, fs.ErrPermission) || !errors.As(err, &at) {
		return err
	}
	path := at.Path
	info, failed := s.files.Lstat(path)
	for errors.Is(failed, fs.ErrPermission) && path != filepath.Dir(path) { // it is in one that is another's
		path = filepath.Dir(path)
		info, failed = s.files.Lstat(path)
	}
	if failed != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if owner == s.uid {
		return err
	}
	name := strconv.FormatUint(uint64(owner), 10)
	if u, failed := user.LookupId(name); failed == nil {
		name = u.Username
	}
	return fmt.Errorf("%w: %s belongs to %s, and PostgreSQL's user here is %s. Where the data are right: chown -R %s %s", err, path, name, s.o.User, s.o.User, s.o.DataDir)
}
