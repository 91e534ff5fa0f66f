package config

import (
	"os"
	"os/user"
	"strings"
	"time"

	sockaddr "github.com/hashicorp/go-sockaddr/template"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
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
		c.Cluster, c.Service.Name = first(t.Cluster, c.Cluster), first(t.Cluster, c.Service.Name)
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
		Service: Service{Name: "pg"},
		Postgres: Postgres{
			User:        env.User,
			Superuser:   Account{Name: "postgres"},
			Replication: Account{Name: "replicator"},
			// A fast shutdown takes a checkpoint, which on a busy server takes
			// many seconds; an immediate one costs a crash recovery instead.
			StopTimeout: 30 * time.Second,
		},
		Durability: Durability{
			// Losing acknowledged commits must be asked for, not got by default.
			Mode: ha.ModeQuorum,
			// One standby besides the primary survives the loss of any one
			// server; each more costs the slower of two round trips.
			Standbys: 1,
			// Without it "a standby holds it" would hold only as long as
			// nothing fails.
			Strict: true,
			// 0 follows Standbys: twice as many voters leave the slower half out.
			MaxVoters: 0,
		},
		Failover: Failover{
			Automatic: true,
			// Silence of a lost host; a crashed process is noticed at once. A
			// second is within a stalled disk's or a busy hypervisor's reach,
			// two hardly ever.
			FailureTimeout: 2 * time.Second,
			// Twice FailureTimeout, so that one lost renewal is not the end, and
			// half a second on each side to notice and to stop.
			Lease: 5 * time.Second,
			// A handover takes a quarter of a second; a busy server's shutdown
			// checkpoint may take seconds. Clients wait this long at most.
			HandoverTimeout: 10 * time.Second,
			// An agent that is restarted or upgraded is back sooner.
			AgentTimeout: 30 * time.Second,
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
		// A configuration file may hold a password.
		Perms: 0o640,
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

// first returns the first of its arguments that is not empty.
func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
