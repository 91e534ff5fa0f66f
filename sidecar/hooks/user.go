package hooks

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// ErrUser: a command is to run as a user that does not exist, or that this process may
// not become.
var ErrUser = errors.New("the command cannot run as this user")

// CheckUser says why no command can run as this user: ErrUser.
func CheckUser(name string) error {
	_, err := credential(name)
	return err
}

// credential is what makes a process one of this user's; nil: it stays one of ours.
func credential(name string) (*syscall.Credential, error) {
	if name == "" {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUser, err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUser, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUser, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUser, err)
	}
	if uid == uint64(os.Geteuid()) { //nolint:gosec // never negative here
		return nil, nil
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: only root may run it as %s", ErrUser, name)
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, g := range groups {
		if id, err := strconv.ParseUint(g, 10, 32); err == nil {
			c.Groups = append(c.Groups, uint32(id))
		}
	}
	return c, nil
}
