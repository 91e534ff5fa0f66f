package guard

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ReleaseProgram takes the program's own code and constants out of this
// process's memory. They stay in the page cache, and what runs on comes back by
// the page, at a microsecond each; what only the start needed does not. Most of
// what a Go program of this size has resident is of that kind: the kernel maps
// sixteen pages for each one that is touched, and every package linked
// initialises itself.
//
// A mapping of which this process has pages of its own (relocated constants of a
// position-independent program, a debugger's breakpoints) is left alone.
func ReleaseProgram() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("read this process's mappings: %w", err)
	}
	defer maps.Close()
	ranges, err := unchanged(maps, program)
	if err != nil {
		return fmt.Errorf("read this process's mappings: %w", err)
	}
	for _, r := range ranges {
		// Not unix.Madvise, which wants a slice: no Go value lives here.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, r.from, r.to-r.from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("release %x-%x: %w", r.from, r.to, errno)
		}
	}
	return nil
}

// addresses is a range of them; to is behind its end.
type addresses struct{ from, to uintptr }

// unchanged reads smaps (proc(5)) for those mappings of a file that cannot be
// written to and are as the file is.
func unchanged(smaps io.Reader, file string) ([]addresses, error) {
	var found []addresses
	var at addresses
	candidate := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) < 2:
		case fields[0] == "Anonymous:":
			if candidate && fields[1] == "0" {
				found = append(found, at)
			}
			candidate = false
		case strings.HasSuffix(fields[0], ":"): // another measure
		case len(fields) == 6: // address, permissions, offset, device, inode, path
			from, to, _ := strings.Cut(fields[0], "-")
			first, err1 := strconv.ParseUint(from, 16, 64)
			last, err2 := strconv.ParseUint(to, 16, 64)
			candidate = err1 == nil && err2 == nil && fields[5] == file && fields[1][1] == '-'
			at = addresses{uintptr(first), uintptr(last)}
		default:
			candidate = false
		}
	}
	return found, lines.Err()
}
