package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// entry is one line of the journal. A line is written before what it names is
// made (a process's second line, with its pid, directly after), and holds all
// that is needed to unmake it.
type entry struct {
	What string `json:"what"` // one of those below
	Lab  string `json:"lab"`
	Name string `json:"name,omitempty"` // namespace: its name; mount: where; process: the program
	Host string `json:"host,omitempty"`
	PID  int    `json:"pid,omitempty"`
	// Started is the process's start time in clock ticks since boot
	// (proc(5), stat, field 22): with the pid it names one process for good.
	Started uint64 `json:"started,omitempty"`
}

// The kinds of journal entries.
const (
	madeLab       = "lab"
	madeNamespace = "namespace"
	madeProcess   = "process"
	madeMount     = "mount"
	ownedBy       = "owner"    // the process that shows this lab and removes it at its end
	detached      = "detached" // nobody does
	broken        = "broken"   // a process is about to break what Name says
	mended        = "mended"   // and has mended it
)

func journalPath(dir string) string { return filepath.Join(dir, "journal") }

// record appends an entry, in one write. It needs no fsync: after a crash of
// the machine nothing of what it names exists, but for the folder it is in.
func (l *Lab) record(e entry) error {
	e.Lab = l.plan.ID
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode a journal entry: %w", err)
	}
	f, err := os.OpenFile(journalPath(l.plan.Dir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the journal: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// readJournal returns the entries of the lab in dir; none if there is no
// journal. The last line may have been cut off by a kill; it is then left out,
// for what it was to name was not made yet.
func readJournal(dir string) ([]entry, error) {
	f, err := os.Open(journalPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	defer f.Close()
	var entries []entry
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue
		}
		entries = append(entries, e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	return entries, nil
}
