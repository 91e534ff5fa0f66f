package config

import (
	"cmp"
	"os"
	"os/user"
	"strings"
	"time"

	sockaddr "github.com/hashicorp/go-sockaddr/template"

	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// Environment is what a configuration may take from its process and machine.
type Environment struct {
	Getenv   func(string) string
	Hostname string
	// User runs the server if the file names none.
	User string
	// Sockaddr evaluates a go-sockaddr template such as "{{ GetPrivateIP }}".
	Sockaddr func(string) (string, error)
	// BinDir finds PostgreSQL's server programs for a data directory; empty: there
	// are none where they usually are. nil: nobody looks.
	BinDir func(dataDir string) string
	// Refused asks the server program in a directory, or on PATH if that is empty, which
	// parameters it does not take, and why; nil: it is not asked.
	Refused func(binDir string, parameters map[string]string) (map[string]error, error)
	// ReadFile reads the files that the configuration names and that must be right
	// before anything starts, such as certificates; nil: they are not looked at.
	ReadFile func(path string) ([]byte, error)
	// Account says why this machine has no such user, or group; nil: it is not looked at.
	Account func(kind AccountKind, name string) error
	// Task is what the scheduler says whose task this process is; nil outside
	// of one.
	Task *Task
}

// Task has the defaults of a scheduler's task (a Nomad allocation): they count
// where the file says nothing. Empty values do not count.
type Task struct {
	Cluster string // and the service's name
	DataDir string
	// Member returns the name of the member whose data stateDir belongs to.
	Member func(stateDir string) (string, error)
	// Port returns where "postgres" and "api" listen, and what others are told.
	Port func(name string) (listen, advertise string)
	// Secret returns the path at which the job puts a file: "consul_token",
	// "superuser.password", "replication.password", "api.token" or "peers.key".
	// It need not be there.
	Secret func(name string) string
	// StopTimeout is how long the task may take to stop its server.
	StopTimeout time.Duration
}

// OSEnvironment returns this process's environment.
func OSEnvironment() Environment {
	env := Environment{Getenv: os.Getenv, User: "postgres", Sockaddr: sockaddr.Parse}
	env.Hostname, _ = os.Hostname() // empty: the file must name the member
	if os.Geteuid() != 0 {
		// Only root can run the server as somebody else.
		if self, err := user.Current(); err == nil {
			env.User = self.Username
		}
	}
	return env
}

// Default returns the configuration of an empty file, before what is derived
// from other values.
func Default(env Environment) Config {
	c := generalDefaults(env)
	if t := env.Task; t != nil {
		c.Cluster, c.Service.Name = cmp.Or(t.Cluster, c.Cluster), t.Cluster
		// Which of the members this is, is known when the directories are.
		c.Member = ""
		c.Postgres.DataDir = t.DataDir
		if t.StopTimeout > 0 {
			c.Postgres.StopTimeout = min(c.Postgres.StopTimeout, t.StopTimeout)
		}
	}
	return c
}

// generalDefaults are those outside of a scheduler's task.
func generalDefaults(env Environment) Config {
	policy := settings.Default() // each value with its reason
	return Config{
		Cluster: "pg",
		// Consul and PostgreSQL compare names without case; one spelling
		// then is one name. Only the first label: the rest is the domain.
		Member: strings.ToLower(label(env.Hostname)),
		Consul: Consul{
			// Where an agent listens unless it was told otherwise.
			Addresses: []string{"127.0.0.1:8500"},
			Prefix:    "pgsidecar",
			// The least that Consul accepts. It is the last resort of failure
			// detection, so shorter is better.
			SessionTTL: 10 * time.Second,
		},
		Postgres: Postgres{
			User:        env.User,
			Superuser:   Account{Name: "postgres"},
			Replication: Account{Name: "replicator"},
			StopTimeout: policy.StopTimeout,
			// What every member can send, whatever became of the repository.
			CloneMethods: []string{CloneBaseBackup},
		},
		Service:    Service{Reads: settings.DefaultReadLimits()},
		API:        API{UI: true},
		Bootstrap:  Bootstrap{Initdb: DefaultInitdb()},
		Durability: Durability{Mode: policy.Mode, Standbys: policy.Standbys, Strict: policy.Strict, MaxVoters: policy.MaxVoters, Zones: policy.Zones},
		Failover: Failover{
			Automatic: policy.Automatic, FailureTimeout: policy.FailureTimeout, FailureTimeoutMin: settings.DefaultFailureTimeoutMin, Lease: policy.Lease,
			HandoverTimeout: policy.HandoverTimeout, AgentTimeout: policy.AgentTimeout,
			MaxLag: settings.Size(policy.MaxLag), RefusedIsDead: !policy.DistrustRefusal,
		},
		HAProxy: HAProxy{
			// Applications run beside it; who serves others says so.
			Bind: "127.0.0.1",
			// The ports that Patroni's users know.
			PrimaryPort: 5000,
			ReplicaPort: 5001,
		},
		PgBouncer: PgBouncer{Account: Account{Name: "pgbouncer"}},
		Log:       Log{Level: "info", Format: "text"},
	}
}

// templateDefaults returns a template block's values before it is read.
func templateDefaults(name string) Template {
	return Template{
		Name: name,
		// Longer than `haproxy -c` of the largest file, shorter than patience.
		Timeout: 30 * time.Second,
	}
}

// The ports that are added to addresses without one being given at all.
const (
	postgresPort = "5432" // PostgreSQL's
	apiPort      = "8008" // Patroni's, which its users' checks know
)

// label returns a host name's first label.
func label(host string) string {
	name, _, _ := strings.Cut(host, ".")
	return name
}
