package nomad

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What a job file may set in a task's environment besides what Nomad does.
const (
	// EnvNode is the node's name, a new member's first name where its volume
	// belongs to the node. Without it a new member is named <group>-<index>.
	EnvNode = "PGSIDECAR_NODE"
	// EnvDataDir is the data directory where no volume is mounted (raw_exec).
	EnvDataDir = "PGSIDECAR_DATA_DIR"
	// EnvKillTimeout repeats the task's kill_timeout, which Nomad does not tell.
	EnvKillTimeout = "PGSIDECAR_KILL_TIMEOUT"
)

// VolumeDir is where the job files mount the volume, and where the data
// directory is if nothing else is configured.
const VolumeDir = "/var/lib/pgsidecar"

// The labels of the ports in the job files.
const (
	PortPostgres = "postgres"
	PortAPI      = "api"
)

// Allocation is what Nomad has told a task about itself (Nomad documentation,
// Runtime environment settings).
type Allocation struct {
	ID         string
	Job, Group string
	Index      string // NOMAD_ALLOC_INDEX; of the name, not of the data
	Node       string // EnvNode; may be empty
	AllocDir   string // shared by the group's tasks; ends with the allocation
	TaskDir    string // ends with the allocation
	SecretsDir string // in memory; ends with the allocation
	// KillTimeout is the time between kill_signal and SIGKILL; 0: not known.
	KillTimeout time.Duration

	getenv func(string) string
	seen   time.Time
}

// FromEnvironment returns the allocation that this process is a task of; false
// outside of Nomad. It returns ErrEnvironment for a value that nobody can use.
func FromEnvironment(getenv func(string) string) (Allocation, bool, error) {
	a := Allocation{
		ID: getenv("NOMAD_ALLOC_ID"), Job: getenv("NOMAD_JOB_NAME"), Group: getenv("NOMAD_GROUP_NAME"),
		Index: getenv("NOMAD_ALLOC_INDEX"), Node: getenv(EnvNode),
		AllocDir: getenv("NOMAD_ALLOC_DIR"), TaskDir: getenv("NOMAD_TASK_DIR"), SecretsDir: getenv("NOMAD_SECRETS_DIR"),
		getenv: getenv, seen: time.Now(),
	}
	if a.ID == "" {
		return Allocation{}, false, nil
	}
	if text := getenv(EnvKillTimeout); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return a, true, fmt.Errorf("%s is %q; expected the task's kill_timeout, such as 30s: %w", EnvKillTimeout, text, ErrEnvironment)
		}
		a.KillTimeout = d
	}
	return a, true, nil
}

// Rank orders a job's allocations for a planned handover: the one with the
// highest is to lead. That is the one placed last; of those placed within the
// same second, the one with the highest index.
//
// Nomad replaces the allocations of an update in the order of their index,
// lowest first (scheduler/reconciler, computeDestructiveUpdates), one after the
// other. So while an update is under way those placed last are the ones that are
// updated already, and a primary that hands over to one of them need not move a
// second time. Before it begins, the one with the highest index is updated last.
//
// A restart in place changes nothing: it is the directory's age that counts.
func (a Allocation) Rank() int {
	index, err := strconv.Atoi(a.Index)
	if err != nil || index < 0 || index >= maxIndex {
		index = 0
	}
	return int(a.placed().Unix())*maxIndex + index
}

// maxIndex bounds what an index counts in a Rank. A time and it fit into 42 bits.
const maxIndex = 1 << 10

// placed is when Nomad made the allocation's directory; where the file system
// does not tell, when this process was started, or nearly.
func (a Allocation) placed() time.Time {
	var s unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, a.AllocDir, 0, unix.STATX_BTIME, &s); err != nil || s.Mask&unix.STATX_BTIME == 0 || s.Btime.Sec <= 0 {
		return a.seen
	}
	return time.Unix(s.Btime.Sec, int64(s.Btime.Nsec))
}

// Cluster is the cluster's name: the job's.
func (a Allocation) Cluster() string { return strings.ToLower(a.Job) }

// DataDir is where the data directory is unless the configuration says another:
// on the volume, and the same for every member, because the volume may come
// with an allocation of any index.
func (a Allocation) DataDir() string {
	if dir := a.getenv(EnvDataDir); dir != "" {
		return filepath.Clean(dir)
	}
	return filepath.Join(VolumeDir, a.Cluster())
}

// Port returns where to listen for a port of the group's network, and the
// address by which others reach it; empty if the job has no such port. Inside
// of a bridge the two differ.
func (a Allocation) Port(label string) (listen, advertise string) {
	inside, host := a.getenv("NOMAD_PORT_"+label), a.getenv("NOMAD_HOST_PORT_"+label)
	if inside == "" {
		return "", ""
	}
	if host == "" {
		host = inside
	}
	address := a.getenv("NOMAD_HOST_IP_" + label)
	if address == "" {
		address = a.getenv("NOMAD_IP_" + label)
	}
	if address == "" {
		return net.JoinHostPort("0.0.0.0", inside), ""
	}
	return net.JoinHostPort("0.0.0.0", inside), net.JoinHostPort(address, host)
}

// Secret returns the path of a file in the allocation's secrets directory,
// where the job's template and identity blocks put it.
func (a Allocation) Secret(name string) string {
	if a.SecretsDir == "" {
		return ""
	}
	return filepath.Join(a.SecretsDir, name)
}

// ConsulTokenFile is where Nomad puts the token that it gets from Consul for
// the task's identity.
func (a Allocation) ConsulTokenFile() string { return a.Secret("consul_token") }

// MinKillTimeout is the least in which a primary hands over: what it wrote last
// goes to the replicas, the server stops, another takes the lock. It takes a
// quarter of a second on an idle machine; a busy one's checkpoint takes most.
const MinKillTimeout = 10 * time.Second

// leaveTimeout is kept for leaving Consul after the server has stopped.
const leaveTimeout = 4 * time.Second

// CheckKillTimeout returns ErrKillTimeout if a handover and the stop of the
// server, which may take up to stop (the configuration's stop_timeout), do not
// fit.
func (a Allocation) CheckKillTimeout(stop time.Duration) error {
	switch {
	case a.KillTimeout == 0:
		return nil
	case a.KillTimeout < MinKillTimeout:
		return fmt.Errorf("%w: it is %s, and Nomad would kill a primary in the middle of its handover; expected kill_timeout = \"30s\" in the task, and %s or more",
			ErrKillTimeout, a.KillTimeout, MinKillTimeout)
	case a.KillTimeout < stop+leaveTimeout:
		return fmt.Errorf("%w: it is %s, and stop_timeout is %s; expected a stop_timeout of %s or less, or a longer kill_timeout (and max_kill_timeout of Nomad's clients, 30s unless it is set)",
			ErrKillTimeout, a.KillTimeout, stop, a.KillTimeout-leaveTimeout)
	}
	return nil
}

// StopTimeout is how long the server's fast shutdown may take so that it ends,
// and the handover with it, before Nomad kills the task; 0: not known.
func (a Allocation) StopTimeout() time.Duration {
	if a.KillTimeout < MinKillTimeout {
		return 0
	}
	return a.KillTimeout * 2 / 3
}
