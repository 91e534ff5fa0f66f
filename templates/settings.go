package templates

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"
)

// HAProxySettings are what haproxy.cfg.tmpl wants to know beside the topology.
// The zero value of each field but Socket stands for the default.
type HAProxySettings struct {
	Bind        string // address of the two ports; default 127.0.0.1
	PrimaryPort int    // default 5000
	ReplicaPort int    // default 5001
	StatsBind   string // default Bind
	StatsPort   int    // statistics and /metrics; 0: none

	// The backends that are switched. Each has another one beside it, with
	// "_checked" at its end. Default <service>_primary, <service>_replicas.
	PrimaryBackend string
	ReplicaBackend string

	Socket     string // stats socket; required
	SocketMode string // default 660
	AgentBind  string // where pgsidecar's connection arrives; default beside Socket, or the next port
	StateFile  string // server-state-file; default beside Socket, or in /var/lib/haproxy
	HoldName   string // abstract socket inside HAProxy; default made of Socket and service

	MaxConn int // default 2000
	Retries int // connection attempts after the first; default: 10 s of them
	// ConnectTimeout is also the pause after an attempt that was refused (HAProxy
	// has no other setting for it), and so the shortest time that a client waits
	// which came back before HAProxy was told that its primary is gone. It has to
	// be more than the round trip to the farthest member; default: twice that
	// (Topology.RoundTrip), and 50 ms at least.
	ConnectTimeout time.Duration
	QueueTimeout   time.Duration // how long a client may wait for a primary; default 30 s
	IdleTimeout    time.Duration // of a silent connection; default 24 d, HAProxy's longest (tcp keepalive finds the dead)
	Global         []string      // further lines of the global section: user, group, log, …
	// Resolvers are DNS servers, each an IP address with a port: HAProxy itself looks
	// up the members that are registered by a host's name, and follows them. None: the
	// machine's own name service, once, when HAProxy starts.
	Resolvers []string

	// CheckCAFile signs the certificates of the members' APIs where those have TLS;
	// empty: HAProxy's checks are plain HTTP. CheckCertFile is the certificate, with
	// its key, that the checks show; empty: none.
	CheckCAFile   string
	CheckCertFile string
}

// CheckTLS is for the template: what a server needs so that its checks use TLS;
// empty: they do not.
func (s HAProxySettings) CheckTLS() string {
	if s.CheckCAFile == "" {
		return ""
	}
	words := " check-ssl verify required ca-file " + s.CheckCAFile
	if s.CheckCertFile != "" {
		words += " crt " + s.CheckCertFile
	}
	return words
}

// ResolversName is what the template calls the section of the DNS servers.
func (HAProxySettings) ResolversName() string { return "pgsidecar" }

// Lookup is for the template: how the servers' addresses are found. With resolvers,
// HAProxy starts at once, whatever is known of the names: a server without an
// address takes no connection until it has one.
func (s HAProxySettings) Lookup() string {
	if len(s.Resolvers) == 0 {
		return "init-addr last,libc,none"
	}
	return "init-addr last,none resolvers " + s.ResolversName() + " resolve-prefer ipv4"
}

// CheckedSuffix ends the names of the backends that clients get while HAProxy is told
// nothing by an Agent.
const CheckedSuffix = "_checked"

// Checks is what the names of the backends that ask the members' APIs have at their
// end. Without resolvers these take clients themselves.
func (s HAProxySettings) Checks() string {
	if len(s.Resolvers) == 0 {
		return CheckedSuffix
	}
	return "_checks"
}

// APIName is for the template: the abstract socket inside HAProxy by which it asks a
// member's API. It is a number, as such a name has 107 bytes at most.
func (s HAProxySettings) APIName(member string) string {
	return fmt.Sprintf("pgsidecar-api-%08x", fnv32(s.HoldName+"/"+member))
}

// refusedFor is how long a client is held that is refused by its primary, while
// nobody tells HAProxy of another.
const refusedFor = 10 * time.Second

// leastConnectTimeout is enough for members nearby.
const leastConnectTimeout = 50 * time.Millisecond

// across sets what depends on how far away the members are.
func (s HAProxySettings) across(roundTrip time.Duration) HAProxySettings {
	setDefault(&s.ConnectTimeout, max(leastConnectTimeout, 2*roundTrip))
	setDefault(&s.Retries, max(3, int(refusedFor/min(s.ConnectTimeout, time.Second))))
	return s
}

// ServerMaxConn is the maxconn of each server of the primary's backend: more than the
// process can have, so that it never limits. It has to be there, as setting it again is
// what makes HAProxy look at the queue: when a server leaves drain it does not.
const ServerMaxConn = 1 << 20

// ServerMaxConn is for the template; see ServerMaxConn.
func (HAProxySettings) ServerMaxConn() int { return ServerMaxConn }

// Complete is these settings with their defaults for a service, as templates
// see them, but for ConnectTimeout and Retries, which depend on the members. It returns ErrUnsafe for text that cannot be a configuration word.
func (s HAProxySettings) Complete(service string) (HAProxySettings, error) {
	if !SafeName(service) {
		return s, fmt.Errorf("service %q: %w", service, ErrUnsafe)
	}
	return s.withDefaults(service)
}

// withDefaults fills in what is not set. It returns ErrUnsafe for text that
// cannot be a configuration word.
func (s HAProxySettings) withDefaults(service string) (HAProxySettings, error) {
	setDefault(&s.Bind, "127.0.0.1")
	setDefault(&s.StatsBind, s.Bind)
	setDefault(&s.PrimaryBackend, service+"_primary")
	setDefault(&s.ReplicaBackend, service+"_replicas")
	if !SafeName(s.PrimaryBackend) || !SafeName(s.ReplicaBackend) {
		return s, fmt.Errorf("haproxy backends %q, %q: %w", s.PrimaryBackend, s.ReplicaBackend, ErrUnsafe)
	}
	setDefault(&s.SocketMode, "660")
	setDefault(&s.PrimaryPort, 5000)
	setDefault(&s.ReplicaPort, 5001)
	setDefault(&s.MaxConn, 2000)
	setDefault(&s.QueueTimeout, 30*time.Second)
	setDefault(&s.IdleTimeout, 24*24*time.Hour)
	if host, port, err := parseAddress(s.Socket); err == nil {
		setDefault(&s.AgentBind, net.JoinHostPort(host, strconv.Itoa(port+1)))
		setDefault(&s.StateFile, filepath.Join("/var/lib/haproxy", service+".state"))
	} else if s.Socket != "" {
		dir := filepath.Dir(s.Socket)
		setDefault(&s.AgentBind, filepath.Join(dir, service+"-agent.sock"))
		setDefault(&s.StateFile, filepath.Join(dir, service+".state"))
	}
	// Two HAProxies on a host must not share it; their sockets differ too.
	setDefault(&s.HoldName, fmt.Sprintf("pgsidecar-%s-%08x", service, fnv32(s.Socket)))
	words := []string{s.Bind, s.StatsBind, s.Socket, s.SocketMode, s.AgentBind, s.StateFile, s.HoldName, s.CheckCAFile, s.CheckCertFile}
	for _, w := range words {
		if !oneWord(w) {
			return s, fmt.Errorf("haproxy setting %q: %w", w, ErrUnsafe)
		}
	}
	for _, r := range s.Resolvers {
		if !ResolverAddress(r) {
			return s, fmt.Errorf("haproxy resolver %q is not an IP address with a port: %w", r, ErrUnsafe)
		}
	}
	for _, l := range s.Global {
		if !OneLine(l) {
			return s, fmt.Errorf("haproxy global line: %w", ErrUnsafe)
		}
	}
	return s, nil
}

// PgBouncerSettings are what pgbouncer.ini.tmpl wants to know beside the topology.
type PgBouncerSettings struct {
	// Database is the name that clients connect to; default "*", which is any.
	Database string
}

// withDefaults fills in what is not set. It returns ErrUnsafe for a name that
// could end its word.
func (s PgBouncerSettings) withDefaults() (PgBouncerSettings, error) {
	setDefault(&s.Database, "*")
	if s.Database != "*" && !SafeName(s.Database) {
		return s, fmt.Errorf("pgbouncer database %q: %w", s.Database, ErrUnsafe)
	}
	return s, nil
}

// ResolverAddress reports whether s is a DNS server's IP address and port. A name
// would have to be looked up first.
func ResolverAddress(s string) bool {
	a, err := netip.ParseAddrPort(s)
	return err == nil && a.Port() > 0 && a.Addr().Zone() == ""
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// oneWord reports whether s needs no quotes in haproxy.cfg.
func oneWord(s string) bool {
	for _, r := range s {
		if r <= ' ' || r == '#' || r == '"' || r == '\'' || r == '\\' || r == '$' || r == 0x7f {
			return false
		}
	}
	return true
}

func fnv32(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}
