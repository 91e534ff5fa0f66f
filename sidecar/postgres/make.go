package postgres

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// Init makes a new server in a missing or empty data directory, with SCRAM passwords and
// as Options.Initdb says. It returns ErrNotEmpty, and touches nothing, otherwise.
// The roles besides the superuser are made by SQL: until then the server is to
// be started hidden.
func (s *Server) Init(ctx context.Context) error {
	if m, err := s.marked(); err != nil || m.Operation != "" {
		return errors.Join(err, fmt.Errorf("initdb: %w", ErrUnfinished))
	}
	bare, err := s.empty(s.o.DataDir)
	if err != nil {
		return err
	}
	if !bare {
		return fmt.Errorf("initdb: %s: %w", s.o.DataDir, ErrNotEmpty)
	}
	if err := s.checkWALDir(); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	password := rand.Text()
	if s.o.SuperuserPassword != nil {
		if password, err = s.o.SuperuserPassword(); err != nil {
			return fmt.Errorf("initdb: read the superuser's password: %w", err)
		}
	}
	if err := s.mark(marker{Operation: "initdb", Phase: phaseMake, WAL: s.o.WAL.Dir, Since: time.Now()}); err != nil {
		return err
	}
	if err := s.makeDir(s.linked(s.o.DataDir)); err != nil {
		return err
	}
	secret := s.state("initdb.password")
	defer s.files.Remove(secret) // an error leaves it to Discard
	if err := s.write(secret, []byte(password+"\n")); err != nil {
		return err
	}
	args := []string{"-D", s.o.DataDir, "-U", s.o.SuperuserName,
		"--auth=scram-sha-256", "--pwfile=" + secret}
	args = append(args, initdbArgs(s.version, s.o.WAL.Initdb)...)
	if dir := s.o.WAL.Dir; dir != "" {
		if err := s.makeDir(dir); err != nil {
			return err
		}
		args = append(args, "--waldir="+dir)
	}
	if s.o.WAL.SegmentMB != 0 {
		args = append(args, fmt.Sprintf("--wal-segsize=%d", s.o.WAL.SegmentMB))
	}
	if _, err := s.program(ctx, "initdb", args, runOptions{changes: true}); err != nil {
		return err
	}
	if err := s.syncDir(filepath.Dir(s.o.DataDir)); err != nil {
		return err
	}
	if err := s.remove(secret); err != nil {
		return err
	}
	if err := s.newCopy(ha.Position{}); err != nil {
		return err
	}
	// The data is nobody's until the cluster's record names it.
	if err := s.write(s.state("founding"), []byte("initdb was done; the cluster's record does not name this server yet\n")); err != nil {
		return err
	}
	return s.unmark()
}

// Founded says that the cluster's record names the server that Init made.
func (s *Server) Founded() error { return s.remove(s.state("founding")) }

// Founding reports whether Init made the server, and no record has named it yet.
func (s *Server) Founding() bool {
	_, err := s.files.Stat(s.state("founding"))
	return err == nil
}

var progressPattern = regexp.MustCompile(`^(\d+)/(\d+) kB \(\d+%\)`)

// progressOf reads bytes done and to do from what pg_basebackup and pg_rewind
// print.
func progressOf(report func(done, total int64)) func(string) {
	return func(line string) {
		m := progressPattern.FindStringSubmatch(line)
		if m == nil || report == nil {
			return
		}
		done, _ := strconv.ParseInt(m[1], 10, 64) // digits by the pattern
		total, _ := strconv.ParseInt(m[2], 10, 64)
		report(done<<10, total<<10)
	}
}

// conninfo is how programs reach the source. The password is in the passfile.
func (s *Server) conninfo(from Source, database string) string {
	var b strings.Builder
	options := [][2]string{{"host", from.Host}, {"port", strconv.Itoa(from.Port)},
		{"user", s.o.ReplicationName}, {"dbname", database}, {"passfile", s.Passfile()},
		{"application_name", "pgsidecar:" + s.o.Member}, {"connect_timeout", strconv.Itoa(s.reach.seconds())},
		{"keepalives_idle", "5"}, {"keepalives_interval", "2"}, {"keepalives_count", "3"}, {"tcp_user_timeout", "15000"}}
	for _, kv := range append(options, s.o.TLS.Conninfo()...) {
		if kv[1] != "" {
			b.WriteString(kv[0] + "='" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(kv[1]) + "' ")
		}
	}
	return strings.TrimSpace(b.String())
}

// patientSender lets the source bear a disk here that stalls: a replica that is silent
// is to be given up within seconds, but a copy that is cut off begins from zero.
const patientSender = " options='-c wal_sender_timeout=10min'"

// Clone makes the data directory a copy of the source's, as a standby's. Data
// that is there stays until the copy is whole, where there is room for both;
// what may have diverged is kept aside. A data directory that is not ours is
// refused with ErrForeign, a source of another major version with ErrOtherMajor.
// progress may be nil; it gets bytes.
func (s *Server) Clone(ctx context.Context, from Source, progress func(done, total int64)) error {
	if from.Major != 0 && from.Major != s.version {
		return fmt.Errorf("%w: %s runs PostgreSQL %d and the programs in %s are of version %d: they cannot run a copy of it. "+
			"Set bin_dir to programs of version %d; for the way to another version see pgsidecar help upgrade",
			ErrOtherMajor, from.Member, from.Major, s.o.BinDir, s.version, from.Major)
	}
	old, err := s.oldData()
	if err != nil {
		return err
	}
	if err := s.writePassfile(); err != nil {
		return err
	}
	if old {
		if err := s.noteLayout(); err != nil {
			return err
		}
	}
	if err := s.checkBackup(from); err != nil {
		return err
	}
	m, target, err := s.planClone(from, old)
	if err != nil {
		return err
	}
	if old && m.Fresh == "" {
		if _, err := s.keepAside(ctx, from, nil); err != nil {
			return err
		}
	}
	if err := s.mark(m); err != nil {
		return err
	}
	if err := s.copyFrom(ctx, from, m, target, progress); err != nil {
		return err
	}
	if err := s.write(filepath.Join(target, "standby.signal"), nil); err != nil {
		return err
	}
	if m.Fresh == "" {
		return errors.Join(s.syncDir(filepath.Dir(s.o.DataDir)), s.copied(m))
	}
	if _, err := s.keepAside(ctx, from, nil); err != nil {
		return err
	}
	m.Phase = phaseSwap
	if err := s.mark(m); err != nil {
		return err
	}
	return s.swap(m)
}

// planClone says where a clone is made, and what of the outside it writes. It refuses a
// place that pg_basebackup would refuse, before anything is removed.
func (s *Server) planClone(from Source, old bool) (m marker, target string, err error) {
	m = marker{Operation: opClone, Phase: phaseMake, From: from.Member, Term: from.Term, Since: time.Now(), Owed: from.Owed, Backup: from.Backup != nil}
	if old && s.roomBeside() {
		m.Fresh, m.Old = s.beside("clone"), s.beside("old")
		return m, m.Fresh, nil
	}
	l, err := s.keptLayout()
	if err != nil {
		return m, "", err
	}
	if why := s.lostFound(s.o.DataDir); why != "" {
		return m, "", fmt.Errorf("clone: %s", why)
	}
	if why := s.lostFound(l.WAL); l.WAL != "" && why != "" {
		return m, "", fmt.Errorf("clone: pg_wal: %s", why)
	}
	if m.WAL = l.WAL; m.WAL == "" && s.o.WAL.Dir != "" {
		if err := s.checkWALDir(); err != nil {
			return m, "", fmt.Errorf("clone: %w", err)
		}
		m.WAL = s.o.WAL.Dir
	}
	return m, s.o.DataDir, nil
}

// copyFrom makes the copy that the marker, which stands, is of.
func (s *Server) copyFrom(ctx context.Context, from Source, m marker, target string, progress func(done, total int64)) error {
	if from.Backup != nil {
		return s.copyBackup(ctx, from, target, progress)
	}
	if err := errors.Join(s.wipe(target), s.wipeWAL(m.WAL)); err != nil {
		return err
	}
	// Only now it is seen whether they are empty: the old data may have had the same.
	if err := s.claimSpaces(from.Spaces); err != nil {
		return err
	}
	if m.Spaces = from.Spaces; len(m.Spaces) > 0 {
		if err := s.mark(m); err != nil {
			return err
		}
	}
	if err := s.makeDir(s.linked(target)); err != nil {
		return err
	}
	args := []string{"-D", target, "-d", s.conninfo(from, "") + patientSender, "--no-password", "-X", "stream", "--checkpoint=fast", "--progress"}
	args = append(args, s.o.WAL.BaseBackup...)
	if m.WAL != "" {
		args = append(args, "--waldir="+m.WAL)
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	left := &leftOut{enough: end, from: from.Member}
	report := progressOf(progress)
	_, err := s.program(ctx, "pg_basebackup", args, runOptions{changes: true, patience: cmp.Or(s.patience, copyPatience),
		line: func(line string) { report(line); left.hear(line) }})
	if s.reach.learn(err); err != nil {
		return err
	}
	return errors.Join(left.missing(s, target), s.matchMode(target), s.layLinks(target))
}

// linked is where a data directory is that is a symbolic link.
func (s *Server) linked(dir string) string {
	if real, err := s.files.EvalSymlinks(dir); err == nil {
		return real
	}
	return dir
}

// beside names a directory next to the data directory that nobody else makes: its
// content is removed, and a person's copy may well be named .old.
func (s *Server) beside(what string) string {
	return filepath.Clean(s.o.DataDir) + ".pgsidecar-" + what
}

// oldData reports whether there is data that a failed clone must not cost.
func (s *Server) oldData() (bool, error) {
	m, err := s.marked()
	if err != nil {
		return false, err
	}
	if m.Operation != "" {
		return false, fmt.Errorf("%w: %s", ErrUnfinished, m)
	}
	bare, err := s.empty(s.o.DataDir)
	if err != nil || bare {
		return false, err
	}
	if _, err = s.checkForeign(); err != nil {
		return false, err
	}
	return true, s.checkStray()
}

// roomBeside reports whether a copy can be made beside the data directory and
// take its place by a rename, and there is room for as much again.
func (s *Server) roomBeside() bool {
	if !s.replaceable() {
		return false
	}
	room, err := s.free(filepath.Dir(filepath.Clean(s.o.DataDir)))
	return err == nil && room > s.size(s.o.DataDir)
}

// replaceable reports whether a directory beside the data directory can take its place
// by a rename: it is on the same file system, and there is no tablespace, whose path can
// be there only once.
func (s *Server) replaceable() bool {
	parent := filepath.Dir(filepath.Clean(s.o.DataDir))
	own, err := s.files.Lstat(s.o.DataDir)
	if err != nil || !own.IsDir() {
		return false // a symbolic link is not to be replaced by a directory
	}
	above, err := s.files.Stat(parent)
	if err != nil || own.Sys().(*syscall.Stat_t).Dev != above.Sys().(*syscall.Stat_t).Dev {
		return false
	}
	if spaces, err := s.files.ReadDir(s.data("pg_tblspc")); err != nil || len(spaces) > 0 {
		return false
	}
	if info, err := s.files.Lstat(s.data("pg_wal")); err != nil || !info.IsDir() {
		return false
	}
	probe, err := s.above().MkdirTemp(parent, ".pgsidecar-probe-*")
	if err != nil {
		return false // not ours to write
	}
	if err := s.above().Remove(probe); err != nil {
		return false
	}
	return true
}

// above has the rights to change names beside the data directory: those of the owner of the
// directory that both are in, who is often root.
func (s *Server) above() rights.User {
	return rights.OwnerOf(filepath.Dir(filepath.Clean(s.o.DataDir)))
}

// size is how many bytes the files of a directory have; what vanishes or cannot
// be read counts nothing.
func (s *Server) size(dir string) int64 {
	var sum int64
	// The function never returns an error, so WalkDir does not either.
	_ = s.files.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	})
	return sum
}

// swap puts the whole copy in the place of the old data. Each step may be done
// already: Discard calls it again after a crash.
func (s *Server) swap(m marker) error {
	old := cmp.Or(m.Old, filepath.Clean(s.o.DataDir)+".old") // a marker without it is of an earlier release
	if err := s.layPlaces(m); err != nil {
		return err
	}
	if err := s.moveAll(m.Moves); err != nil {
		return err
	}
	if _, err := s.files.Lstat(m.Fresh); err == nil {
		if _, err := s.files.Lstat(s.o.DataDir); err == nil {
			if err := s.wipeAway(old); err != nil {
				return err
			}
			if err := s.above().Rename(s.o.DataDir, old); err != nil {
				return fmt.Errorf("put the clone in place: %w", err)
			}
		}
		if err := s.step("clone between renames"); err != nil {
			return err
		}
		if err := s.above().Rename(m.Fresh, s.o.DataDir); err != nil {
			return fmt.Errorf("put the clone in place: %w", err)
		}
	}
	if err := s.syncDir(filepath.Dir(s.o.DataDir)); err != nil {
		return err
	}
	end := func() error { return s.wipeAway(old) }
	if m.Restored != nil {
		end = func() error { return s.swapped(m) }
	}
	if err := end(); err != nil {
		return err
	}
	return s.copied(m)
}

// copied ends a copy that is whole and in place.
func (s *Server) copied(m marker) error {
	// What a rewind left open is gone with the old data.
	if err := errors.Join(s.Consistent(), s.newCopy(m.Owed)); err != nil {
		return err
	}
	if m.Operation == opClone {
		if err := s.forgetRestore(); err != nil {
			return err
		}
	}
	if m.Backup {
		if err := s.noteRewound(rewound{From: m.From, Term: m.Term, Backup: true}); err != nil {
			return err
		}
	}
	return s.unmark()
}

// EndClone ends a clone that was left unfinished; any other marker stays.
func (s *Server) EndClone(ctx context.Context) error {
	m, err := s.marked()
	if err != nil || m.Operation != opClone {
		return err
	}
	return s.Discard(ctx)
}

// Discard ends what the marker names (S10): a half-made directory is removed, a
// copy that is whole takes its place, and data that was not yet touched stays.
// Without a marker it does nothing.
// A server that Init made for a cluster that another member founded is removed
// too: it never led anything. So are the data of a restore that was given up, for those
// before it.
func (s *Server) Discard(ctx context.Context) error {
	m, err := s.marked()
	if err == nil && m.Operation == "" && s.Founding() {
		m = marker{Operation: "initdb", Phase: phaseMake, WAL: s.ownWALDir(), Since: time.Now()}
		err = errors.Join(s.mark(m), s.Founded())
	}
	if err == nil && m.Operation == "" {
		m, err = s.undoRestored()
	}
	if err != nil || m.Operation == "" {
		return err
	}
	if err := s.checkStray(); err != nil {
		return err
	}
	lock, err := s.lockPrograms(ctx) // no program of an earlier life writes any more
	if err != nil {
		return err
	}
	defer lock.Close() // releases it
	if err := s.remove(s.state("initdb.password")); err != nil {
		return err
	}
	s.log.Info("ending what was left unfinished", "operation", m.Operation, "phase", m.Phase, "since", m.Since)
	switch {
	case m.Phase == phasePrepare:
		if err := errors.Join(s.layLinks(s.o.DataDir), s.writeSignal(m.Standby)); err != nil {
			return err
		}
	case m.Phase == phaseSwap:
		return s.swap(m)
	case m.Fresh != "":
		if err := errors.Join(s.wipeSpaces(m.Spaces), s.wipeScratch(m.Scratch), s.wipeAway(m.Fresh)); err != nil {
			return err
		}
	default:
		if err := errors.Join(s.wipeSpaces(m.Spaces), s.wipeScratch(m.Scratch), s.wipe(s.o.DataDir), s.wipeWAL(m.WAL)); err != nil {
			return err
		}
		if err := errors.Join(s.Consistent(), s.forgetData()); err != nil { // what an earlier rewind left open
			return err
		}
		if m.Operation == opUndo {
			if err := s.remove(s.state("restored")); err != nil {
				return err
			}
		}
		if err := s.syncDir(s.existing(s.o.DataDir)); err != nil {
			return err
		}
	}
	return s.unmark()
}
