package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Agent runs the members in pgsidecar's place, so that another program can be
// measured on the same hosts, with the same Consul, HAProxy and load. Where the
// lab speaks of Sidecar it means this program then; there is no Guard and no
// Proxy, and HAProxy's configuration is the Agent's for good.
//
// A lab that was opened (Open) does not know its Agent: it can be taken down,
// and no more.
type Agent interface {
	// Files returns what the program needs on a member's host, by name in the
	// host's folder. They are readable by PostgreSQL's user alone.
	Files(p *Plan, h Host) (map[string][]byte, error)
	// Command returns the command line that runs a member. It is run by the user
	// who runs the lab, and is to make itself Plan.User's if that is not empty. The
	// process that it starts is the one that lives on.
	Command(p *Plan, h Host) []string
	// HAProxy returns haproxy.cfg. Its socket is Plan.HAProxySocket.
	HAProxy(p *Plan) ([]byte, error)
	// Whole asks the members for the primary, and why the cluster could not stand
	// its loss yet: empty, if it could. The lab asks again while it could not, and
	// sees for itself whether all others stream.
	Whole(ctx context.Context, l *Lab) (primary, why string)
}

// hasMembers reports whether the lab runs members.
func (l *Lab) hasMembers() bool { return l.plan.Binary != "" || l.agent != nil }

// writeAgentFiles writes the Agent's files for a member.
func (l *Lab) writeAgentFiles(h Host) error {
	files, err := l.agent.Files(l.plan, h)
	if err != nil {
		return fmt.Errorf("make the configuration of %s: %w", h.Name, err)
	}
	for name, content := range files {
		path := filepath.Join(h.Dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return fmt.Errorf("write the configuration of %s: %w", h.Name, err)
		}
		if err := l.own(path); err != nil {
			return err
		}
	}
	return nil
}

// writeAgentHAProxy puts the Agent's haproxy.cfg in place of the lab's.
func (l *Lab) writeAgentHAProxy(app Host) error {
	b, err := l.agent.HAProxy(l.plan)
	if err != nil {
		return fmt.Errorf("make haproxy.cfg: %w", err)
	}
	if err := os.WriteFile(filepath.Join(app.Dir, "haproxy.cfg"), b, 0o644); err != nil {
		return fmt.Errorf("write haproxy.cfg: %w", err)
	}
	return nil
}

// waitAgentWhole is WaitReady for members that an Agent runs. Nobody tells when
// they are ready, so they are asked.
func (l *Lab) waitAgentWhole(ctx context.Context) error {
	var why string
	err := every(ctx, 200*time.Millisecond, func() (bool, error) {
		var primary string
		if primary, why = l.agent.Whole(ctx, l); why != "" {
			return false, nil
		}
		if err := l.waitStreaming(ctx, primary); err != nil {
			why = err.Error()
			return false, nil
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the cluster (%s): %w", why, err)
	}
	return nil
}
