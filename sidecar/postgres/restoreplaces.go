package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// Space is a tablespace of a backup.
type Space struct {
	OID uint32
	Dir string // where it was, and is to be again
}

// A restore puts data in the places outside of the data directory too: this version's
// folder in each tablespace, which is made beside the one that is there, so that the
// tablespace's own directory may be a mount point; and the directory that a pg_wal which is
// a link leads to.

// move is one such directory, as the marker has it when the restored data are whole. Each
// of its renames may be done already: swap is called again after a crash.
type move struct {
	Place string `json:"place"`
	Fresh string `json:"fresh,omitempty"` // what takes its place; empty: nothing does
	Old   string `json:"old"`             // where that is kept
	Had   bool   `json:"had,omitempty"`   // there was something
}

const (
	freshName  = "pgsidecar-restore"
	oldName    = "pgsidecar-before-restore"
	undoneName = "pgsidecar-undone"
)

// places are what of the outside a restore is about.
type places struct {
	wal    string  // where pg_wal of the data that are there leads; empty: it is no link
	backup []Space // to be restored
	now    []Space // of the data that are there
}

// lookPlaces finds out where the data that are there are outside of their directory.
func (s *Server) lookPlaces(old bool, backup []Space) (places, error) {
	p := places{backup: backup}
	if !old {
		return p, nil
	}
	l, err := s.lookLayout()
	if err != nil {
		return p, err
	}
	p.wal = l.WAL
	entries, err := s.files.ReadDir(s.data("pg_tblspc"))
	if err != nil {
		return p, fmt.Errorf("look at the tablespaces: %w", err)
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 {
			return p, fmt.Errorf("%w: %s has tablespaces within itself (allow_in_place_tablespaces), which no backup has", ErrNoRoom, s.o.DataDir)
		}
		dir, err := s.files.Readlink(s.data("pg_tblspc", e.Name()))
		if err != nil {
			return p, fmt.Errorf("look at the tablespaces: %w", err)
		}
		p.now = append(p.now, Space{Dir: dir})
	}
	return p, nil
}

// scratch are the directories that a restore writes into outside of the data directory.
func (p places) scratch() []string {
	var all []string
	for _, space := range p.backup {
		all = append(all, filepath.Join(space.Dir, freshName))
	}
	if p.wal != "" {
		all = append(all, p.wal+"."+freshName)
	}
	return all
}

// into says where each tablespace is to be restored.
func (p places) into() map[uint32]string {
	dirs := map[uint32]string{}
	for _, space := range p.backup {
		dirs[space.OID] = filepath.Join(space.Dir, freshName)
	}
	return dirs
}

// versions are this version's folders in a directory: as a rule one.
func (s *Server) versions(dir string) ([]string, error) {
	found, err := s.files.Glob(filepath.Join(dir, fmt.Sprintf("PG_%d_*", s.version)))
	if err != nil {
		return nil, fmt.Errorf("look at a tablespace: %w", err)
	}
	return found, nil
}

// moves are what is to change places, of data that are restored and whole in target.
func (s *Server) moves(p places) ([]move, error) {
	var all []move
	add := func(place, fresh, old string) {
		_, err := s.files.Lstat(place)
		all = append(all, move{Place: place, Fresh: fresh, Old: old, Had: err == nil})
	}
	restored := map[string]bool{}
	for _, space := range p.backup {
		found, err := s.versions(filepath.Join(space.Dir, freshName))
		if err != nil {
			return nil, err
		}
		for _, fresh := range found {
			restored[space.Dir] = true
			add(filepath.Join(space.Dir, filepath.Base(fresh)), fresh, filepath.Join(space.Dir, oldName))
		}
	}
	for _, space := range p.now {
		found, err := s.versions(space.Dir)
		if err != nil {
			return nil, err
		}
		for _, place := range found {
			if !restored[space.Dir] {
				add(place, "", filepath.Join(space.Dir, oldName))
			}
		}
	}
	if p.wal != "" {
		add(p.wal, p.wal+"."+freshName, p.wal+"."+oldName)
	}
	return all, nil
}

// takeWAL moves the log that was restored into target to where the data are to have it.
func (s *Server) takeWAL(target string, p places) error {
	if p.wal == "" {
		return nil
	}
	from, to := filepath.Join(target, "pg_wal"), p.wal+"."+freshName
	if err := s.makeBeside(to, p.wal); err != nil {
		return err
	}
	return s.files.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		rel, rerr := filepath.Rel(from, path)
		if err = errors.Join(err, rerr); err != nil || rel == "." {
			return err
		}
		if d.IsDir() {
			return s.makeDir(filepath.Join(to, rel))
		}
		_, err = s.copyFile(path, filepath.Join(to, rel))
		return err
	})
}

// around has the rights to change names beside a place: where a configured wal_dir is,
// those of the owner of the folder, who may be root. All other places are what links in the
// data directory say, which an SQL superuser may have made: the server's user's.
func (s *Server) around(place string) rights.User {
	if place == s.o.WAL.Dir {
		return rights.OwnerOf(filepath.Dir(place))
	}
	return s.files
}

// makeBeside makes a directory of the server's user beside a place.
func (s *Server) makeBeside(dir, place string) error {
	around := s.around(place)
	if err := around.RemoveTree(dir); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := around.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return s.makeDir(dir) // and it is given to the user
}

// layPlaces has restored data name the places where they are to be.
func (s *Server) layPlaces(m marker) error {
	dir := s.o.DataDir
	if _, err := s.files.Lstat(m.Fresh); m.Fresh != "" && err == nil {
		dir = m.Fresh
	}
	for name, to := range m.Links {
		path := filepath.Join(dir, name)
		if now, err := s.files.Readlink(path); err == nil && now == to {
			continue
		}
		if err := s.files.RemoveAll(path); err != nil { // a link's target stays
			return fmt.Errorf("link %s: %w", name, err)
		}
		if err := s.files.Symlink(to, path); err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		if err := s.syncDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	return nil
}

// links are those that restored data have.
func (p places) links() map[string]string {
	all := map[string]string{}
	for _, space := range p.backup {
		all[fmt.Sprintf("pg_tblspc/%d", space.OID)] = space.Dir
	}
	if p.wal != "" {
		all["pg_wal"] = p.wal
	}
	return all
}

// moveAll puts what was restored, or is put back, into its places.
func (s *Server) moveAll(moves []move) error {
	there := func(path string) bool { _, err := s.files.Lstat(path); return path != "" && err == nil }
	for _, mv := range moves {
		around := s.around(mv.Place)
		if (mv.Fresh == "" || there(mv.Fresh)) && there(mv.Place) {
			if err := s.wipeAway(mv.Old); err != nil {
				return err
			}
			if err := around.Rename(mv.Place, mv.Old); err != nil {
				return fmt.Errorf("keep what was restored over: %w", err)
			}
		}
		if err := s.step("moved away"); err != nil {
			return err
		}
		if there(mv.Fresh) {
			if err := around.Rename(mv.Fresh, mv.Place); err != nil {
				return fmt.Errorf("put what was restored in place: %w", err)
			}
		}
		if err := s.syncDir(filepath.Dir(mv.Place)); err != nil {
			return err
		}
	}
	return nil
}

// back are the moves that undo others.
func back(moves []move) []move {
	all := make([]move, len(moves))
	for i, mv := range moves {
		undone := filepath.Join(filepath.Dir(mv.Place), undoneName)
		if strings.HasPrefix(filepath.Base(mv.Old), filepath.Base(mv.Place)+".") {
			undone = mv.Place + "." + undoneName
		}
		all[i] = move{Place: mv.Place, Old: undone, Had: true}
		if mv.Had {
			all[i].Fresh = mv.Old
		}
	}
	return all
}

// wipeMoved removes what moves have kept.
func (s *Server) wipeMoved(moves []move) error {
	for _, mv := range moves {
		if err := s.wipeAway(mv.Old); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) wipeScratch(dirs []string) error {
	for _, dir := range dirs {
		if err := s.wipeAway(dir); err != nil {
			return err
		}
	}
	return nil
}

// elsewhere ends what RoomToRestore says.
const elsewhere = "; or restore into a new cluster by bootstrap { from_backup }"

// whyFixed says why a directory cannot be kept aside by a rename, and what to do; empty: it
// can.
func (s *Server) whyFixed(dir, setting string, around rights.User) string {
	parent := filepath.Dir(filepath.Clean(dir))
	own, err := s.files.Lstat(dir)
	if err != nil {
		return err.Error()
	}
	if own.Mode()&fs.ModeSymlink != 0 {
		return fmt.Sprintf("%s is a symbolic link, which is not moved: have %s name the directory that it leads to", dir, setting)
	}
	above, err := s.files.Stat(parent)
	if err != nil {
		return err.Error()
	}
	if own.Sys().(*syscall.Stat_t).Dev != above.Sys().(*syscall.Stat_t).Dev {
		return fmt.Sprintf("%[1]s is a mount point, which cannot be moved aside: stop this member, move what is in it to %[1]s/data, and have %[2]s name that", dir, setting)
	}
	probe, err := around.MkdirTemp(parent, ".pgsidecar-probe-*")
	if err == nil {
		err = around.Remove(probe)
	}
	if err != nil {
		return fmt.Sprintf("%s cannot be moved aside by PostgreSQL's user: %v", dir, err)
	}
	return ""
}

// RoomToRestore refuses a restore in place where the data that are there could not be kept,
// on each of the disks that they are on: ErrNoRoom.
func (s *Server) RoomToRestore(r Restoration) error {
	p, err := s.lookPlaces(true, r.Spaces)
	if err != nil {
		return err
	}
	if why := s.whyFixed(s.o.DataDir, "data_dir", s.above()); why != "" {
		return fmt.Errorf("%w: %s%s", ErrNoRoom, why, elsewhere)
	}
	if p.wal != "" {
		if why := s.whyFixed(p.wal, "the link pg_wal", s.around(p.wal)); why != "" {
			return fmt.Errorf("%w: pg_wal: %s%s", ErrNoRoom, why, elsewhere)
		}
	}
	if len(p.now) > 0 && r.Spaces == nil {
		return fmt.Errorf("%w: %s has tablespaces, and the backup's program cannot be told where to restore them%s", ErrNoRoom, s.o.DataDir, elsewhere)
	}
	need := r.Size
	for _, space := range r.Spaces {
		if err := s.claimSpace(space, p); err != nil {
			return err
		}
		size := s.size(space.Dir)
		if err := s.room(space.Dir, size); err != nil {
			return err
		}
		need -= size
	}
	return s.room(filepath.Dir(filepath.Clean(s.o.DataDir)), max(need, 0))
}

// claimSpace refuses a tablespace that is another server's, or whose directory is gone.
func (s *Server) claimSpace(space Space, p places) error {
	if !filepath.IsAbs(space.Dir) {
		return fmt.Errorf("%w: the backup has a tablespace in %q, which is no absolute path", ErrNoRoom, space.Dir)
	}
	if _, err := s.files.ReadDir(space.Dir); err != nil {
		return fmt.Errorf("%w: the backup has a tablespace in %s: %w. Make that directory, for PostgreSQL's user, or mount its disk there", ErrNoRoom, space.Dir, err)
	}
	if slices.ContainsFunc(p.now, func(now Space) bool { return now.Dir == space.Dir }) {
		return nil
	}
	if found, err := s.versions(space.Dir); err != nil || len(found) > 0 {
		return errors.Join(err, fmt.Errorf("%w: the backup has a tablespace in %s, which has %s of another server; move that away", ErrNoRoom, space.Dir, strings.Join(found, ", ")))
	}
	return nil
}

func (s *Server) room(dir string, need int64) error {
	room, err := s.free(dir)
	if err != nil {
		return err
	}
	if need += need / 20; room < need {
		return fmt.Errorf("%w: the restored data need %d MB beside those that are kept, and %s has %d MB", ErrNoRoom, need>>20, dir, room>>20)
	}
	return nil
}
