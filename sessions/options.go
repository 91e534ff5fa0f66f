package sessions

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Options is what a Client needs to know. The environment (CONSUL_HTTP_TOKEN
// and its like) is not read here: the caller, who fills the options, does that.
type Options struct {
	// Addresses are Consul's HTTP addresses, host:port or unix:///path, tried
	// in turn. The first is the local agent: it alone registers the service.
	// An address may begin with http:// or https://, which goes before Scheme.
	Addresses []string
	Scheme    string // http (default) or https
	CAFile    string
	CertFile  string
	KeyFile   string
	// ServerName is what the certificates must name; empty: the address's host.
	ServerName string
	// Insecure: the certificates are not looked at (CONSUL_HTTP_SSL_VERIFY=false).
	Insecure bool

	Datacenter string // empty: the agent's own
	// DNS is where the local agent answers DNS (host:port). Empty: port 8600 beside its
	// HTTP port 8500 or 8501, if there is a token; else DNS is not looked at.
	DNS string

	// Token is the ACL token; TokenFile, if set, names the file that holds it
	// instead, and is read again when it changes.
	Token     string
	TokenFile string

	Prefix  string // of the keys in Consul's KV; default pgsidecar
	Cluster string
	Member  string
	Service string // default: the cluster's name

	// TTL is the session's, and that of the service's checks; at least 10 s,
	// which is Consul's own minimum; default 10 s. Consul ends a session
	// between one and two TTLs after its last renewal.
	TTL time.Duration

	// Now reads CLOCK_BOOTTIME; default: the kernel's.
	Now func() ha.Instant

	// Requested is told of each request that does not wait for a change: what was
	// asked ("txn", "kv get", "session renew", …: a closed set), how long the
	// answer took, and why there was none. It must return at once. Nil: nobody is.
	Requested func(operation string, took time.Duration, err error)

	// Gone reports whether a member has been away for so long that DNS is not to name it any
	// more, whatever its agent says. It is asked while this member is announced as primary.
	// Nil: nobody knows.
	Gone func(member string) bool

	Logger hclog.Logger // default: none
}

// minTTL is Consul's default session_ttl_min.
const minTTL = 10 * time.Second

func (o *Options) setDefaults() {
	if o.Scheme == "" {
		o.Scheme = "http"
	}
	if o.Prefix == "" {
		o.Prefix = "pgsidecar"
	}
	if o.Service == "" {
		o.Service = o.Cluster
	}
	if o.TTL == 0 {
		o.TTL = minTTL
	}
	if o.Now == nil {
		o.Now = boottime
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
}

func (o *Options) validate() error {
	switch {
	case len(o.Addresses) == 0:
		return errors.New("no address of Consul is given")
	case o.Scheme != "http" && o.Scheme != "https":
		return fmt.Errorf("scheme %q is neither http nor https", o.Scheme)
	case o.Cluster == "" || o.Member == "":
		return errors.New("cluster and member must be named")
	case strings.Contains(o.Cluster, "/"):
		return fmt.Errorf("cluster %q contains a slash, which separates Consul's keys", o.Cluster)
	case o.Prefix != strings.Trim(o.Prefix, "/"):
		return fmt.Errorf("prefix %q begins or ends with a slash", o.Prefix)
	case o.TTL < minTTL || o.TTL > 24*time.Hour:
		return fmt.Errorf("session TTL %s is not between %s and 24h, as Consul asks", o.TTL, minTTL)
	}
	return nil
}

// New makes a client. It starts nothing and asks Consul nothing: see Run.
func New(o Options) (*Client, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("check options: %w", err)
	}
	c := &Client{
		opts:       o,
		log:        o.Logger.Named("consul"),
		keys:       o.Prefix + "/" + o.Cluster + "/",
		service:    o.Service + "-" + o.Member,
		token:      &token{value: o.Token, file: o.TokenFile},
		confirmNow: make(chan struct{}, 1),
		renewNow:   make(chan struct{}, 1),
		mendNow:    make(chan struct{}, 1),
		toldAt:     make(map[string]ha.Instant),
		homes:      make(map[string]ha.Instant),
		turn:       make(chan struct{}, 1),
	}
	if _, err := c.token.current(); err != nil {
		return nil, err
	}
	var addresses []*address
	for _, name := range o.Addresses {
		a, err := newAddress(name, o, func(next http.RoundTripper) http.RoundTripper {
			return &recorder{next: next, token: c.token, requested: o.Requested}
		})
		if err != nil {
			return nil, fmt.Errorf("set up Consul address %q: %w", name, err)
		}
		addresses = append(addresses, a)
	}
	c.route = newRoute(addresses)
	return c, nil
}

// boottime reads the clock that counts suspend. It cannot fail on a kernel
// that Go supports.
func boottime() ha.Instant {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("read CLOCK_BOOTTIME: " + err.Error())
	}
	return ha.Instant(t.Nano())
}
