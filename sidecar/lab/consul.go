package lab

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// writeConsulConfig writes the agent's configuration: as in production, but
// with the raft multiplier that Consul advises there (1), and without what one
// machine does not need (gRPC, the update check, and with one site WAN gossip).
func (l *Lab) writeConsulConfig(h Host) error {
	client := h.Address
	if l.plan.Isolated {
		client += " 127.0.0.1" // a program asks its own host's agent by the usual address
	}
	dialect, err := programs.DialectOf(l.plan.Consul)
	if err != nil {
		return fmt.Errorf("configure Consul: %w", err)
	}
	ports := map[string]int{"http": h.Ports.HTTP, "dns": h.Ports.DNS, "serf_lan": h.Ports.SerfLAN, "serf_wan": -1, "server": h.Ports.Server}
	maps.Copy(ports, dialect.WithoutGRPC())
	c := map[string]any{
		"node_name":            h.Name,
		"node_id":              l.plan.nodeID(h),
		"datacenter":           l.plan.Datacenter(h),
		"data_dir":             filepath.Join(h.Dir, "consul"),
		"bind_addr":            h.Address,
		"client_addr":          client,
		"disable_update_check": true,
		"log_level":            "INFO",
		"performance":          map[string]any{"raft_multiplier": 1},
		"ports":                ports,
	}
	servers := l.plan.Servers()
	if h.Kind == KindWitness {
		servers = []Host{h}
	}
	if h.Kind == KindConsul || h.Kind == KindWitness {
		c["server"] = true
		c["bootstrap_expect"] = len(servers)
		if site := l.plan.Site; site != nil {
			ports["serf_wan"] = wanPort
			c["retry_join_wan"], c["retry_interval_wan"] = site.Servers, "1s"
		}
	}
	var join []string
	for _, s := range servers {
		if s.Name != h.Name {
			join = append(join, s.at(s.Ports.SerfLAN))
		}
	}
	c["retry_join"] = join
	c["retry_interval"] = "1s"
	if err := l.addToConsul(h, dialect, c); err != nil {
		return err
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("encode Consul's configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(h.Dir, "consul.json"), b, 0o600); err != nil {
		return fmt.Errorf("write Consul's configuration: %w", err)
	}
	return nil
}

// addToConsul adds the ACLs and the services of a host to its agent's configuration.
func (l *Lab) addToConsul(h Host, dialect programs.ConsulDialect, c map[string]any) error {
	if l.plan.Breakable {
		acl, err := l.aclConfig(h, dialect)
		if err != nil {
			return err
		}
		c["acl"] = acl
	}
	if h.Ports.Status != 0 {
		service, err := l.proxyService(h)
		if err != nil {
			return err
		}
		c["services"] = []any{service}
	}
	return nil
}

// nodeID gives each host's agent an identity of its own that outlives its data:
// the catalog refuses an agent that comes back under the same name with another,
// and then so does the agent every registration.
func (p *Plan) nodeID(h Host) string {
	b := sha256.Sum256([]byte(p.ID + "/" + h.Name))
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func (l *Lab) startConsul(h Host) error {
	return l.start(h, Consul, l.plan.Consul, "agent", "-config-file", filepath.Join(h.Dir, "consul.json"))
}

// ConsulClient returns a client of the agent on a host, which connects from
// that host. The caller gives every call a deadline.
func (l *Lab) ConsulClient(host string) (*api.Client, error) {
	h, err := l.plan.Host(host)
	if err != nil {
		return nil, err
	}
	dial, err := l.Dialer(host)
	if err != nil {
		return nil, err
	}
	token := ""
	if l.plan.Breakable {
		if token, err = l.plan.secret(managementToken); err != nil {
			return nil, err
		}
	}
	client, err := api.NewClient(&api.Config{Address: h.HTTPAddress(), Scheme: "http", Token: token,
		HttpClient: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 16, IdleConnTimeout: 10 * time.Second}}})
	if err != nil {
		return nil, fmt.Errorf("make a client of Consul on %s: %w", host, err)
	}
	return client, nil
}

// waitConsul waits until every agent answers, knows the leader, and all hosts
// are in the catalog. An agent that starts tells nobody when it listens, so it
// is asked until it does; from then on the catalog is watched.
func (l *Lab) waitConsul(ctx context.Context) error {
	for _, h := range l.plan.Hosts {
		client, err := l.ConsulClient(h.Name)
		if err != nil {
			return err
		}
		err = every(ctx, 50*time.Millisecond, func() (bool, error) {
			if _, err := l.PID(h.Name, Consul); err != nil {
				return false, fmt.Errorf("%w; it said:\n%s", err, lastWords(h, Consul))
			}
			leader, err := client.Status().LeaderWithQueryOptions(new(api.QueryOptions).WithContext(ctx))
			return err == nil && leader != "", nil
		})
		if err != nil {
			return fmt.Errorf("wait for Consul on %s: %w", h.Name, err)
		}
	}
	client, err := l.ConsulClient(l.plan.App().Name)
	if err != nil {
		return err
	}
	here := len(l.plan.Hosts) - len(l.plan.of(KindWitness))
	var index uint64
	for {
		q := (&api.QueryOptions{WaitIndex: index, WaitTime: 30 * time.Second}).WithContext(ctx)
		nodes, meta, err := client.Catalog().Nodes(q)
		if err != nil {
			// ACLs begin a moment after the leader, and a leader may change again
			// while three servers come up.
			if again := askAgain(ctx, err); again != nil {
				return fmt.Errorf("wait for Consul's catalog: %w", again)
			}
			index = 0
			continue
		}
		if len(nodes) == here {
			return nil
		}
		index = meta.LastIndex
	}
}
