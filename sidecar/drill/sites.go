package drill

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// fromSite and fromWitness name the ways of clients that know the members of both sites:
// one at a site, and one where the witness is.
func fromSite(site *lab.Lab) string { return fromPlace + site.Name() }

// byHAProxy names the way of a site's clients by their own HAProxy, which leads them to the
// primary at whichever site.
func byHAProxy(site *lab.Lab) string { return haproxyOf + site.Name() }

// ofSites reports whether a way is there with two sites alone.
func ofSites(route string) bool {
	return strings.HasPrefix(route, fromPlace) || strings.HasPrefix(route, haproxyOf)
}

const (
	haproxyOf   = "haproxy-"
	fromPlace   = "clients-"
	fromWitness = fromPlace + lab.WitnessDatacenter
)

// sitePatience is how long a client of two sites waits for a server: an answer from the
// other site takes some times the way there and back.
const sitePatience = 1500 * time.Millisecond

// siteRoutes are the ways of clients that know the members of both sites.
func siteRoutes(l *lab.Lab, base *pgx.ConnConfig) ([]Route, error) {
	var members []lab.Host
	for _, site := range l.Sites() {
		members = append(members, site.Plan().Members()...)
	}
	var routes []Route
	add := func(name string, site *lab.Lab, host string) error {
		config := base.Copy()
		dial, err := site.Dialer(host)
		config.DialFunc = dial
		routes = append(routes, Route{Name: name, Patience: sitePatience, Connect: anyOf(config, members)})
		return err
	}
	var errs []error
	for _, site := range l.Sites() {
		app := site.Plan().App()
		errs = append(errs, add(fromSite(site), site, app.Name))
		there := base.Copy()
		dial, err := site.Dialer(app.Name)
		there.DialFunc = dial
		errs = append(errs, err)
		routes = append(routes, Route{Name: byHAProxy(site), Patience: sitePatience, Connect: to(there, app.Address, app.Ports.Primary)})
	}
	first := l.Sites()[0]
	if h, ok := first.Plan().Witness(); ok {
		errs = append(errs, add(fromWitness, first, h.Name))
	}
	return routes, errors.Join(errs...)
}

// anyOf connects to all members at once, and keeps the one that lets it write: where a whole
// site is gone, a client that asks one after the other waits for each of its members.
func anyOf(base *pgx.ConnConfig, members []lab.Host) func(context.Context) (*pgx.Conn, error) {
	type answer struct {
		conn *pgx.Conn
		err  error
	}
	return func(ctx context.Context) (*pgx.Conn, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		answers := make(chan answer, len(members))
		for _, m := range members {
			config := base.Copy()
			config.Host, config.Port = m.Address, uint16(m.Ports.Postgres)
			config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
			go func() { // ends with its attempt, soon after the context
				conn, err := connectOnce(ctx, config)
				answers <- answer{conn, err}
			}()
		}
		var errs []error
		for n := range members {
			a := <-answers
			if a.err != nil {
				errs = append(errs, a.err)
				continue
			}
			go func(left int) { // the others that were made too: two may be for a moment
				for range left {
					if late := <-answers; late.conn != nil {
						closeNow(late.conn)
					}
				}
			}(len(members) - n - 1)
			return a.conn, nil
		}
		if ctx.Err() != nil || errors.Is(errors.Join(errs...), context.DeadlineExceeded) {
			return nil, context.DeadlineExceeded
		}
		return nil, errNoWriter
	}
}

// errNoWriter: every member that answered refused to write.
var errNoWriter = errors.New("no member takes writes")
