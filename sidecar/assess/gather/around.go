package gather

import (
	"cmp"
	"context"
	"encoding/json"

	"github.com/pgsidecar/pgsidecar/sidecar/assess"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
)

// around asks Consul; what it does not say is in the errors of the answer.
func (l *look) around(ctx context.Context) client.Surroundings {
	s, err := l.Client.Surroundings(ctx)
	if err != nil {
		return client.Surroundings{ServersErr: err, NodesErr: err, ProxiesErr: err}
	}
	return s
}

func (l *look) consul(around client.Surroundings) assess.Fact[int] {
	if around.ServersErr != nil {
		return assess.Unknown[int](around.ServersErr.Error())
	}
	return assess.Known(around.Servers)
}

// switches is the part of templates.AgentStatus that counts here.
type switches struct {
	HAProxy []struct {
		Connected bool   `json:"connected"`
		Error     string `json:"error"`
	} `json:"haproxy"`
	PgBouncer []struct {
		Error string `json:"error"`
	} `json:"pgbouncer"`
}

// proxies are those that are registered, and those that members switch.
func (l *look) proxies(around client.Surroundings) assess.Fact[[]assess.Proxy] {
	var all []assess.Proxy
	for _, p := range around.Proxies {
		one := assess.Proxy{Host: p.Host, HAProxy: p.HAProxy, PgBouncer: p.PgBouncer}
		if p.Status != "passing" {
			one.Problem = "its check is " + p.Status
		}
		all = append(all, one)
	}
	for i, st := range l.members {
		var own switches
		if st == nil || len(st.Templates) == 0 || json.Unmarshal(st.Templates, &own) != nil {
			continue
		}
		p := assess.Proxy{Host: l.hostOf(i, around), HAProxy: len(own.HAProxy) > 0, PgBouncer: len(own.PgBouncer) > 0}
		for _, h := range own.HAProxy {
			if !h.Connected {
				p.Problem = cmp.Or(p.Problem, h.Error, "HAProxy is not connected")
			}
		}
		for _, b := range own.PgBouncer {
			p.Problem = cmp.Or(p.Problem, b.Error)
		}
		if p.HAProxy || p.PgBouncer {
			all = append(all, p)
		}
	}
	if around.ProxiesErr != nil && len(all) == 0 {
		return assess.Unknown[[]assess.Proxy](around.ProxiesErr.Error())
	}
	return assess.Known(all)
}

// hostOf is where a member is.
func (l *look) hostOf(i int, around client.Surroundings) string {
	name := l.leader.Members[i].Member
	return cmp.Or(around.Nodes[name], hostName(l.leader.Members[i].Postgres), name)
}
