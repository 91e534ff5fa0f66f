package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// wipe empties a directory, if it is there, and the tablespaces it names. The
// directory itself may be a mount point and stays.
func (s *Server) wipe(dir string) error {
	if err := s.wipeTablespaces(dir); err != nil {
		return err
	}
	entries, err := s.files.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("empty the data directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() == "lost+found" {
			continue
		}
		if err := s.files.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("empty the data directory: %w", err)
		}
	}
	return nil
}

func (s *Server) wipeAway(dir string) error {
	if err := s.files.RemoveTree(dir); err != nil {
		return fmt.Errorf("remove old data: %w", err)
	}
	return nil
}

// wipeTablespaces removes this version's directory in each tablespace.
func (s *Server) wipeTablespaces(dir string) error {
	links, err := s.files.ReadDir(filepath.Join(dir, "pg_tblspc"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("empty tablespaces: %w", err)
	}
	for _, l := range links {
		pattern := filepath.Join(dir, "pg_tblspc", l.Name(), fmt.Sprintf("PG_%d_*", s.version))
		found, err := s.files.Glob(pattern)
		if err != nil {
			return fmt.Errorf("empty tablespaces: %w", err)
		}
		for _, d := range found {
			if err := s.files.RemoveAll(d); err != nil {
				return fmt.Errorf("empty tablespaces: %w", err)
			}
		}
	}
	return nil
}

// wipeSpaces empties the tablespaces that a marker names of what this version made.
func (s *Server) wipeSpaces(spaces []string) error {
	for _, dir := range spaces {
		found, err := s.files.Glob(filepath.Join(dir, fmt.Sprintf("PG_%d_*", s.version)))
		if err != nil {
			return fmt.Errorf("empty tablespaces: %w", err)
		}
		for _, d := range found {
			if err := s.files.RemoveAll(d); err != nil {
				return fmt.Errorf("empty tablespaces: %w", err)
			}
		}
	}
	return nil
}

// wipeWAL empties the directory of the log that is outside of the data directory.
func (s *Server) wipeWAL(dir string) error {
	if dir == "" {
		return nil
	}
	if why := s.lostFound(dir); why != "" {
		return fmt.Errorf("pg_wal: %s", why)
	}
	entries, err := s.files.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("empty %s: %w", dir, err)
	}
	for _, e := range entries {
		if err := s.files.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("empty %s: %w", dir, err)
		}
	}
	return nil
}
