package sessions

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// address is one Consul agent or server.
type address struct {
	name string
	api  *api.Client
}

const (
	// dialTimeout bounds how long to wait for an address that
	// swallows packets: longer than any handshake within a datacenter.
	dialTimeout = 500 * time.Millisecond
	// keepAlive finds a broken connection under a quiet blocking query.
	keepAlive = 5 * time.Second
)

func newAddress(name string, o Options, wrap func(http.RoundTripper) http.RoundTripper) (*address, error) {
	tls, err := newTLS(o)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	transport := &http.Transport{
		DialContext:         dialer.DialContext,
		TLSClientConfig:     tls,
		TLSHandshakeTimeout: 2 * time.Second,
		MaxIdleConnsPerHost: 8, // more than there are goroutines
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
	// With a scheme and without a port it is the scheme's own port, as for Consul's programs.
	scheme, host := o.Scheme, name
	for _, s := range []string{"http", "https"} {
		if rest, named := strings.CutPrefix(name, s+"://"); named {
			scheme, host = s, strings.TrimSuffix(rest, "/")
		}
	}
	if path, ok := strings.CutPrefix(name, "unix://"); ok {
		scheme, host = "http", "localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
	} else if strings.Contains(host, "/") {
		return nil, errors.New("it has a path, which is not supported: expected host:port, http://host:port, https://host:port or unix:///path")
	} else if _, _, err := net.SplitHostPort(host); err != nil && host == name {
		return nil, fmt.Errorf("it is none of host:port, http://host:port, https://host:port and unix:///path: %w", err)
	}
	client, err := api.NewClient(&api.Config{
		Address:    host,
		Scheme:     scheme,
		Datacenter: o.Datacenter,
		HttpClient: &http.Client{Transport: wrap(transport)},
	})
	if err != nil {
		return nil, err
	}
	return &address{name: name, api: client}, nil
}

// route chooses the address that is asked: the one that worked last.
type route struct {
	addresses []*address

	mu      sync.Mutex
	current int
	moved   context.Context // ends when current changes
	move    context.CancelFunc
}

func newRoute(addresses []*address) *route {
	r := &route{addresses: addresses}
	r.moved, r.move = context.WithCancel(context.Background())
	return r
}

// pick returns the address to ask, its place, and a context that ends when
// another is to be asked instead.
func (r *route) pick() (int, *address, context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current, r.addresses[r.current], r.moved
}

// fail says that the address at place i did not answer.
func (r *route) fail(i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == i {
		r.turnTo((i + 1) % len(r.addresses))
	}
}

// use says that the address at place i answers.
func (r *route) use(i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turnTo(i)
}

// turnTo changes the current address. A route of one address has nothing to
// turn to, and its queries go on.
func (r *route) turnTo(i int) {
	if r.current == i {
		return
	}
	r.current = i
	r.move()
	r.moved, r.move = context.WithCancel(context.Background())
}

// request is one call to Consul, with what its failure means.
type request struct {
	need    string        // the ACL rule that it needs
	timeout time.Duration // at each address
	once    bool          // it must not be sent twice: without an answer its outcome is unknown
	exists  bool          // Consul has what is asked: that it is not found, a proxy or another program says
	run     func(ctx context.Context, consul *api.Client) error
}

// callTimeout is how long one address may take to answer. Consul commits in
// about a millisecond and elects a leader in a few seconds; an agent that is
// stopped is left for the next after this.
const callTimeout = time.Second

// ask does a request at one address. Its error is one of those in errors.go.
func (c *Client) ask(ctx context.Context, a *address, req request) error {
	timeout := req.timeout
	if timeout == 0 {
		timeout = callTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ctx, ex := traced(ctx)
	if err := req.run(ctx, a.api); err != nil {
		return fmt.Errorf("ask %s: %w", a.name, explain(err, ex, req))
	}
	return nil
}

// do does a request at the current address, and if that does not answer at
// each of the others in turn.
func (c *Client) do(ctx context.Context, req request) error {
	var err error
	for range c.route.addresses {
		i, a, _ := c.route.pick()
		if err = c.ask(ctx, a, req); err == nil {
			c.reached(true)
			return nil
		}
		if ctx.Err() != nil || !elsewhere(err) {
			break
		}
		c.route.fail(i)
	}
	if ctx.Err() == nil && (errors.Is(err, ErrUnreachable) || errors.Is(err, ErrUnknownOutcome)) {
		c.reached(false)
	}
	return err
}

// homeInterval is how often a client that had to leave its first address looks
// whether that one answers again.
const homeInterval = 2 * time.Second

// returnHome goes back to the first address that answers and knows a leader.
func (c *Client) returnHome(ctx context.Context) {
	for ctx.Err() == nil {
		current, _, moved := c.route.pick()
		if current == 0 {
			select {
			case <-ctx.Done():
			case <-moved.Done():
				c.log.Warn("consul address left", "address", c.route.addresses[0].name)
			}
			continue
		}
		pause(ctx, homeInterval, nil)
		for i, a := range c.route.addresses[:current] {
			if c.ask(ctx, a, knowsLeader) == nil {
				c.log.Info("consul address answers again", "address", a.name)
				c.route.use(i)
				break
			}
		}
	}
}

// knowsLeader succeeds at an agent that can reach the servers. It needs no ACL.
var knowsLeader = request{run: func(ctx context.Context, consul *api.Client) error {
	leader, err := consul.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
	if err == nil && leader == "" {
		err = ErrUnreachable
	}
	return err
}}
