package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Facts is what the files say of the server, without SQL.
type Facts struct {
	ha.Files

	// Timeline is that of the last checkpoint.
	Timeline ha.TLI

	Shut   bool // no upstream is admitted
	Hidden bool // clients are kept out, as last written
	// FromBackup: what Rewound is to send may be in the archive alone.
	FromBackup bool

	FreeBytes int64 // that the server may still write beside its data
	Major     int   // version of the data directory; 0: it has none
}

// Inspect reads what the files say. It changes nothing. A damaged file of ours,
// or one that cannot be read, is an error: it is not guessed at.
func (s *Server) Inspect(ctx context.Context) (Facts, error) {
	f, err := s.inspect(ctx)
	return f, s.whose(err)
}

func (s *Server) inspect(ctx context.Context) (Facts, error) {
	p, err := s.promised()
	if err != nil {
		return Facts{}, err
	}
	f := Facts{Files: ha.Files{Promise: p.Term, PromisedTo: p.To, Fenced: p.Fenced, Founding: s.Founding()}, Shut: s.IsShut(), Hidden: s.isHidden()}
	needs, err := s.rewoundFrom()
	if err != nil {
		return Facts{}, err
	}
	f.Rewound, f.RewoundTerm, f.FromBackup = needs.From, needs.Term, needs.Backup
	if f.Copy, err = s.copyName(); err != nil {
		return Facts{}, err
	}
	if f.Epoch, err = s.epoch(); err != nil {
		return Facts{}, err
	}
	if f.Seen, err = s.seen(); err != nil {
		return Facts{}, err
	}
	if err := readJSON(s.files, s.state("owed"), &f.Owed); err != nil {
		return Facts{}, err
	}
	if f.FreeBytes, err = s.free(s.existing(s.o.DataDir)); err != nil {
		return Facts{}, err
	}
	was, err := s.restoredNow()
	if err != nil {
		return Facts{}, err
	}
	f.Restored, f.Undoable = was.ID, was.ID != "" && !was.Settled
	m, err := s.marked()
	if err != nil {
		return Facts{}, err
	}
	if m.Operation != "" {
		f.DataDir, f.Problem = ha.DataHalfMade, m.String()
		return f, nil
	}
	bare, err := s.empty(s.o.DataDir)
	if err != nil {
		return Facts{}, err
	}
	if why := s.lostFound(s.o.DataDir); bare && why != "" {
		f.DataDir, f.Problem = ha.DataForeign, why
		return f, nil
	}
	if bare {
		f.DataDir = ha.DataAbsent
		return f, nil
	}
	if f.Major, err = s.checkForeign(); err != nil {
		f.DataDir, f.Problem = ha.DataForeign, err.Error()
		return f, nil
	}
	return s.inspectData(ctx, f)
}

// inspectData reads what a data directory of our version says.
func (s *Server) inspectData(ctx context.Context, f Facts) (Facts, error) {
	c, err := s.control(ctx, s.o.DataDir)
	if errors.Is(err, ErrForeign) {
		f.DataDir, f.Problem = ha.DataForeign, err.Error()
		return f, nil
	}
	if err != nil {
		return Facts{}, err
	}
	s.noteSegment(c)
	_, standby := s.files.Lstat(s.data("standby.signal"))
	f.DataDir, f.SystemID, f.Timeline = ha.DataPresent, c.systemID, c.timeline
	// A promotion removes standby.signal first. One that was cut off then, and is taken
	// for done, would go on on the old timeline, beside what others have there (S7).
	f.WasPrimary = errors.Is(standby, fs.ErrNotExist) && c.state != stateArchiveRecovery && c.state != stateShutDownRecovery
	in, err := s.Instructions()
	if err != nil {
		return Facts{}, err
	}
	if f.Instructed = in.String(); in.Recovery { // a new timeline comes of it, whatever was before
		f.WasPrimary = true
		return f, nil
	}
	if f.Strayed, err = s.findStrayed(c); err != nil {
		return Facts{}, err
	}
	f.WasPrimary = f.WasPrimary && f.Strayed == ""
	if !f.WasPrimary || c.state != stateShutDown {
		return f, nil
	}
	// Without the last segment the end is not known, and so nothing is claimed.
	if end, err := s.endOfLog(c); err == nil {
		history, err := s.History(c.timeline)
		if err == nil {
			f.CleanStop, f.End = true, s.Mark(ha.Position{History: history, TLI: c.timeline, LSN: end})
		}
	}
	return f, nil
}

// checkForeign returns the major version of the data directory, and ErrForeign,
// in words for people, if it must not be touched.
func (s *Server) checkForeign() (int, error) {
	content, err := s.files.ReadFile(s.data("PG_VERSION"))
	if err != nil {
		return 0, fmt.Errorf("%s is not empty and is no PostgreSQL data directory (%w): %w",
			s.o.DataDir, err, ErrForeign)
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return 0, fmt.Errorf("%s has version %q: %w", s.o.DataDir, strings.TrimSpace(string(content)), ErrForeign)
	}
	if version != s.version {
		return version, fmt.Errorf("%s was made by PostgreSQL %d and the programs in %s are of version %d: %w",
			s.o.DataDir, version, s.o.BinDir, s.version, ErrForeign)
	}
	info, err := s.files.Stat(s.o.DataDir)
	if err != nil {
		return version, fmt.Errorf("look at the data directory: %w: %w", err, ErrForeign)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != s.uid {
		return version, fmt.Errorf("%s belongs to user id %d and the server runs as %s: %w",
			s.o.DataDir, st.Uid, s.o.User, ErrForeign)
	}
	return version, nil
}

// existing returns the path itself or its nearest parent that exists.
func (s *Server) existing(path string) string {
	for {
		if _, err := s.files.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

// control is the part of pg_control that is used.
type control struct {
	state      string
	systemID   string
	checkpoint ha.LSN // where the last checkpoint record begins
	timeline   ha.TLI // of the last checkpoint
	minimum    ha.LSN // minimum recovery ending location; zero: none
	minimumTLI ha.TLI
	segment    int64 // bytes of a WAL segment
	block      int64 // bytes of a WAL page
	// limits are the primary's settings that a standby must at least have.
	limits map[string]int64
}

// The states that matter, as pg_controldata writes them.
const (
	stateShutDown         = "shut down"
	stateShutDownRecovery = "shut down in recovery"
	stateArchiveRecovery  = "in archive recovery"
	stateCrashRecovery    = "in crash recovery"
)

// recovering are the states in which a server has written no log of its own. One that
// reads its own log first, after a crash, is in crash recovery for that time, a
// standby too.
var recovering = []string{stateShutDownRecovery, stateArchiveRecovery, stateCrashRecovery, "starting up"}

// controlCache keeps the last parse, because Inspect is called often and the
// file changes seldom.
type controlCache struct {
	mu   sync.Mutex
	path string
	size int64
	at   time.Time
	is   control
}

// control reads pg_control by PostgreSQL's own program, which knows its layout.
func (s *Server) control(ctx context.Context, dir string) (control, error) {
	path := filepath.Join(dir, "global", "pg_control")
	info, err := s.files.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return control{}, damagedControl(dir, "is missing")
	}
	if err != nil {
		return control{}, fmt.Errorf("read control data: %w", err)
	}
	if info.Size() != controlFileSize {
		return control{}, damagedControl(dir, fmt.Sprintf("has %d bytes, not %d", info.Size(), controlFileSize))
	}
	k := &s.controls
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.path == path && k.size == info.Size() && k.at.Equal(info.ModTime()) {
		return k.is, nil
	}
	warned := false
	out, err := s.program(ctx, "pg_controldata", []string{"-D", dir}, runOptions{line: func(said string) { warned = warned || warns(said) }})
	if err != nil {
		return control{}, err
	}
	if warned || slices.ContainsFunc(strings.Split(out, "\n"), warns) {
		return control{}, damagedControl(dir, "is damaged: its checksum is wrong")
	}
	c, err := parseControl(out)
	if err != nil {
		return control{}, fmt.Errorf("control data of %s: %w", dir, err)
	}
	// A file as young as its own time stamp's step may change without showing it.
	if time.Since(info.ModTime()) > time.Second {
		k.path, k.size, k.at, k.is = path, info.Size(), info.ModTime(), c
	}
	return c, nil
}

// warns reports whether a line of pg_controldata is a warning: it has none but of a damaged
// file, whose content it prints all the same. PostgreSQL 15 prints them among that; 17 and
// 18 log them, in other words.
func warns(line string) bool {
	return strings.HasPrefix(line, "WARNING:") || strings.HasPrefix(line, "pg_controldata: warning:")
}

// controlFileSize is pg_control's, of every version (pg_control.h).
const controlFileSize = 8192

// damagedControl says what leads out: without it nobody can tell whose the data are.
func damagedControl(dir, what string) error {
	return fmt.Errorf("%[1]s/global/pg_control %[2]s: %[3]w. Restore it from a backup of this directory; or, if another member has the data, "+
		"move the directory away (mv %[1]s %[1]s.damaged) and start this member again, which clones it anew", dir, what, ErrForeign)
}

func parseControl(out string) (control, error) {
	fields := map[string]string{}
	for line := range strings.Lines(out) {
		if name, value, found := strings.Cut(line, ":"); found {
			fields[name] = strings.TrimSpace(value)
		}
	}
	var err error
	number := func(name string) int64 {
		n, e := strconv.ParseInt(fields[name], 10, 64)
		err = errors.Join(err, e)
		return n
	}
	position := func(name string) ha.LSN {
		l, e := ha.ParseLSN(fields[name])
		err = errors.Join(err, e)
		return l
	}
	limits := map[string]int64{}
	for _, name := range standbyLimits {
		if _, printed := fields[name+" setting"]; printed {
			limits[name] = number(name + " setting")
		}
	}
	c := control{
		limits:     limits,
		state:      fields["Database cluster state"],
		systemID:   fields["Database system identifier"],
		checkpoint: position("Latest checkpoint location"),
		timeline:   ha.TLI(number("Latest checkpoint's TimeLineID")),
		minimum:    position("Minimum recovery ending location"),
		minimumTLI: ha.TLI(number("Min recovery ending loc's timeline")),
		segment:    number("Bytes per WAL segment"),
		block:      number("WAL block size"),
	}
	if err != nil || c.systemID == "" || c.state == "" || c.segment <= 0 || c.block <= 0 {
		return control{}, fmt.Errorf("what pg_controldata prints is not understood: %w", errors.Join(err, ha.ErrSyntax))
	}
	return c, nil
}

// segmentName names the WAL segment that has the byte at l.
func (c control) segmentName(tli ha.TLI, l ha.LSN) string {
	n, per := uint64(l)/uint64(c.segment), uint64(1<<32)/uint64(c.segment)
	return fmt.Sprintf("%08X%08X%08X", uint32(tli), n/per, n%per)
}

// Sizes of a WAL page's header (PostgreSQL's xlog_internal.h).
const (
	longPageHeader  = 40 // the first page of a segment
	shortPageHeader = 24
	maxAlign        = 8
	minRecord       = 24 // a WAL record's own header
)

// endOfLog returns where the log of a server that was shut down ends: after its
// last record, the checkpoint.
func (s *Server) endOfLog(c control) (ha.LSN, error) {
	f, err := s.files.Open(s.data("pg_wal", c.segmentName(c.timeline, c.checkpoint)))
	if err != nil {
		return 0, fmt.Errorf("read the last checkpoint: %w", err)
	}
	defer f.Close() // only read
	var length [4]byte
	if _, err := f.ReadAt(length[:], int64(c.checkpoint)%c.segment); err != nil {
		return 0, fmt.Errorf("read the last checkpoint: %w", err)
	}
	left := int64(binary.NativeEndian.Uint32(length[:]))
	if left < minRecord || left > c.block {
		return 0, fmt.Errorf("the last checkpoint has a length of %d: %w", left, ha.ErrSyntax)
	}
	return recordEnd(c, c.checkpoint, left), nil
}

// recordEnd returns the end of a record that begins at l: it leaves out the
// headers of the pages that it crosses into.
func recordEnd(c control, l ha.LSN, left int64) ha.LSN {
	at := int64(l)
	for {
		room := c.block - at%c.block
		if left <= room {
			return ha.LSN((at + left + maxAlign - 1) / maxAlign * maxAlign)
		}
		at, left = at+room, left-room
		if at%c.segment == 0 {
			at += longPageHeader
		} else {
			at += shortPageHeader
		}
	}
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// newestKnown is the newest major version that this release has been tried with. A newer
// one may write its files, or take its settings, in another way.
const newestKnown = 18

// checkVersion refuses a PostgreSQL that is newer than all that are known.
func checkVersion(version int, binDir string) error {
	if version > newestKnown {
		return fmt.Errorf("%w: %s has PostgreSQL %d, and the newest that this version of pgsidecar knows is %d; set bin_dir to the programs of one that it knows",
			ErrVersion, binDir, version, newestKnown)
	}
	return nil
}

// programVersion asks a program for its major version.
func programVersion(path string) (int, error) {
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("find PostgreSQL's programs; set bin_dir to where they are: %w", err)
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("version of %s: %q: %w", path, out, ha.ErrSyntax)
	}
	return strconv.Atoi(string(m[1]))
}
