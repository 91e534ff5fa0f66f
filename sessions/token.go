package sessions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// token is the ACL token, and the file it comes from.
type token struct {
	file string

	mu    sync.Mutex
	value string
	read  os.FileInfo // the file as it was when value was read
}

// current returns the token, reading its file again if that was changed or
// replaced. If it cannot be read now, the last good token is returned beside
// the error.
func (t *token) current() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == "" {
		return t.value, nil
	}
	info, err := os.Stat(t.file)
	if err != nil {
		return t.value, fmt.Errorf("look at the token file: %w", err)
	}
	if t.read != nil && os.SameFile(t.read, info) && t.read.ModTime().Equal(info.ModTime()) && t.read.Size() == info.Size() {
		return t.value, nil
	}
	content, err := os.ReadFile(t.file)
	if err != nil {
		return t.value, fmt.Errorf("read the token file: %w", err)
	}
	value := string(bytes.TrimSpace(content))
	if value == "" {
		// Written in two steps by someone; the next call looks again.
		return t.value, fmt.Errorf("read the token file: %w", errors.New(t.file+" is empty"))
	}
	t.value, t.read = value, info
	return value, nil
}

// recorder is the HTTP transport of every request: it adds the newest token,
// and notes in the request's exchange what came back.
type recorder struct {
	next      http.RoundTripper
	token     *token
	requested func(operation string, took time.Duration, err error)
}

// maxErrorBody is how much of a refusal is kept, in bytes.
const maxErrorBody = 4 << 10

// RoundTrip does one request, and tells how long it took.
func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	if r.requested == nil || req.URL.Query().Has("index") {
		return r.roundTrip(req)
	}
	began := time.Now()
	resp, err := r.roundTrip(req)
	told := err
	if err == nil && resp.StatusCode >= http.StatusBadRequest && resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusConflict {
		told = errors.New(resp.Status)
	}
	if !errors.Is(err, context.Canceled) { // nobody waits for it any more: it says nothing about Consul
		r.requested(operation(req), time.Since(began), told)
	}
	return resp, err
}

// operation names what a request asks for, without the names of keys, sessions
// and services.
func operation(req *http.Request) string {
	path := strings.Split(strings.TrimPrefix(req.URL.Path, "/v1/"), "/")
	switch path[0] {
	case "kv":
		return "kv " + strings.ToLower(req.Method)
	case "txn":
		return "txn"
	case "session", "agent", "catalog", "health", "status":
		if len(path) > 1 {
			return path[0] + " " + path[1]
		}
	}
	return "other"
}

func (r *recorder) roundTrip(req *http.Request) (*http.Response, error) {
	value, err := r.token.current()
	if value == "" && err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Del("X-Consul-Token")
	if value != "" {
		req.Header.Set("X-Consul-Token", value)
	}
	resp, err := r.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	ex, ok := req.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		return resp, nil
	}
	ex.status.Store(int64(resp.StatusCode))
	// 409 is the answer of a transaction that was refused, 429 and 503 those
	// of a service with bad checks: all with a body that someone else reads.
	if resp.StatusCode >= http.StatusBadRequest && resp.Header.Get("Content-Type") != "application/json" && resp.StatusCode != http.StatusConflict {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		text := string(body)
		ex.body.Store(&text)
		resp.Body = io.NopCloser(bytes.NewReader(body))
	}
	return resp, nil
}
