package config

import (
	"io/fs"
	"net/netip"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/hooks"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// Config is one member's configuration (pg.hcl), or a proxy's (proxy.hcl,
// which has only Cluster, Member, Consul, Service, Templates, HAProxy,
// PgBouncer and Log).
type Config struct {
	Cluster string // key in Consul under Consul.Prefix
	Member  string // unique in the cluster

	Consul     Consul
	Service    Service
	Postgres   Postgres
	API        API
	Peers      Peers
	Durability Durability
	Failover   Failover
	StandbyOf  settings.Site // the other site's cluster, if there is one
	Tags       Tags
	Templates  []Template // in the order of the file
	Backups    []Backup   // in the order of the file
	Bootstrap  Bootstrap
	Hooks      []hooks.Hook
	Notices    []hooks.Notice
	HAProxy    HAProxy
	PgBouncer  PgBouncer
	Trace      Trace
	Log        Log
}

// Consul says how Consul is reached.
type Consul struct {
	// Addresses are tried in turn: host:port, http(s)://host:port or
	// unix:///path. The local agent comes first.
	Addresses []string
	// Prefix is the folder of every key, without slashes around it.
	Prefix string
	// TokenFile is read again when it changes; Token is used if it is empty.
	TokenFile  string
	Token      Secret
	Datacenter string // empty: the agent's own
	// OtherDatacenter is the other site's, whose cluster has the same name; only of a proxy,
	// which follows both. Empty: there is one site.
	OtherDatacenter string
	// SessionTTL is at least 10 s; Consul expires a session between one and
	// two TTLs after its last renewal (Consul documentation, Sessions).
	SessionTTL time.Duration
	// Secure: addresses that name no scheme are https ones (CONSUL_HTTP_SSL).
	Secure bool
	TLS    ConsulTLS
}

// ConsulTLS is used for https addresses; all of it may be empty.
type ConsulTLS struct {
	CAFile     string
	CertFile   string
	KeyFile    string
	ServerName string
	Insecure   bool // certificates are not looked at (CONSUL_HTTP_SSL_VERIFY=false); no file says so
}

// Service is how the cluster is registered in Consul: primary.<Name>.service
// and replica.<Name>.service.
type Service struct {
	Name string            // the cluster's, unless the file says another
	Tags []string          // besides primary and replica
	Meta map[string]string // besides what pgsidecar adds
	// Reads is how far behind a replica may be that gets the tag replica.
	Reads settings.ReadLimits
}

// Postgres describes the local server.
type Postgres struct {
	BinDir    string // the version of DataDir, or the newest under /usr/lib/postgresql; empty: on PATH
	DataDir   string // absolute
	StateDir  string // absolute; promises and markers, which must survive what replaces DataDir
	WALDir    string // absolute, ours alone: where pg_wal of new data is; empty: in DataDir
	User      string // the operating system's user that runs the server
	Listen    string // host:port
	Advertise string // host:port by which members and clients reach it

	Superuser   Account
	Replication Account
	TLS         PostgresTLS

	// Parameters are written to the server's configuration. Those that
	// pgsidecar sets itself are refused.
	Parameters map[string]string
	// HBA and Ident are lines of pg_hba.conf and pg_ident.conf, after those that
	// pgsidecar needs and in place of those of the data directory.
	HBA   []string
	Ident []string

	// StopTimeout is how long a fast shutdown may take before it becomes an
	// immediate one.
	StopTimeout time.Duration

	// CloneMethods are the ways to a copy of the data, of block clone, in the order in
	// which they are tried.
	CloneMethods []string
	BaseBackup   BaseBackup
}

// PostgresTLS is the server's TLS; CertFile empty means that pgsidecar does not
// care for it. The server reads the files as its own user, again at each reload.
type PostgresTLS struct {
	CertFile string
	KeyFile  string
	// CAFile signs the members' certificates, and those of clients.
	CAFile string
	// Require: replication and copies between members use TLS only, and the name
	// or address by which a member is reached must be in its certificate.
	Require bool
}

// Account is a role of the server and its password.
type Account struct {
	Name         string
	PasswordFile string // empty if the password came from the environment
	Password     Secret
}

// API is the member's HTTP listener.
type API struct {
	Listen    string
	Advertise string
	// TokenFile or Token authorises what changes something; both empty: only a
	// client certificate does.
	TokenFile string
	Token     Secret
	// Allow are the networks, or addresses, from which changes are taken, besides the
	// members'; empty: from everywhere.
	Allow []netip.Prefix
	// Drills allows those who may change something to injure this member on
	// purpose, for a drill of the live cluster.
	Drills bool
	// UI serves the cluster's page under /ui.
	UI  bool
	TLS ServerTLS
}

// ServerTLS is a listener's TLS; CertFile empty means plain HTTP.
type ServerTLS struct {
	CertFile     string
	KeyFile      string
	ClientCAFile string // set: a certificate of this authority may change something
	// RequireClient refuses clients without such a certificate, load balancers too.
	RequireClient bool
	// CAFile signs the certificates of the other members' APIs; empty:
	// ClientCAFile, else the machine's authorities.
	CAFile string
}

// Authority is the file with the authority of the other members' certificates;
// empty: the machine's.
func (t ServerTLS) Authority() string {
	if t.CAFile != "" {
		return t.CAFile
	}
	return t.ClientCAFile
}

// Peers is about the heartbeat streams between members, which the API's
// listener serves.
type Peers struct {
	// KeyFile or Key is shared by all members and authenticates their streams;
	// both empty: it is derived from the replication password.
	KeyFile string
	Key     Secret
}

// Durability is what a new cluster starts with. Later the cluster's dynamic
// settings in Consul count.
type Durability struct {
	Mode      ha.Mode
	Standbys  int  // how many voters hold each acknowledged commit
	Strict    bool // rather block commits than have fewer than Standbys hold them
	MaxVoters int  // 0: twice Standbys
	Zones     int  // in how many zones each commit is held; 0 and 1: in any
}

// Failover says when a member acts on silence.
type Failover struct {
	Automatic bool
	// FailureTimeout is the silence after which a member is not heard any more.
	FailureTimeout time.Duration
	// FailureTimeoutMin is the shortest silence after which, in quorum mode, a member may be
	// taken for lost, if its host answers no connection attempt either, and a server for one
	// that hangs, if its answers have not been slow of late; FailureTimeout or more: none is
	// that early.
	FailureTimeoutMin time.Duration
	// Lease is how long a primary may serve without a confirmation (rule S5).
	// In async mode a candidate waits out its own Lease, so it must be the same
	// on all members.
	Lease time.Duration
	// HandoverTimeout is a switchover's deadline, after which the old primary
	// takes the lock back.
	HandoverTimeout time.Duration
	// AgentTimeout is how long a primary's own Consul agent may be gone, while
	// other addresses of Consul answer, before the primary hands over: DNS hides a
	// node without an agent. Zero: for ever.
	AgentTimeout time.Duration
	// MaxLag is how many bytes of log a member may lack of what the last primary was
	// heard to have, and still lead by itself, in async mode. Zero: any number.
	MaxLag settings.Size
	// RefusedIsDead: a member whose two ports refuse connections is taken for dead, so
	// that nobody waits out its lease in async mode. Behind port maps, NAT and services
	// of Kubernetes a refusal proves nothing: there, false.
	RefusedIsDead bool
}

// Tags are one member's peculiarities.
type Tags = settings.Tags

// Template is one file that is written anew on each change of the topology.
type Template struct {
	Name        string
	Source      string // path of a template; or
	Builtin     string // the name of one that pgsidecar brings
	Destination string
	Check       []string // command that must accept the file before it replaces the last good one; {} is its path
	Command     []string // command to run after a change that cannot be applied at run time
	// Reload is "haproxy": after a change HAProxy is reloaded by its master socket, in
	// place of Command. See Config.Reloads.
	Reload      string
	Perms       fs.FileMode   // zero: those that the file has, or 0640
	User, Group string        // empty: kept as they are
	Timeout     time.Duration // of Check, and of Command or Reload
}

// HAProxy is a local HAProxy that is switched by its Runtime API. Zero values
// of all but Socket stand for the built-in template's defaults.
type HAProxy struct {
	Socket      string // stats socket with level admin: a path, or host:port; empty: there is none
	AgentSocket string // where the built-in configuration's agent frontend listens; default beside Socket
	// MasterSocket is the socket of HAProxy's master, `haproxy -W -S PATH`: a path, or
	// host:port. It reloads HAProxy, and ends old sessions in workers older than a reload
	// when their primary is deposed; empty: neither.
	MasterSocket string
	Bind         string // address of the two ports
	PrimaryPort  int
	ReplicaPort  int
	StatsPort    int // statistics and /metrics; 0: none
	// PrimaryTakesReads: without a replica, the primary serves the replica port.
	PrimaryTakesReads bool
	MaxConn           int
	ConnectTimeout    time.Duration
	QueueTimeout      time.Duration // how long a client may wait for a primary
	IdleTimeout       time.Duration // of a silent connection
	// Resolvers are DNS servers, each an IP address with a port, that HAProxy asks for
	// members registered by a host's name; empty: the machine's name service, at start.
	Resolvers []string
	Global    []string // further lines of the global section
	// CheckCAFile signs the certificates of the members' APIs, where those have
	// TLS; empty: HAProxy's checks are plain HTTP. CheckCertFile is the certificate,
	// with its key, that the checks show; empty: none.
	CheckCAFile   string
	CheckCertFile string
}

// PgBouncer is a local PgBouncer that is switched by its console.
type PgBouncer struct {
	Address  string // host:port, or the directory of its socket; empty: there is none
	Account  Account
	Database string // the name that clients connect to
}

// Log says what is logged, and how.
type Log struct {
	Level  string // trace, debug, info, warn, error
	Format string // text or json
}

// ConfiguresHAProxy reports whether the template is the built-in configuration of
// HAProxy, which may be called "haproxy" for short.
func (t Template) ConfiguresHAProxy() bool {
	return t.Builtin == "haproxy.cfg" || t.Builtin == "haproxy"
}

// Reloads reports whether HAProxy is to be reloaded by its master socket when the
// template's file has changed: one that says so, and the built-in configuration
// where it has no command.
func (c *Config) Reloads(t Template) bool {
	return c.HAProxy.MasterSocket != "" && (t.Reload != "" || len(t.Command) == 0 && t.ConfiguresHAProxy())
}
