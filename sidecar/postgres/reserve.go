package postgres

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// reserveBytes is the size of the reserve: two segments of log of the usual size, for a
// shutdown checkpoint and for a start, and what this member itself writes in an election.
const reserveBytes = 32 << 20

// fullBytes is how little is free on a disk that counts as full.
const fullBytes = 1 << 20

// KeepReserve makes the reserve where it is missing and twice as much is free: a file
// that is only there to be given up when the disk is full. It is not for the
// failover path: a file system that cannot allocate has it written.
func (s *Server) KeepReserve() error {
	path := s.state("reserve")
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err == nil && st.Blocks*512 >= reserveBytes {
		return nil
	}
	room, err := s.free(s.existing(s.o.StateDir))
	if err != nil {
		return fmt.Errorf("keep the disk's reserve: %w", err)
	}
	if room < 2*reserveBytes {
		return nil
	}
	if err := s.MakeState(); err != nil {
		return err
	}
	f, err := s.files.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep the disk's reserve: %w", noSpace(err))
	}
	err = errors.Join(allocate(f), f.Sync(), f.Close())
	if err != nil {
		return errors.Join(fmt.Errorf("keep the disk's reserve: %w", noSpace(err)), s.files.Remove(path))
	}
	return nil
}

// allocate gives a file its blocks.
func allocate(f *os.File) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, reserveBytes)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	_, err = io.CopyN(f, zeros{}, reserveBytes)
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// makeRoom gives the reserve up if the disk is full: for what must be written now.
func (s *Server) makeRoom() {
	if room, err := s.free(s.existing(s.o.StateDir)); err == nil && room < fullBytes {
		s.giveUpReserve()
	}
}

// giveUpReserve reports whether there was one.
func (s *Server) giveUpReserve() bool {
	if s.files.Remove(s.state("reserve")) != nil {
		return false
	}
	s.log.Warn("the disk is full: its reserve is given up, so that this member can stop its server and vote", "bytes", reserveBytes, "directory", s.o.StateDir)
	return true
}
