package proof

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

var (
	// ErrSpace: the scratch folder has too little room, or would take more than it may.
	ErrSpace = errors.New("not enough room for a verification")
	// ErrFailed: the backup restored to something that is not a good server.
	ErrFailed = errors.New("the backup did not prove good")
)

// Options say what is proved, and within which bounds.
type Options struct {
	Engine backup.Engine
	BinDir string // of PostgreSQL's programs
	Folder string // absolute, ours alone; made anew and removed each time. One with other files is refused
	User   program.User
	// Superuser is the role that the checks run as; empty: postgres.
	Superuser string
	// MaxBytes bounds what may be written to Folder; 0: what is free less a tenth.
	MaxBytes int64
	// Parameters the server needs besides ours, such as shared_preload_libraries.
	Parameters map[string]string
	// Mark is a statement for the database MarkDatabase that returns one moment;
	// empty: none is looked for, and RPO is unknown.
	Mark, MarkDatabase string
	// Recover bounds the recovery; 0: an hour.
	Recover time.Duration
	// Timeline is the one to recover along; 0: the newest that the archive has, which
	// need not be the cluster's.
	Timeline ha.TLI
	// Progress, if not nil, is called with the share of the backup that is restored, 0 to 1.
	Progress func(done float64)
}

// Report is the outcome.
type Report struct {
	Backup  backup.Backup `json:"backup"`
	Began   time.Time     `json:"began"`
	Restore time.Duration `json:"restore"` // until the engine was done
	Recover time.Duration `json:"recover"` // from there until the server took writes
	Check   time.Duration `json:"check"`
	RTO     time.Duration `json:"rto"` // Restore and Recover
	// RPO is how old the newest mark was when the restore began; negative: unknown.
	RPO      time.Duration `json:"rpo"`
	Mark     time.Time     `json:"mark"`
	LogBytes int64         `json:"log_bytes"` // replayed
	Bytes    int64         `json:"bytes"`     // restored
	Tables   int           `json:"tables"`    // that pg_amcheck read, with their indexes' tables
	// Checksums says that each page was read again, which needs a server with checksums.
	Checksums bool `json:"checksums"`
}

// Rates are what a Plan estimates from.
func (r Report) Rates() backup.Rates {
	rate := func(bytes int64, d time.Duration) float64 {
		if d <= 0 {
			return 0
		}
		return float64(bytes) / d.Seconds()
	}
	return backup.Rates{Restore: rate(r.Bytes, r.Restore), Replay: rate(r.LogBytes, r.Recover)}
}

// Run proves the newest backup. The error is ErrSpace, ErrFailed or one of package
// backup. The scratch folder is gone afterwards, whatever happened.
func Run(ctx context.Context, o Options) (report Report, err error) {
	s := scratch{o: o}
	if err := s.clear(ctx); err != nil {
		return report, err
	}
	defer func() {
		// The server is ended even when ctx is done.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, s.clear(end))
	}()
	list, err := o.Engine.List(ctx)
	if err != nil {
		return report, err
	}
	b, found := list.Newest()
	if !found {
		return report, fmt.Errorf("%w: there is nothing to prove", backup.ErrNoBackup)
	}
	report = Report{Backup: b, Began: time.Now(), RPO: -1, Bytes: b.Size}
	limit, err := s.room(ctx, b)
	if err != nil {
		return report, err
	}
	if err := s.o.Engine.Restore(ctx, backup.Restore{DataDir: s.data(), Label: b.Label, Scratch: true,
		Target: backup.Target{Timeline: s.o.Timeline}, Progress: s.o.Progress, Lock: s.sole.File(), Started: s.sole.Started}); err != nil {
		return report, err
	}
	restored := time.Now()
	report.Restore = restored.Sub(report.Began)
	if err := s.recover(ctx, limit); err != nil {
		return report, err
	}
	served := time.Now()
	report.Recover, report.RTO = served.Sub(restored), served.Sub(report.Began)
	if err := s.look(ctx, &report); err != nil {
		return report, err
	}
	report.Check = time.Since(served)
	return report, nil
}

// Clear ends and removes what a verification that was killed has left in the folder.
func Clear(ctx context.Context, o Options) error {
	s := scratch{o: o}
	return s.clear(ctx)
}

// room refuses before anything is written, and returns how much may be.
func (s *scratch) room(ctx context.Context, b backup.Backup) (limit int64, err error) {
	files := s.o.User.Files()
	if err := files.MakeDir(s.o.Folder); err != nil {
		return 0, fmt.Errorf("make the scratch folder: %w", err)
	}
	if err := files.Replace(filepath.Join(s.o.Folder, markName), nil); err != nil {
		return 0, fmt.Errorf("make the scratch folder: %w", err)
	}
	if s.sole, err = program.TakeSole(ctx, s.o.User, s.solePath()); err != nil {
		return 0, fmt.Errorf("make the scratch folder: %w", err)
	}
	var free syscall.Statfs_t
	if err := syscall.Statfs(s.o.Folder, &free); err != nil {
		return 0, fmt.Errorf("look at the scratch folder: %w", err)
	}
	limit = int64(free.Bavail) * free.Bsize / 10 * 9
	if s.o.MaxBytes > 0 {
		limit = min(limit, s.o.MaxBytes)
	}
	// The log is replayed segment by segment and recycled; it takes a checkpoint's worth.
	need := b.Size + b.Size/20 + logRoom
	if need > limit {
		return 0, fmt.Errorf("%w: %s needs %d MB and may take %d", ErrSpace, s.o.Folder, need>>20, limit>>20)
	}
	return limit, ctx.Err()
}

// logRoom is what the scratch server's pg_wal may take beside its data.
const logRoom = 256 << 20

// used is how much the scratch folder holds.
func (s *scratch) used() int64 {
	total := int64(0)
	// What vanishes while it is counted does not count.
	_ = s.o.User.Files().WalkDir(s.o.Folder, func(_ string, d os.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				total += st.Blocks * 512
			}
		}
		return nil
	})
	return total
}
