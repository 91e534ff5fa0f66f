package guard

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// HideMemory keeps the calling process's memory out of core files, and from other
// processes of its user: it has passwords and tokens in it. Programs that it starts
// are as they would be (prctl(2), PR_SET_DUMPABLE).
//
// From here on a process that is not root's cannot write its own files in /proc.
func HideMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keep memory out of core files: %w", err)
	}
	return nil
}
