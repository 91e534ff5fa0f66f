package member

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/proof"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// verifying is a member's part in the proofs of backups by restoring them: as with a
// backup the leader sees when one is due and asks a member, which holds a key of
// its own meanwhile. What came of it stands with the backups.
type verifying struct { // guarded by saving.mu
	running *api.BackupRun // on this member; nil: none
	cancel  context.CancelCauseFunc
	marked  time.Time // when this member, as leader, wrote the mark last
}

// keptProofs is what "backups/NAME" has of the proofs.
type keptProofs struct {
	Good  *api.Verification `json:"good,omitempty"`
	Last  *api.Verification `json:"last,omitempty"`
	Asked *askedProof       `json:"asked,omitempty"` // one that was begun and has not ended
}

type askedProof struct {
	By    string    `json:"by"`
	At    time.Time `json:"at"` // of the last try
	Tries int       `json:"tries"`
}

const (
	verifyKey = "verify"
	// verifyTries is how often a proof is begun whose member was lost.
	verifyTries = 3
	// verifyAgain is how long nobody may hold the key until a proof that has not ended is
	// begun again: longer than a session lives.
	verifyAgain = time.Minute
	// verifyRecovery bounds the recovery of a proof.
	verifyRecovery = 24 * time.Hour
	// markEvery is how often the leader writes the mark: as archive_timeout, which bounds
	// what a disaster costs.
	markEvery = time.Minute
)

// scratchDir is where backups are restored to be looked at.
func scratchDir(cfg *config.Config) string { return filepath.Join(cfg.Postgres.StateDir, "verify") }

// clearScratch ends and removes what a proof has left that was killed.
func (s *saving) clearScratch(ctx context.Context) {
	o, err := s.proofOptions()
	if err == nil {
		err = proof.Clear(ctx, o)
	}
	if err != nil {
		s.log.Warn("what a verification left is not removed", "folder", scratchDir(s.member.config), "error", err)
	}
}

// proofOptions are those of each proof on this member.
func (s *saving) proofOptions() (proof.Options, error) {
	cfg := s.member.config
	u, err := backupUser(cfg)
	o := proof.Options{BinDir: cfg.Postgres.BinDir, Folder: scratchDir(cfg), User: u, Superuser: cfg.Postgres.Superuser.Name,
		Mark: checks.MarkQuery, MarkDatabase: checks.MarkDatabase, Recover: verifyRecovery}
	if libraries := cfg.Postgres.Parameters["shared_preload_libraries"]; libraries != "" {
		o.Parameters = map[string]string{"shared_preload_libraries": libraries}
	}
	return o, err
}

// lookVerify begins the proof of a block's newest backup if it is due, and writes the
// mark that it looks for.
func (s *saving) lookVerify(ctx context.Context, b savingBlock, snap *sidecar.Snapshot) error {
	if _, archives := b.maker.(backup.Engine); !archives {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	s.mu.Lock()
	state, since, marked := s.kept[b.Name], s.since, s.verify.marked
	s.mu.Unlock()
	if (b.Verify != "" || state.Verify.Last != nil) && time.Since(marked) >= markEvery {
		if err := s.mark(ctx); err != nil {
			return err
		}
	}
	if !verifyDue(b.Verify, state, since, time.Now()) {
		return nil
	}
	if held, err := s.member.cluster.Held(ctx, verifyKey); err != nil || held != nil {
		return err
	}
	by := cmp.Or(askedOf(state.Verify).By, s.prover(b, snap))
	s.log.Info("a verification is due", "backup", b.Name, "member", by)
	_, err := s.askProof(ctx, b, by)
	return err
}

// askProof begins a proof on a member.
func (s *saving) askProof(ctx context.Context, b savingBlock, member string) (string, error) {
	if member == s.member.config.Member {
		return s.startVerify(ctx, b)
	}
	return control{s.member}.post(ctx, member, "/backup", api.BackupRequest{Backup: b.Name, Verify: true, Member: member, Here: true})
}

// mark writes the mark on this member, which leads.
func (s *saving) mark(ctx context.Context) error {
	if err := s.member.server.sql.WriteMark(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	s.verify.marked = time.Now()
	s.mu.Unlock()
	return nil
}

func askedOf(k keptProofs) askedProof {
	if k.Asked == nil || k.Asked.Tries >= verifyTries-1 { // the last try is another's
		return askedProof{}
	}
	return *k.Asked
}

// verifyDue reports whether a proof is to be begun now. What was due before anything was
// proved, or before this member led, is not.
func verifyDue(spec string, state keptBackups, since, now time.Time) bool {
	v := state.Verify
	switch {
	case state.Good == nil:
		return false // there is nothing to prove
	case v.Asked != nil && v.Asked.Tries < verifyTries:
		return now.Sub(v.Asked.At) > verifyAgain
	case spec == "":
		return false
	}
	next := verifyNext(spec, v, since)
	return !next.IsZero() && !next.After(now)
}

// verifyNext is when the next proof is due; zero: never.
func verifyNext(spec string, v keptProofs, since time.Time) time.Time {
	schedule, err := backup.ParseSchedule(backup.Full, spec)
	if err != nil || since.IsZero() {
		return time.Time{} // the configuration was checked
	}
	from := since
	if v.Last != nil {
		from = v.Last.Began
	}
	if v.Asked != nil { // it was lost too often
		from = v.Asked.At
	}
	return schedule.Next(from)
}

// prover is the member that proves a backup: a replica that no commit waits for, else any
// replica that streams, else this one.
func (s *saving) prover(b savingBlock, snap *sidecar.Snapshot) string {
	o := &snap.Observation
	var all []string
	for i := range o.Peers {
		p := &o.Peers[i]
		if p.Link == ha.LinkUp && p.Report.Streaming && p.Report.Leader == o.Self {
			all = append(all, p.Member)
		}
	}
	slices.SortFunc(all, func(x, y string) int {
		voter := func(m string) int { return map[bool]int{true: 1}[o.Consul.Record.Durability.Has(m)] }
		return cmp.Or(cmp.Compare(voter(x), voter(y)), cmp.Compare(x, y))
	})
	if len(all) == 0 {
		return o.Self
	}
	return all[0]
}

// beginVerify begins a proof: on this member, or on the one that is named or chosen.
func (s saves) beginVerify(ctx context.Context, r api.BackupRequest) (string, error) {
	b, err := s.block(r.Backup)
	if err != nil {
		return "", refused(err)
	}
	if _, archives := b.maker.(backup.Engine); !archives {
		return "", api.Refuse(http.StatusBadRequest, "engine %s restores no server: pg_restore -l FILE reads a dump", b.Engine)
	}
	r.Backup = b.Name
	if r.Here {
		return s.startVerify(ctx, b)
	}
	leader, snap, err := s.leader()
	if err != nil {
		return "", err
	}
	if leader != s.member.config.Member {
		return control{s.member}.post(ctx, leader, "/backup", r)
	}
	if err := s.mark(ctx); err != nil {
		return "", api.Refuse(http.StatusPreconditionFailed, "%v", err)
	}
	return s.askProof(ctx, b, cmp.Or(r.Member, s.prover(b, snap)))
}

// startVerify begins a proof on this member, and returns when it holds the key.
func (s *saving) startVerify(ctx context.Context, b savingBlock) (string, error) {
	s.mu.Lock()
	if s.ctx == nil || s.verify.running != nil {
		s.mu.Unlock()
		return "", api.Refuse(http.StatusPreconditionFailed, "this member verifies a backup already; pgsidecar backup cancel ends it")
	}
	work, cancel := context.WithCancelCause(s.ctx)
	run := &api.BackupRun{Member: s.member.config.Member, Backup: b.Name, Began: time.Now().UTC()}
	s.verify.running, s.verify.cancel = run, cancel
	s.mu.Unlock()
	began := make(chan error, 2) // that it has begun, and its end: nobody may wait any more
	s.work.Go(func() {           // ends with the proof, or with keep's context
		defer cancel(nil)
		value, err := json.Marshal(run)
		if err == nil {
			err = s.member.cluster.Alone(work, verifyKey, value, func(ctx context.Context) error {
				s.change(ctx, b.Name, func(k *keptBackups) { k.Verify.ask(run) })
				began <- nil
				s.prove(ctx, b, run)
				return nil
			})
		}
		s.mu.Lock()
		s.verify.running, s.verify.cancel = nil, nil
		s.mu.Unlock()
		began <- err
	})
	select {
	case err := <-began:
		if errors.Is(err, sessions.ErrHeld) {
			return "", api.Refuse(http.StatusPreconditionFailed, "another verification is under way: %v; pgsidecar backup cancel ends it", err)
		}
		if err != nil {
			return "", err
		}
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	return fmt.Sprintf("%s restores the newest backup (%s) to a scratch folder, and looks at it", run.Member, b.Name), nil
}

func (k *keptProofs) ask(run *api.BackupRun) {
	tries := 1
	if k.Asked != nil && k.Asked.Tries < verifyTries {
		tries = k.Asked.Tries + 1
	}
	k.Asked = &askedProof{By: run.Member, At: run.Began, Tries: tries}
}

// prove proves the newest backup, and writes down what came of it. If this member's
// process ends meanwhile, the leader has it done again.
func (s *saving) prove(ctx context.Context, b savingBlock, run *api.BackupRun) {
	s.log.Info("verification begun", "backup", b.Name)
	v := api.Verification{By: run.Member, Began: run.Began, RPO: -1}
	if err := s.firstMark(ctx, b); err != nil {
		s.log.Warn("the mark may not be in the archive yet", "error", err)
	}
	r, err := s.proof(ctx, b, run)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, errCancelled) {
		s.log.Warn("the verification was ended", "backup", b.Name, "error", cause)
		return
	} else if err != nil && cause != nil {
		err = cause
	}
	v.Ended, v.Label = time.Now().UTC(), r.Backup.Label
	if err != nil {
		v.Error = err.Error()
		s.log.Error("the backup is not proved", "backup", b.Name, "label", v.Label, "error", err)
	} else {
		v.RTO, v.Restore, v.Bytes, v.LogBytes, v.Tables, v.Checksums = r.RTO.Seconds(), r.Restore.Seconds(), r.Bytes, r.LogBytes, r.Tables, r.Checksums
		if r.RPO >= 0 {
			v.RPO = r.RPO.Seconds()
		}
		s.log.Info("the backup is proved", "backup", b.Name, "label", v.Label, "rto", r.RTO, "rpo", r.RPO, "tables", r.Tables, "checksums", r.Checksums)
	}
	s.change(context.WithoutCancel(ctx), b.Name, func(k *keptBackups) { k.Verify.note(v) })
}

// firstMark has the leader archive the log that it has written, before the first proof:
// the mark was never written before, and a server without it is not good. Later ones find
// the mark that was archived in its time, which tells what a disaster would cost.
func (s *saving) firstMark(ctx context.Context, b savingBlock) error {
	ctx, cancel := context.WithTimeout(ctx, archiveCheckTimeout)
	defer cancel()
	k, err := s.read(ctx, b.Name)
	if err != nil || k.Verify.Last != nil {
		return err
	}
	_, err = saves{s}.Check(ctx, b.Name)
	return err
}

// note takes over how a proof went.
func (k *keptProofs) note(v api.Verification) {
	k.Last, k.Asked = &v, nil
	if v.Error == "" {
		k.Good = &v
	}
}

// proof restores and looks. It takes at most half of what is free beside the server.
func (s *saving) proof(ctx context.Context, b savingBlock, run *api.BackupRun) (proof.Report, error) {
	o, err := s.proofOptions()
	if err != nil {
		return proof.Report{}, err
	}
	o.Engine = b.maker.(backup.Engine) // beginVerify and lookVerify have seen that it is one
	if snap := s.member.sidecar.Snapshot(); snap != nil {
		o.Timeline = snap.Observation.Consul.Record.Timeline
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(s.member.config.Postgres.StateDir, &disk); err != nil {
		return proof.Report{}, fmt.Errorf("look at the state directory: %w", err)
	}
	o.MaxBytes = int64(disk.Bavail) * disk.Bsize / 2
	o.Progress = func(done float64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.verify.running == run {
			next := *run
			next.Done = done
			s.verify.running, run = &next, &next
		}
	}
	return proof.Run(ctx, o)
}

// verified is what the API shows of the proofs; nil: nothing was proved, and nothing is to
// be. The caller holds mu.
func (s *saving) verified(b savingBlock, k keptProofs, now time.Time) *api.Verified {
	v := &api.Verified{Good: k.Good, Running: s.verify.running, Age: -1}
	if v.Running != nil && v.Running.Backup != b.Name {
		v.Running = nil
	}
	if v.Running == nil && k.Asked != nil && k.Asked.Tries < verifyTries {
		v.Running = &api.BackupRun{Member: k.Asked.By, Backup: b.Name, Began: k.Asked.At}
	}
	if k.Last != nil && k.Last.Error != "" {
		v.Failed = k.Last
	}
	if k.Good != nil {
		v.Age = now.Sub(k.Good.Ended).Seconds()
	}
	if b.Verify != "" {
		v.Next = verifyNext(b.Verify, k, s.since)
	}
	if b.Verify == "" && k.Last == nil && v.Running == nil {
		return nil
	}
	return v
}

// rates are what the last proof of the archive's backups measured.
func (s *saving) rates(name string) backup.Rates {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.kept[name].Verify.Good
	if g == nil || g.Restore <= 0 || g.RTO <= g.Restore {
		return backup.Rates{}
	}
	return backup.Rates{Restore: float64(g.Bytes) / g.Restore, Replay: float64(max(g.LogBytes, 1)) / (g.RTO - g.Restore)}
}
