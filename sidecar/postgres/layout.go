package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// layout is how a data directory is spread over disks, where that is an operator's doing:
// pg_basebackup and pg_rewind know nothing of it. It is kept beside the data, which a copy
// replaces, so that each copy has the same.
type layout struct {
	// WAL is where pg_wal is, if it is a link.
	WAL string `json:"wal,omitempty"`
	// Links are the other links in the data directory, such as log, and where they lead.
	Links map[string]string `json:"links,omitempty"`
}

// layoutFile has the layout of the data as it last was whole.
const layoutFile = "layout"

// lookLayout reads the layout off the data directory.
func (s *Server) lookLayout() (layout, error) {
	var l layout
	entries, err := s.files.ReadDir(s.o.DataDir)
	if err != nil {
		return l, fmt.Errorf("look at the data directory's links: %w", err)
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		to, err := s.files.Readlink(s.data(e.Name()))
		if err != nil {
			return l, fmt.Errorf("look at the data directory's links: %w", err)
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(s.o.DataDir, to)
		}
		switch {
		case e.Name() == "pg_wal":
			l.WAL = to
		case !vital(e.Name()):
			if l.Links == nil {
				l.Links = map[string]string{}
			}
			l.Links[e.Name()] = to
		}
	}
	return l, nil
}

// vital reports whether a name in the data directory is PostgreSQL's own data: what a copy
// has of it is never replaced by a link.
func vital(name string) bool {
	switch name {
	case "pg_log", "pg_hba.conf", "pg_ident.conf":
		return false
	case "base", "global", "PG_VERSION", "backup_label", "postmaster.pid", "standby.signal", "recovery.signal", "postgresql.auto.conf":
		return true
	}
	return strings.HasPrefix(name, "pg_")
}

// noteLayout keeps the layout of data that is whole.
func (s *Server) noteLayout() error {
	l, err := s.lookLayout()
	if err != nil {
		return err
	}
	content, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("keep the data directory's layout: %w", err)
	}
	if was, err := s.files.ReadFile(s.state(layoutFile)); err == nil && string(was) == string(content) {
		return nil
	}
	return s.write(s.state(layoutFile), content)
}

// keptLayout is the layout as it was last noted.
func (s *Server) keptLayout() (layout, error) {
	var l layout
	err := readJSON(s.files, s.state(layoutFile), &l)
	return l, err
}

// layLinks puts the links back into data that was copied into dir: what the copy has in
// their places is the source's.
func (s *Server) layLinks(dir string) error {
	l, err := s.keptLayout()
	if err != nil {
		return err
	}
	for name, to := range l.Links {
		path := filepath.Join(dir, name)
		if now, err := s.files.Readlink(path); err == nil && now == to {
			continue
		}
		if err := s.files.RemoveAll(path); err != nil {
			return fmt.Errorf("put the link %s back: %w", name, err)
		}
		if err := s.files.Symlink(to, path); err != nil {
			return fmt.Errorf("put the link %s back: %w", name, err)
		}
	}
	if len(l.Links) == 0 {
		return nil
	}
	return s.syncDir(dir)
}

// takeLinks takes the links out of the data directory that are no part of PostgreSQL's own
// data: pg_rewind ends at each of them, as the source has something else in its place.
// pg_wal and tablespaces it knows. The layout is noted, and by the marker they are
// put back (layLinks) where the rewind ends half-way.
func (s *Server) takeLinks(m marker) error {
	l, err := s.keptLayout()
	if err != nil || len(l.Links) == 0 {
		return err
	}
	if err := s.mark(m); err != nil {
		return err
	}
	for name := range l.Links {
		path := s.data(name)
		if _, err := s.files.Readlink(path); err != nil {
			continue // it is there no more, or is no link any more
		}
		if err := s.files.Remove(path); err != nil {
			return fmt.Errorf("take the link %s out of the way of pg_rewind: %w", name, err)
		}
	}
	return s.step("rewind links")
}

// matchMode gives a copy's directory the mode of those in it: a source whose group may
// read its data has a copy that the same group may read.
func (s *Server) matchMode(dir string) error {
	info, err := s.files.Stat(filepath.Join(dir, "base"))
	if err != nil {
		return fmt.Errorf("set the mode of the copy: %w", err)
	}
	if err := s.files.Chmod(dir, info.Mode().Perm()); err != nil {
		return fmt.Errorf("set the mode of the copy: %w", err)
	}
	return nil
}

// lostFound says why a directory that is the top of a file system can hold no new copy:
// initdb and pg_basebackup want an empty one. Empty: it is not.
func (s *Server) lostFound(dir string) string {
	if _, err := s.files.Stat(filepath.Join(dir, "lost+found")); err != nil {
		return ""
	}
	return fmt.Sprintf("%[1]s is the top of a file system and has lost+found, and PostgreSQL makes a server in an empty directory only; use one below it, such as %[1]s/data", dir)
}

// claimSpaces returns which of the source's tablespaces the copy is to write, and may
// empty if it ends half-way: all, and each is empty before. pg_basebackup writes pg_tblspc,
// which names them, last.
func (s *Server) claimSpaces(spaces []string) error {
	for _, dir := range spaces {
		entries, err := s.files.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look at the tablespace's directory: %w", err)
		}
		if len(entries) == 0 {
			continue
		}
		if why := s.lostFound(dir); why != "" && len(entries) == 1 {
			return fmt.Errorf("tablespace: %s", why)
		}
		return fmt.Errorf("the tablespace's directory %s is not empty: it has %s, which this member did not make; move it away, or mount this member's own disk there", dir, entries[0].Name())
	}
	return nil
}

// checkWALDir refuses a directory for the log of new data that has something in it: what
// ends half-way is emptied.
func (s *Server) checkWALDir() error {
	dir := s.o.WAL.Dir
	if dir == "" {
		return nil
	}
	if why := s.lostFound(dir); why != "" {
		return fmt.Errorf("pg_wal: %s", why)
	}
	bare, err := s.empty(dir)
	if err != nil {
		return err
	}
	if !bare {
		return fmt.Errorf("pg_wal: %s: %w", dir, ErrNotEmpty)
	}
	return nil
}

// ownWALDir is the configured directory of the log, if the data have their log there.
func (s *Server) ownWALDir() string {
	if to, err := s.files.Readlink(s.data("pg_wal")); err == nil && to == s.o.WAL.Dir {
		return to
	}
	return ""
}
