package proxy

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/templates"
)

// lagEvery is how often the members are asked how far they are behind, where a
// template wants to know.
const lagEvery = 5 * time.Second

// lagPoller are how far the replicas are behind. Consul does not know: what changes all the
// time is not written there. So a member's API is asked, the leader's first.
type lagPoller struct {
	config *config.Config
	log    hclog.Logger

	mu      sync.Mutex
	known   map[string]uint64 // bytes, by member
	problem string
}

// wantsLags reports whether a file's template wants to know.
func wantsLags(files []templates.File) bool {
	return slices.ContainsFunc(files, func(f templates.File) bool { return f.Template.Mentions("Lag", "LagKnown") })
}

// get returns what was last answered; nil: nobody answers.
func (l *lagPoller) get() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known
}

// run asks until the context ends, and calls changed after each answer that differs.
func (l *lagPoller) run(ctx context.Context, view func() sessions.View, changed func()) {
	again := time.NewTimer(lagEvery)
	defer again.Stop()
	for {
		v := view()
		known, err := l.ask(ctx, v)
		if l.note(known, err) {
			changed()
		}
		if len(v.Members) == 0 {
			again.Reset(100 * time.Millisecond) // Consul has not been read yet
		} else {
			again.Reset(lagEvery)
		}
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// note keeps an answer, and reports whether it is another one.
func (l *lagPoller) note(known map[string]uint64, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if problem != l.problem && problem != "" {
		l.log.Warn("how far replicas are behind is not known", "error", problem)
	}
	l.problem = problem
	same := (l.known == nil) == (known == nil) && maps.Equal(l.known, known)
	l.known = known
	return !same
}

// ask asks the leader, and if it does not answer the others in turn.
func (l *lagPoller) ask(ctx context.Context, v sessions.View) (map[string]uint64, error) {
	members := slices.Clone(v.Members)
	slices.SortStableFunc(members, func(a, b sessions.Member) int {
		switch leader := v.Consul.Record.Leader; {
		case a.Name == leader && b.Name != leader:
			return -1
		case b.Name == leader && a.Name != leader:
			return 1
		}
		return 0
	})
	security, err := proxyTLS(l.config)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if m.API == "" {
			continue
		}
		var known map[string]uint64
		if known, err = askLags(ctx, m.API, security); err == nil {
			return known, nil
		}
	}
	return nil, err
}

// askLags asks one API.
func askLags(ctx context.Context, address string, security *tls.Config) (map[string]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	text, err := client.New(client.Options{TLS: security, Secure: security != nil}).Ask(ctx, http.MethodGet, address, "/cluster", nil)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Members []struct {
			Name string          `json:"name"`
			Lag  json.RawMessage `json:"replay_lag"` // a number, or "unknown"; the leader has none
		} `json:"members"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("ask %s: %w", address, err)
	}
	known := map[string]uint64{}
	for _, m := range answer.Members {
		var bytes uint64
		if m.Lag != nil && json.Unmarshal(m.Lag, &bytes) == nil {
			known[m.Name] = bytes
		}
	}
	return known, nil
}

// proxyTLS is how the members' APIs are asked: a member's own certificate, or what
// HAProxy's checks have; nil: without TLS. Files are read each time.
func proxyTLS(cfg *config.Config) (*tls.Config, error) {
	if t := client.TLS(cfg.API.TLS); t != nil {
		return t, nil
	}
	h := cfg.HAProxy
	if h.CheckCAFile == "" {
		return nil, nil
	}
	t, err := client.TLSFiles(h.CheckCAFile, h.CheckCertFile, h.CheckCertFile)
	if err != nil {
		return nil, fmt.Errorf("read check_ca_file and check_cert_file: %w", err)
	}
	return t, nil
}
