package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/templates"
)

const (
	// elsewhereTimeout bounds one question to another host, and elsewhereAtOnce is how many
	// are asked side by side.
	elsewhereTimeout = 2 * time.Second
	elsewhereAtOnce  = 8
	// maxElsewhere is how many hosts are asked; a page shows no more.
	maxElsewhere = 64
)

// metaAPI of a proxy's registration is where its status is: host:port.
const metaAPI = "api"

// routesElsewhere asks the registered proxies, and the other members that switch HAProxy or
// PgBouncer, where they lead clients. An error says why the proxies are not known.
func (m *Member) routesElsewhere(ctx context.Context) ([]api.RouteElsewhere, error) {
	proxies, unknown := m.cluster.Proxies(ctx)
	var members []sessions.Member
	for _, other := range m.cluster.View().Members {
		if other.Name != m.config.Member && other.API != "" {
			members = append(members, other)
		}
	}
	proxies = proxies[:min(len(proxies), maxElsewhere)]
	members = members[:min(len(members), maxElsewhere-len(proxies))]
	all := make([]api.RouteElsewhere, len(proxies)+len(members))
	var asked errgroup.Group
	asked.SetLimit(elsewhereAtOnce)
	for i, p := range proxies {
		asked.Go(func() error { all[i] = routesOfProxy(ctx, p); return nil })
	}
	for i, other := range members {
		asked.Go(func() error { all[len(proxies)+i] = m.routesOfMember(ctx, other); return nil })
	}
	_ = asked.Wait() // each has its own problem
	routes := all[:0]
	for _, r := range all {
		if r.Problem != "" || len(r.Templates) > 0 {
			routes = append(routes, r)
		}
	}
	return routes, unknown
}

// routesOfProxy asks a `pgsidecar proxy`, whose status has no TLS.
func routesOfProxy(ctx context.Context, p sessions.Member) api.RouteElsewhere {
	r := api.RouteElsewhere{Host: p.Node, Check: p.Status}
	address := p.Meta[metaAPI]
	if address == "" {
		r.Problem = `its registration does not say where its status is (meta "api", see pgsidecar help proxy)`
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, elsewhereTimeout)
	defer cancel()
	text, err := client.New(client.Options{}).Ask(ctx, http.MethodGet, address, "/status", nil)
	if err == nil {
		r.Templates, err = agentStatus(text)
	}
	if err != nil {
		r.Problem = oneLine(err)
	}
	return r
}

// routesOfMember asks another member; without Templates and Problem: it switches nothing.
func (m *Member) routesOfMember(ctx context.Context, other sessions.Member) api.RouteElsewhere {
	r := api.RouteElsewhere{Host: other.Name}
	ctx, cancel := context.WithTimeout(ctx, elsewhereTimeout)
	defer cancel()
	st, err := m.statusOf(ctx, other.API)
	if err != nil || len(st.Templates) == 0 {
		return r // that it is away is shown by its own card
	}
	if r.Templates, err = agentStatus(st.Templates); err != nil {
		r.Problem = oneLine(err)
	}
	return r
}

// errNoProxy is returned for an answer that is not a proxy's.
var errNoProxy = errors.New("its answer is not a proxy's status")

// agentStatus checks what another host says and leaves out what the page does not know;
// nil: it switches nothing.
func agentStatus(text []byte) (json.RawMessage, error) {
	var s templates.AgentStatus
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoProxy, err)
	}
	if len(s.Files)+len(s.Proxies)+len(s.Bouncers) == 0 {
		return nil, nil
	}
	return json.Marshal(s)
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
