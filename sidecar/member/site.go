package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// How often the other site is asked: its primary, over a session that stays; where none is known
// a standby likewise, and all of its servers by who leads here.
const (
	siteEvery = time.Second
	// siteRound is how often the others ask all of them: each time it takes new sessions, and a
	// session costs a server a process.
	siteRound = 5 * time.Second
	// siteSoon is that of a standby cluster's leader that receives nothing, and siteHurry for
	// how long: a failover at the other site is over by then, or it is none.
	siteSoon  = 100 * time.Millisecond
	siteHurry = 30 * time.Second
	// siteAnswerTime is how long the primary may take to answer before the others are asked, one of
	// which may have taken its place.
	siteAnswerTime = 2 * time.Second
)

// site watches the other site's cluster: which of its servers is the primary, and how far
// that one is. One goroutine, which Run of the shell owns, asks; Source tells.
//
// From a failover there until the stream comes from the new primary, each way there and back
// counts, and a new session takes seven of them. So a standby cluster's leader keeps sessions
// with all servers of the other site, is woken by the end of the primary's, and makes its slot
// over the one that it has. Of a site that takes writes the leader keeps sessions with all of them
// too: a second primary is heard of at once. Who leads neither keeps one session, with the primary
// there or with a standby, so that the sites' servers need few of max_wal_senders.
type site struct {
	member *Member
	log    hclog.Logger
	slots  chan slotRequest // answered by Run
	snaps  snapshots        // the shell; set by Run

	mu     sync.Mutex // guards what follows
	source ha.Source
	apis   []string // of its members, as Consul had them last; empty: not known

	// the goroutine's own
	name     string    // of the site that is watched
	primary  string    // the server that was last heard as one; empty: none
	standby  string    // one that was last heard as that, with a session, where no primary is known; empty: none
	foundAt  time.Time // when all were asked the last time
	sessions siteSessions
	known    []string // its servers, as they were last found
	found    siteList // how they were
	lists    chan siteList
	listing  bool
	unfedAt  time.Time // since when this member is to receive from it, and does not; zero: it does
}

var _ sidecar.Site = (*site)(nil)

// snapshots is the shell's newest decision, and the next.
type snapshots interface {
	Snapshot() *sidecar.Snapshot
	Await(ctx context.Context, done func(*sidecar.Snapshot) bool) (*sidecar.Snapshot, error)
}

func newSite(m *Member) *site {
	s := &site{member: m, log: m.log.Named("site"), slots: make(chan slotRequest), lists: make(chan siteList)}
	s.sessions = newSiteSessions(s.dial)
	return s
}

// Source is what is known now.
func (s *site) Source() ha.Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.source
}

// addresses are the APIs of the other site's members.
func (s *site) addresses() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apis
}

// Run watches until ctx is done.
func (s *site) Run(ctx context.Context, notify func()) error {
	s.snaps = s.member.sidecar
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	tasks.Go(func() { s.keepWord(ctx, notify) })
	defer s.sessions.end()
	defer tasks.Wait()
	defer cancel()
	for {
		before := s.Source()
		s.look(ctx, s.member.site())
		if now := s.Source(); !sameSource(&before, &now) {
			if now.Problem != before.Problem && now.Problem != "" {
				s.log.Warn("the other site's primary is not heard", "site", s.name, "problem", now.Problem)
			} else if now.Address != before.Address {
				s.log.Info("the other site's primary is known", "site", s.name, "address", now.Address, "position", now.Position)
			}
			notify()
		}
		s.noteEpoch()
		if !s.wait(ctx) {
			return nil
		}
	}
}

// noteEpoch keeps on disk in which epoch this site was last seen to take writes: where the
// record is lost, this cluster is not to follow the other then.
func (s *site) noteEpoch() {
	snap := s.member.sidecar.Snapshot()
	if snap == nil {
		return
	}
	r := &snap.Observation.Consul.Record
	if r.StandbyOf != "" || r.Phase != ha.PhaseLeading || r.Epoch == 0 || r.SystemID != snap.Observation.Server.SystemID {
		return
	}
	if err := s.member.server.files.NoteEpoch(r.Epoch); err != nil {
		s.log.Warn("cannot keep the epoch", "epoch", r.Epoch, "error", err)
	}
}

// leads reports whether this member leads a standby cluster, whose server streams from the
// other site.
func leads(snap *sidecar.Snapshot) bool {
	return snap != nil && snap.Observation.Consul.Record.StandbyOf != "" && snap.Observation.Consul.Record.Leader == snap.Observation.Self
}

// keepsAll reports whether this member leads its cluster, of either kind, and so keeps sessions with
// all servers of the other site.
func keepsAll(snap *sidecar.Snapshot) bool {
	return snap != nil && snap.Observation.Consul.Record.Leader == snap.Observation.Self
}

// unfed reports whether it is to receive from there, and does not.
func unfed(snap *sidecar.Snapshot) bool {
	return leads(snap) && snap.Observation.Server.Receiving != ha.Yes
}

// pause is how long it is until the next question.
func (s *site) pause(snap *sidecar.Snapshot) time.Duration {
	if s.name == "" || !leads(snap) || s.primary != "" && !unfed(snap) {
		s.unfedAt = time.Time{}
		return siteEvery
	}
	if s.unfedAt.IsZero() {
		s.unfedAt = time.Now()
	}
	if time.Since(s.unfedAt) > siteHurry {
		return siteEvery
	}
	return siteSoon
}

// wait waits until the next question is due: after a pause, or as soon as the primary's session
// has ended or this member begins to receive nothing. It reports whether ctx goes on.
func (s *site) wait(ctx context.Context) bool {
	snap := s.snaps.Snapshot()
	pause, cancel := context.WithTimeout(ctx, s.pause(snap))
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer cancel()
	if s.name != "" && !unfed(snap) {
		watchers.Go(func() {
			if _, err := s.snaps.Await(pause, unfed); err == nil {
				cancel()
			}
		})
	}
	ended := make(chan error, 1)
	session := s.sessions.open[s.primary]
	watchers.Go(func() {
		if session != nil {
			ended <- session.Wait(pause)
			return
		}
		<-pause.Done()
		ended <- nil
	})
	for {
		select {
		case err := <-ended:
			if err != nil {
				s.lost(err)
			}
			return ctx.Err() == nil
		case a := <-s.sessions.answers:
			// A round does not wait for who is slow to answer beside one that has a session.
			primary := s.primary == "" && a.session != nil && !a.said.Standby
			if s.sessions.take(a, primary || keepsAll(snap)); primary {
				s.foundAt = time.Time{}
				cancel()
			}
		case l := <-s.lists:
			s.listed(&l)
		case r := <-s.slots:
			cancel()
			if err := <-ended; err != nil {
				s.lost(err)
			}
			s.makeSlot(ctx, &r)
			return ctx.Err() == nil
		}
	}
}

// lost notes that the primary's session has ended. A server that stops is left to that: until
// it has ended, each connection that it refuses is one process more to wait for.
func (s *site) lost(why error) {
	s.sessions.close(s.primary)
	s.sessions.failed[s.primary] = siteFailure{err: why, at: time.Now()}
	s.primary = ""
	s.set(func(src *ha.Source) { src.Problem = checks.Brief(why) })
}

// sameSource reports whether nothing has changed that anybody waits for.
func sameSource(a, b *ha.Source) bool {
	return a.Address == b.Address && a.SystemID == b.SystemID && a.Problem == b.Problem && (a.HeardAt == 0) == (b.HeardAt == 0) && a.Witness.Problem == b.Witness.Problem &&
		a.Position.TLI == b.Position.TLI && a.Position.LSN == b.Position.LSN
}

// look asks once.
func (s *site) look(ctx context.Context, of *settings.Site) {
	if name := of.Name(); name != s.name {
		s.sessions.closeAll()
		s.name, s.primary, s.standby, s.known, s.found = name, "", "", nil, siteList{}
		s.set(func(src *ha.Source) { *src = ha.Source{Witness: src.Witness} })
	}
	if s.name == "" {
		return
	}
	all := keepsAll(s.snaps.Snapshot())
	switch {
	case s.ask(ctx) && all:
		s.keepSessions(ctx, of)
	case s.primary != "":
		s.sessions.closeBut(s.primary)
	case all || time.Since(s.foundAt) >= siteRound || !s.askStandby(ctx):
		s.find(ctx, of, all)
	default:
		s.sessions.closeBut(s.standby)
	}
}

// askStandby asks the standby that there is a session with, and reports whether it still is one.
func (s *site) askStandby(ctx context.Context) bool {
	session := s.sessions.open[s.standby]
	if session == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, siteAnswerTime)
	defer cancel()
	said, err := session.Ask(ctx)
	if err != nil {
		s.sessions.close(s.standby)
		return false
	}
	s.set(func(src *ha.Source) { src.HeardAt = guard.Now() })
	return said.Standby
}

// keepSessions sees to sessions with the servers that may be the primary next.
func (s *site) keepSessions(ctx context.Context, of *settings.Site) {
	if !s.sessions.due(s.known) {
		return
	}
	_ = s.servers(ctx, of) // those that were known before are asked where there is no answer
	if s.notOwn(s.ownServers()) == nil {
		s.sessions.ask(ctx, slices.DeleteFunc(slices.Clone(s.known), func(a string) bool { return a == s.primary }))
	}
}

// ask asks the primary that is known, and reports whether it still is one.
func (s *site) ask(ctx context.Context) bool {
	session := s.sessions.open[s.primary]
	if session == nil {
		s.primary = ""
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, siteAnswerTime)
	defer cancel()
	said, err := session.Ask(ctx)
	if err == nil && said.Standby {
		err = errors.New("it is a standby now")
	}
	if err != nil {
		s.lost(err)
		return false
	}
	s.heard(said, "")
	return true
}

// heard takes over what the primary said; address: where, if that is new.
func (s *site) heard(said checks.SiteServer, address string) {
	now := guard.Now()
	s.set(func(src *ha.Source) {
		src.HeardAt, src.SeenAt, src.SystemID, src.Position, src.Problem = now, now, said.SystemID, said.Position, ""
		src.Address = cmp.Or(address, src.Address)
	})
}

// find asks all servers of the other site, side by side, which is the primary. Of two, as
// where one does not know yet that it was deposed, the one on the later timeline is. Their sessions
// are kept: all, or the primary's, or else a standby's.
func (s *site) find(ctx context.Context, of *settings.Site, all bool) {
	s.foundAt = time.Now()
	err := s.servers(ctx, of)
	if own := s.notOwn(s.ownServers()); own != nil {
		err = own
	}
	if err != nil && len(s.known) == 0 {
		s.set(func(src *ha.Source) { src.Problem = err.Error() })
		return
	}
	answers := s.sessions.round(ctx, s.known)
	best, heard, problem := primaryOf(answers, s.member.server.files.Major())
	s.standby = ""
	for i := range answers {
		a := &answers[i]
		if best == nil && s.standby == "" && a.session != nil && a.said.Standby {
			s.standby = a.address
		}
		s.sessions.take(*a, all || best != nil && a.address == best.address || a.address == s.standby)
	}
	if heard {
		s.set(func(src *ha.Source) { src.HeardAt = guard.Now() })
	}
	if best == nil {
		s.set(func(src *ha.Source) { src.Problem = cmp.Or(problem, "no server of it is known") })
		return
	}
	s.primary = best.address
	s.heard(best.said, best.address)
}

// primaryOf says which answer is the primary's, whether any standby answered, and why no primary
// was found. major is this member's version of PostgreSQL.
func primaryOf(answers []siteAnswer, major int) (best *siteAnswer, heard bool, problem string) {
	var problems []string
	standbys := 0
	for i := range answers {
		a := &answers[i]
		switch {
		case a.err != nil:
			problems = append(problems, a.address+": "+checks.Brief(a.err))
		case a.said.Major != 0 && a.said.Major != major:
			problems = append(problems, fmt.Sprintf("%s runs PostgreSQL %d, and this member %d: a site can follow only one of its own major version", a.address, a.said.Major, major))
		case a.said.Standby:
			standbys++
		case best == nil || a.said.Position.TLI > best.said.Position.TLI:
			best = a
		}
	}
	slices.Sort(problems)
	if standbys > 0 {
		problems = append(problems, fmt.Sprintf("%d of its servers answer as standbys, and none as a primary", standbys))
	}
	return best, standbys > 0, strings.Join(problems, "; ")
}

// dial opens a session with a server, and asks it what it is.
func (s *site) dial(ctx context.Context, address string) siteAnswer {
	a := siteAnswer{address: address}
	to, err := sourceOf(s.name, address)
	if err != nil {
		a.err = err
		return a
	}
	server := s.member.server
	conn, err := checks.DialSite(ctx, server.upstream(to), server.replicationPassword)
	if err != nil {
		a.err = err
		return a
	}
	if a.said, a.err = conn.Ask(ctx); a.err != nil {
		closeSession(conn)
		return a
	}
	a.session = conn
	return a
}

func (s *site) set(change func(*ha.Source)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.source)
}

// site is the other site as the settings, or else the configuration file, name it.
func (m *Member) site() *settings.Site {
	if set := m.stored().StandbyOf; set != nil {
		return set
	}
	return &m.current.Load().StandbyOf
}
