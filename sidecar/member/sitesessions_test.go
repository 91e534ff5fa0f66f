package member

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// farServer is a server of the other site, wayBack away; its changes are told by closing.
type farServer struct {
	mu     sync.Mutex
	is     checks.SiteServer
	down   error         // why nobody can log in
	hangs  bool          // it answers nothing
	ended  chan struct{} // closed with its sessions
	dialed int
	slots  []string
}

const wayBack = 60 * time.Millisecond

func (f *farServer) dial(ctx context.Context, address string) siteAnswer {
	if !waited(ctx, 7*wayBack) {
		return siteAnswer{address: address, err: ctx.Err()}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dialed++
	switch {
	case f.hangs:
		f.mu.Unlock()
		<-ctx.Done()
		f.mu.Lock()
		return siteAnswer{address: address, err: errors.New("timeout")}
	case f.down != nil:
		return siteAnswer{address: address, err: f.down}
	}
	return siteAnswer{address: address, said: f.is, session: &farSession{farServer: f, ended: f.ended}}
}

// becomes changes what it is; a change of role to nothing ends its sessions.
func (f *farServer) becomes(is checks.SiteServer, down error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.is, f.down = is, down; down != nil {
		close(f.ended)
		f.ended = make(chan struct{})
	}
}

// farSession is a session with it.
type farSession struct {
	*farServer
	ended chan struct{}
}

func (f *farSession) Ask(ctx context.Context) (checks.SiteServer, error) {
	select {
	case <-f.ended:
		return checks.SiteServer{}, errEnded
	default:
	}
	if !waited(ctx, wayBack) {
		return checks.SiteServer{}, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.is, nil
}

func (f *farSession) Wait(ctx context.Context) error {
	select {
	case <-f.ended:
		return errEnded
	case <-ctx.Done():
		return nil
	}
}

var errEnded = errors.New("the session has ended")

func (f *farSession) EnsureSlot(_ context.Context, name string) error {
	f.slots = append(f.slots, name)
	return nil
}
func (f *farSession) DropSlot(context.Context, string) error { return nil }
func (f *farSession) Close(context.Context) error            { return nil }

// farSite are servers by their addresses.
type farSite map[string]*farServer

func (s farSite) dial(ctx context.Context, address string) siteAnswer {
	return s[address].dial(ctx, address)
}

func newFarSite() (farSite, []string) {
	primary := checks.SiteServer{SystemID: "1", Major: 15, Position: ha.Position{TLI: 1, LSN: 1}}
	standby := primary
	standby.Standby = true
	site := farSite{}
	for address, is := range map[string]checks.SiteServer{"m1:5432": primary, "m2:5432": standby, "m3:5432": standby} {
		site[address] = &farServer{is: is, ended: make(chan struct{})}
	}
	return site, []string{"m1:5432", "m2:5432", "m3:5432"}
}

// TestSiteRound: how long it takes to learn which server of the other site is its primary. One
// that hangs keeps nobody waiting for its time-out, and one that there is a session with is
// asked in one way there and back.
func TestSiteRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		site, all := newFarSite()
		q := newSiteSessions(site.dial)
		defer q.end()
		defer cancel()
		round := func() (primary string, took time.Duration) {
			began := time.Now()
			answers := q.round(ctx, all)
			took = time.Since(began)
			best, _, _ := primaryOf(answers, 15)
			for _, a := range answers {
				q.take(a, true)
			}
			if best == nil {
				return "", took
			}
			return best.address, took
		}
		if primary, took := round(); primary != "m1:5432" || took != 7*wayBack {
			t.Errorf("at first: %q after %v", primary, took)
		}
		// m1 hangs, and m2 takes its place.
		site["m1:5432"].hangs = true
		site["m1:5432"].becomes(checks.SiteServer{}, errors.New("it is down"))
		if primary, took := round(); primary != "" || took > wayBack+answerGrace {
			t.Errorf("when its primary hangs: %q after %v", primary, took)
		}
		now := site["m2:5432"].is
		now.Standby, now.Position.TLI = false, 2
		site["m2:5432"].becomes(now, nil)
		if primary, took := round(); primary != "m2:5432" || took > wayBack+answerGrace {
			t.Errorf("when another has taken its place: %q after %v", primary, took)
		}
		if n := site["m2:5432"].dialed; n != 1 {
			t.Errorf("%d sessions were opened with m2", n)
		}
		// What the one that hangs failed with is said when it is known, and stays.
		site["m2:5432"].becomes(checks.SiteServer{}, errors.New("it is down"))
		site["m3:5432"].becomes(checks.SiteServer{}, errors.New("it is down"))
		for range 3 {
			round()
			time.Sleep(askTimeout)
		}
		answers := q.round(ctx, all)
		if _, _, problem := primaryOf(answers, 15); problem != "m1:5432: timeout; m2:5432: it is down; m3:5432: it is down" {
			t.Errorf("%q", problem)
		}
		for _, a := range answers {
			q.take(a, true)
		}
		if len(q.open) != 0 {
			t.Errorf("sessions with servers that are down: %v", q.open)
		}
	})
}

// TestSiteSessionsAreKept: sessions with servers that came back are made anew, and soon.
func TestSiteSessionsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		far, all := newFarSite()
		s := newSite(&Member{log: hclog.NewNullLogger(), config: new(config.Config), sidecar: new(sidecar.Sidecar)})
		s.name, s.primary, s.sessions.dial = "m1:5432", "m1:5432", far.dial
		defer s.sessions.end()
		defer cancel()
		s.sessions.open["m1:5432"] = &farSession{farServer: far["m1:5432"]}
		keep := func(d time.Duration) int { // for so long, asking as Run does
			for range d / siteEvery {
				s.keepSessions(ctx, &settings.Site{Addresses: all})
				time.Sleep(siteEvery)
				for len(s.sessions.asked) > 0 {
					s.sessions.take(<-s.sessions.answers, true)
				}
			}
			return len(s.sessions.open)
		}
		if n := keep(siteEvery); n != 3 || far["m1:5432"].dialed != 0 {
			t.Errorf("%d sessions at first, and %d more with the primary", n, far["m1:5432"].dialed)
		}
		is := far["m2:5432"].is
		far["m2:5432"].becomes(checks.SiteServer{}, errors.New("it is down"))
		if n := keep(sessionsEvery + siteEvery); n != 2 {
			t.Errorf("%d sessions when one server is down", n)
		}
		far["m2:5432"].becomes(is, nil)
		if n := keep(2 * siteEvery); n != 3 {
			t.Errorf("%d sessions when it is back", n)
		}
		if n := far["m3:5432"].dialed; n != 1 {
			t.Errorf("%d sessions were opened with the server that was there", n)
		}
	})
}

// TestSiteOfStandbys: how many sessions a member of the site that takes the writes opens with the
// other's servers, all of which are standbys: its leader one each, and the others all of them
// anew only every siteRound. Either hears at least one of them each time. A second primary is known
// at once, or at the next round.
func TestSiteOfStandbys(t *testing.T) {
	const rounds = 4
	for leader, c := range map[string]struct{ dialed, open int }{"n1": {3, 3}, "n2": {rounds*2 + 1, 1}} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			far, all := newFarSite()
			for _, server := range far {
				server.is.Standby, server.is.Major = true, 0 // this member's, which was not asked
			}
			o := ha.Observation{Self: "n1"}
			o.Consul.Record.Leader = leader
			s := newSite(&Member{log: hclog.NewNullLogger(), config: new(config.Config), sidecar: new(sidecar.Sidecar), server: &localServer{files: new(postgres.Server)}})
			s.snaps, s.sessions.dial = &decided{now: &sidecar.Snapshot{Observation: o}}, far.dial
			defer s.sessions.end()
			defer cancel()
			of := &settings.Site{Addresses: all}
			look := func() ha.Source {
				began := guard.Now()
				s.look(ctx, of)
				if at := s.Source().HeardAt; at < began {
					t.Fatalf("%s leads: nobody was heard", leader)
				}
				s.wait(ctx)
				return s.Source()
			}
			for range rounds * siteRound / siteEvery {
				look()
			}
			dialed := 0
			for _, server := range far {
				dialed += server.dialed
			}
			if dialed != c.dialed || len(s.sessions.open) != c.open {
				t.Errorf("%s leads: %d sessions were opened, want %d; %d are open, want %d", leader, dialed, c.dialed, len(s.sessions.open), c.open)
			}
			now := far["m3:5432"].is
			now.Standby, now.Position.TLI = false, 2
			far["m3:5432"].becomes(now, nil)
			looks := 1
			for look().Address != "m3:5432" {
				looks++
			}
			if leader == "n1" && looks > 1 || looks > int(siteRound/siteEvery)+1 {
				t.Errorf("%s leads: a second primary was heard of after %d looks", leader, looks)
			}
		})
	}
}

// decided is a shell whose decisions a test makes.
type decided struct {
	now  *sidecar.Snapshot
	next chan *sidecar.Snapshot
}

func (d *decided) Snapshot() *sidecar.Snapshot { return d.now }

func (d *decided) Await(ctx context.Context, done func(*sidecar.Snapshot) bool) (*sidecar.Snapshot, error) {
	for !done(d.now) {
		select {
		case d.now = <-d.next:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return d.now, nil
}

// TestSiteWait: what ends the pause between two questions, and after how long.
func TestSiteWait(t *testing.T) {
	leader := func(receives ha.Tri) *sidecar.Snapshot {
		o := ha.Observation{Self: "n1"}
		o.Consul.Record.StandbyOf, o.Consul.Record.Leader, o.Server.Receiving = "pg@dc1", "n1", receives
		return &sidecar.Snapshot{Observation: o}
	}
	const soon = 40 * time.Millisecond
	for name, c := range map[string]struct {
		now   *sidecar.Snapshot
		event func(*site, farSite, *decided) // after soon
		after time.Duration
		lost  bool // no primary is known then
	}{
		"nothing":                      {now: leader(ha.Yes), after: siteEvery},
		"it receives nothing":          {now: leader(ha.No), after: siteSoon},
		"it receives nothing for long": {now: leader(ha.No), after: siteEvery, event: nil},
		"the primary's session ends": {now: leader(ha.Yes), after: soon, lost: true, event: func(_ *site, far farSite, _ *decided) {
			far["m1:5432"].becomes(checks.SiteServer{}, errors.New("it is down"))
		}},
		"it begins to receive nothing": {now: leader(ha.Yes), after: soon, event: func(_ *site, _ farSite, d *decided) { d.next <- leader(ha.No) }},
		"a slot is to be made": {now: leader(ha.Yes), after: soon, event: func(s *site, far farSite, _ *decided) {
			r := slotRequest{address: "m1:5432", name: "site_pg2_n1", made: make(chan error, 1)}
			if s.slots <- r; <-r.made != nil || !slices.Equal(far["m1:5432"].slots, []string{r.name}) {
				panic("it was not made")
			}
		}},
		"another server that was silent is a primary": {now: leader(ha.No), after: soon, lost: true, event: func(s *site, far farSite, _ *decided) {
			a := siteAnswer{address: "m2:5432", said: far["m1:5432"].is, session: &farSession{farServer: far["m2:5432"]}}
			s.sessions.answers <- a
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				far, all := newFarSite()
				d := &decided{now: c.now, next: make(chan *sidecar.Snapshot)}
				s := newSite(&Member{log: hclog.NewNullLogger()})
				s.snaps, s.name, s.primary = d, "pg@dc1", "m1:5432"
				s.sessions.dial = far.dial
				defer s.sessions.end()
				defer cancel()
				if name == "another server that was silent is a primary" {
					s.primary = ""
				} else {
					s.sessions.take(s.sessions.round(ctx, all[:1])[0], true)
				}
				if name == "it receives nothing for long" {
					s.wait(ctx)
					time.Sleep(siteHurry)
				}
				began := time.Now()
				if c.event != nil {
					go func() {
						time.Sleep(soon)
						c.event(s, far, d)
					}()
				}
				if goesOn := s.wait(ctx); !goesOn || time.Since(began) != c.after || (s.primary == "") != c.lost {
					t.Errorf("it goes on: %t; after %v; primary %q", goesOn, time.Since(began), s.primary)
				}
			})
		})
	}
}

// TestSlotWithoutSession: without a session with the server, the slot is made over a new one.
func TestSlotWithoutSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(&Member{log: hclog.NewNullLogger()})
		server := &localServer{around: around{siteSlots: s.slots}}
		r := slotRequest{address: "m9:5432", made: make(chan error, 1)}
		began := time.Now()
		if server.slotOverSession(t.Context(), &r) || time.Since(began) != slotPatience {
			t.Errorf("nobody answers: after %v", time.Since(began))
		}
		go func() {
			r := <-s.slots
			s.makeSlot(t.Context(), &r)
		}()
		if server.slotOverSession(t.Context(), &r) {
			t.Error("made over no session")
		}
	})
}
