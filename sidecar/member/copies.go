package member

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
)

// backupAgain is how long a copy from the backup, or from a replica, is not tried after one
// that came to nothing: a member that is copied from another one by then is well.
const backupAgain = time.Hour

// clone makes the data directory a copy of the leader's, in the first of the configured
// ways that succeeds.
func (s *localServer) clone(ctx context.Context, a ha.Action) error {
	leader, err := sourceOf(a.From, a.Address)
	if err != nil {
		return err
	}
	leader.Term = a.Term
	var failed []error
	for _, way := range s.config.Load().Postgres.CloneMethods {
		switch {
		case way == config.CloneBaseBackup:
			err = s.baseBackup(ctx, a, leader)
		case ha.IsSite(a.From) || !s.mayRestore():
			continue
		default:
			if err = s.restoreCopy(ctx, leader); err != nil && ctx.Err() == nil {
				s.log.Warn("no copy is made from the backup; another way is tried", "error", err)
			}
		}
		if err == nil {
			return nil
		}
		failed = append(failed, err)
		// What this way left half made is in the next one's way.
		if end := s.files.EndClone(ctx); end != nil || ctx.Err() != nil {
			return errors.Join(append(failed, end)...)
		}
	}
	return errors.Join(failed...)
}

// mayRestore reports whether a copy from the backup is to be tried: not if a person has
// named a member to copy, nor soon after one that failed.
func (s *localServer) mayRestore() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.copies.engine != nil && s.copies.from == "" && (s.copies.failedAt.IsZero() || time.Since(s.copies.failedAt) > backupAgain)
}

// restoreFailed notes that a copy from the backup came to nothing.
func (s *localServer) restoreFailed() {
	s.mu.Lock()
	s.copies.failedAt = time.Now()
	s.mu.Unlock()
}

// restoreCopy restores the newest backup that leads to the leader's log. What the leader
// had by then the copy owes: it is no vote before it has that (S3).
func (s *localServer) restoreCopy(ctx context.Context, leader postgres.Source) error {
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	systemID, at, err := checks.Identify(ask, s.upstream(leader), s.replicationPassword)
	if err != nil {
		return err
	}
	survey, err := checks.SurveyOf(ask, s.upstream(leader), s.replicationPassword)
	if err != nil {
		return err
	}
	engine := s.copies.engine
	look, cancelLook := context.WithTimeout(ctx, engineTimeout)
	defer cancelLook()
	p, err := planFrom(look, engine, backup.Question{Target: backup.Target{Kind: backup.Latest, Timeline: at.TLI}, SystemID: systemID, Now: time.Now()}, survey.Segment)
	if err != nil {
		return err
	}
	if p.Warning != "" { // what comes after the gap no longer leads on from the backup
		return fmt.Errorf("%w: %s", backup.ErrTarget, p.Warning)
	}
	s.log.Info("restoring a copy from the backup", "backup", p.Backup.Label, "log", p.LogBytes, "leader", leader.Member, "at", at)
	report := s.progress("restoring", p.Backup.Label)
	defer s.copies.progress.Store(nil)
	leader.Major, leader.Spaces, leader.Owed = survey.Version/10000, survey.Tablespaces, at
	leader.Backup = &postgres.Backup{SystemID: systemID, Line: at, Delta: s.config.Load().DeltaRestores(),
		Make: func(ctx context.Context, dir string, keep bool, run postgres.Program) error {
			return s.byEngine(ctx, engine, backup.Restore{DataDir: dir, Label: p.Backup.Label, Target: backup.Target{Timeline: at.TLI}, Standby: true, Delta: keep,
				Lock: run.Lock, Started: run.Started, Progress: func(done float64) { report(int64(done*float64(p.Backup.Size)), p.Backup.Size) }})
		}}
	if err = s.files.Clone(ctx, leader, nil); err != nil && ctx.Err() == nil {
		s.restoreFailed()
	}
	return err
}

// lineOf is the leader's log, where a server that starts lacks some that may be in the
// archive alone; unknown: it does not.
func (s *localServer) lineOf(ctx context.Context, leader postgres.Source) (ha.Position, error) {
	s.mu.Lock()
	restored := s.copies.restored
	s.mu.Unlock()
	if !restored {
		return ha.Position{}, nil
	}
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return checks.WhereIs(ask, s.upstream(leader), s.replicationPassword)
}
