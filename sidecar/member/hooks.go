package member

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/hooks"
)

const (
	// blockedAfter is how long something must wait before anybody is told: in a
	// failover something always does, for a moment.
	blockedAfter = 10 * time.Second
	// hooksEnd is what commands get to end when the member ends: Nomad kills a task
	// 5 s after it asked it to stop, by default.
	hooksEnd = 3 * time.Second
)

// newHooks makes what tells hooks and notices, with those of the configuration.
func newHooks(m *Member, cfg *config.Config) (*hooks.Dispatcher, error) {
	d := hooks.New(hooks.Options{Cluster: cfg.Cluster, Member: cfg.Member, Recorder: m.recorder, Logger: m.log.Named("hooks")})
	return d, d.Set(cfg.Hooks, cfg.Notices)
}

// keepHooks tells hooks and notices what becomes of this member, until ctx ends.
func (m *Member) keepHooks(ctx context.Context) {
	w := hookWatch{member: m.config.Member}
	for {
		last := m.sidecar.Snapshot()
		for _, e := range w.news(last, m.lastTerm(), time.Now()) {
			m.hooks.Tell(e)
		}
		if _, err := m.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool { return s != last }); err != nil {
			break
		}
	}
	if w.role != "" && w.role != hooks.Stopped {
		snap := m.sidecar.Snapshot()
		if snap.Observation.Server.Process != ha.ProcessRunning { // else the server lives on without this sidecar
			m.hooks.Tell(hooks.Event{Kind: hooks.Stopped, Role: ha.RoleStopped, Summary: "PostgreSQL on " + m.config.Member + " is stopped"})
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hooksEnd)
	defer cancel()
	m.hooks.Close(ctx)
}

// lastTerm is the newest term that is recorded; nil: none is known.
func (m *Member) lastTerm() *failover.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.history); n > 0 {
		return &m.history[n-1]
	}
	return nil
}

// hookWatch is what hooks and notices were last told.
type hookWatch struct {
	member string
	role   hooks.Kind
	// term is the newest term that they were told of, or that had begun before this
	// process was there.
	term    uint64
	begun   bool
	waits   time.Time // since when something waits; zero: nothing does
	blocked string    // what they were told that waits
}

// news are the events between what was told and a snapshot.
func (w *hookWatch) news(s *sidecar.Snapshot, term *failover.Record, now time.Time) (events []hooks.Event) {
	if s == nil {
		return nil
	}
	r := &s.Observation.Consul.Record
	tell := func(e hooks.Event) {
		e.At, e.Role, e.Term, e.Leader = now, s.State.Role, r.Term, r.Leader
		events = append(events, e)
	}
	if kind := w.kind(s); kind != "" && kind != w.role {
		w.role = kind
		tell(hooks.Event{Kind: kind, Summary: w.member + " is " + roleWords[kind]})
	}
	if !w.begun && r.Exists() {
		w.begun, w.term = true, r.Term
		if r.Phase != ha.PhaseLeading {
			w.term-- // it is under way
		}
	}
	if w.begun && term != nil && term.Term > w.term {
		w.term = term.Term
		if term.Leader == w.member {
			tell(failoverEvent(term))
		}
	}
	w.watchBlocks(s.State.Blocks, now, tell)
	return events
}

var roleWords = map[hooks.Kind]string{
	hooks.Primary: "the primary, and takes writes", hooks.Replica: "a replica", hooks.Stopped: "not running, or not ready",
}

// kind is the role that hooks are told: a primary is one when it takes writes.
func (w *hookWatch) kind(s *sidecar.Snapshot) hooks.Kind {
	switch {
	case s.State.Role == ha.RolePrimary && s.Report.Writable && s.Observation.Consul.Record.Leader == w.member:
		return hooks.Primary
	case s.State.Role == ha.RoleReplica:
		return hooks.Replica
	case s.State.Role == ha.RoleStopped:
		return hooks.Stopped
	}
	return ""
}

func failoverEvent(r *failover.Record) hooks.Event {
	e := hooks.Event{Kind: hooks.Failover, From: r.From, Details: map[string]string{"kind": r.Kind(), "reason": r.Reason}}
	for _, p := range r.Phases() {
		if !p.At.IsZero() {
			e.Details[p.Name] = p.Took.Round(time.Millisecond).String()
		}
	}
	e.Summary = fmt.Sprintf("%s of %s: %s leads term %d", r.Kind(), from(r.From), r.Leader, r.Term)
	return e
}

func from(leader string) string {
	if leader == "" {
		return "a new cluster"
	}
	return leader
}

// backupEvent is the end of a backup, good or not.
func backupEvent(run *api.BackupRun, made backup.Backup, err error) hooks.Event {
	e := hooks.Event{Kind: hooks.Backup, Details: map[string]string{"backup": run.Backup, "kind": string(run.Kind)}}
	if err != nil {
		e.Details["error"] = err.Error()
		e.Summary = "backup " + run.Backup + " failed on " + run.Member
		return e
	}
	e.Details["label"], e.Details["bytes"] = made.Label, strconv.FormatInt(made.Size, 10)
	e.Summary = "backup " + run.Backup + " is done: " + made.Label
	return e
}

// watchBlocks tells of what waits, once it has waited a while, and of its end.
func (w *hookWatch) watchBlocks(blocks []ha.Block, now time.Time, tell func(hooks.Event)) {
	if len(blocks) == 0 {
		if w.blocked != "" {
			tell(hooks.Event{Kind: hooks.Unblocked, Summary: "nothing waits on " + w.member + " any more"})
		}
		w.waits, w.blocked = time.Time{}, ""
		return
	}
	if w.waits.IsZero() {
		w.waits = now
	}
	var what []string
	for _, b := range blocks {
		what = append(what, b.What)
	}
	if all := strings.Join(what, "; "); all != w.blocked && now.Sub(w.waits) >= blockedAfter {
		w.blocked = all
		b := blocks[0]
		tell(hooks.Event{Kind: hooks.Blocked, Summary: w.member + ": " + all, Details: map[string]string{
			"waiting_for": b.Missing, "override": b.Override, "cost": b.Cost, "rule": b.Rule,
		}})
	}
}

// before runs the hooks that a step of the server waits for, for half of the time that
// the step has at most.
func (s *localServer) before(ctx context.Context, kind hooks.Kind) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Until(deadline)/2, hooks.ErrTimeout)
		defer cancel()
	}
	err := s.hooks.Before(ctx, hooks.Event{Kind: kind, Summary: string(kind) + " on " + s.config.Load().Member})
	if err != nil && ctx.Err() != nil && kind == hooks.BeforeStop {
		return nil // it is logged, and the stop goes on
	}
	return err
}

// foundedEvent says that this member has founded the cluster, and how a command reaches
// its server: by the socket, where PostgreSQL's user is let in as superuser.
func (s *localServer) foundedEvent() hooks.Event {
	cfg := s.config.Load()
	return hooks.Event{Kind: hooks.Founded, Role: ha.RolePrimary, Leader: cfg.Member, Summary: cfg.Member + " has founded the cluster " + cfg.Cluster,
		Server: []string{"PGHOST=" + s.files.SocketDir(), "PGPORT=" + strconv.Itoa(s.files.Port()), "PGUSER=" + cfg.Postgres.Superuser.Name, "PGDATABASE=postgres"}}
}
