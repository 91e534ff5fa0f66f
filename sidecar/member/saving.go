package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// saving is a member's part in the backups. The leader sees when one is due and which
// member is to make it, and asks that one. That one makes it while it holds the
// key "backup" by a Consul session of its own, so that nobody else does; what came of
// it stands in "backups/NAME". A backup that was begun and is in nobody's hands, as
// after a failover, is begun again by the next leader.
type saving struct {
	member *Member
	log    hclog.Logger
	blocks []savingBlock
	// archive is of the block that archives the log; nil: there is none.
	archive *archive
	work    sync.WaitGroup // the goroutines of backups

	mu      sync.Mutex // guards what follows
	ctx     context.Context
	running *api.BackupRun          // on this member; nil: none
	cancel  context.CancelCauseFunc // ends it
	kept    map[string]keptBackups  // by block, as last read
	since   time.Time               // this member leads; zero: it does not
	verify  verifying
}

type savingBlock struct {
	*config.Backup
	maker backup.Maker
}

// keptBackups is the value of "backups/NAME".
type keptBackups struct {
	// Begun is when the last good backup of each kind was begun.
	Begun map[backup.Kind]time.Time `json:"begun,omitempty"`
	Good  *backup.Backup            `json:"good,omitempty"` // the last
	By    string                    `json:"by,omitempty"`   // the member that made it
	Count int                       `json:"count"`          // of finished ones
	// Asked is a backup that was begun and is not finished.
	Asked *askedBackup `json:"asked,omitempty"`
	// Failed is how the last try failed; nil: it did not.
	Failed *api.BackupFailure `json:"failed,omitempty"`
	// Verify is what is known of the proofs by restoring.
	Verify keptProofs `json:"verify,omitzero"`
}

type askedBackup struct {
	Kind  backup.Kind `json:"kind"`
	At    time.Time   `json:"at"`
	Tries int         `json:"tries"`
}

const (
	// saveEvery is how often the leader looks whether a backup is due.
	saveEvery = 10 * time.Second
	// saveTries is how often one is begun before it waits for its next time.
	saveTries = 5
	// saveRetry is the wait after the first failure; it grows with each.
	saveRetry = 20 * time.Second
	// stateTimeout bounds what is read and written in Consul.
	stateTimeout = 10 * time.Second
	backupKey    = "backup"
)

var (
	errCancelled = errors.New("cancelled by a person")
	errBusy      = errors.New("this member makes a backup already")
	// A replica's pgBackRest must reach the primary's, by a TLS server on each member.
	errFromReplica = errors.New(`pgBackRest copies from the primary in this version: write from = "prefer-replica" or "primary"`)
)

func newSaving(m *Member) (*saving, error) {
	s := &saving{member: m, log: m.log.Named("backup"), kept: map[string]keptBackups{}}
	var err error
	if s.archive, err = newArchive(m); err != nil {
		return nil, err
	}
	for i := range m.config.Backups {
		k := &m.config.Backups[i]
		maker, err := makerOf(m.config, k, where(m.server.files))
		if err != nil {
			return nil, fmt.Errorf("backup %q: %w", k.Name, err)
		}
		s.blocks = append(s.blocks, savingBlock{k, maker})
		if k.Engine == config.EnginePgBackRest && k.From == backup.OnlyReplica {
			s.log.Warn("no backup will be made", "backup", k.Name, "error", errFromReplica)
		}
	}
	return s, nil
}

// owned refuses parameters of the cluster's settings that a block sets itself.
func (s *saving) owned(parameters map[string]string) error {
	for _, name := range []string{"archive_command", "archive_library", "archive_mode"} {
		if _, given := parameters[name]; given && s.archive != nil {
			return fmt.Errorf("parameter %s is set by backup %q in pg.hcl", name, s.archive.block.Name)
		}
	}
	return nil
}

// block finds one by name; empty: the only one, or else the one that archives.
func (s *saving) block(name string) (savingBlock, error) {
	for _, b := range s.blocks {
		if b.Name == name || name == "" && (len(s.blocks) == 1 || b.Engine != config.EnginePgDump) {
			return b, nil
		}
	}
	return savingBlock{}, fmt.Errorf("%w: there is no block backup %q in this member's configuration", backup.ErrSetting, name)
}

// keep begins what is due, until ctx ends; then it waits for the end of this member's
// own backup, which ctx ends too.
func (s *saving) keep(ctx context.Context) {
	defer s.work.Wait()
	s.clearScratch(ctx)
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	for waited(ctx, saveEvery) {
		snap := s.member.sidecar.Snapshot()
		if snap == nil || !leading(snap) {
			s.mu.Lock()
			s.since = time.Time{}
			s.mu.Unlock()
			continue
		}
		s.mu.Lock()
		if s.since.IsZero() {
			s.since = time.Now()
		}
		s.mu.Unlock()
		for _, b := range s.blocks {
			if err := errors.Join(s.look(ctx, b, snap), s.lookVerify(ctx, b, snap)); err != nil && ctx.Err() == nil {
				s.log.Warn("cannot see to a backup", "backup", b.Name, "error", err)
			}
		}
	}
}

// look begins a block's backup if one is due, and nobody makes one.
func (s *saving) look(ctx context.Context, b savingBlock, snap *sidecar.Snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	state, err := s.read(ctx, b.Name)
	if err != nil {
		return err
	}
	kind := s.due(b, state, time.Now())
	if kind == "" {
		return nil
	}
	if held, err := s.member.cluster.Held(ctx, backupKey); err != nil || held != nil {
		return err
	}
	member, err := s.choose(b, snap)
	if err != nil {
		return err
	}
	s.log.Info("a backup is due", "backup", b.Name, "kind", kind, "member", member)
	_, err = s.ask(ctx, member, api.BackupRequest{Backup: b.Name, Kind: kind, Here: true})
	return err
}

// due is the kind that is to be begun now; empty: none.
func (s *saving) due(b savingBlock, state keptBackups, now time.Time) backup.Kind {
	if f := state.Failed; f != nil && now.Sub(f.At) < saveRetry*time.Duration(1<<min(f.Tries, 6)) {
		return ""
	}
	if a := state.Asked; a != nil && a.Tries < saveTries {
		return a.Kind
	}
	if state.Good == nil && len(b.Schedules) > 0 {
		return b.first() // nothing can be restored before there is one
	}
	kind, _ := backup.Due(b.Schedules, state.Begun, s.leadsSince(), now)
	return kind
}

// first is the kind of a first backup.
func (b savingBlock) first() backup.Kind {
	if b.Engine == config.EnginePgDump {
		return backup.Logical
	}
	return backup.Full
}

func (s *saving) leadsSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since
}

// choose is the member that makes a block's backup.
func (s *saving) choose(b savingBlock, snap *sidecar.Snapshot) (string, error) {
	o := &snap.Observation
	r := &o.Consul.Record
	c := backup.Choice{Source: b.From, MaxLag: b.MaxLag, Needed: r.Durability.K}
	if b.Engine == config.EnginePgBackRest {
		if b.From == backup.OnlyReplica {
			return "", errFromReplica
		}
		c.Source = backup.OnlyPrimary
	}
	c.Candidates = append(c.Candidates, backup.Candidate{Member: o.Self, Primary: true, Here: true})
	for i := range o.Peers {
		p := &o.Peers[i]
		m := backup.Candidate{Member: p.Member, Voter: r.Durability.Has(p.Member), Lag: -1,
			Here: p.Link == ha.LinkUp && p.Report.Streaming && p.Report.Leader == o.Self}
		if since, behind := snap.Behind[p.Member]; behind {
			m.Lag = o.Now.Sub(since)
		} else if m.Here {
			m.Lag = 0
		}
		if m.Here && m.Voter {
			c.Confirming++
		}
		c.Candidates = append(c.Candidates, m)
	}
	member, reasons := c.Choose()
	if member == "" {
		var all []string
		for _, name := range slices.Sorted(maps.Keys(reasons)) {
			all = append(all, name+": "+reasons[name])
		}
		return "", fmt.Errorf("no member may make backup %s: %s", b.Name, all)
	}
	return member, nil
}

// ask has a member begin a backup, as due or as requested.
func (s *saving) ask(ctx context.Context, member string, r api.BackupRequest) (string, error) {
	if member == s.member.config.Member {
		return s.start(ctx, r)
	}
	r.Here = true
	asked := time.Now()
	text, err := control{s.member}.post(ctx, member, "/backup", r)
	if err == nil {
		s.member.traceAsk(ctx, asked)
	}
	return text, err
}

// start begins a backup on this member, and returns when it holds the key and has written
// down that the backup is requested.
func (s *saving) start(ctx context.Context, r api.BackupRequest) (string, error) {
	b, err := s.block(r.Backup)
	if err != nil {
		return "", err
	}
	if r.Kind == "" {
		r.Kind = b.first()
	}
	s.mu.Lock()
	if s.ctx == nil || s.running != nil {
		s.mu.Unlock()
		return "", errBusy
	}
	work, cancel := context.WithCancelCause(s.ctx)
	run := &api.BackupRun{Member: s.member.config.Member, Backup: b.Name, Kind: r.Kind, Began: time.Now().UTC()}
	s.running, s.cancel = run, cancel
	s.mu.Unlock()
	began := make(chan error, 2) // that it has begun, and its end: nobody may wait any more
	s.work.Go(func() {           // ends with the backup, or with keep's context
		defer cancel(nil)
		value, err := json.Marshal(run)
		if err == nil {
			err = s.member.cluster.Alone(work, backupKey, value, func(ctx context.Context) error {
				s.begin(ctx, b, run)
				began <- nil
				return s.make(ctx, b, run)
			})
		}
		s.mu.Lock()
		s.running, s.cancel = nil, nil
		s.mu.Unlock()
		began <- err
	})
	select {
	case err = <-began:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s makes a backup (%s, %s)", run.Member, b.Name, r.Kind), nil
}

// begin writes down that a backup is requested, before anybody is told that it was begun:
// if this member is lost from then on, the next leader begins it again.
func (s *saving) begin(ctx context.Context, b savingBlock, run *api.BackupRun) {
	s.change(ctx, b.Name, func(k *keptBackups) {
		if k.Asked == nil || k.Asked.Kind != run.Kind {
			k.Asked = &askedBackup{Kind: run.Kind, At: run.Began}
		}
		k.Asked.Tries++
	})
}

// make makes the backup, removes what retention does not keep, and writes down what
// came of it.
func (s *saving) make(ctx context.Context, b savingBlock, run *api.BackupRun) error {
	s.log.Info("backup begun", "backup", b.Name, "kind", run.Kind)
	made, err := b.maker.Backup(ctx, backup.Request{Kind: run.Kind, Progress: func(done float64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.running == run {
			next := *run
			next.Done = done
			s.running = &next
			run = &next
		}
	}})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	ended, count := time.Now(), 0
	if err == nil {
		count, err = s.expire(ctx, b)
		if err != nil {
			s.log.Warn("old backups stay", "backup", b.Name, "error", err)
			err = nil
		}
	}
	after := context.WithoutCancel(ctx)
	s.change(after, b.Name, func(k *keptBackups) { k.note(run, made, count, err) })
	s.member.hooks.Tell(backupEvent(run, made, err))
	s.member.traceBackup(run, made, ended, err)
	if err != nil {
		s.log.Error("backup failed", "backup", b.Name, "kind", run.Kind, "error", err)
		return err
	}
	s.log.Info("backup done", "backup", b.Name, "label", made.Label, "kind", made.Kind, "bytes", made.Size, "stored", made.Stored)
	if s.archive != nil {
		s.archive.examineSoon()
	}
	return nil
}

// note takes over how a backup went.
func (k *keptBackups) note(run *api.BackupRun, made backup.Backup, count int, err error) {
	switch {
	case err == nil:
		if k.Begun == nil {
			k.Begun = map[backup.Kind]time.Time{}
		}
		k.Begun[made.Kind], k.Begun[run.Kind] = run.Began, run.Began
		k.Good, k.By, k.Count, k.Asked, k.Failed = &made, run.Member, count, nil, nil
		return
	case errors.Is(err, errCancelled):
		k.Asked = nil
	}
	tries := 1
	if k.Asked != nil {
		tries = k.Asked.Tries
	}
	k.Failed = &api.BackupFailure{At: time.Now().UTC(), Kind: run.Kind, By: run.Member, Error: err.Error(), Tries: tries}
	if tries >= saveTries {
		k.Asked = nil
	}
}

// expire removes what retention does not keep, and counts what is left.
func (s *saving) expire(ctx context.Context, b savingBlock) (int, error) {
	gone, err := b.maker.Expire(ctx)
	if len(gone) > 0 {
		s.log.Info("backups expired", "backup", b.Name, "labels", gone)
	}
	list, listing := b.maker.List(ctx)
	return len(list.Backups), errors.Join(err, listing)
}

// read reads what is known of a block's backups.
func (s *saving) read(ctx context.Context, name string) (keptBackups, error) {
	var k keptBackups
	text, err := s.member.cluster.Get(ctx, "backups/"+name)
	if err == nil && text != nil {
		err = json.Unmarshal(text, &k)
	}
	if err != nil {
		return k, fmt.Errorf("read what is known of backup %s: %w", name, err)
	}
	s.mu.Lock()
	s.kept[name] = k
	s.mu.Unlock()
	return k, nil
}

// change changes what is known of a block's backups; only who holds the key does. That
// it cannot be written down costs nobody a backup.
func (s *saving) change(ctx context.Context, name string, f func(*keptBackups)) {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	k, err := s.read(ctx, name)
	if err == nil {
		f(&k)
		var text []byte
		if text, err = json.Marshal(k); err == nil {
			err = s.member.cluster.Put(ctx, "backups/"+name, text)
		}
	}
	if err != nil {
		s.log.Warn("what came of a backup is not written down in Consul", "backup", name, "error", err)
		return
	}
	s.mu.Lock()
	s.kept[name] = k
	s.mu.Unlock()
}

// refused turns what a person is to read into an answer.
func refused(err error) error {
	switch {
	case errors.Is(err, sessions.ErrHeld), errors.Is(err, errBusy), errors.Is(err, backup.ErrRunning):
		return api.Refuse(412, "another backup is under way: %v; pgsidecar backup cancel ends it", err)
	case errors.Is(err, backup.ErrSetting):
		return api.Refuse(400, "%v", err)
	}
	return err
}
