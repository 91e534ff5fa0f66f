package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
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
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+h.APIAddress()+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("post %s to %s: %w", path, member, err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	answer, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("post %s to %s: %w", path, member, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4096))
	if err != nil {
		return fmt.Errorf("post %s to %s: %w", path, member, err)
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("post %s to %s: %s: %s", path, member, answer.Status, strings.TrimSpace(string(text)))
	}
	return nil
}
