package postgres

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// write replaces a file so that after a crash the old or the new one is there,
// whole. The new one belongs to the server's user and only that one reads it. Where
// the disk is full the reserve is given up for it.
func (s *Server) write(path string, content []byte) error {
	err := s.replace(path, content)
	if errors.Is(err, ErrDiskFull) && s.giveUpReserve() {
		err = s.replace(path, content)
	}
	return err
}

func (s *Server) replace(path string, content []byte) error {
	f, err := s.files.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, noSpace(err))
	}
	defer s.files.Remove(f.Name()) // of no effect after the rename
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, noSpace(err))
	}
	if err := s.files.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, noSpace(err))
	}
	return s.syncDir(filepath.Dir(path))
}

// remove removes a file for good; that it was gone already is no error.
func (s *Server) remove(path string) error {
	err := s.files.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return s.syncDir(filepath.Dir(path))
}

// syncDir makes a directory's entries durable.
func (s *Server) syncDir(path string) error {
	d, err := s.files.Open(path)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	return nil
}

// syncFiles makes all that was written to a directory's file system durable: who wrote it
// may not have cared.
func (s *Server) syncFiles(dir string) error {
	d, err := s.files.Open(dir)
	if err != nil {
		return fmt.Errorf("sync files: %w", err)
	}
	if err := errors.Join(unix.Syncfs(int(d.Fd())), d.Close()); err != nil {
		return fmt.Errorf("sync the files in %s: %w", dir, err)
	}
	return nil
}

func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}

// makeDir makes a directory of the server's user that nobody else may enter,
// and makes sure of both if it is there.
func (s *Server) makeDir(path string) error {
	if err := s.files.MakeDir(path); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return nil
}

// MakeState makes the state directory and what is in it.
func (s *Server) MakeState() error {
	for _, dir := range []string{s.o.StateDir, s.sock} {
		if err := s.makeDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// promise is the content of the file of that name.
type promise struct {
	Term   uint64 `json:"term"`
	To     string `json:"to,omitempty"` // the term's leader; empty: not known, as an older program wrote it
	Fenced bool   `json:"fenced"`
}

// Promise writes to disk that no leader of a lower term will be followed, whose the term
// is (empty: not known), and whether the server is fenced for it (S2), as ha.Files.Promises
// says. It returns ErrPromised, and changes nothing, if a higher term was promised before.
func (s *Server) Promise(term uint64, to string, fenced bool) error {
	was, err := s.promised()
	if err != nil {
		return err
	}
	if was.Term > term {
		return fmt.Errorf("promise term %d: %w: %d", term, ErrPromised, was.Term)
	}
	f := ha.Files{Promise: was.Term, PromisedTo: was.To, Fenced: was.Fenced}
	f.Promises(term, to, fenced)
	now := promise{Term: f.Promise, To: f.PromisedTo, Fenced: f.Fenced}
	if now == was {
		return nil
	}
	content, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("promise term %d: %w", term, err)
	}
	if err := s.MakeState(); err != nil {
		return err
	}
	return s.write(s.state("promise"), append(content, '\n'))
}

// promised reads the promise. A damaged file is an error: nobody may guess at it.
func (s *Server) promised() (promise, error) {
	var p promise
	err := readJSON(s.files, s.state("promise"), &p)
	return p, err
}

// readJSON reads a file of ours; a missing one leaves v alone.
func readJSON(files rights.User, path string, v any) error {
	content, err := files.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := json.Unmarshal(content, v); err != nil {
		return fmt.Errorf("read %s, which was written by pgsidecar and has been damaged: %w", path, err)
	}
	return nil
}

// Admit lets walreceivers connect to this member, and to no other.
func (s *Server) Admit(member string) error {
	if err := s.MakeState(); err != nil {
		return err
	}
	// Not synced: the gate counts while the server runs, and Start shuts it.
	if err := s.files.Replace(s.state("upstream"), []byte("["+Service(member)+"]\n")); err != nil {
		return fmt.Errorf("admit upstream %s: %w", member, noSpace(err))
	}
	return nil
}

// Shut closes the gates: a walreceiver that starts from now on cannot connect, and a
// restore_command that does fetches nothing.
func (s *Server) Shut() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, gate := range []string{"upstream", archiveGate} {
		if err := s.files.Remove(s.state(gate)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("shut the gate to the upstream: %w", err)
		}
	}
	return nil
}

// IsShut reports whether the gate is shut.
func (s *Server) IsShut() bool {
	_, err := s.files.Lstat(s.state("upstream"))
	return errors.Is(err, fs.ErrNotExist)
}

// marker is the content of the file "unfinished".
type marker struct {
	Operation string    `json:"operation"` // initdb, clone, rewind, restore or its undoing
	Phase     phase     `json:"phase"`
	From      string    `json:"from,omitempty"`
	Term      uint64    `json:"term,omitempty"` // Source.Term
	Since     time.Time `json:"since"`
	// Standby: the directory held a standby's data, and is to again.
	Standby bool `json:"standby,omitempty"`
	// Fresh is where the copy is made; empty: in the data directory itself. Old is
	// where it then puts the data that it replaces.
	Fresh string `json:"fresh,omitempty"`
	Old   string `json:"old,omitempty"`
	// WAL and Spaces are directories outside of the data directory that the operation
	// writes; both were empty before.
	WAL    string   `json:"wal,omitempty"`
	Spaces []string `json:"spaces,omitempty"`
	// Scratch are directories outside of it that a restore makes, and Moves are what it puts
	// in place there when all of it is whole; Links are then those of the data directory.
	Scratch []string          `json:"scratch,omitempty"`
	Moves   []move            `json:"moves,omitempty"`
	Links   map[string]string `json:"links,omitempty"`
	// Backup: the copy is one of a backup, and needs log before it is consistent.
	Backup bool `json:"backup,omitempty"`
	// Owed is what the leader had when a clone of another member began.
	Owed ha.Position `json:"owed,omitzero"`
	// Restored is what a restore makes, or what is undone.
	Restored *restoration `json:"restored,omitempty"`
}

// phase is how far an operation has come, and so what Discard must do.
type phase string

const (
	phasePrepare phase = "prepare" // the old data is whole, and stays
	phaseMake    phase = "make"    // what the marker names is half made
	phaseSwap    phase = "swap"    // the copy is whole, and takes the old data's place
)

func (m marker) String() string {
	from := ""
	if m.From != "" {
		from = " from " + m.From
	}
	return fmt.Sprintf("the %s%s begun at %s did not end", m.Operation, from, m.Since.UTC().Format(time.RFC3339))
}

func (s *Server) mark(m marker) error {
	content, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write marker: %w", err)
	}
	if err := s.MakeState(); err != nil {
		return err
	}
	if err := s.write(s.state("unfinished"), append(content, '\n')); err != nil {
		return err
	}
	return s.step(m.Operation + " " + string(m.Phase))
}

// marked reads the marker; its Operation is empty if there is none.
func (s *Server) marked() (marker, error) {
	var m marker
	err := readJSON(s.files, s.state("unfinished"), &m)
	return m, err
}

func (s *Server) unmark() error { return s.remove(s.state("unfinished")) }

// free returns how many bytes the server's user may still write beside path.
func (s *Server) free(path string) (int64, error) {
	var st syscall.Statfs_t
	if err := s.files.Do(func() error { return syscall.Statfs(path, &st) }); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", path, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// diskOfLog is the size of the file system that pg_wal is on, or will be; 0: it was not told.
func (s *Server) diskOfLog() int64 {
	dir := s.data("pg_wal")
	if s.o.WAL.Dir != "" {
		dir = s.o.WAL.Dir
	}
	dir = s.existing(dir)
	var st syscall.Statfs_t
	if err := s.files.Do(func() error { return syscall.Statfs(dir, &st) }); err != nil {
		return 0
	}
	return int64(st.Blocks) * st.Bsize
}

// empty reports whether a directory is missing or has nothing in it that
// matters (a file system's own lost+found does not).
func (s *Server) empty(path string) (bool, error) {
	entries, err := s.files.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the data directory: %w", err)
	}
	return len(entries) == 0 || len(entries) == 1 && entries[0].Name() == "lost+found", nil
}

// copyFile copies a file and makes the copy durable.
func (s *Server) copyFile(from, to string) (int64, error) {
	in, err := s.files.Open(from)
	if err != nil {
		return 0, fmt.Errorf("copy: %w", err)
	}
	defer in.Close() // only read
	out, err := s.files.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, fmt.Errorf("copy %s: %w", from, noSpace(err))
	}
	n, err := io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return n, fmt.Errorf("copy %s: %w", from, noSpace(err))
	}
	return n, nil
}

// History reads the timelines that a timeline came by, from its history file.
// Timeline 1 has none.
func (s *Server) History(tli ha.TLI) ([]ha.Fork, error) {
	if tli <= 1 {
		return nil, nil
	}
	content, err := s.files.ReadFile(s.data("pg_wal", historyName(tli)))
	if err != nil {
		return nil, fmt.Errorf("read history of timeline %d: %w", tli, err)
	}
	return parseHistory(content)
}

// parseHistory reads the history that a timeline history file tells of.
func parseHistory(content []byte) ([]ha.Fork, error) {
	told, err := toldHistory(content)
	return ha.Straight(told), err
}

// toldHistory reads a timeline history file: lines of timeline, switch
// position and reason (PostgreSQL's timeline.c); "#" begins a comment.
func toldHistory(content []byte) ([]ha.Fork, error) {
	var forks []ha.Fork
	lines := bufio.NewScanner(bytes.NewReader(content))
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		var tli uint32
		var at string
		if _, err := fmt.Fscan(bytes.NewReader(line), &tli, &at); err != nil {
			return nil, fmt.Errorf("timeline history line %q: %w", line, ha.ErrSyntax)
		}
		end, err := ha.ParseLSN(at)
		if err != nil {
			return nil, fmt.Errorf("timeline history: %w", err)
		}
		if n := len(forks); n > 0 && forks[n-1].TLI >= ha.TLI(tli) {
			return nil, fmt.Errorf("timeline history: %d comes after %d: %w", tli, forks[n-1].TLI, ha.ErrSyntax)
		}
		forks = append(forks, ha.Fork{TLI: ha.TLI(tli), End: end})
	}
	return forks, nil
}

func historyName(tli ha.TLI) string { return fmt.Sprintf("%08X.history", uint32(tli)) }
