package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Restoration is data that a backup is to give.
type Restoration struct {
	// ID names a restore in place. Empty: the data found a cluster.
	ID string
	// From is the timeline that the recovery follows, and Timeline the one that it is to
	// begin; zero: whichever PostgreSQL takes.
	From, Timeline ha.TLI
	// Size is how much the backup restores; 0: not known.
	Size int64
	// Spaces are the backup's tablespaces; nil: not known, and they cannot be placed.
	Spaces []Space
	// Make writes the data, with recovery.signal and what PostgreSQL is told. It is run
	// again from the beginning if it was killed.
	Make func(ctx context.Context, dir string, p Program) error
}

// Program is how a program of somebody else's that writes data is run: it inherits the
// lock, so that one that outlives the sidecar is found and ended, and its process group
// is told as soon as it runs.
type Program struct {
	Lock    *os.File
	Started func(group int)
	// Spaces says where each tablespace is to be restored, by its OID.
	Spaces map[uint32]string
}

// restoration is the content of the file "restored": the newest restore in place of this
// member's that was not undone.
type restoration struct {
	ID       string    `json:"id"`
	From     ha.TLI    `json:"from"`
	Timeline ha.TLI    `json:"timeline"`
	Kept     string    `json:"kept,omitempty"` // where the data before it are; empty: there are none
	Since    time.Time `json:"since"`
	// Moves are what was put in place outside of the data directory.
	Moves []move `json:"moves,omitempty"`
	// Settled: the cluster has gone on with the restored data, and clients may have
	// written since. Neither are they given up for those before them, nor is the restore
	// done again, whatever Consul says: it may have lost what came of the restore.
	Settled bool `json:"settled,omitempty"`
}

const (
	opClone   = "clone"
	opRestore = "restore"
	opUndo    = "undo of a restore"
)

// Restore puts the data of a backup in the place of the data directory. Data that are
// there are kept aside until Settle, or are put back by Discard; they stay untouched
// until the restored are whole. It refuses with ErrNoRoom where there is no room for both.
func (s *Server) Restore(ctx context.Context, r Restoration) error {
	old, err := s.oldData()
	if err != nil {
		return err
	}
	m := marker{Operation: opRestore, Phase: phaseMake, From: r.ID, Since: time.Now()}
	target := s.o.DataDir
	if old && r.ID == "" {
		return fmt.Errorf("restore: %s: %w", s.o.DataDir, ErrNotEmpty)
	}
	if old {
		if err := s.RoomToRestore(r); err != nil {
			return err
		}
		m.Fresh, m.Old = s.beside("restore"), s.beside("before-restore")
		target = m.Fresh
	}
	p, err := s.lookPlaces(old, r.Spaces)
	if err != nil {
		return err
	}
	for _, space := range r.Spaces {
		if err := s.claimSpace(space, p); err != nil {
			return err
		}
	}
	m.Scratch = p.scratch()
	m.Restored = &restoration{ID: r.ID, From: r.From, Timeline: r.Timeline, Kept: m.Old, Since: time.Now()}
	if err := s.mark(m); err != nil {
		return err
	}
	if old {
		err = s.wipeAway(target)
	} else {
		err = s.wipe(target)
	}
	if err := errors.Join(err, s.wipeScratch(m.Scratch), s.makeDir(s.linked(target))); err != nil {
		return err
	}
	if err := s.makeRestored(ctx, r, target, p); err != nil {
		return err
	}
	m.Phase, m.Links = phaseSwap, p.links()
	if m.Moves, err = s.moves(p); err != nil {
		return err
	}
	m.Restored.Moves = m.Moves
	if err := s.mark(m); err != nil {
		return err
	}
	return s.swap(m)
}

// makeRestored has the restored data made, wherever they are to be made.
func (s *Server) makeRestored(ctx context.Context, r Restoration, target string, p places) error {
	lock, err := s.lockPrograms(ctx)
	if err != nil {
		return err
	}
	defer lock.Close() // ours; the program has its own
	for _, dir := range p.into() {
		if err := s.makeDir(dir); err != nil {
			return err
		}
	}
	if err := r.Make(ctx, target, Program{Lock: lock, Started: s.noteGroup, Spaces: p.into()}); err != nil {
		return err
	}
	if err := s.takeWAL(target, p); err != nil {
		return err
	}
	for _, dir := range append(p.scratch(), target) {
		if err := s.syncFiles(dir); err != nil {
			return err
		}
	}
	return s.syncDir(filepath.Dir(filepath.Clean(s.o.DataDir)))
}

// noteGroup notes the process group of a program that writes data.
func (s *Server) noteGroup(group int) {
	// Not synced: a program does not outlive the machine's fall.
	if err := s.files.Replace(s.state("programs.group"), fmt.Append(nil, group)); err != nil {
		s.log.Warn("cannot note a program's process group", "error", err)
	}
}

// swapped ends a restore, or its undoing, whose data are in place.
func (s *Server) swapped(m marker) error {
	if m.Operation == opUndo {
		return errors.Join(s.wipeAway(m.Old), s.wipeMoved(m.Moves), s.remove(s.state("restored")))
	}
	if err := s.wipeScratch(m.Scratch); err != nil { // they are empty now
		return err
	}
	if m.Restored.ID == "" {
		return s.write(s.state("founding"), []byte("a backup was restored; the cluster's record does not name this server yet\n"))
	}
	return s.noteRestored(*m.Restored)
}

func (s *Server) noteRestored(r restoration) error {
	content, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write which restore made the data: %w", err)
	}
	return s.write(s.state("restored"), append(content, '\n'))
}

// restoredNow reads of which restore the data are; its ID is empty: of none.
func (s *Server) restoredNow() (restoration, error) {
	var r restoration
	err := readJSON(s.files, s.state("restored"), &r)
	return r, err
}

// settle notes that the restored data are the cluster's, before clients are let in.
func (s *Server) settle() (restoration, error) {
	r, err := s.restoredNow()
	if err != nil || r.ID == "" || r.Settled {
		return r, err
	}
	r.Settled = true
	return r, s.noteRestored(r)
}

// Settle removes the data that a restore had kept aside: the cluster has gone on with
// what was restored.
func (s *Server) Settle(id string) error {
	r, err := s.restoredNow()
	if err != nil || r.ID == "" || r.ID != id {
		return err
	}
	if r, err = s.settle(); err != nil || r.Kept == "" {
		return err
	}
	s.log.Info("removing the data that a restore has replaced", "dir", r.Kept)
	if err := errors.Join(s.wipeAway(r.Kept), s.wipeMoved(r.Moves)); err != nil {
		return err
	}
	r.Kept, r.Moves = "", nil
	return s.noteRestored(r)
}

// forgetRestore removes what a restore that can still be undone has kept aside, as its own data
// are gone: what is there now is a copy of another member's.
func (s *Server) forgetRestore() error {
	r, err := s.restoredNow()
	if err != nil || r.ID == "" || r.Settled {
		return err
	}
	if r.Kept != "" {
		s.log.Info("removing the data that a restore had replaced", "dir", r.Kept)
		err = s.wipeAway(r.Kept)
	}
	return errors.Join(err, s.wipeMoved(r.Moves), s.remove(s.state("restored")))
}

// undo begins to put back the data that a restore has replaced; without any, the restored
// ones are removed.
func (s *Server) undo(r restoration) (marker, error) {
	m := marker{Operation: opUndo, Phase: phaseSwap, From: r.ID, Since: time.Now(), Fresh: r.Kept, Old: s.beside("undone"), Moves: back(r.Moves), Restored: &r}
	if r.Kept == "" {
		m.Phase, m.Old = phaseMake, ""
	} else if _, err := s.files.Lstat(r.Kept); errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("put back what was there before the restore: %s is gone", r.Kept)
	}
	return m, s.mark(m)
}

// holdTimelines makes the recovery of restored data begin the timeline that was reserved:
// PostgreSQL takes the first number above those that follow one another, in the archive or
// here.
func (s *Server) holdTimelines(told Instructions) error {
	r, err := s.restoredNow()
	if err != nil || !told.Recovery {
		return err
	}
	for tli := r.From + 1; r.ID != "" && !r.Settled && tli < r.Timeline; tli++ {
		found, err := s.historyOf(tli)
		if err == nil && found == historyNone {
			err = s.write(s.data("pg_wal", historyName(tli)), []byte(placeholder))
		}
		if err != nil {
			return fmt.Errorf("reserve timeline %d: %w", r.Timeline, err)
		}
	}
	return nil
}

// undoRestored is what Discard does where no marker stands.
func (s *Server) undoRestored() (marker, error) {
	r, err := s.restoredNow()
	if err != nil || r.ID == "" || r.Settled {
		return marker{}, err
	}
	return s.undo(r)
}
