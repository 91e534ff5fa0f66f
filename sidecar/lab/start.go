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

// startAgents starts Consul on every host.
func (l *Lab) startAgents() error {
	for _, h := range l.plan.Hosts {
		if err := l.startConsul(h); err != nil {
			return err
		}
	}
	return nil
}

// startApp starts what runs on the application's host, in a Consul whose ACLs are made.
func (l *Lab) startApp(ctx context.Context) error {
	if l.plan.Breakable {
		if err := l.makeACLs(ctx); err != nil {
			return err
		}
	}
	for _, program := range l.appRuns() {
		if err := l.Start(ctx, l.plan.App().Name, program); err != nil {
			return err
		}
	}
	return nil
}

// startingMembers is what startMembers is announced with; empty: there is nothing to start.
func (l *Lab) startingMembers() string {
	if !l.hasMembers() {
		return ""
	}
	return "starting the members"
}

// startMembers starts the members, if the lab runs any.
func (l *Lab) startMembers(ctx context.Context) error {
	if !l.hasMembers() {
		return nil
	}
	for _, h := range l.plan.Members() {
		if err := l.Start(ctx, h.Name, Sidecar); err != nil {
			return err
		}
	}
	return nil
}
