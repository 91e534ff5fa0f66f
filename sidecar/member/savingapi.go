package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
)

// runBackups begins the goroutines of archive and backups, if the configuration has
// any; they end with ctx.
func (m *Member) runBackups(ctx context.Context, group *errgroup.Group) {
	if a := m.saving.archive; a != nil {
		group.Go(func() error { a.watch(ctx); return nil })
		group.Go(func() error { a.tend(ctx); return nil })
		group.Go(func() error { m.settle(ctx); return nil })
		group.Go(func() error { (&catchUp{member: m}).run(ctx); return nil })
	}
	if len(m.saving.blocks) > 0 {
		group.Go(func() error { m.saving.keep(ctx); return nil })
	}
}

// saves is what the API's requests about backups ask for.
type saves struct{ *saving }

var _ api.Backups = saves{}

// backups is the API's part; nil: there are none.
func (m *Member) backups() api.Backups {
	if len(m.saving.blocks) == 0 {
		return nil
	}
	return saves{m.saving}
}

// List asks each engine what it has.
func (s saves) List(ctx context.Context) ([]api.BackupList, error) {
	var all []api.BackupList
	for _, b := range s.blocks {
		l := api.BackupList{Name: b.Name, Engine: b.Engine}
		var err error
		if l.Repository, err = b.maker.List(ctx); err == nil {
			l.Continuity, err = s.continuity(ctx, b, l.Repository.Backups)
		}
		if err != nil {
			l.Problem = err.Error()
		}
		all = append(all, l)
	}
	return all, nil
}

// continuity is what a block's archive can restore; nil: it has none, or its engine
// does not list it.
func (s *saving) continuity(ctx context.Context, b savingBlock, backups []backup.Backup) (*backup.Continuity, error) {
	if s.archive == nil || s.archive.block.Name != b.Name {
		return nil, nil
	}
	stored, err := s.archive.stored(ctx)
	if errors.Is(err, backup.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := backup.Examine(stored, backups, 0)
	return &c, err
}

// leader is the member that leads; a Refusal: there is none.
func (s *saving) leader() (string, *sidecar.Snapshot, error) {
	snap := s.member.sidecar.Snapshot()
	if snap == nil || snap.Observation.Consul.Record.Leader == "" {
		return "", nil, api.Refuse(http.StatusServiceUnavailable, "there is no primary; see pgsidecar status")
	}
	return snap.Observation.Consul.Record.Leader, snap, nil
}

// Begin begins a backup: on this member, or on the one that the leader chooses.
func (s saves) Begin(ctx context.Context, r api.BackupRequest) (string, error) {
	if r.Verify {
		return s.beginVerify(ctx, r)
	}
	if r.Here {
		text, err := s.start(ctx, r)
		return text, refused(err)
	}
	b, err := s.block(r.Backup)
	if err != nil {
		return "", refused(err)
	}
	if r.Kind == "" {
		r.Kind = b.first()
	}
	if logical := r.Kind == backup.Logical; logical != (b.first() == backup.Logical) {
		return "", api.Refuse(http.StatusBadRequest, "engine %s makes no backup of kind %q", b.Engine, r.Kind)
	}
	leader, snap, err := s.leader()
	if err != nil {
		return "", err
	}
	if leader != s.member.config.Member {
		return control{s.member}.post(ctx, leader, "/backup", r)
	}
	member, err := s.choose(b, snap)
	if err != nil {
		return "", api.Refuse(http.StatusPreconditionFailed, "%v", err)
	}
	r.Backup = b.Name
	text, err := s.ask(ctx, member, r)
	return text, refused(err)
}

// Cancel ends the backup that is being made, and has the leader not begin it again.
func (s saves) Cancel(ctx context.Context) (string, error) {
	s.mu.Lock()
	cancel := s.cancel
	if cancel == nil {
		cancel = s.verify.cancel
	}
	s.mu.Unlock()
	if cancel != nil {
		cancel(errCancelled)
		return "cancelled", nil
	}
	held, err := s.member.cluster.Held(ctx, backupKey)
	if err == nil && held == nil {
		held, err = s.member.cluster.Held(ctx, verifyKey)
	}
	if err != nil {
		return "", err
	}
	var run api.BackupRun
	if held == nil {
		return s.forget(ctx)
	}
	if json.Unmarshal(held, &run) != nil {
		return "", api.Refuse(http.StatusPreconditionFailed, "no backup is being made or verified")
	}
	if run.Member == s.member.config.Member {
		return "", api.Refuse(http.StatusServiceUnavailable, "the backup is ending, or its session has yet to; try again in half a minute")
	}
	return control{s.member}.request(ctx, http.MethodDelete, run.Member, "/backup", api.BackupRequest{})
}

// forget has a backup that failed not be tried again.
func (s saves) forget(ctx context.Context) (string, error) {
	for _, b := range s.blocks {
		if state, err := s.read(ctx, b.Name); err != nil {
			return "", err
		} else if state.Asked == nil {
			continue
		}
		value, err := json.Marshal(api.BackupRun{Member: s.member.config.Member, Backup: b.Name, Began: time.Now().UTC()})
		if err != nil {
			return "", err
		}
		err = s.member.cluster.Alone(ctx, backupKey, value, func(ctx context.Context) error {
			s.change(ctx, b.Name, func(k *keptBackups) { k.Asked = nil })
			return nil
		})
		return fmt.Sprintf("cancelled: backup %s is not tried again before its next time", b.Name), refused(err)
	}
	return "", api.Refuse(http.StatusPreconditionFailed, "no backup is being made or verified")
}

// Check makes the repository ready, and sees a segment arrive. Only the leader can.
func (s saves) Check(ctx context.Context, name string) (string, error) {
	b, err := s.block(name)
	if err != nil {
		return "", refused(err)
	}
	leader, _, err := s.leader()
	if err != nil {
		return "", err
	}
	if leader != s.member.config.Member {
		return control{s.member}.post(ctx, leader, "/backup/check", api.BackupRequest{Backup: b.Name})
	}
	if e, archives := b.maker.(backup.Engine); archives {
		if err := e.Prepare(ctx); err != nil {
			return "", api.Refuse(http.StatusPreconditionFailed, "%v", err)
		}
	}
	if err := b.maker.Check(ctx); err != nil {
		return "", api.Refuse(http.StatusPreconditionFailed, "%v", err)
	}
	return fmt.Sprintf("backup %s: all is well", b.Name), nil
}

// Expire removes what retention does not keep, as nobody else makes a backup.
func (s saves) Expire(ctx context.Context, name string) (string, error) {
	b, err := s.block(name)
	if err != nil {
		return "", refused(err)
	}
	var gone []string
	value, err := json.Marshal(api.BackupRun{Member: s.member.config.Member, Backup: b.Name, Began: time.Now().UTC()})
	if err != nil {
		return "", err
	}
	err = s.member.cluster.Alone(ctx, backupKey, value, func(ctx context.Context) (err error) {
		gone, err = b.maker.Expire(ctx)
		return err
	})
	switch {
	case err != nil:
		return "", refused(err)
	case len(gone) == 0:
		return "nothing is to be removed", nil
	}
	return "removed: " + strings.Join(gone, ", "), nil
}

// view is how the backups fare.
func (s *saving) view(snap *sidecar.Snapshot) []api.BackupStatus {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now, head := time.Now(), snap.Observation.Server.Position.LSN
	var all []api.BackupStatus
	for _, b := range s.blocks {
		k := s.kept[b.Name]
		v := api.BackupStatus{Name: b.Name, Engine: b.Engine, Good: k.Good, By: k.By, Age: -1, Count: k.Count, Failed: k.Failed}
		if g := k.Good; g != nil {
			v.Age = now.Sub(g.Stop).Seconds()
			if g.StopLSN > 0 && head > g.StopLSN {
				v.LogBytes = int64(head - g.StopLSN)
			}
		}
		if s.running != nil && s.running.Backup == b.Name {
			v.Running = s.running
		} else if a := k.Asked; a != nil {
			v.Running = &api.BackupRun{Backup: b.Name, Kind: a.Kind, Began: a.At}
		}
		if !s.since.IsZero() && len(b.Schedules) > 0 {
			var due backup.Kind
			due, v.Next = backup.Due(b.Schedules, k.Begun, s.since, now)
			v.Overdue = max(0, now.Sub(b.dueSince(due, k.Begun[due], s.since)).Seconds())
		}
		v.Verified = s.verified(b, k.Verify, now)
		all = append(all, v)
	}
	return all
}

// dueSince is since when a kind that is due has been, or far in the future.
func (b savingBlock) dueSince(due backup.Kind, begun, since time.Time) time.Time {
	for _, sched := range b.Schedules {
		if due == "" || sched.Kind != due {
			continue
		}
		if begun.Before(since) {
			begun = since
		}
		return sched.Next(begun)
	}
	return time.Now().Add(time.Hour)
}
