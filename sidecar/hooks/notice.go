package hooks

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Notice is a request that is sent when something happens.
type Notice struct {
	Name string
	On   []Kind
	URL  string // may be a secret by itself: it is never logged
	// Format is that of the body: FormatJSON, FormatAlertmanager, FormatPagerDuty or
	// FormatOpsgenie.
	Format string
	// KeyFile has the key that signs the body (FormatJSON, FormatAlertmanager), or the
	// receiver's own: PagerDuty's routing key, Opsgenie's API key. It is read for each
	// request, so that a changed file counts. Empty: there is none.
	KeyFile string
	Timeout time.Duration // of one attempt
}

// ErrRefused: the receiver answered that it will not have the request, so it is not
// sent again.
var ErrRefused = errors.New("the receiver refuses it")

// attempts is how often a request is sent at most, with pauses of 1, 2, 4, 8 and 16 s.
const attempts = 6

// SignatureHeader has "sha256=" and the HMAC-SHA256 of the body, in hexadecimal.
const SignatureHeader = "X-Pgsidecar-Signature"

// noticeTarget sends one notice's requests.
type noticeTarget struct {
	notice Notice
	client *http.Client
	pause  time.Duration // after the first attempt
}

// deliver sends one event, again and again while it may help.
func (n *noticeTarget) deliver(ctx context.Context, e *Event) error {
	pause := n.pause
	for attempt := 1; ; attempt++ {
		err := n.send(ctx, e)
		if err == nil || errors.Is(err, ErrRefused) || ctx.Err() != nil {
			return err
		}
		if attempt == attempts {
			return fmt.Errorf("%d attempts: %w", attempts, err)
		}
		again := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			again.Stop()
			return err
		case <-again.C:
		}
		pause *= 2
	}
}

// send makes one attempt.
func (n *noticeTarget) send(ctx context.Context, e *Event) error {
	ctx, cancel := context.WithTimeout(ctx, n.notice.Timeout)
	defer cancel()
	key := ""
	if n.notice.KeyFile != "" {
		text, err := os.ReadFile(n.notice.KeyFile)
		if err != nil {
			return fmt.Errorf("read the key: %w", err)
		}
		key = strings.TrimSpace(string(text))
	}
	body, err := formats[n.notice.Format](e, key)
	if err != nil {
		return fmt.Errorf("write the event: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.address(e), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make the request: %w: %w", ErrRefused, err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "pgsidecar")
	switch {
	case key == "" || n.notice.Format == FormatPagerDuty: // PagerDuty's is in the body
	case n.notice.Format == FormatOpsgenie:
		req.Header.Set("Authorization", "GenieKey "+key)
	default:
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write(body)
		req.Header.Set(SignatureHeader, "sha256="+hex.EncodeToString(mac.Sum(nil)))
	}
	resp, err := n.client.Do(req)
	if err != nil {
		var at *url.Error
		if errors.As(err, &at) {
			err = at.Err // without the address, which may be a secret by itself
		}
		return fmt.Errorf("send it: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	switch code := resp.StatusCode; {
	case code < 300:
		return nil
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return fmt.Errorf("the receiver answers %s", resp.Status)
	default:
		return fmt.Errorf("%w: it answers %s", ErrRefused, resp.Status)
	}
}

// address is where an event is sent: Opsgenie closes an alert at an address of its own.
func (n *noticeTarget) address(e *Event) string {
	if n.notice.Format == FormatOpsgenie && e.Kind == Unblocked {
		return strings.TrimSuffix(n.notice.URL, "/") + "/" + url.PathEscape(e.topic()) + "/close?identifierType=alias"
	}
	return n.notice.URL
}

// newClient follows no redirection: it would carry the body and the key elsewhere.
func newClient() *http.Client {
	return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
