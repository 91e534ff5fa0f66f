package member

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
)

// slotAt is this member's slot on the server that it is to receive from: at another site's
// it is made here, as nobody there knows of this member.
func (s *localServer) slotAt(ctx context.Context, source postgres.Source) (string, error) {
	cfg := s.config.Load()
	if !ha.IsSite(source.Member) {
		return checks.SlotName(cfg.Member), nil
	}
	r := slotRequest{address: net.JoinHostPort(source.Host, strconv.Itoa(source.Port)), name: checks.SiteSlot(cfg.Cluster, cfg.Member), made: make(chan error, 1)}
	others := s.others().members
	for _, m := range others {
		r.drop = append(r.drop, checks.SiteSlot(cfg.Cluster, m))
	}
	if s.slotOverSession(ctx, &r) {
		return r.name, nil
	}
	return r.name, s.makeSlot(ctx, s.upstream(source), &r)
}

// slotRequest is a slot to be made on a server of the other site, and those that are not used
// any more then.
type slotRequest struct {
	address, name string
	drop          []string
	made          chan error // has room for the one answer
}

// errNoSession: the slot is to be made over a session of its own.
var errNoSession = errors.New("no session with that server")

// slotPatience is how long the one who has the sessions may be busy.
const slotPatience = 500 * time.Millisecond

// slotOverSession makes the slot over the session that the site's watcher has with the server,
// if it has one, and reports whether it did.
func (s *localServer) slotOverSession(ctx context.Context, r *slotRequest) bool {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	busy := time.NewTimer(slotPatience)
	defer busy.Stop()
	select {
	case s.siteSlots <- *r:
	case <-busy.C:
		return false
	case <-ctx.Done():
		return false
	}
	select {
	case err := <-r.made:
		return err == nil
	case <-ctx.Done():
		return false
	}
}

// makeSlot carries out a request: the slot is there when that is answered, and those that are
// not used any more are dropped after it.
func (s *site) makeSlot(ctx context.Context, r *slotRequest) {
	session := s.sessions.open[r.address]
	if session == nil {
		r.made <- errNoSession
		return
	}
	ctx, cancel := context.WithTimeout(ctx, siteAnswerTime)
	defer cancel()
	err := session.EnsureSlot(ctx, r.name)
	r.made <- err
	for _, name := range r.drop {
		if err == nil {
			err = session.DropSlot(ctx, name)
		}
	}
	if err != nil {
		s.log.Warn("cannot make this member's slot on the other site's primary, or drop those that are not used any more", "slot", r.name, "error", err)
	}
}

// makeSlot makes the slot over a session of its own, and drops those of members that streamed
// from there before it and do not any more.
func (s *localServer) makeSlot(ctx context.Context, to checks.Upstream, r *slotRequest) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := checks.DialSite(ctx, to, s.replicationPassword)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // the server ends the session either way
	if err := conn.EnsureSlot(ctx, r.name); err != nil {
		return err
	}
	for _, name := range r.drop {
		if err := conn.DropSlot(ctx, name); err != nil {
			s.log.Warn("a slot on the other site's primary stays", "slot", name, "error", err)
		}
	}
	return nil
}
