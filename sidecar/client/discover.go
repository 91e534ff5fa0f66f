package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/pgsidecar/pgsidecar/sessions"
)

// Registry is where a command finds members in Consul.
type Registry struct {
	options sessions.Options
}

// errNoneInConsul is returned when Consul names no member that was not asked
// already.
var errNoneInConsul = errors.New("no other member in Consul's catalog")

// NewRegistry returns where Consul is reached as the options say.
func NewRegistry(o sessions.Options) *Registry { return &Registry{options: o} }

// RegistryAt returns where Consul is reached at these addresses, separated by commas,
// as its own environment variables say.
func RegistryAt(addresses, cluster, service string, getenv func(string) string) *Registry {
	o := sessions.Options{
		Cluster: cluster, Service: service, Member: "command", Logger: hclog.NewNullLogger(),
		Token: getenv("CONSUL_HTTP_TOKEN"), TokenFile: getenv("CONSUL_HTTP_TOKEN_FILE"),
		CAFile: getenv("CONSUL_CACERT"), CertFile: getenv("CONSUL_CLIENT_CERT"), KeyFile: getenv("CONSUL_CLIENT_KEY"),
		ServerName: getenv("CONSUL_TLS_SERVER_NAME"),
	}
	if secure, err := strconv.ParseBool(getenv("CONSUL_HTTP_SSL")); err == nil && secure {
		o.Scheme = "https"
	}
	if verify, err := strconv.ParseBool(getenv("CONSUL_HTTP_SSL_VERIFY")); err == nil {
		o.Insecure = !verify
	}
	for address := range strings.SplitSeq(addresses, ",") {
		o.Addresses = append(o.Addresses, strings.TrimSpace(address))
	}
	return &Registry{options: o}
}

// members returns the API addresses of the cluster's members as Consul's catalog
// names them, the primary's first, without those known.
func (r *Registry) members(ctx context.Context, known []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, AskTimeout)
	defer cancel()
	consul, err := sessions.New(r.options)
	if err != nil {
		return nil, err
	}
	all, err := consul.Members(ctx)
	if err != nil {
		return nil, fmt.Errorf("find members in Consul: %w", err)
	}
	slices.SortStableFunc(all, func(a, b sessions.Member) int {
		switch x, y := slices.Contains(a.Tags, "primary"), slices.Contains(b.Tags, "primary"); {
		case x && !y:
			return -1
		case y && !x:
			return 1
		}
		return 0
	})
	var found []string
	for _, m := range all {
		if m.API != "" && !slices.Contains(known, m.API) {
			found = append(found, m.API)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: cluster %s, service %s", errNoneInConsul, r.options.Cluster, cmp.Or(r.options.Service, r.options.Cluster))
	}
	return found, nil
}

// remainsTimeout bounds each step of removing a cluster in Consul.
const remainsTimeout = 10 * time.Second

// ErrInUse and errChanged are why a cluster's keys were not deleted: members are
// registered, or have come meanwhile.
var (
	ErrInUse   = sessions.ErrInUse
	ErrChanged = sessions.ErrConflict
)

// Remains returns what Consul has of the cluster.
func (r *Registry) Remains(ctx context.Context) (sessions.Remains, error) {
	ctx, cancel := context.WithTimeout(ctx, remainsTimeout)
	defer cancel()
	consul, err := sessions.New(r.options)
	if err != nil {
		return sessions.Remains{}, err
	}
	return consul.Remains(ctx)
}

// RemoveCluster deletes the cluster's keys, if they are as they were. It returns
// ErrInUse or errChanged if it is in use.
func (r *Registry) RemoveCluster(ctx context.Context, was sessions.Remains) error {
	ctx, cancel := context.WithTimeout(ctx, remainsTimeout)
	defer cancel()
	consul, err := sessions.New(r.options)
	if err != nil {
		return err
	}
	return consul.RemoveCluster(ctx, was)
}

// WhyInUse says what keeps the cluster in use, and how to end that.
func WhyInUse(left sessions.Remains) error {
	help := "Stop each member first: systemctl stop pgsidecar, on its machine."
	if len(left.Members) > 0 {
		m := left.Members[0]
		help += fmt.Sprintf("\nWhere the machine is gone for good, its registration goes with its node: consul force-leave -prune %s"+
			"\nWhere only pgsidecar is gone from it, there: consul services deregister -id %s", m.Node, m.ServiceID)
	}
	return fmt.Errorf("nothing was deleted: %w\n%s", left.InUse(), help)
}

// Surroundings are what Consul's catalog says of a cluster that its members do not. A part
// that cannot be read has its error.
type Surroundings struct {
	Servers    int // of Consul
	ServersErr error
	Nodes      map[string]string // of Consul, by member
	NodesErr   error
	Proxies    []ProxyHost
	ProxiesErr error
}

// ProxyHost is a proxy that is registered as an instance of sessions.ProxyService.
type ProxyHost struct {
	Host               string
	HAProxy, PgBouncer bool   // it switches one
	Status             string // passing, warning or critical
}

// ErrNoConsul is returned where nothing says where Consul is.
var ErrNoConsul = errors.New("name Consul with --consul HOST:8500")

// Surroundings asks Consul.
func (c *Client) Surroundings(ctx context.Context) (Surroundings, error) {
	if c.o.Registry == nil {
		return Surroundings{}, ErrNoConsul
	}
	ctx, cancel := context.WithTimeout(ctx, remainsTimeout)
	defer cancel()
	consul, err := sessions.New(c.o.Registry.options)
	if err != nil {
		return Surroundings{}, err
	}
	s := Surroundings{Nodes: map[string]string{}}
	s.Servers, s.ServersErr = consul.Servers(ctx)
	members, err := consul.Members(ctx)
	for _, m := range members {
		s.Nodes[m.Name] = m.Node
	}
	s.NodesErr = err
	proxies, err := consul.Proxies(ctx)
	for _, p := range proxies {
		s.Proxies = append(s.Proxies, ProxyHost{Host: p.Node, HAProxy: p.Meta["haproxy"] != "", PgBouncer: p.Meta["pgbouncer"] != "", Status: p.Status})
	}
	s.ProxiesErr = err
	return s, nil
}
