package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
)

// ConfigFile is the path of a member's pg.hcl.
func (h Host) ConfigFile() string { return filepath.Join(h.Dir, "pg.hcl") }

// Refusal is what a command of pgsidecar said that did not do it.
type Refusal struct {
	Command string
	Said    string
	err     error
}

func (r *Refusal) Error() string { return fmt.Sprintf("%s: %v: %s", r.Command, r.err, r.Said) }

// Unwrap returns how the command ended.
func (r *Refusal) Unwrap() error { return r.err }

// Pgsidecar runs a command of pgsidecar on a member's host, with its configuration, as an
// operator does there who types this where he is asked, and returns what it says. One that
// ends with another status than 0, or not within the context, is a *Refusal.
func (l *Lab) Pgsidecar(ctx context.Context, host, typed string, args ...string) (string, error) {
	h, err := l.plan.Host(host)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, l.plan.Binary, append(args, "-config", h.ConfigFile())...)
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.WaitDelay = strings.NewReader(typed+"\n"), &said, &said, h.Dir, time.Second
	cmd.Env = append(os.Environ(), EnvMark+"="+l.plan.ID+"/"+h.Name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = within(h.Namespace, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	text := strings.TrimSpace(said.String())
	if err != nil {
		return text, &Refusal{Command: "pgsidecar " + strings.Join(args, " ") + " on " + host, Said: text, err: err}
	}
	return text, nil
}

// StatusOf asks a member's sidecar for its status.
func (l *Lab) StatusOf(ctx context.Context, member string) (*api.Status, error) {
	h, err := l.plan.Host(member)
	if err != nil {
		return nil, err
	}
	dial, err := l.Dialer(l.plan.App().Name)
	if err != nil {
		return nil, err
	}
	st, err := client.New(client.Options{Dial: dial}).StatusOf(ctx, h.APIAddress())
	if err != nil {
		return nil, fmt.Errorf("ask %s for its status: %w", member, err)
	}
	return st, nil
}
