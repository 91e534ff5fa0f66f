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
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// How often the other site is asked: its primary, over a session that stays, and, while
// none is known or this member receives nothing from it, all of its servers.
const (
	siteEvery = time.Second
	siteSoon  = 200 * time.Millisecond
)

// site watches the other site's cluster: which of its servers is the primary, and how far
// that one is. One goroutine, which Run of the shell owns, asks; Source tells.
type site struct {
	member *Member
	log    hclog.Logger

	mu     sync.Mutex // guards what follows
	source ha.Source
	apis   []string // of its members, as Consul had them last; empty: not known

	// the goroutine's own
	name    string           // of the site that is watched
	primary *checks.SiteConn // to source.Address; nil: none
	known   []string         // its servers, as they were last found
}

var _ sidecar.Site = (*site)(nil)

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
	var witness sync.WaitGroup
	witness.Go(func() { s.keepWord(ctx, notify) })
	defer witness.Wait()
	defer s.forget()
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
		if !waited(ctx, s.pause()) {
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

// pause is how long it is until the next question.
func (s *site) pause() time.Duration {
	snap := s.member.sidecar.Snapshot()
	if s.name == "" || snap == nil {
		return siteEvery
	}
	o := &snap.Observation
	if o.Consul.Record.StandbyOf != "" && o.Consul.Record.Leader == o.Self && o.Server.Receiving != ha.Yes {
		return siteSoon
	}
	return siteEvery
}

// sameSource reports whether nothing has changed that anybody waits for.
func sameSource(a, b *ha.Source) bool {
	return a.Address == b.Address && a.SystemID == b.SystemID && a.Problem == b.Problem && (a.HeardAt == 0) == (b.HeardAt == 0) && a.Witness.Problem == b.Witness.Problem &&
		a.Position.TLI == b.Position.TLI && a.Position.LSN == b.Position.LSN
}

// look asks once.
func (s *site) look(ctx context.Context, of *settings.Site) {
	if name := of.Name(); name != s.name {
		s.forget()
		s.name, s.known = name, nil
		s.set(func(src *ha.Source) { *src = ha.Source{Witness: src.Witness} })
	}
	if s.name == "" {
		return
	}
	if s.primary != nil && s.ask(ctx) {
		return
	}
	s.find(ctx, of)
}

// ask asks the primary that is known, and reports whether it still is one.
func (s *site) ask(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	said, err := s.primary.Ask(ctx)
	if err != nil || said.Standby {
		s.forget()
		s.set(func(src *ha.Source) {
			src.Problem = "it is a standby now"
			if err != nil {
				src.Problem = checks.Brief(err)
			}
		})
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
// where one does not know yet that it was deposed, the one on the later timeline is.
func (s *site) find(ctx context.Context, of *settings.Site) {
	err := s.servers(ctx, of)
	if own := s.notOwn(s.ownServers()); own != nil {
		err = own
	}
	if err != nil && len(s.known) == 0 {
		s.set(func(src *ha.Source) { src.Problem = err.Error() })
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	found := make(chan siteAnswer, len(s.known))
	for _, address := range s.known {
		go func() { found <- s.dial(ctx, address) }() // ends with ctx
	}
	var answers []siteAnswer
	for range s.known {
		answers = append(answers, <-found)
	}
	best, heard, problem := primaryOf(answers, s.member.server.files.Major())
	for i := range answers {
		if a := &answers[i]; best == nil || a.address != best.address {
			a.close(ctx)
		}
	}
	if heard {
		s.set(func(src *ha.Source) { src.HeardAt = guard.Now() })
	}
	if best == nil {
		s.set(func(src *ha.Source) { src.Problem = cmp.Or(problem, "no server of it is known") })
		return
	}
	s.primary = best.conn
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

// servers finds the addresses of the other site's servers. Where Consul does not answer
// those that it last named are asked.
func (s *site) servers(ctx context.Context, of *settings.Site) error {
	if of.Service == "" {
		s.known = of.Addresses
		s.setAPIs(of.APIs)
		return nil
	}
	found, err := s.member.cluster.Site(ctx, of.Service, of.Datacenter)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		if len(s.known) == 0 {
			return errors.New("no server is registered as " + of.Name())
		}
		return nil
	}
	var apis []string
	s.known = nil
	for i := range found {
		s.known = append(s.known, found[i].Postgres)
		if found[i].API != "" {
			apis = append(apis, found[i].API)
		}
	}
	if len(of.APIs) > 0 {
		apis = of.APIs
	}
	s.setAPIs(apis)
	return nil
}

// ownServers are the addresses of this cluster's servers, as far as this member hears: its
// own first.
func (s *site) ownServers() []string {
	own := []string{s.member.config.Postgres.Advertise}
	if snap := s.member.sidecar.Snapshot(); snap != nil {
		for i := range snap.Observation.Peers {
			if at := snap.Observation.Peers[i].Report.Postgres; at != "" {
				own = append(own, at)
			}
		}
	}
	return own
}

// notOwn refuses a site whose servers are this cluster's own.
func (s *site) notOwn(own []string) error {
	for i, at := range own {
		if !slices.Contains(s.known, at) {
			continue
		}
		s.known = nil
		whose := "this member's own server"
		if i > 0 {
			whose = "the server of another of its members"
		}
		return fmt.Errorf("standby_of names this cluster itself: %s is %s", at, whose)
	}
	return nil
}

func (s *site) setAPIs(addresses []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apis = addresses
}

// siteAnswer is what a server of the other site said.
type siteAnswer struct {
	address string
	conn    *checks.SiteConn
	said    checks.SiteServer
	err     error
}

func (a siteAnswer) close(ctx context.Context) {
	if a.conn != nil {
		_ = a.conn.Close(ctx) // the server ends the session either way
	}
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
	if a.conn, a.err = checks.DialSite(ctx, server.upstream(to), server.replicationPassword); a.err != nil {
		return a
	}
	if a.said, a.err = a.conn.Ask(ctx); a.err != nil {
		a.close(ctx)
		a.conn = nil
	}
	return a
}

// forget ends the session with the primary.
func (s *site) forget() {
	if s.primary == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.primary.Close(ctx) // the server ends it either way
	s.primary = nil
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

// slotAt is this member's slot on the server that it is to receive from: at another site's
// it is made here, as nobody there knows of this member.
func (s *localServer) slotAt(ctx context.Context, source postgres.Source) (string, error) {
	cfg := s.config.Load()
	if !ha.IsSite(source.Member) {
		return checks.SlotName(cfg.Member), nil
	}
	return checks.SiteSlot(cfg.Cluster, cfg.Member), s.makeSlot(ctx, s.upstream(source), s.others().members)
}

// makeSlot makes this member's slot on the other site's primary, and drops those of members
// that streamed from there before it and do not any more.
func (s *localServer) makeSlot(ctx context.Context, to checks.Upstream, others []string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := checks.DialSite(ctx, to, s.replicationPassword)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // the server ends the session either way
	cfg := s.config.Load()
	if err := conn.EnsureSlot(ctx, checks.SiteSlot(cfg.Cluster, cfg.Member)); err != nil {
		return err
	}
	for _, m := range others {
		if err := conn.DropSlot(ctx, checks.SiteSlot(cfg.Cluster, m)); err != nil {
			s.log.Warn("a slot on the other site's primary stays", "member", m, "error", err)
		}
	}
	return nil
}
