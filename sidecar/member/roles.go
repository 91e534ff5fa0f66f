package member

import (
	"context"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
)

// ensureRoles makes the role that replicates, with its present password.
func (s *localServer) ensureRoles(ctx context.Context) error {
	account := s.config.Load().Postgres.Replication
	secret, err := process.Password(account)
	if err != nil {
		return err
	}
	return s.ensureRole(ctx, checks.Role{Name: account.Name, Password: secret})
}

func (s *localServer) ensureRole(ctx context.Context, role checks.Role) error {
	if err := s.sql.EnsureRoles(ctx, []checks.Role{role}); err != nil {
		return err
	}
	s.mu.Lock()
	s.role = role
	s.mu.Unlock()
	return nil
}

// keepRole gives the role a password that has changed since it was last made: replicas
// log in with the new one from their next connection on. To compare takes the server's
// iterations of SCRAM, so that is done once for each password.
func (s *localServer) keepRole(ctx context.Context) error {
	account := s.config.Load().Postgres.Replication
	secret, err := process.Password(account)
	if err != nil {
		return err
	}
	role := checks.Role{Name: account.Name, Password: secret}
	s.mu.Lock()
	kept := s.role == role
	s.mu.Unlock()
	if kept {
		return nil
	}
	return s.ensureRole(ctx, role)
}
