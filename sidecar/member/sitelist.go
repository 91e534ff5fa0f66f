package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// siteList is what Consul said of the other site's servers.
type siteList struct {
	name          string // of the site
	servers, apis []string
	err           error
	at            time.Time // of the question
}

// servers finds the addresses of the other site's servers. While Consul does not answer those
// that it last named are asked; where there are none its answer is awaited.
func (s *site) servers(ctx context.Context, of *settings.Site) error {
	if of.Service == "" {
		s.listed(&siteList{name: s.name, servers: of.Addresses, apis: of.APIs})
		return nil
	}
	every := siteEvery
	if s.sessions.withAll(s.known) {
		every = sessionsEvery
	}
	if !s.listing && (len(s.known) == 0 || time.Since(s.found.at) >= every) {
		s.listing = true
		s.sessions.tasks.Go(func() {
			l := s.member.siteServers(ctx, of)
			select {
			case s.lists <- l:
			case <-ctx.Done():
			}
		})
	}
	if len(s.known) == 0 {
		select {
		case l := <-s.lists:
			s.listed(&l)
		case <-ctx.Done():
		}
	}
	if s.found.err == nil && len(s.known) == 0 {
		return errors.New("no server is registered as " + of.Name())
	}
	return s.found.err
}

// listed takes over a list; one without servers leaves those that are known.
func (s *site) listed(l *siteList) {
	s.listing = false
	if l.name != s.name {
		return
	}
	s.found = *l
	if len(l.servers) > 0 {
		s.known = l.servers
		s.setAPIs(l.apis)
	}
}

// siteServers asks Consul for the other site's servers.
func (m *Member) siteServers(ctx context.Context, of *settings.Site) siteList {
	l := siteList{name: of.Name(), at: time.Now()}
	found, err := m.cluster.Site(ctx, of.Service, of.Datacenter)
	l.err = err
	for i := range found {
		l.servers = append(l.servers, found[i].Postgres)
		if found[i].API != "" {
			l.apis = append(l.apis, found[i].API)
		}
	}
	if len(of.APIs) > 0 {
		l.apis = of.APIs
	}
	return l
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
