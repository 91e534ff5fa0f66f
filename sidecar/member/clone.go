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
	"github.com/pgsidecar/pgsidecar/sidecar/process"
)

// cloneOf is whom to clone. A copy of another member than the leader may lack what the
// leader had when it began, and this member has acknowledged: so the leader is asked
// where it is, and cloned itself if it does not say.
func (s *localServer) cloneOf(ctx context.Context, leader postgres.Source) postgres.Source {
	chosen := s.cloneSource(leader)
	if chosen.Member == leader.Member {
		return leader
	}
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	owed, err := checks.WhereIs(ask, s.upstream(leader), s.replicationPassword)
	if err != nil {
		s.log.Warn("the leader did not report its position; cloning from the leader instead", "leader", leader.Member, "instead_of", chosen.Member, "error", err)
		return leader
	}
	chosen.Owed = owed
	return chosen
}

// baseBackup copies the source's data directory, and logs how far it has come.
func (s *localServer) baseBackup(ctx context.Context, a ha.Action, leader postgres.Source) error {
	from := leader
	if !ha.IsSite(a.From) {
		from = s.cloneOf(ctx, leader)
	}
	from = s.surveyed(ctx, from)
	defer s.copies.progress.Store(nil)
	err := s.files.Clone(ctx, from, s.progress("cloning", from.Member))
	switch {
	case err == nil:
		s.cloneNextFrom("")
	case from.Member != leader.Member && ctx.Err() == nil:
		s.avoid(from.Member)
	}
	return err
}

// avoid notes that a copy of the replica came to nothing.
func (s *localServer) avoid(member string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.copies.avoided, s.copies.avoidedAt = member, time.Now()
}

// upstream is another member's server as a replica asks it.
func (s *localServer) upstream(source postgres.Source) checks.Upstream {
	cfg := s.config.Load()
	return checks.Upstream{Host: source.Host, Port: source.Port, User: cfg.Postgres.Replication.Name,
		Self: cfg.Member, Timeout: askTimeout, More: postgres.TLS(cfg.Postgres.TLS).Conninfo()}
}

// advertisedEvery is between two looks at what answers at the advertised address.
const advertisedEvery = time.Minute

// misled says what answers at the address that the others are told, if that is another than
// the server listens on, and not this member's server.
func (s *localServer) misled(ctx context.Context) string {
	pg := &s.config.Load().Postgres
	host, portText, err := net.SplitHostPort(pg.Advertise)
	port, notNumber := strconv.Atoi(portText)
	if pg.Advertise == pg.Listen || errors.Join(err, notNumber) != nil {
		return ""
	}
	s.mu.Lock()
	said, fresh := s.kept.misled, time.Since(s.kept.askedAt) < advertisedEvery
	s.mu.Unlock()
	if fresh {
		return said
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	said = checks.Misled(ctx, s.upstream(postgres.Source{Host: host, Port: port}), s.replicationPassword)
	if said != "" {
		said = "postgres.advertise is " + pg.Advertise + ", and " + said
	}
	s.mu.Lock()
	s.kept.misled, s.kept.askedAt = said, time.Now()
	s.mu.Unlock()
	return said
}

// conninfo is how the server reaches another member's, or another site's: there it has a
// name that none of that cluster's members can have, as those count for its commits (S4).
func (s *localServer) conninfo(source postgres.Source) string {
	self := s.config.Load().Member
	if ha.IsSite(source.Member) {
		self = ha.SiteWalsender(s.config.Load().Cluster, self)
	}
	return checks.ConnInfo(checks.Upstream{
		Service: postgres.Service(source.Member), Host: source.Host, Port: source.Port, User: s.config.Load().Postgres.Replication.Name,
		Passfile: s.files.Passfile(), Self: self, Timeout: s.config.Load().Failover.FailureTimeout, More: postgres.TLS(s.config.Load().Postgres.TLS).Conninfo(),
	})
}

func (s *localServer) replicationPassword() (string, error) {
	return process.Password(s.config.Load().Postgres.Replication)
}

// surveyed returns the source with its major version and where its tablespaces are. If
// it does not say, the copy itself will meet the reason.
func (s *localServer) surveyed(ctx context.Context, source postgres.Source) postgres.Source {
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	survey, err := checks.SurveyOf(ask, s.upstream(source), s.replicationPassword)
	if err != nil {
		s.log.Debug("version and tablespaces of the source are not known", "source", source.Member, "error", err)
	}
	source.Major, source.Spaces = survey.Version/10000, survey.Tablespaces
	return source
}

// askTimeout bounds a question to another member's server.
const askTimeout = 5 * time.Second
