package member

import (
	"context"
	"errors"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
)

// ensureRoles makes the role that replicates, with its present password.
func (s *localServer) ensureRoles(ctx context.Context) error {
	role, err := wantedRole(s.config.Load().Postgres.Replication, false)
	if err != nil {
		return err
	}
	return s.ensureRole(ctx, role)
}

func (s *localServer) ensureRole(ctx context.Context, role checks.Role) error {
	changed, err := s.sql.EnsureRoles(ctx, []checks.Role{role})
	if err != nil {
		return err
	}
	s.mu.Lock()
	before := s.kept.roles
	s.kept.roles = map[string]checks.Role{role.Name: role}
	for name, other := range before {
		if name != role.Name {
			s.kept.roles[name] = other
		}
	}
	s.mu.Unlock()
	if changed {
		s.log.Info("role made or changed: it has the password and the rights that the configuration says", "role", role.Name)
	}
	return nil
}

// wantedRole is an account as its files now say.
func wantedRole(account config.Account, superuser bool) (checks.Role, error) {
	secret, err := process.Password(account)
	return checks.Role{Name: account.Name, Password: secret, Superuser: superuser}, err
}

// keepRoles gives the roles of the configuration a password that has changed since it was
// last given: replicas, and people, log in with the new one from their next connection on,
// and sessions that are open stay. To compare takes the server's iterations of SCRAM, so
// that is done once for each password. What a person took from a role is given back too: a
// NOLOGIN, or a last day (VALID UNTIL), would keep replicas from the next primary. A superuser
// without a password in the configuration is left alone.
func (s *localServer) keepRoles(ctx context.Context) error {
	pg := s.config.Load().Postgres
	replication, err1 := wantedRole(pg.Replication, false)
	superuser, err2 := wantedRole(pg.Superuser, true)
	var failed error
	for _, want := range []struct {
		role checks.Role
		err  error
	}{{replication, err1}, {superuser, err2}} {
		s.mu.Lock()
		same := s.kept.roles[want.role.Name] == want.role
		s.mu.Unlock()
		if want.err == nil && same {
			same, want.err = s.sql.RoleHolds(ctx, want.role)
		}
		if want.err == nil && !same && (want.role.Password != "" || !want.role.Superuser) {
			want.err = s.ensureRole(ctx, want.role)
		}
		failed = errors.Join(failed, want.err)
	}
	return failed
}

// keepCertificate has the server read the files of its certificate when they have changed:
// who connects from then on sees the new one, and sessions that are open stay. Files that
// PostgreSQL cannot use leave it with those that it has read.
func (s *localServer) keepCertificate(ctx context.Context) error {
	files, err := s.sql.CertificateFiles(ctx)
	if err != nil || len(files) == 0 {
		return err
	}
	state := s.files.FilesState(files)
	s.mu.Lock()
	before := s.kept.certificate
	s.mu.Unlock()
	if state == before {
		return nil
	}
	if err := s.files.Reread(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	s.kept.certificate = state
	s.mu.Unlock()
	if before != "" { // at the first look they may be the ones that the server has
		s.log.Info("the files of the server's certificate have changed; the server reads them again", "files", files)
	}
	return nil
}
