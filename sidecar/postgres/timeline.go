package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// placeholder is the content of a history file that only holds a number. It
// names no ancestor, so a running standby that finds it says "not a child" and
// stays where it is. It must not be the newest when a server starts, which then
// would refuse: Start removes such.
const placeholder = "# pgsidecar: this timeline was claimed and never used\n"

// ReserveTimeline sees to it that a promotion of the server, whose log is at the
// position given, will make timeline want: PostgreSQL takes the first number
// above those that follow one another in history files. It returns ErrTaken if
// want is not above those, and ErrUnreached if the server knows the history of a
// later timeline that its log has not come to: PostgreSQL would then write a
// wrong ancestor into the new history (the server must be restarted with
// StartOptions.Forget first). It also writes down that the promotion is this member's.
func (s *Server) ReserveTimeline(at ha.Position, want ha.TLI) error {
	if !at.Known() || want <= at.TLI {
		return fmt.Errorf("reserve timeline %d at %s: %w", want, at, ErrTaken)
	}
	if err := s.findUnreached(at.TLI, ha.Position{}); err != nil {
		return err
	}
	if used, err := s.historyOf(want); err != nil || used != historyNone {
		return errors.Join(fmt.Errorf("reserve timeline %d: %w", want, ErrTaken), err)
	}
	var free []string
	for tli := at.TLI + 1; tli < want; tli++ {
		found, err := s.historyOf(tli)
		if err != nil {
			return err
		}
		if found == historyNone {
			free = append(free, historyName(tli))
		}
	}
	if err := s.holdNames(free); err != nil {
		return fmt.Errorf("reserve timeline %d: %w", want, err)
	}
	return s.beginReign()
}

// holdNames makes placeholders in the log's directory. A change of sites needs nearly a
// hundred while clients wait, so all are one file, made durable once: nobody writes into a
// history file that is there, PostgreSQL and this program replace it.
func (s *Server) holdNames(names []string) error {
	if len(names) == 0 {
		return nil
	}
	first := s.data("pg_wal", names[0])
	if err := s.write(first, []byte(placeholder)); err != nil {
		return err
	}
	for _, name := range names[1:] {
		path := s.data("pg_wal", name)
		if s.files.Link(first, path) == nil {
			continue
		}
		if err := s.write(path, []byte(placeholder)); err != nil { // not all file systems have links
			return err
		}
	}
	return s.syncDir(filepath.Dir(first))
}

// HoldStrangers makes placeholders for the timelines between the server's own and that of a
// primary, but for those that that one came by: it has nothing to say of the others, and a standby
// would fetch the history of each and flush it, one after the other, before it streams. After a
// change of sites those are nearly a hundred, on the way to another site or while commits wait.
func (s *Server) HoldStrangers(own ha.TLI, of ha.Position) error {
	var strangers []string
	for tli := max(own+1, 2); tli < of.TLI; tli++ {
		if of.Passed(tli) {
			continue
		}
		found, err := s.historyOf(tli)
		if err != nil {
			return err
		}
		if found == historyNone {
			strangers = append(strangers, historyName(tli))
		}
	}
	return s.holdNames(strangers)
}

// FillHistories writes what history files are missing of the timelines below a primary's
// own. A standby asks for that of each timeline between its own and the primary's, also of
// those that the primary never was on, and streams nothing while one is missing; a clone
// has only the newest. What an ancestor's says is the beginning of what its descendants'
// say; of any other nothing is known but that its number is taken.
//
// The primary's own is written anew where a recovery ended before a fork of its line
// (ha.Straight): a walsender would send a standby more of an old timeline than is a part of
// this one.
func (s *Server) FillHistories(own ha.TLI) error {
	if err := s.straightenHistory(own); err != nil {
		return err
	}
	var forks []ha.Fork
	for tli := ha.TLI(2); tli < own; tli++ {
		_, err := s.files.Lstat(s.data("pg_wal", historyName(tli)))
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look for the history of timeline %d: %w", tli, err)
		}
		if forks == nil {
			if forks, err = s.History(own); err != nil {
				return err
			}
		}
		if err := s.write(s.data("pg_wal", historyName(tli)), ancestry(forks, tli)); err != nil {
			return fmt.Errorf("write the history of timeline %d: %w", tli, err)
		}
		s.log.Info("wrote a missing timeline history, which standbys ask for", "timeline", tli)
	}
	return nil
}

func (s *Server) straightenHistory(own ha.TLI) error {
	if own <= 1 {
		return nil
	}
	path := s.data("pg_wal", historyName(own))
	content, err := s.files.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // only clones look for it
	}
	if err != nil {
		return fmt.Errorf("read history of timeline %d: %w", own, err)
	}
	told, err := toldHistory(content)
	if err != nil {
		return err
	}
	forks := ha.Straight(told)
	if len(forks) == len(told) {
		return nil
	}
	last := len(forks) - 1
	if err := s.write(path, ancestry(append(forks, ha.Fork{TLI: own}), own)); err != nil {
		return fmt.Errorf("write the history of timeline %d: %w", own, err)
	}
	s.log.Info("wrote the timeline's history anew: its recovery ended before a fork of the timeline that it followed", "timeline", own, "left", forks[last].TLI, "at", forks[last].End)
	return nil
}

// ancestry is the history file of a timeline out of that of a later one.
func ancestry(forks []ha.Fork, tli ha.TLI) []byte {
	if !slices.ContainsFunc(forks, func(f ha.Fork) bool { return f.TLI == tli }) {
		return []byte(placeholder)
	}
	content := "# pgsidecar: out of the history of a later timeline\n"
	for _, f := range forks {
		if f.TLI < tli {
			content += fmt.Sprintf("%d\t%s\tbefore timeline %d\n", f.TLI, f.End, tli)
		}
	}
	return []byte(content)
}

// CheckLine returns ErrUnreached if the server knows the history of a timeline after
// its own which the leader never was on: a standby may have taken it for its target
// already, and would not follow the leader to any other ("is not a child of").
func (s *Server) CheckLine(own ha.TLI, leader ha.Position) error { return s.findUnreached(own, leader) }

// findUnreached looks for real timelines above the server's own, but for those of a
// history.
func (s *Server) findUnreached(own ha.TLI, but ha.Position) error {
	above, err := s.timelinesAbove(own)
	if err != nil {
		return err
	}
	for _, tli := range above {
		if but.Passed(tli) {
			continue
		}
		found, err := s.historyOf(tli)
		if err != nil {
			return err
		}
		if found == historyReal {
			return fmt.Errorf("timeline %d, own is %d: %w", tli, own, ErrUnreached)
		}
	}
	return nil
}

// historyKind is what a history file is.
type historyKind uint8

const (
	historyNone historyKind = iota
	historyHeld             // a placeholder
	historyReal
)

func (s *Server) historyOf(tli ha.TLI) (historyKind, error) {
	content, err := s.files.ReadFile(s.data("pg_wal", historyName(tli)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return historyNone, nil
	case err != nil:
		return historyNone, fmt.Errorf("read history of timeline %d: %w", tli, err)
	case strings.HasPrefix(string(content), placeholder):
		return historyHeld, nil
	}
	return historyReal, nil
}

// timelinesAbove lists the timelines with a history file, ascending.
func (s *Server) timelinesAbove(own ha.TLI) ([]ha.TLI, error) {
	entries, err := s.files.ReadDir(s.data("pg_wal"))
	if err != nil {
		return nil, fmt.Errorf("list timelines: %w", err)
	}
	var above []ha.TLI
	for _, e := range entries {
		if tli, ok := historyTLI(e.Name()); ok && tli > own {
			above = append(above, tli)
		}
	}
	return above, nil
}

// historyTLI reads the timeline from the name of a history file.
func historyTLI(name string) (ha.TLI, bool) {
	var tli uint32
	number, found := strings.CutSuffix(name, ".history")
	if !found || len(number) != 8 {
		return 0, false
	}
	_, err := fmt.Sscanf(number, "%08X", &tli)
	return ha.TLI(tli), err == nil
}

// forgetTimelines removes, before a start, the placeholders above the newest
// real timeline; and if own is not zero all that belongs to later timelines.
func (s *Server) forgetTimelines(own ha.TLI) error {
	if own != 0 {
		if err := s.removeAbove(own); err != nil {
			return err
		}
	}
	all, err := s.timelinesAbove(0)
	if err != nil {
		return err
	}
	for i := len(all) - 1; i >= 0; i-- {
		found, err := s.historyOf(all[i])
		if err != nil {
			return err
		}
		if found != historyHeld {
			return nil
		}
		if err := s.remove(s.data("pg_wal", historyName(all[i]))); err != nil {
			return err
		}
	}
	return nil
}

// removeAbove removes the history and segments of timelines above own. Segments
// go first, so that a crash in between leaves the history to be found again.
func (s *Server) removeAbove(own ha.TLI) error {
	entries, err := s.files.ReadDir(s.data("pg_wal"))
	if err != nil {
		return fmt.Errorf("list write-ahead log: %w", err)
	}
	var histories []string
	for _, e := range entries {
		name := e.Name()
		if tli, ok := historyTLI(name); ok && tli > own {
			histories = append(histories, name)
			continue
		}
		if tli, ok := segmentTLI(name); ok && tli > own {
			s.log.Info("removing write-ahead log of a timeline that was not reached", "file", name)
			if err := s.files.Remove(s.data("pg_wal", name)); err != nil {
				return fmt.Errorf("forget timeline %d: %w", tli, err)
			}
		}
	}
	for _, name := range histories {
		s.log.Info("removing the history of a timeline that was not reached", "file", name)
		if err := s.remove(s.data("pg_wal", name)); err != nil {
			return err
		}
	}
	return nil
}

// segmentTLI reads the timeline from the name of a WAL segment.
func segmentTLI(name string) (ha.TLI, bool) {
	var tli, high, low uint32
	if len(name) != 24 {
		return 0, false
	}
	_, err := fmt.Sscanf(name, "%08X%08X%08X", &tli, &high, &low)
	return ha.TLI(tli), err == nil
}
