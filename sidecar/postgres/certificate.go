package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"syscall"
)

// FilesState tells one state of files from another, by what the file system says of them: their
// content may be a key. Names are absolute or relative to the data directory; one that is
// not there is a state too.
func (s *Server) FilesState(names []string) string {
	sum := sha256.New()
	for _, name := range names {
		if !filepath.IsAbs(name) {
			name = s.data(name)
		}
		info, err := s.files.Stat(name) // through links: those of a secret's mount change at once
		if err != nil {
			fmt.Fprintf(sum, "%q missing\n", name)
			continue
		}
		inode := uint64(0)
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			inode = stat.Ino
		}
		fmt.Fprintf(sum, "%q %d %d %d\n", name, info.Size(), info.ModTime().UnixNano(), inode)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Reread tells the running server to read its files again.
func (s *Server) Reread(ctx context.Context) error {
	if err := s.guard.Signal(ctx, int(syscall.SIGHUP)); err != nil {
		return fmt.Errorf("reload the server: %w", err)
	}
	return nil
}
