package member

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
)

// restore puts the data of a backup in the place of this member's, which are kept aside.
// The term is promised first: what the data are is decided by its record alone.
func (s *localServer) restore(ctx context.Context, a ha.Action) error {
	r := a.Change.Record.Restore
	if s.copies.engine == nil {
		return fmt.Errorf("%w: this member's configuration has no block backup", backup.ErrSetting)
	}
	target, err := targetOf(r)
	if err != nil {
		return err
	}
	list, err := s.copies.engine.List(ctx)
	if err != nil {
		return err
	}
	b, found := list.Find(r.Backup)
	if !found {
		return fmt.Errorf("%w: %s", backup.ErrNoBackup, r.Backup)
	}
	if err := s.files.Promise(a.Term, a.Leader, false); err != nil {
		return err
	}
	spaces, err := spacesOf(ctx, s.copies.engine, r.Backup)
	if err != nil {
		return err
	}
	report := s.progress("restoring", r.Backup)
	defer s.copies.progress.Store(nil)
	return s.files.Restore(ctx, postgres.Restoration{ID: r.ID, From: r.From, Timeline: r.Timeline, Size: b.Size, Spaces: spaces,
		Make: func(ctx context.Context, dir string, p postgres.Program) error {
			return s.byEngine(ctx, s.copies.engine, backup.Restore{DataDir: dir, Label: r.Backup, Target: target, Spaces: p.Spaces, Lock: p.Lock, Started: p.Started,
				Progress: func(done float64) { report(int64(done*float64(b.Size)), b.Size) }})
		}})
}

// byEngine has the backup's program restore, and says how much of the time was its own.
func (s *localServer) byEngine(ctx context.Context, engine backup.Engine, r backup.Restore) error {
	began := time.Now()
	if err := engine.Restore(ctx, r); err != nil {
		return err
	}
	s.log.Info("the backup's program has restored the data", "backup", r.Label, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// spacesOf are a backup's tablespaces; nil: its engine does not know them, nor could it
// restore them elsewhere.
func spacesOf(ctx context.Context, engine backup.Engine, label string) ([]postgres.Space, error) {
	placer, can := engine.(backup.Placer)
	if !can {
		return nil, nil
	}
	found, err := placer.Spaces(ctx, label)
	if err != nil {
		return nil, err
	}
	spaces := make([]postgres.Space, len(found))
	for i, f := range found {
		spaces[i] = postgres.Space{OID: f.OID, Dir: f.Dir}
	}
	return spaces, nil
}

// init makes the data of a new cluster: by initdb, or from a backup.
func (s *localServer) init(ctx context.Context) error {
	cfg := s.config.Load()
	from, k := cfg.Bootstrap.FromBackup, archiver(cfg)
	if from == nil || k == nil {
		return s.files.Init(ctx)
	}
	source, block := *cfg, *k
	source.Cluster, block.Name = cmp.Or(from.Cluster, cfg.Cluster), k.Name+"-source"
	engine, err := engineOf(&source, &block, where(s.files))
	if err != nil {
		return err
	}
	target, err := from.Target()
	if err != nil {
		return err
	}
	p, err := planFrom(ctx, engine, backup.Question{Target: target, Label: from.Label, Now: time.Now()}, segmentSize(0, &source))
	if err != nil {
		return fmt.Errorf("found the cluster from a backup of %s: %w", source.Cluster, err)
	}
	s.log.Info("founding the cluster from a backup", "of", source.Cluster, "backup", p.Backup.Label, "to", p.Reach)
	spaces, err := spacesOf(ctx, engine, p.Backup.Label)
	if err != nil {
		return err
	}
	report := s.progress("restoring", p.Backup.Label)
	defer s.copies.progress.Store(nil)
	target.Timeline = p.Window.Timeline
	return s.files.Restore(ctx, postgres.Restoration{Size: p.Backup.Size, Spaces: spaces,
		Make: func(ctx context.Context, dir string, run postgres.Program) error {
			return s.byEngine(ctx, engine, backup.Restore{DataDir: dir, Label: p.Backup.Label, Target: target, Spaces: run.Spaces, Lock: run.Lock, Started: run.Started,
				Progress: func(done float64) { report(int64(done*float64(p.Backup.Size)), p.Backup.Size) }})
		}})
}

// planFrom plans a recovery by what an engine has; size is of the log's segments.
func planFrom(ctx context.Context, engine backup.Engine, q backup.Question, size int64) (backup.Plan, error) {
	var err error
	if q.Repository, err = engine.List(ctx); err != nil {
		return backup.Plan{}, err
	}
	if q.Archive, err = engine.Archived(ctx); err != nil {
		return backup.Plan{}, err
	}
	q.Archive.SegmentSize = size
	return backup.MakePlan(q)
}

// targetOf is the target of a restore on record.
func targetOf(r ha.Restoring) (backup.Target, error) {
	kind := backup.TargetKind(r.Kind)
	if kind == "" {
		kind = backup.Latest
	}
	t, err := backup.ParseTarget(kind, r.Value)
	t.Exclusive, t.Timeline = r.Exclusive, r.From
	return t, err
}

// settle removes what restores have kept aside, as soon as the cluster continues with what
// was restored; until ctx ends.
func (m *Member) settle(ctx context.Context) {
	settled := func(s *sidecar.Snapshot) bool {
		r, f := &s.Observation.Consul.Record, &s.Observation.Server
		return f.Restored != "" && (!f.Undoable || r.Restored == f.Restored && r.Phase == ha.PhaseLeading)
	}
	done := ""
	for ctx.Err() == nil {
		snap, err := m.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool { return settled(s) && s.Observation.Server.Restored != done })
		if err != nil {
			return
		}
		id := snap.Observation.Server.Restored
		if err := m.server.files.Settle(id); err != nil {
			m.log.Warn("the data that a restore has replaced are not removed", "error", err)
			if !waited(ctx, archiveRetry) {
				return
			}
			continue
		}
		done = id
	}
}

// planned is a restore with all that its plan rests on.
type planned struct {
	api.RestorePlan
	target backup.Target
	newest ha.TLI // that the archive has
}

// plan plans a restore on this member, which leads. What the primary has written until
// now is archived first: the target may lie in it.
func (s saves) plan(ctx context.Context, r api.RestoreRequest, snap *sidecar.Snapshot) (planned, error) {
	none := planned{}
	if s.archive == nil {
		return none, api.Refuse(http.StatusPreconditionFailed, "no block backup of this member archives the log, so nothing can be restored in place")
	}
	if other := snap.Observation.Consul.Record.StandbyOf; other != "" {
		return none, api.Refuse(http.StatusPreconditionFailed, "this cluster follows %s: restore that one, and this one follows", other)
	}
	if r.Kind == "" {
		r.Kind = backup.Latest
	}
	target, err := backup.ParseTarget(r.Kind, r.Value)
	if err != nil {
		return none, api.Refuse(http.StatusBadRequest, "%v", err)
	}
	target.Exclusive = r.Exclusive
	engine := s.archive.engine
	if leading(snap) {
		// PostgreSQL has reached a time only when it finds a commit after it.
		if err := s.member.server.sql.WriteProbe(ctx); err != nil {
			return none, api.Refuse(http.StatusPreconditionFailed, "%v", err)
		}
		if err := engine.Check(ctx); err != nil && !errors.Is(err, backup.ErrUnsupported) {
			return none, api.Refuse(http.StatusPreconditionFailed, "what was written last is not archived: %v", err)
		}
	}
	list, err := engine.List(ctx)
	if err != nil {
		return none, api.Refuse(http.StatusPreconditionFailed, "%v", err)
	}
	stored, err := s.archive.stored(ctx)
	if err != nil {
		return none, api.Refuse(http.StatusPreconditionFailed, "%v", err)
	}
	p, err := backup.MakePlan(backup.Question{Target: target, Repository: list, Archive: stored, Label: r.Label, Now: time.Now(), Rates: s.rates(s.archive.block.Name),
		SystemID: snap.Observation.Consul.Record.SystemID})
	if err != nil {
		return none, api.Refuse(http.StatusPreconditionFailed, "%v", err)
	}
	// Here, where nothing has stopped yet: it is this member that restores.
	spaces, err := spacesOf(ctx, engine, p.Backup.Label)
	if err == nil {
		err = s.member.server.files.RoomToRestore(postgres.Restoration{Size: p.Backup.Size, Spaces: spaces})
	}
	if err != nil {
		return none, api.Refuse(http.StatusPreconditionFailed, "%v", err)
	}
	return planned{RestorePlan: api.RestorePlan{Plan: p, Member: s.member.config.Member, Latest: p.Window.To}, target: target, newest: newestArchived(stored)}, nil
}

// newestArchived is the highest timeline of which an archive has anything.
func newestArchived(a backup.Archive) ha.TLI {
	newest := ha.TLI(0)
	for tli := range a.Histories {
		newest = max(newest, tli)
	}
	for _, s := range a.Segments {
		if tli, err := backup.SegmentTimeline(s.Name); err == nil {
			newest = max(newest, tli)
		}
	}
	return newest
}

// PlanRestore plans on the leader.
func (s saves) PlanRestore(ctx context.Context, r api.RestoreRequest) (api.RestorePlan, error) {
	leader, snap, err := s.leader()
	if err != nil {
		return api.RestorePlan{}, err
	}
	if leader != s.member.config.Member {
		return api.RestorePlan{}, api.Refuse(http.StatusPreconditionFailed, "%s does not lead; ask the leader, %s", s.member.config.Member, leader)
	}
	p, err := s.plan(ctx, r, snap)
	return p.RestorePlan, err
}

// Restore plans a restore, and begins it: from then on the record says that it is to be
// done.
func (s saves) Restore(ctx context.Context, r api.RestoreRequest) (string, error) {
	leader, snap, err := s.leader()
	if err != nil {
		return "", err
	}
	if leader != s.member.config.Member {
		return control{s.member}.post(ctx, leader, "/restore", r)
	}
	if under := snap.Observation.Consul.Record.Restore; under.ID != "" {
		return "", api.Refuse(http.StatusPreconditionFailed, "a restore is under way already (%s); pgsidecar restore --give-up ends it", under)
	}
	p, err := s.plan(ctx, r, snap)
	if err != nil {
		return "", err
	}
	asked := ha.Restoring{ID: strings.ToLower(rand.Text()[:12]), Backup: p.Backup.Label, Kind: string(p.target.Kind), Value: p.target.Value(),
		Exclusive: r.Exclusive, Words: "to " + p.target.String(), From: p.Window.Timeline, Timeline: p.newest}
	if p.target.Kind == backup.ToTime {
		asked.Value = p.target.Time.UTC().Format(time.RFC3339Nano)
	}
	s.member.sidecar.Restore(asked)
	begun, err := s.member.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool {
		now := &s.Observation.Consul.Record
		return now.Restore.ID == asked.ID || now.Restored == asked.ID || now.Leader != leader
	})
	if err != nil || begun.Observation.Consul.Record.Leader != leader {
		s.member.sidecar.WithdrawRestore()
		return "", api.Refuse(http.StatusServiceUnavailable, "the restore did not begin, and was withdrawn; see pgsidecar status")
	}
	s.log.Warn("the cluster is restored in place", "id", asked.ID, "target", asked.Words, "backup", asked.Backup, "by", api.RequestedBy(ctx))
	return fmt.Sprintf("restore %s has begun on %s: %s from backup %s", asked.ID, leader, asked.Words, asked.Backup), nil
}

// GiveUpRestore ends a restore by who restores, or, if that member is gone, by this one.
func (s saves) GiveUpRestore(ctx context.Context) (string, error) {
	snap := s.member.sidecar.Snapshot()
	if snap == nil || snap.Observation.Consul.Record.Phase != ha.PhaseRestoring {
		return "", api.Refuse(http.StatusPreconditionFailed, "no restore is under way")
	}
	r := &snap.Observation.Consul.Record
	if r.Leader != s.member.config.Member {
		text, err := control{s.member}.request(ctx, http.MethodDelete, r.Leader, "/restore", api.RestoreRequest{})
		if err == nil {
			return text, nil
		}
		s.log.Warn("who restores does not answer", "member", r.Leader, "error", err)
	}
	s.member.sidecar.GiveUpRestore()
	if _, err := s.member.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool { return s.Observation.Consul.Record.Restore.ID == "" }); err != nil {
		s.member.sidecar.WithdrawRestore()
		return "", api.Refuse(http.StatusServiceUnavailable, "the restore is not given up yet; see pgsidecar status")
	}
	return "given up: the cluster keeps the data that it had", nil
}
