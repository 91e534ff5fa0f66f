package postgres

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/postmaster"
	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// life is what this member wrote down about how it ran the server: as what, before
// each start and before each promotion; and what was seen when the server had ended.
// What pg_control says later and this does not explain, somebody else has done.
type life struct {
	Role    role   `json:"role"`
	Promise uint64 `json:"promise"` // the highest term promised then
	// Before is the digest of pg_control at the start. While it stands the server has
	// not got so far as to change anything.
	Before string `json:"before,omitempty"`
	// LogAt is how long the server's log was at the start: what is before it is of an
	// earlier life.
	LogAt int64 `json:"log_at,omitempty"`
	// Ran: pg_control has changed since, so PostgreSQL took the directory.
	Ran bool `json:"ran,omitempty"`
	// End is what was seen when a primary had ended; nil: not yet.
	End *ending `json:"end,omitempty"`
	// Recovered: a rewind has done the server's crash recovery since. Tainted: it did so
	// before, and the rewind did not happen: a standby has log of its own since then.
	Recovered bool `json:"recovered,omitempty"`
	Tainted   bool `json:"tainted,omitempty"`
}

// role is as what a server was started.
type role string

const (
	asStandby role = "standby"
	asPrimary role = "primary"
)

// ending is what pg_control said of a server that had ended.
type ending struct {
	State      string `json:"state"`
	Checkpoint ha.LSN `json:"checkpoint"`
	Timeline   ha.TLI `json:"timeline"`
}

// strayed is the content of the file of that name: why the data has log of its own
// that belongs to no term. It stands until other data takes its place.
type strayed struct {
	Why   string    `json:"why"`
	Since time.Time `json:"since"`
	ending
}

// lifeLine is in the configuration that a release writes which keeps account of the
// server's lives. One that does not writes the configuration without it, and then
// what the account says is of an earlier time, and void.
const lifeLine = "# The file life says how the server was last run.\n"

// lifeNow reads the account; a role that is empty: there is none.
func (s *Server) lifeNow() (life, error) {
	var l life
	if err := readJSON(s.files, s.state("life"), &l); err != nil || l.Role == "" {
		return life{}, err
	}
	conf, err := s.files.ReadFile(s.state("postgresql.conf"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return life{}, fmt.Errorf("read the server's last configuration: %w", err)
	}
	if !strings.Contains(string(conf), lifeLine) {
		return life{}, nil
	}
	return l, nil
}

// voidLife removes an account that an earlier release has overtaken, before the
// configuration is written and shows it no more.
func (s *Server) voidLife() error {
	l, err := s.lifeNow()
	if err != nil || l.Role != "" {
		return err
	}
	return s.remove(s.state("life"))
}

func (s *Server) writeLife(l life) error {
	content, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("write how the server is run: %w", err)
	}
	return s.write(s.state("life"), append(content, '\n'))
}

// HasRun reports whether this member has run a server on the data that is there: what
// runs on it now and was started by somebody else has then taken its place.
func HasRun(stateDir string) (bool, error) {
	var l life
	err := readJSON(rights.OwnerOf(stateDir), filepath.Join(stateDir, "life"), &l)
	return l.Ran, err
}

// beginLife writes, before a start, as what the server is started.
func (s *Server) beginLife(as role) error {
	p, err := s.promised()
	if err != nil {
		return err
	}
	before, err := s.controlDigest()
	if err != nil {
		return err
	}
	was, err := s.lifeNow()
	if err != nil {
		return err
	}
	if err := s.noteLogs(); err != nil {
		return err
	}
	return s.writeLife(life{Role: as, Promise: p.Term, Before: before, Ran: was.Ran, LogAt: s.logSize(),
		Tainted: was.Tainted || was.Recovered && was.Role == asStandby})
}

// beginReign writes, before a promotion, that this member makes the server a primary.
//
// Data that has strayed is promoted only if a person has decided so, and is the cluster's
// from then on.
func (s *Server) beginReign() error {
	if err := s.remove(s.state("strayed")); err != nil {
		return err
	}
	l, err := s.lifeNow()
	if err != nil || l.Role == asPrimary {
		return err
	}
	p, err := s.promised()
	if err != nil {
		return err
	}
	return s.writeLife(life{Role: asPrimary, Promise: p.Term, Ran: true, LogAt: l.LogAt})
}

// forgetData forgets what was known of the data, as it is removed: how it was run,
// that it had strayed, which copy it was and what that owed.
func (s *Server) forgetData() error {
	return errors.Join(s.remove(s.state("life")), s.remove(s.state("strayed")), s.remove(s.state("copy")), s.remove(s.state("owed")))
}

// newCopy gives data that was made anew its name, and writes down what it owes.
func (s *Server) newCopy(owed ha.Position) error {
	if err := s.forgetData(); err != nil {
		return err
	}
	if owed.Known() {
		content, err := json.Marshal(owed)
		if err != nil {
			return fmt.Errorf("write what the copy owes: %w", err)
		}
		if err := s.write(s.state("owed"), append(content, '\n')); err != nil {
			return err
		}
	}
	return s.write(s.state("copy"), []byte(rand.Text()+"\n"))
}

// copyName is the name of the copy; empty: an earlier release made it, or a person.
func (s *Server) copyName() (string, error) {
	content, err := s.files.ReadFile(s.state("copy"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read which copy the data is: %w", err)
	}
	return strings.TrimSpace(string(content)), nil
}

// Paid says that the server's log contains what its copy owed.
func (s *Server) Paid() error { return s.remove(s.state("owed")) }

// controlDigest tells whether pg_control is what it was.
func (s *Server) controlDigest() (string, error) {
	content, err := s.files.ReadFile(s.data("global", "pg_control"))
	if err != nil {
		return "", fmt.Errorf("read pg_control: %w", err)
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:16]), nil
}

// findStrayed says why the data has log that belongs to no term: the server ran as a
// primary, or in single-user mode, and it was not this member that made it one.
// Empty: nothing is known of that.
//
// PostgreSQL leaves the two states of a recovery in pg_control only when it leaves
// recovery, on whatever timeline (StartupXLOG), and a standby of ours never does but
// by a promotion, which is written down before. A start that did not get so far
// leaves pg_control as it was, and a copy of a primary has a backup_label until its
// own recovery has begun. Crash recovery writes no log before its end.
func (s *Server) findStrayed(c control) (string, error) {
	var known strayed
	if err := readJSON(s.files, s.state("strayed"), &known); err != nil || known.Why != "" {
		return known.Why, err
	}
	l, err := s.lifeNow()
	if err != nil || l.Role == "" {
		return "", err
	}
	digest, err := s.controlDigest()
	if err != nil || digest == l.Before {
		return "", err
	}
	now := ending{c.state, c.checkpoint, c.timeline}
	why, err := s.strayedSince(l, now)
	if err != nil || why == "" {
		return "", errors.Join(err, s.noteEnd(l, now))
	}
	content, err := json.Marshal(strayed{Why: why, Since: time.Now(), ending: now})
	if err != nil {
		return "", fmt.Errorf("note why the data has strayed: %w", err)
	}
	s.log.Error("the server was run without this member's sidecar", "what", why, "state", c.state, "checkpoint", c.checkpoint, "timeline", c.timeline)
	return why, s.write(s.state("strayed"), append(content, '\n'))
}

// checkStrayed returns ErrNoCommonPast for data that has strayed. What somebody wrote
// may have the number of a timeline that an election gave to another log, which
// begins where this one does; pg_rewind would take them for one.
func (s *Server) checkStrayed() error {
	var known strayed
	if err := readJSON(s.files, s.state("strayed"), &known); err != nil || known.Why == "" {
		return err
	}
	return fmt.Errorf("%w: %s", ErrNoCommonPast, known.Why)
}

// strayedSince compares what pg_control says now with how this member ran the server.
func (s *Server) strayedSince(l life, now ending) (string, error) {
	at := fmt.Sprintf(" (pg_control: %s, checkpoint %s on timeline %d)", now.State, now.Checkpoint, now.Timeline)
	switch {
	case l.Role == asStandby:
		_, err := s.files.Lstat(s.data("backup_label"))
		if slices.Contains(recovering, now.State) || err == nil || l.Recovered {
			return "", nil
		}
		return "it was a replica, and was promoted or started as a primary by hand" + at, nil
	case l.End != nil && *l.End != now:
		p, err := s.promised()
		if err != nil || p.Term <= l.Promise {
			return "", err // it is the leader of the newest term that it knows: its log is that term's
		}
		return "it was a primary that was stopped, and was started by hand after another member had begun a term" + at, nil
	}
	return "", nil
}

// noteEnd writes what was seen of a server that this member had started: that it ran,
// and how a primary ended.
func (s *Server) noteEnd(l life, now ending) error {
	was := l
	l.Ran = true
	if l.Role == asPrimary && l.End == nil {
		pid, err := postmaster.Find(s.o.DataDir)
		if err != nil {
			return err
		}
		if pid == 0 {
			l.End = &now
		}
	}
	if l == was {
		return nil
	}
	return s.writeLife(l)
}
