package member

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
)

// archive is a member's part in the archive of the log.
//
// PostgreSQL archives by itself, by the engine's command. What is left to do is what no
// single server can: a standby marks each segment that it receives as archived,
// whatever became of it on its primary. So each replica keeps, by a replication slot,
// what the leader has not archived yet (the leader says so in its status), and the next
// leader compares its own log with the archive, and archives what is missing,
// before it lets that slot go.
type archive struct {
	member *Member
	log    hclog.Logger
	block  *config.Backup
	engine backup.Engine

	mu       sync.Mutex // guards what follows
	waiting  postgres.Waiting
	growing  growth
	archived ha.LSN // all log before it is archived; zero: not known
	// taken is the term in which this member, as leader, has taken the archive over.
	taken uint64
	// others: this member follows a leader that archives nothing.
	unused   bool
	problem  string
	gaps     []string
	examined time.Time
}

// growth is how what waits has grown since it began to wait.
type growth struct {
	since time.Time
	bytes int64
}

const (
	// archiveEvery is how often a member looks at what waits, and a replica asks its leader.
	archiveEvery = 5 * time.Second
	// archiveRetry is how long a leader that cannot take the archive over waits for the
	// next try.
	archiveRetry = 10 * time.Second
	// archiveLate is how long a segment may wait before it is asked why.
	archiveLate = 30 * time.Second
	// examineEvery is how often the whole archive is looked through for gaps.
	examineEvery = 15 * time.Minute
	// engineTimeout bounds a question to the engine, and checkTimeouts one that waits for
	// a segment to arrive.
	engineTimeout, archiveCheckTimeout = time.Minute, 3 * time.Minute
)

// newArchive is the archive of the configuration; nil: it has none.
func newArchive(m *Member) (*archive, error) {
	k := archiver(m.config)
	if k == nil {
		return nil, nil
	}
	engine, err := engineOf(m.config, k, where(m.server.files))
	if err != nil {
		return nil, err
	}
	return &archive{member: m, log: m.log.Named("archive"), block: k, engine: engine}, nil
}

// leading reports whether the member's server takes writes as the leader of the newest
// term.
func leading(s *sidecar.Snapshot) bool {
	r := &s.Observation.Consul.Record
	return s.State.Role == ha.RolePrimary && s.Report.Writable && r.Leader == s.Observation.Self && r.Phase == ha.PhaseLeading
}

// watch keeps what is known of the archive, until ctx ends.
func (a *archive) watch(ctx context.Context) {
	for waited(ctx, archiveEvery) {
		snap := a.member.sidecar.Snapshot()
		if snap == nil || snap.Observation.Server.InRecovery == ha.Unknown {
			continue
		}
		if !leading(snap) {
			a.follow(ctx)
			continue
		}
		w, err := a.member.server.files.Waiting(ctx)
		if err != nil {
			a.log.Debug("cannot tell what waits to be archived", "error", err)
			continue
		}
		a.note(w, snap.Observation.Server.Position.LSN, snap.Observation.Consul.Record.Term)
	}
}

// note takes over what waits on the leader.
func (a *archive) note(w postgres.Waiting, head ha.LSN, term uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting, a.unused = w, false
	switch {
	case w.Files == 0:
		a.growing = growth{}
	case a.growing.since.IsZero():
		a.growing = growth{since: time.Now(), bytes: w.Bytes}
	}
	size := ha.LSN(w.SegmentSize)
	switch {
	case a.taken != term || size == 0:
		a.archived = 0
	case w.First != 0:
		a.archived = w.First
	case head > 2*size:
		// The last whole segment may have been finished just now, and not be marked yet.
		a.archived = head - head%size - size
	}
}

// follow takes over what the leader says of its archive.
func (a *archive) follow(ctx context.Context) {
	leader := a.member.seePeers().leader
	if leader == "" {
		return
	}
	st, err := a.member.statusOf(ctx, leader)
	if err != nil {
		a.log.Debug("cannot ask the leader what it has archived", "leader", leader, "error", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.taken, a.waiting, a.growing, a.problem, a.gaps = 0, postgres.Waiting{}, growth{}, "", nil
	if a.unused = st.Archive == nil; !a.unused {
		a.archived = st.Archive.Position
	}
}

// slot keeps what is not archived yet; nil: none is needed.
func (a *archive) slot(term uint64) *checks.Slot {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unused || a.taken == term {
		return nil // PostgreSQL itself keeps what a primary has not archived
	}
	s := checks.ArchiveSlot(a.archived)
	return &s
}

// tend takes the archive over whenever this member begins to lead, asks why segments
// wait for long, and looks for gaps; until ctx ends.
func (a *archive) tend(ctx context.Context) {
	var asked time.Time
	for ctx.Err() == nil {
		bounded, cancel := context.WithTimeout(ctx, archiveLate)
		snap, err := a.member.sidecar.Await(bounded, func(s *sidecar.Snapshot) bool { return leading(s) && !a.tookOver(s) })
		cancel()
		if err == nil {
			if !a.takeOver(ctx, snap) && !waited(ctx, archiveRetry) {
				return
			}
			continue
		}
		if snap = a.member.sidecar.Snapshot(); snap == nil || !leading(snap) {
			continue
		}
		late, due := a.late()
		switch {
		case late && time.Since(asked) > time.Minute:
			asked = time.Now()
			a.explain(ctx)
		case !late && due:
			a.settle(ctx, snap)
		}
	}
}

func (a *archive) tookOver(s *sidecar.Snapshot) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.taken == s.Observation.Consul.Record.Term
}

// late reports whether a segment has waited for long, and whether the archive is due
// to be looked through.
func (a *archive) late() (late, due bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	late = !a.waiting.Oldest.IsZero() && time.Since(a.waiting.Oldest) > archiveLate
	return late, time.Since(a.examined) > examineEvery
}

// takeOver makes the archive this leader's: the repository is made ready, and what the
// leader before had not archived is. It reports whether that is done.
func (a *archive) takeOver(ctx context.Context, snap *sidecar.Snapshot) bool {
	work, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	term := snap.Observation.Consul.Record.Term
	again, err := a.mend(work, snap)
	if err != nil {
		a.wrong(ctx, err)
		return false
	}
	if len(again) > 0 {
		a.log.Info("archiving what the leader before had not", "segments", len(again), "first", again[0], "last", again[len(again)-1])
	}
	// What waits now is known with the archive, or status would say for a moment that
	// nothing does.
	w, err := a.member.server.files.Waiting(work)
	if err != nil {
		a.wrong(ctx, err)
		return false
	}
	a.mu.Lock()
	a.taken, a.problem, a.examined, a.waiting = term, "", time.Time{}, w
	a.mu.Unlock()
	return true
}

// mend has the server archive what is missing of the timelines before its own.
func (a *archive) mend(ctx context.Context, snap *sidecar.Snapshot) ([]string, error) {
	if err := a.engine.Prepare(ctx); err != nil {
		return nil, err
	}
	stored, err := a.stored(ctx)
	if errors.Is(err, backup.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	here, err := a.member.server.files.Segments()
	if err != nil {
		return nil, err
	}
	missing := backup.Unarchived(stored, here, snap.Observation.Server.Position.History)
	return a.member.server.files.ArchiveAgain(missing)
}

// stored is what the archive has, in segments of this server's size.
func (a *archive) stored(ctx context.Context) (backup.Archive, error) {
	stored, err := a.engine.Archived(ctx)
	if err != nil {
		return stored, err
	}
	w, err := a.member.server.files.Waiting(ctx)
	stored.SegmentSize = segmentSize(w.SegmentSize, a.member.config)
	return stored, err
}

// explain asks the engine why nothing is archived. A check is made only where it does not
// know: each one begins a segment of log, which then waits too.
func (a *archive) explain(ctx context.Context) {
	if e, can := a.engine.(backup.Explainer); can {
		if err := e.Unarchived(); err != nil {
			a.wrong(ctx, err)
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, archiveCheckTimeout)
	defer cancel()
	if err := a.engine.Check(ctx); err != nil {
		a.wrong(ctx, err)
	}
}

// settle looks through the archive for gaps. What still waits is none.
func (a *archive) settle(ctx context.Context, snap *sidecar.Snapshot) {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	gaps, err := a.find(ctx, snap)
	if err != nil {
		a.wrong(ctx, err)
		return
	}
	a.mu.Lock()
	before := a.gaps
	a.gaps, a.problem, a.examined = gaps, "", time.Now()
	a.mu.Unlock()
	for _, gap := range gaps {
		if !slices.Contains(before, gap) {
			a.log.Error("the archive has a gap", "gap", gap)
		}
	}
}

func (a *archive) find(ctx context.Context, snap *sidecar.Snapshot) ([]string, error) {
	stored, err := a.stored(ctx)
	if errors.Is(err, backup.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := a.engine.List(ctx)
	if err != nil {
		return nil, err
	}
	c, err := backup.Examine(stored, list.Backups, snap.Observation.Server.Position.TLI)
	if errors.Is(err, backup.ErrTarget) {
		return nil, nil // this timeline's history file is not archived yet
	}
	gaps := make([]string, 0, len(c.Gaps))
	for _, g := range c.Gaps {
		gaps = append(gaps, g.String())
	}
	return gaps, err
}

// wrong notes what is wrong, and says it once.
func (a *archive) wrong(ctx context.Context, err error) {
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return
	}
	words := strings.TrimSpace(err.Error())
	a.mu.Lock()
	news := a.problem != words
	a.problem = words
	a.mu.Unlock()
	if news {
		a.log.Error("the log is not archived", "backup", a.block.Name, "error", words)
	}
}

// examine has the archive looked through soon, as after a backup.
func (a *archive) examineSoon() {
	a.mu.Lock()
	a.examined = time.Time{}
	a.mu.Unlock()
}

// view is what the API shows; nil: there is no archive.
func (a *archive) view() *api.Archive {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unused {
		return nil
	}
	v := &api.Archive{Backup: a.block.Name, Engine: a.block.Engine, Position: a.archived, Leads: a.taken != 0,
		Files: a.waiting.Files, Bytes: a.waiting.Bytes, Problem: a.problem, Gaps: slices.Clone(a.gaps)}
	if !a.waiting.Oldest.IsZero() {
		v.Oldest = time.Since(a.waiting.Oldest).Seconds()
	}
	grown, took := a.waiting.Bytes-a.growing.bytes, time.Since(a.growing.since).Seconds()
	if !a.growing.since.IsZero() && grown > 0 && v.Oldest > archiveLate.Seconds() {
		v.FullIn = new(float64(a.waiting.Free) * took / float64(grown))
	}
	return v
}
