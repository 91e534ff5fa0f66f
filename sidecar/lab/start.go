package lab

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
)

// Start starts a program of a host that does not run: Consul, Sidecar, HAProxy,
// Proxy or PgBouncer.
func (l *Lab) Start(ctx context.Context, host string, program Program) error {
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	switch program {
	case Consul:
		return l.startConsul(h)
	case Sidecar:
		if l.agent != nil {
			return l.start(h, Sidecar, l.agent.Command(l.plan, h)...)
		}
		return l.start(h, Sidecar, l.plan.Binary, "run", "-config", filepath.Join(h.Dir, "pg.hcl"))
	case HAProxy:
		return l.startHAProxy(ctx, h)
	case Proxy:
		return l.start(h, Proxy, l.plan.Binary, "proxy", "-config", filepath.Join(h.Dir, "proxy.hcl"))
	case PgBouncer:
		return l.startPgBouncer(h)
	}
	return fmt.Errorf("%w: %s is not started by the lab", ErrOption, program)
}

// StartHost starts what of a host does not run, after KillHost: as a machine
// that boots.
func (l *Lab) StartHost(ctx context.Context, host string) error {
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	runs := []Program{Consul}
	switch {
	case h.Kind == KindApp:
		runs = append(runs, l.appRuns()...)
	case h.Kind == KindMember && l.hasMembers():
		runs = append(runs, Sidecar)
	}
	for _, program := range runs {
		if _, err := l.PID(host, program); err == nil {
			continue
		} else if !errors.Is(err, ErrNotRunning) {
			return err
		}
		if err := l.Start(ctx, host, program); err != nil {
			return err
		}
	}
	return nil
}
