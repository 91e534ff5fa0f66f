package lab

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/client"
)

// Change posts to a member's API, from the application's host and with the
// token, as `pgsidecar switchover` does.
func (l *Lab) Change(ctx context.Context, member, path string, body []byte) error {
	h, err := l.plan.Host(member)
	if err != nil {
		return err
	}
	token, err := l.plan.secret(apiToken)
	if err != nil {
		return err
	}
	dial, err := l.Dialer(l.plan.App().Name)
	if err != nil {
		return err
	}
	if _, err := client.New(client.Options{Dial: dial, Token: token}).Ask(ctx, http.MethodPost, h.APIAddress(), path, body); err != nil {
		return fmt.Errorf("post %s to %s: %w", path, member, err)
	}
	return nil
}

// askTimeout is how long a sidecar may take to say what it is.
const askTimeout = 2 * time.Second

// ask gets a path of a member's API, which answers at once whether it is so.
func (l *Lab) ask(ctx context.Context, h Host, path string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	dial, err := l.Dialer(l.plan.App().Name)
	if err != nil {
		return err
	}
	if _, err := client.New(client.Options{Dial: dial}).Ask(ctx, http.MethodGet, h.APIAddress(), path, nil); err != nil {
		return fmt.Errorf("ask %s for %s: %w", h.Name, path, err)
	}
	return nil
}
