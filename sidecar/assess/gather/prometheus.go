package gather

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/assess"
)

// outsideTimeout bounds each request to Prometheus and to the runbook's address, and
// listTimeout that for the list of backups, for which a member asks its engine.
const (
	outsideTimeout = 5 * time.Second
	listTimeout    = 40 * time.Second
)

// maxOutside in bytes of an answer.
const maxOutside = 4 << 20

// rulePrefix begins the names of the rules that `pgsidecar files alerts` prints.
const rulePrefix = "Pgsidecar"

func (l *look) alerts(ctx context.Context) assess.Fact[assess.Alerts] {
	if l.Prometheus == "" {
		return assess.Unknown[assess.Alerts]("name Prometheus with --prometheus http://HOST:9090")
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Name string `json:"name"`
			} `json:"rules"`
		} `json:"groups"`
	}
	var managers struct {
		Active []struct{} `json:"activeAlertmanagers"`
	}
	err := errors.Join(l.prometheus(ctx, "rules?type=alert", &rules), l.prometheus(ctx, "alertmanagers", &managers))
	if err != nil {
		return assess.Unknown[assess.Alerts](strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	found := assess.Alerts{Receivers: len(managers.Active)}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if strings.HasPrefix(r.Name, rulePrefix) {
				found.Rules++
			}
		}
	}
	return assess.Known(found)
}

// prometheus reads the data of an answer of its API.
func (l *look) prometheus(ctx context.Context, path string, data any) error {
	text, err := l.get(ctx, strings.TrimSuffix(l.Prometheus, "/")+"/api/v1/"+path)
	if err != nil {
		return fmt.Errorf("ask Prometheus: %w", err)
	}
	var answer struct {
		Status string          `json:"status"`
		Error  string          `json:"error"`
		Data   json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("ask Prometheus: its answer is not that of its API: %w", err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("ask Prometheus: it answers %q: %s", answer.Status, answer.Error)
	}
	if err := json.Unmarshal(answer.Data, data); err != nil {
		return fmt.Errorf("read Prometheus's %s: %w", path, err)
	}
	return nil
}

func (l *look) get(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, outsideTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	res, err := l.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxOutside))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", req.URL.Redacted(), err)
	}
	if res.StatusCode >= http.StatusBadRequest {
		return text, statusError{req.URL.Redacted(), res.StatusCode}
	}
	return text, nil
}

// statusError is an answer that is none.
type statusError struct {
	address string
	status  int
}

func (e statusError) Error() string {
	return fmt.Sprintf("%s answers %d %s", e.address, e.status, http.StatusText(e.status))
}

// runbook is what the settings name, and whether it answers. That it wants a login shows
// that it is there.
func (l *look) runbook(ctx context.Context) assess.Fact[assess.Runbook] {
	var set struct {
		Runbook string `json:"runbook"`
	}
	if err := l.ask(ctx, "/config", &set); err != nil {
		return assess.Unknown[assess.Runbook](err.Error())
	}
	found := assess.Runbook{Address: set.Runbook}
	if set.Runbook == "" {
		return assess.Known(found)
	}
	_, err := l.get(ctx, set.Runbook)
	var refused statusError
	if errors.As(err, &refused) && (refused.status == http.StatusUnauthorized || refused.status == http.StatusForbidden) {
		err = nil
	}
	if err != nil {
		found.Problem = err.Error()
	}
	return assess.Known(found)
}
