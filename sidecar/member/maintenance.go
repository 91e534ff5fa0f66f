package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// peersView is what the local server needs of the other members.
type peersView struct {
	members []string          // the others on record, or heard
	has     map[string]ha.LSN // what each is known to have received
	copies  []postgres.Source // who could be cloned: replicas that stream from the leader
	tagged  []string          // who has the tag clonefrom
	leader  string            // the leader's API; empty: this member leads, or nobody
	unsent  *checks.Slot      // keeps what is not archived yet; nil: nothing does
	ask     func(ctx context.Context, address string) (*api.Status, error)
}

// seePeers reads the newest snapshot.
func (m *Member) seePeers() peersView {
	o := peersView{has: map[string]ha.LSN{}, ask: m.statusOf}
	snap := m.sidecar.Snapshot()
	if snap == nil {
		return o
	}
	leader := snap.Observation.Consul.Record.Leader
	o.unsent = m.saving.archive.slot(snap.Observation.Consul.Record.Term)
	for i := range snap.Observation.Peers {
		p := &snap.Observation.Peers[i]
		o.has[p.Member] = p.Report.Position.LSN
		o.members = append(o.members, p.Member)
		if p.Member == leader && p.Link == ha.LinkUp {
			o.leader = p.Report.API
		}
		if p.Member != leader && p.Link == ha.LinkUp && p.Report.Streaming && p.Report.Strayed == "" && p.Report.Leader == leader {
			if source, err := sourceOf(p.Member, p.Report.Postgres); err == nil {
				o.copies = append(o.copies, source)
			}
		}
	}
	for _, i := range m.cluster.View().Members {
		if i.Meta["clonefrom"] == "true" {
			o.tagged = append(o.tagged, i.Name)
		}
	}
	return o
}

// cloneSource chooses whom to clone: the one that was named, else a replica with
// the tag clonefrom, else the leader. A replica must stream from the leader, or
// the clone could be of another history. One whose copy came to nothing is not tried again
// for an hour: its disk may hang, while its member reports what it last saw.
func (s *localServer) cloneSource(leader postgres.Source) postgres.Source {
	s.mu.Lock()
	asked, avoided := s.copies.from, s.copies.avoided
	if time.Since(s.copies.avoidedAt) > backupAgain {
		avoided = ""
	}
	s.mu.Unlock()
	known := s.others()
	for _, c := range known.copies {
		if c.Member != avoided && (c.Member == asked || asked == "" && slices.Contains(known.tagged, c.Member)) {
			return c
		}
	}
	if asked != "" && asked == avoided {
		s.log.Warn("the clone from the member that was named failed; the leader is cloned instead", "member", asked, "leader", leader.Member)
		return leader
	}
	if asked != "" && asked != leader.Member {
		s.log.Warn("the member to clone from does not stream from the leader; the leader is cloned", "member", asked)
	}
	return leader
}

// cloneNextFrom says whom the next clone is to come from; empty: the best.
func (s *localServer) cloneNextFrom(member string) {
	s.mu.Lock()
	if s.copies.from = member; member != "" {
		s.copies.avoided = ""
	}
	s.mu.Unlock()
}

// client asks other members' APIs; changes need the token.
func (m *Member) client(token string) *client.Client {
	return client.New(m.asks(token))
}

func (m *Member) asks(token string) client.Options {
	t := m.config.API.TLS
	return client.Options{TLS: client.TLS(t), Secure: t.CertFile != "", Token: token}
}

// statusOf reads another member's status.
func (m *Member) statusOf(ctx context.Context, address string) (*api.Status, error) {
	return m.client("").StatusOf(ctx, address)
}

// Configure takes up the cluster-wide settings of the server over the
// configuration file's: at once where it runs, else when it starts. That a member refuses
// them is in its status: it is to be known before it leads.
func (s *localServer) Configure(ctx context.Context, set settings.Settings) error {
	err := s.configure(ctx, set)
	if ctx.Err() != nil {
		return err // of the settings it says nothing
	}
	s.mu.Lock()
	if s.kept.refused = ""; err != nil {
		s.kept.refused = "the cluster's settings (pgsidecar settings show): " + err.Error()
	}
	s.mu.Unlock()
	return err
}

func (s *localServer) configure(ctx context.Context, set settings.Settings) error {
	s.mu.Lock()
	for name := range s.slots {
		if _, kept := set.Slots[name]; !kept {
			s.unwanted = append(s.unwanted, name)
		}
	}
	s.slots = set.Slots
	s.mu.Unlock()
	if !s.runs() {
		return s.files.Preset(ctx, s.over(set))
	}
	if err := s.files.Reload(ctx, s.over(set)); err != nil {
		return err
	}
	if wrong, err := s.sql.WrongLines(ctx); err == nil && len(wrong) > 0 {
		return fmt.Errorf("PostgreSQL cannot read these lines and keeps the values it read earlier: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// dropSlots drops the slots that the settings do not name any more.
func (s *localServer) dropSlots(ctx context.Context) {
	s.mu.Lock()
	unwanted := slices.DeleteFunc(s.unwanted, func(name string) bool { _, again := s.slots[name]; return again })
	s.unwanted = nil
	s.mu.Unlock()
	for _, name := range unwanted {
		if err := s.sql.DropSlot(ctx, name); err != nil {
			s.log.Warn("a slot that is not wanted any more stays", "slot", name, "error", err)
		}
	}
}

// outgrown reports whether a standby had to have more than the settings say, and
// need not any more.
func (s *localServer) outgrown(ctx context.Context) bool {
	outgrown, err := s.files.Outgrown(ctx)
	if err != nil {
		s.log.Debug("cannot tell what a standby needs", "error", err)
	}
	return outgrown && err == nil
}

// try returns what PostgreSQL refuses about the settings.
func (s *localServer) try(ctx context.Context, set settings.Settings) error {
	return s.files.Try(ctx, s.over(set))
}

// over puts the cluster-wide settings over the configuration file's.
func (s *localServer) over(set settings.Settings) postgres.Settings {
	pg := s.config.Load().Postgres
	next := postgres.Settings{Parameters: maps.Clone(pg.Parameters), HBA: pg.HBA, Ident: pg.Ident, Durable: s.durable(set)}
	if next.Parameters == nil {
		next.Parameters = make(map[string]string, len(set.Parameters))
	}
	if set.FailoverSlots {
		maps.Copy(next.Parameters, map[string]string{"sync_replication_slots": "on", "hot_standby_feedback": "on", "wal_level": "logical"})
	}
	maps.Copy(next.Parameters, set.Parameters)
	if len(set.HBA) > 0 { // without any, nil stays: the data directory's own
		next.HBA = slices.Concat(set.HBA, next.HBA)
	}
	if len(set.Ident) > 0 {
		next.Ident = slices.Concat(set.Ident, next.Ident)
	}
	return next
}

// durable reports whether commits are to wait for standbys.
func (s *localServer) durable(set settings.Settings) bool {
	if set.Durability != nil && set.Durability.Mode != "" {
		return set.Durability.Mode == ha.ModeQuorum
	}
	return s.config.Load().Durability.Mode == ha.ModeQuorum
}

// Maintain keeps the roles (on a primary) and the replication slots: one for each
// other member, and those of the settings.
func (s *localServer) Maintain(ctx context.Context, members []string, founded bool) (outgrown bool, err error) {
	if err := s.files.KeepReserve(); err != nil {
		s.log.Debug("the disk has no reserve", "error", err) // it is full, which the write probe says
	}
	// Its upstream has a changed password at once, and a stream that breaks needs it.
	err = s.files.KeepPassfile()
	return s.outgrown(ctx), errors.Join(err, s.maintain(ctx, members, founded))
}

func (s *localServer) maintain(ctx context.Context, members []string, founded bool) error {
	if founded && s.files.Founding() {
		s.hooks.Tell(s.foundedEvent())
	}
	if founded {
		if err := s.files.Founded(); err != nil {
			return err
		}
	}
	s.dropSlots(ctx)
	s.mu.Lock()
	permanent := s.slots
	s.mu.Unlock()
	self := s.config.Load().Member
	known := s.others()
	var want []checks.Slot
	for _, m := range members {
		if m != self {
			want = append(want, checks.MemberSlot(m, known.has[m]))
		}
	}
	if known.unsent != nil {
		want = append(want, *known.unsent)
	}
	at := map[string]ha.LSN{}
	if len(permanent) > 0 && known.leader != "" {
		// Only the leader knows how far their consumers are.
		if st, err := known.ask(ctx, known.leader); err == nil {
			at = st.Slots
		} else { // they stay where they are until it answers
			s.log.Warn("cannot ask the leader how far other programs' slots are", "leader", known.leader, "error", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(permanent)) {
		want = append(want, checks.Slot{Name: name, Has: at[name]})
	}
	now, err := s.sql.EnsureSlots(ctx, want)
	if err != nil {
		return err
	}
	logical, err := s.keepLogical(ctx, known)
	if err != nil {
		return err
	}
	held, err := s.sql.HeldSlots(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.at = slotsHere{held: held, physical: now, logical: logical}
	fresh := time.Since(s.promotedAt) < promotionCalm
	s.mu.Unlock()
	if !fresh {
		err = s.files.RestorePartial()
	}
	if f := s.lastFacts(); f.InRecovery == ha.No {
		err = errors.Join(err, s.files.FillHistories(f.Position.TLI), s.keepRoles(ctx))
	}
	if why := s.lastFacts().Paused; why != "" && why != userPause {
		s.stuck(why)
	}
	return errors.Join(err, s.keepCertificate(ctx), s.keepConfigured(ctx))
}

// userPause is why a server that has all that its primary has replays nothing.
const userPause = "pg_wal_replay_pause() was called"

// waiting are the parameters that wait for a restart.
func (s *localServer) waiting() []api.PendingParameter {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []api.PendingParameter
	for _, p := range s.read.pending {
		all = append(all, api.PendingParameter(p))
	}
	return all
}

// roleName is the name of a role that receives the log, by its oid.
func (s *localServer) roleName(oid int64) string {
	s.mu.Lock()
	name, known := s.read.roles[oid]
	s.mu.Unlock()
	if !known { // it has come since the roles were last read: most likely a member
		name = s.config.Load().Postgres.Replication.Name
	}
	return name
}

// promotionCalm is how long a new primary leaves its disk to the clients that come
// back, before a segment is copied that few ever need.
const promotionCalm = time.Second

// keepConfigured takes up the user's own configuration where it has changed, and reads
// what the server makes of it all.
func (s *localServer) keepConfigured(ctx context.Context) error {
	err := s.files.Refresh(ctx)
	waits, counting := s.files.CancelledWaits()
	now, looking := s.sql.Configured(ctx)
	if errors.Is(looking, checks.ErrOccupied) {
		return errors.Join(err, counting) // with the next upkeep
	}
	err = errors.Join(err, counting, looking)
	if looking != nil {
		return err
	}
	err = errors.Join(err, s.files.JudgeRules(now.Rules))
	problem := s.files.ConfigProblem()
	if problem == "" { // postgresql.auto.conf, which nobody but PostgreSQL reads
		problem = strings.Join(now.Files, "; ")
	}
	stream := ""
	if f := s.lastFacts(); f.InRecovery == ha.Yes && f.Receiving != ha.Yes {
		stream = s.files.StreamProblem()
	}
	misled := s.misled(ctx)
	s.mu.Lock()
	if s.kept.refused != "" {
		problem = strings.TrimPrefix(problem+"; "+s.kept.refused, "; ")
	}
	was := s.read
	s.read = configuration{ha.Configured{ConfigProblem: problem, SyncCommit: now.Commit, Weak: now.Weak, ReadOnly: now.ReadOnly, Reordered: now.Reordered, Unarchived: now.Unarchived, UnarchivedSince: now.UnarchivedSince, CancelledWaits: waits,
		Software: ha.Software{Libc: now.Libc, ICU: now.ICU}, StreamProblem: stream, Misled: misled}, strings.Join(now.Relaxed, ", "), now.Pending, now.Roles}
	s.mu.Unlock()
	if !slices.Equal(was.Weak, now.Weak) && len(now.Weak) > 0 && s.config.Load().Durability.Mode == ha.ModeQuorum {
		s.log.Warn("synchronous_commit is relaxed for these roles or databases: a failover can lose their commits", "settings", now.Weak)
	}
	if waits > was.CancelledWaits {
		s.log.Warn("commits were acknowledged although their wait for standbys was cancelled; a failover may lose them", "commits", waits-was.CancelledWaits)
	}
	return err
}

// slotsAt is how far the settings' physical slots have come on this member, and on a
// primary the logical ones that standbys copy.
func (s *localServer) slotsAt() map[string]ha.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := map[string]ha.LSN{}
	for _, slot := range s.at.physical {
		if _, permanent := s.slots[slot.Name]; permanent {
			at[slot.Name] = slot.At
		}
	}
	for _, slot := range s.at.logical.Offered {
		at[slot.Name] = slot.At
	}
	return at
}

// slotsHere are this server's slots as they were last seen.
type slotsHere struct {
	held     []checks.HeldSlot // of whomever
	physical []checks.SlotAt
	logical  checks.LogicalSlots
}

// slotsHeld are the slots that cost something: log that fills the disk, or a consumer that
// cannot go on.
func (s *localServer) slotsHeld() (held []api.HeldSlot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, slot := range s.at.held {
		if slot.Lost || slot.Bytes > 0 {
			held = append(held, api.HeldSlot(slot))
		}
	}
	return held
}

// keepLogical looks after the logical slots that standbys copy. What is left on a
// standby from when it led is in the way of its copies: those that the leader has are
// dropped. Others may be the last of their name, and serve if this server leads again.
func (s *localServer) keepLogical(ctx context.Context, known peersView) (checks.LogicalSlots, error) {
	now, err := s.sql.LogicalSlots(ctx)
	if err != nil || len(now.Own) == 0 || known.leader == "" {
		return now, err
	}
	leaders, err := known.ask(ctx, known.leader)
	if err != nil {
		s.log.Debug("cannot ask the leader for its logical slots", "leader", known.leader, "error", err)
		return now, nil
	}
	for _, name := range now.Own {
		if _, has := leaders.Slots[name]; !has {
			continue
		}
		if err := s.sql.DropSlot(ctx, name); err != nil {
			return now, err
		}
		s.log.Info("a logical slot from when this server led is dropped: it is copied from the leader now", "slot", name)
	}
	return now, nil
}

// account writes a change into the history.
func (c control) account(ctx context.Context, before, after []byte) error {
	now := time.Now()
	text, err := json.Marshal(settings.Change{At: now, Member: c.config.Member, By: api.RequestedBy(ctx),
		Diff: settings.ChangedKeys(before, after)})
	if err != nil {
		return err
	}
	return c.cluster.PutChange(ctx, now.UnixNano(), text)
}
