package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/miekg/dns"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// Route is a way from an application to the primary, or to a replica.
type Route struct {
	Name string
	// Replica says that it leads to replicas: nothing can be written there, and
	// what is read may be behind.
	Replica bool
	// Patience is how long an application waits on this way for a connection, and
	// for an answer; 0: connectTimeout and statementTimeout.
	Patience time.Duration
	// Crowd is how long it takes until all clients of the drill have a connection that
	// ask for one at the same moment. An attempt is given this at least: a client that
	// gives up sooner asks a busy server for one more process, and nobody is ever served.
	Crowd time.Duration
	// Connect makes a new connection, within the context's deadline.
	Connect func(ctx context.Context) (*pgx.Conn, error)
}

// Routes returns the ways to the primary that a lab offers: HAProxy; Consul's
// DNS; a list of all members of which the driver takes the writable one; PgBouncer,
// if the lab runs it; and of two sites, those of a client at each that knows the
// members of both, and of one at neither.
func Routes(l *lab.Lab) ([]Route, error) {
	base, err := l.ConnConfig(lab.ApplicationRole, l.Plan().Members()[0].Name)
	if err != nil {
		return nil, err
	}
	// PgBouncer in transaction mode knows no prepared statements.
	base.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	app := l.Plan().App()
	routes := []Route{
		{Name: "haproxy", Connect: to(base, app.Address, app.Ports.Primary)},
		{Name: "dns", Connect: byDNS(base, app.DNSAddress(), "primary."+l.Plan().Cluster)},
		{Name: "multi-host", Connect: multiHost(base, l.Plan().Members())},
	}
	if app.Ports.Pool != 0 {
		routes = append(routes, Route{Name: "pgbouncer", Patience: poolPatience, Connect: to(base, app.Address, app.Ports.Pool)})
	}
	if l.Other() == nil {
		return routes, nil
	}
	across, err := siteRoutes(l, base)
	return append(routes, across...), err
}

// poolPatience is how long an application waits behind a pool, whose point is that
// clients wait in it while the primary changes. PgBouncer does not look at clients
// in its queue: one that has given up is still given a server's connection, which is
// then thrown away; with much impatience on a busy machine that never ends.
const poolPatience = 10 * time.Second

// replicaRoutes returns the ways to a replica that a lab offers.
func replicaRoutes(l *lab.Lab) ([]Route, error) {
	base, err := l.ConnConfig(lab.ApplicationRole, l.Plan().Members()[0].Name)
	if err != nil {
		return nil, err
	}
	base.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	app := l.Plan().App()
	return []Route{
		{Name: "haproxy, replicas", Replica: true, Connect: to(base, app.Address, app.Ports.Replicas)},
		{Name: "dns, replicas", Replica: true, Connect: byDNS(base, app.DNSAddress(), "replica."+l.Plan().Cluster)},
	}, nil
}

// Direct returns the way to one member, whatever its role, from its own host: a
// client beside it, which a cut link does not keep away. A Writer on it finds
// out all the time whether that server takes writes: two that do are two
// primaries.
func Direct(l *lab.Lab, member string) (Route, error) {
	base, err := l.ConnConfig(lab.ApplicationRole, member)
	if err != nil {
		return Route{}, err
	}
	if base.DialFunc, err = l.Dialer(member); err != nil {
		return Route{}, err
	}
	base.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	return Route{Name: "direct " + member, Connect: to(base, base.Host, int(base.Port))}, nil
}

// to connects to one address.
func to(base *pgx.ConnConfig, host string, port int) func(context.Context) (*pgx.Conn, error) {
	return func(ctx context.Context) (*pgx.Conn, error) {
		config := base.Copy()
		config.Host, config.Port = host, uint16(port)
		return connectOnce(ctx, config)
	}
}

// errNoCancel keeps pgx from what no other driver does: to send a cancel request,
// by a connection of its own, after a connection that broke. Through a balancer
// it only reaches the next primary, which has to fork for it, just when it is to
// let clients in.
var errNoCancel = errors.New("nothing is cancelled on a broken connection")

// connectOnce connects, for as long as its context lasts: it has the client's patience
// (pace), which the configuration's own connect_timeout would cut short. A client that
// begins anew although its server is about to let it in is what keeps a busy machine from
// ever letting anyone in. Only an address at which nobody answers is given up sooner: the
// kernel answers for a server that is busy.
func connectOnce(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	var connected atomic.Bool
	dial := config.DialFunc
	config.ConnectTimeout = 0
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if connected.Load() {
			return nil, errNoCancel
		}
		dialling, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return dial(dialling, network, address)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	connected.Store(err == nil)
	return conn, err
}

// multiHost connects as libpq does with host=a,b,c target_session_attrs=read-write.
func multiHost(base *pgx.ConnConfig, members []lab.Host) func(context.Context) (*pgx.Conn, error) {
	return func(ctx context.Context) (*pgx.Conn, error) {
		config := base.Copy()
		config.Host, config.Port = members[0].Address, uint16(members[0].Ports.Postgres)
		config.ConnectTimeout = half(ctx)
		for _, m := range members[1:] {
			config.Fallbacks = append(config.Fallbacks, &pgconn.FallbackConfig{Host: m.Address, Port: uint16(m.Ports.Postgres)})
		}
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
		return pgx.ConnectConfig(ctx, config)
	}
}

// byDNS asks Consul's DNS for a service (tag.name) before each connection.
func byDNS(base *pgx.ConnConfig, server, service string) func(context.Context) (*pgx.Conn, error) {
	name := service + ".service.consul."
	return func(ctx context.Context) (*pgx.Conn, error) {
		conn, err := base.DialFunc(ctx, "udp", server)
		if err != nil {
			return nil, fmt.Errorf("reach DNS: %w", err)
		}
		defer conn.Close()
		found, err := (&question{name: name, kind: dns.TypeSRV}).ask(conn, half(ctx))
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, errNoAddress
		}
		host, port, err := net.SplitHostPort(found[rand.IntN(len(found))])
		if err != nil {
			return nil, fmt.Errorf("read DNS's answer: %w", err)
		}
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("read DNS's answer: %w", err)
		}
		return to(base, host, int(number))(ctx)
	}
}

// half is half of the time that an attempt has: what hangs does not take all of it.
func half(ctx context.Context) time.Duration {
	deadline, bounded := ctx.Deadline()
	if !bounded {
		return connectTimeout / 2
	}
	return time.Until(deadline) / 2
}

// errNoAddress: DNS answered that there is no such server.
var errNoAddress = errors.New("DNS has no address")

const (
	// connectTimeout bounds one attempt to connect. It is short, so that an
	// attempt that hangs at a dead address does not hide that the way is open
	// again, and long enough for password authentication on a busy machine.
	connectTimeout = 500 * time.Millisecond
	// dialTimeout bounds the wait for an address to answer at all, however patient a
	// client is.
	dialTimeout = 2 * time.Second
	// statementTimeout bounds one write, as an application would.
	statementTimeout = time.Second
)
