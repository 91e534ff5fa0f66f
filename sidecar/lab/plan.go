package lab

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// Kind is what a host is for.
type Kind string

// The kinds of hosts.
const (
	KindConsul  Kind = "consul"  // a Consul server
	KindMember  Kind = "member"  // a member of the cluster
	KindApp     Kind = "app"     // where the application, HAProxy and PgBouncer run
	KindWitness Kind = "witness" // a third Consul, beside two sites
)

// Plan is the layout of one lab: decided before anything is started, kept in
// its folder, and not changed afterwards.
type Plan struct {
	Version   int    `json:"version"`
	ID        string `json:"id"` // unique to this lab; in the mark of its processes and in its namespaces' names
	Dir       string `json:"dir"`
	Isolated  bool   `json:"isolated"`
	Breakable bool   `json:"breakable,omitempty"`
	// Hangable: the members' disks are images of their own (Breakable, and this machine
	// has loop devices and mkfs.ext4).
	Hangable bool   `json:"hangable,omitempty"`
	Bridge   string `json:"bridge,omitempty"` // isolated: the namespace of the bridge
	Cluster  string `json:"cluster"`          // also the name of the service in Consul
	Prefix   string `json:"prefix"`           // of the keys in Consul

	Binary      string `json:"binary,omitempty"` // pgsidecar; empty: members and proxy are not started
	Consul      string `json:"consul"`
	HAProxy     string `json:"haproxy,omitempty"`
	PgBouncer   string `json:"pgbouncer,omitempty"` // empty: none
	PostgresBin string `json:"postgres_bin,omitempty"`
	User        string `json:"user,omitempty"` // PostgreSQL's system user; empty: the user who runs the lab

	Sited
	Logged

	Mode     string `json:"mode"`     // durability: quorum or async
	Standbys int    `json:"standbys"` // how many standbys hold each commit

	Hosts []Host `json:"hosts"`
}

// Logged says how the members keep their WAL.
type Logged struct {
	Backup       bool `json:"backup,omitempty"`         // members archive and make backups, by pgBackRest
	WALSegmentMB int  `json:"wal_segment_mb,omitempty"` // 0: pgsidecar's default
}

// OtherSite is the lab whose cluster this one follows, and how it is found: by Consul, or
// by its addresses.
type OtherSite struct {
	Dir        string   `json:"dir"`
	Service    string   `json:"service,omitempty"`
	Datacenter string   `json:"datacenter,omitempty"`
	Witness    string   `json:"witness,omitempty"`
	Addresses  []string `json:"addresses,omitempty"` // of its servers
	APIs       []string `json:"apis,omitempty"`      // of its members
}

func (o Options) postgresBin() (string, error) {
	if o.PostgresBin != "" {
		return o.PostgresBin, nil
	}
	return programs.PostgresBin()
}

// follow makes the plan one of a cluster that follows the other lab's.
func (p *Plan) follow(other *Plan) {
	if other == nil {
		return
	}
	p.Other = &OtherSite{Dir: other.Dir}
	for _, m := range other.Members() {
		p.Other.Addresses, p.Other.APIs = append(p.Other.Addresses, m.PostgresAddress()), append(p.Other.APIs, m.APIAddress())
	}
}

// Host is one host of a lab. A port is zero where nothing listens.
type Host struct {
	Name      string `json:"name"`
	Kind      Kind   `json:"kind"`
	Address   string `json:"address"`
	Namespace string `json:"namespace,omitempty"` // isolated only
	Dir       string `json:"dir"`
	Ports     Ports  `json:"ports"`
}

// Ports are where a host's programs listen.
type Ports struct {
	HTTP    int `json:"http"`     // Consul's API
	DNS     int `json:"dns"`      // Consul's DNS, UDP and TCP
	SerfLAN int `json:"serf_lan"` // Consul's gossip, UDP and TCP
	Server  int `json:"server"`   // Consul's RPC

	Postgres int `json:"postgres,omitempty"` // a member's server
	API      int `json:"api,omitempty"`      // a sidecar's API

	Primary  int `json:"primary,omitempty"`  // HAProxy: to the primary
	Replicas int `json:"replicas,omitempty"` // HAProxy: to the replicas
	Pool     int `json:"pool,omitempty"`     // PgBouncer
	Status   int `json:"status,omitempty"`   // of `pgsidecar proxy`
}

// HTTPAddress returns host:port of the host's Consul API.
func (h Host) HTTPAddress() string { return h.at(h.Ports.HTTP) }

// DNSAddress returns host:port of the host's Consul DNS.
func (h Host) DNSAddress() string { return h.at(h.Ports.DNS) }

// PostgresAddress returns host:port of a member's server.
func (h Host) PostgresAddress() string { return h.at(h.Ports.Postgres) }

// APIAddress returns host:port of the sidecar's API.
func (h Host) APIAddress() string { return h.at(h.Ports.API) }

// PrimaryAddress returns host:port where HAProxy leads to the primary.
func (h Host) PrimaryAddress() string { return h.at(h.Ports.Primary) }

// ReplicasAddress returns host:port where HAProxy leads to the replicas.
func (h Host) ReplicasAddress() string { return h.at(h.Ports.Replicas) }

// PoolAddress returns host:port of PgBouncer.
func (h Host) PoolAddress() string { return h.at(h.Ports.Pool) }

// StatusAddress returns host:port where `pgsidecar proxy` says how it does.
func (h Host) StatusAddress() string { return h.at(h.Ports.Status) }

// DataDir returns a member's PostgreSQL data directory.
func (h Host) DataDir() string { return filepath.Join(h.Dir, "postgres", "data") }

func (h Host) at(port int) string { return net.JoinHostPort(h.Address, strconv.Itoa(port)) }

// ErrNoHost is returned for a host that the lab does not have.
var ErrNoHost = errors.New("no such host in this lab")

// Host returns the host of that name. It returns ErrNoHost.
func (p *Plan) Host(name string) (Host, error) {
	i := slices.IndexFunc(p.Hosts, func(h Host) bool { return h.Name == name })
	if i < 0 {
		return Host{}, fmt.Errorf("%w: %s", ErrNoHost, name)
	}
	return p.Hosts[i], nil
}

// Members returns the hosts of the members, in order.
func (p *Plan) Members() []Host { return p.of(KindMember) }

// Servers returns the hosts of the Consul servers, in order.
func (p *Plan) Servers() []Host { return p.of(KindConsul) }

// App returns the application's host.
func (p *Plan) App() Host { return p.of(KindApp)[0] }

func (p *Plan) of(kind Kind) []Host {
	return slices.DeleteFunc(slices.Clone(p.Hosts), func(h Host) bool { return h.Kind != kind })
}

// addHosts lays out the hosts: names, folders and, isolated, addresses and the
// usual ports. A second site's numbers go on where those of the first end; nil: there
// is no first.
func (p *Plan) addHosts(servers, members int, first *Plan) {
	network, afterServers, afterMembers, app := 0, 0, 0, "app"
	if first != nil {
		network, afterServers, afterMembers, app = 1, len(first.Servers()), len(first.Members()), "app2"
	}
	add := func(name string, kind Kind) {
		h := Host{Name: name, Kind: kind, Address: "127.0.0.1", Dir: filepath.Join(p.Dir, name)}
		if p.Isolated {
			h.Address = fmt.Sprintf("10.213.%d.%d", network, 10+len(p.Hosts))
			h.Namespace = "pgl" + p.ID + "-" + name
		}
		p.Hosts = append(p.Hosts, h)
	}
	for i := range servers {
		add("c"+strconv.Itoa(afterServers+i+1), KindConsul)
	}
	for i := range members {
		add("n"+strconv.Itoa(afterMembers+i+1), KindMember)
	}
	add(app, KindApp)
	if p.Isolated {
		p.Bridge = "pgl" + p.ID + "-bridge"
	}
}

// givePorts gives every program a port: the usual one in a namespace of its
// own, else a free one.
func (p *Plan) givePorts() error {
	var failed error
	for i := range p.Hosts {
		h := &p.Hosts[i]
		next := func(usual int) int {
			if p.Isolated {
				return usual
			}
			port, err := programs.FreePort()
			failed = errors.Join(failed, err)
			return port
		}
		h.Ports = Ports{HTTP: next(8500), DNS: next(8600), SerfLAN: next(8301), Server: next(8300)}
		switch h.Kind {
		case KindMember:
			h.Ports.Postgres, h.Ports.API = next(5432), next(8008)
		case KindApp:
			h.Ports.Primary, h.Ports.Replicas = next(5000), next(5001)
			if p.PgBouncer != "" {
				h.Ports.Pool = next(6432)
			}
			if p.Binary != "" {
				h.Ports.Status = next(8018)
			}
		}
	}
	return failed
}

// newID returns what tells this lab from every other.
func newID() (string, error) {
	b := make([]byte, 4)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("choose an id: %w", err)
	}
	return hex.EncodeToString(b), nil
}

func (p *Plan) path() string { return filepath.Join(p.Dir, "lab.json") }

// save writes the plan beside the journal.
func (p *Plan) save() error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the plan: %w", err)
	}
	if err := replaceFile(p.path(), b, 0o644); err != nil {
		return fmt.Errorf("write the plan: %w", err)
	}
	return nil
}

// loadPlan reads the plan of the lab in dir. An absent one is fs.ErrNotExist.
func loadPlan(dir string) (*Plan, error) {
	b, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if err != nil {
		return nil, fmt.Errorf("read the plan of the lab: %w", err)
	}
	p := new(Plan)
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("read the plan of the lab in %s: %w", dir, err)
	}
	return p, nil
}

// replaceFile puts a file in place whole or not at all.
func replaceFile(path string, b []byte, mode os.FileMode) error {
	next := path + ".next"
	if err := os.WriteFile(next, b, mode); err != nil {
		return err
	}
	return os.Rename(next, path)
}
