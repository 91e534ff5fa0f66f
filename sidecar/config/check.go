package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// where returns the place of a value in the file: its own, or its block's, or
// none.
func (r *reader) where(path string) hcl.Range {
	for path != "" {
		if at, ok := r.at[path]; ok {
			return at
		}
		path = path[:max(strings.LastIndexByte(path, '.'), 0)]
	}
	return hcl.Range{}
}

// set reports whether the file itself has the value.
func (r *reader) set(path string) bool {
	_, ok := r.at[path]
	return ok
}

// require notes a fault at path unless ok.
func (r *reader) require(ok bool, path, format string, args ...any) {
	if !ok {
		r.refuse(path, format, args...)
	}
}

// refuse notes a fault at path, unless that line has one already.
func (r *reader) refuse(path, format string, args ...any) {
	if at := r.where(path); at.Empty() || !r.bad[at.Start.Line] {
		r.add(at, format, args...)
	}
}

// check holds the values against each other and against what the programs
// behind them accept.
func (r *reader) check(c *Config, of kind) {
	r.checkNames(c)
	r.checkConsul(&c.Consul)
	r.checkTemplates(c)
	r.checkFiles(c)
	r.checkAccounts(c)
	if of == proxyFile {
		return
	}
	r.checkPostgres(&c.Postgres, c.Durability.Mode)
	r.checkBackups(c)
	r.checkBootstrap(c)
	r.checkClone(c)
	r.checkHooks(c)
	r.checkTrace(&c.Trace)
	r.checkAddresses(c)
	r.checkTimers(c)
	r.checkDurability(&c.Durability)
	r.checkTags(c)
	r.checkSite(c)
}

// checkSite refuses another site that cannot be one.
func (r *reader) checkSite(c *Config) {
	if !r.set("standby_of") {
		return
	}
	if err := c.StandbyOf.Check(); err != nil {
		r.refuse("standby_of", "%s", strings.TrimPrefix(err.Error(), settings.ErrSettings.Error()+": "))
		return
	}
	own := c.StandbyOf.Service == c.Service.Name && (c.StandbyOf.Datacenter == "" || c.StandbyOf.Datacenter == c.Consul.Datacenter)
	r.require(!own, "standby_of", "standby_of names this cluster itself: its service is %s too", c.Service.Name)
	r.require(c.StandbyOf.Witness == "" || c.StandbyOf.Witness != c.Consul.Datacenter, "standby_of",
		"standby_of.witness is this site's own datacenter, %s; expected a third one, which both sites name", c.Consul.Datacenter)
	r.require(!slices.Contains(c.StandbyOf.Addresses, c.Postgres.Advertise), "standby_of", "standby_of names this member itself: %s", c.Postgres.Advertise)
}

// name is what cluster, member and service may be called: one label of DNS, in
// lower case, because the service is looked up there, and because PostgreSQL
// compares synchronous_standby_names without case.
var name = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// datacenter is what one may be called.
var datacenter = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)

const nameRule = "expected lower-case letters, digits and hyphens, at most 63, such as %q"

// roleTags are those that Consul's DNS finds the roles by.
var roleTags = []string{"primary", "replica", "standby-leader"}

// goodTag reports whether Consul can keep a tag, and files list it. Only one that DNS is to
// find has to be a name; other programs have their own forms, such as traefik.enable=true or
// urlprefix-:5432 proto=tcp.
func goodTag(tag string) bool {
	return tag != "" && len(tag) <= 255 && utf8.ValidString(tag) && tag == strings.TrimSpace(tag) &&
		!strings.ContainsFunc(tag, func(r rune) bool { return !unicode.IsPrint(r) })
}

func (r *reader) checkNames(c *Config) {
	r.require(name.MatchString(c.Cluster), "cluster", "cluster %q: "+nameRule, c.Cluster, "pg")
	if r.set("member") || c.Member != "" {
		r.require(name.MatchString(c.Member), "member", "member %q: "+nameRule, c.Member, "n1")
	} else {
		r.add(hcl.Range{}, "member is not set, and this machine has no host name; expected member = \"n1\"")
	}
	r.require(name.MatchString(c.Service.Name) || !r.set("service.name"), "service.name", "service %q: "+nameRule, c.Service.Name, "pg")
	for _, tag := range c.Service.Tags {
		r.require(goodTag(tag), "service.tags", "tag %q: expected 1 to 255 printable characters, without blanks around them, such as %q", tag, "europe")
		r.require(!slices.ContainsFunc(roleTags, func(role string) bool { return strings.EqualFold(tag, role) }), "service.tags",
			"tag %q is given by pgsidecar to the member that has the role", tag)
	}
	own := []string{"member", "term", "timeline", "api", "version", "cluster", "prefix"}
	for _, key := range sortedKeys(c.Service.Meta) {
		r.require(!slices.Contains(own, key), "service.meta", "meta %s is set by pgsidecar itself", key)
	}
}

func (r *reader) checkConsul(c *Consul) {
	r.require(len(c.Addresses) > 0, "consul.address", `expected at least one address, such as "127.0.0.1:8500"`)
	for _, a := range c.Addresses {
		r.require(consulAddress(a), "consul.address", "address %q: expected host:port, http://host:port, https://host:port or unix:///path", a)
	}
	clean := strings.Trim(c.Prefix, "/")
	r.require(clean == c.Prefix && !strings.Contains(clean, "//"), "consul.prefix", "prefix %q: expected no slash at either end, nor an empty part", c.Prefix)
	r.require(c.SessionTTL >= 10*time.Second && c.SessionTTL <= 24*time.Hour, "consul.session_ttl",
		"session_ttl %s: Consul accepts 10s to 24h", c.SessionTTL)
	r.require(!(r.set("consul.token_file") && r.set("consul.token")), "consul.token", "token and token_file are both set; expected one of them")
	other := c.OtherDatacenter
	r.require(other == "" || datacenter.MatchString(other), "consul.other_datacenter", "other_datacenter %q: expected letters, digits, hyphens and underscores, such as \"dc2\"", other)
	r.require(other == "" || other != c.Datacenter, "consul.other_datacenter", "other_datacenter %q is this site's own; expected the other site's", other)
	r.require((c.TLS.CertFile == "") == (c.TLS.KeyFile == ""), "consul.tls", "cert_file and key_file go together; one of them is missing")
}

// consulAddress reports whether a is what consul/api accepts.
func consulAddress(a string) bool {
	if path, ok := strings.CutPrefix(a, "unix://"); ok {
		return filepath.IsAbs(path)
	}
	for _, scheme := range []string{"http://", "https://"} {
		if host, named := strings.CutPrefix(a, scheme); named {
			host = strings.TrimSuffix(host, "/")
			// Without a port it is the scheme's own.
			return hostPort(host) == nil || hostPort(net.JoinHostPort(host, "443")) == nil
		}
	}
	return hostPort(strings.TrimSuffix(a, "/")) == nil
}

// hostPort returns an error unless a is host:port with a host and a port from
// 1 to 65535.
func hostPort(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return &net.AddrError{Err: "port is not 1 to 65535", Addr: a}
	}
	if host == "" || strings.ContainsAny(host, " /\t") {
		return &net.AddrError{Err: "no host", Addr: a}
	}
	return nil
}

// apart reports whether neither directory is the other, or inside it.
func apart(a, b string) bool {
	up := func(from, to string) bool {
		rel, err := filepath.Rel(from, to)
		return err != nil || rel == ".." || strings.HasPrefix(rel, "../")
	}
	return up(a, b) && up(b, a)
}

func (r *reader) checkPostgres(p *Postgres, mode ha.Mode) {
	for key, dir := range map[string]string{"bin_dir": p.BinDir, "data_dir": p.DataDir, "state_dir": p.StateDir, "wal_dir": p.WALDir} {
		r.require(dir == "" || filepath.IsAbs(dir), "postgres."+key, "%s %q: expected an absolute path", key, dir)
	}
	inside, err := filepath.Rel(p.DataDir, p.StateDir)
	r.require(err != nil || inside == ".." || strings.HasPrefix(inside, "../"), "postgres.state_dir",
		"state_dir %q is inside data_dir; a clone would remove it. Expected a directory beside it, such as %q", p.StateDir, p.DataDir+".pgsidecar")
	for _, other := range []string{p.DataDir, p.StateDir} {
		r.require(p.WALDir == "" || apart(p.WALDir, other), "postgres.wal_dir", "wal_dir %q and %q: expected neither inside the other", p.WALDir, other)
	}
	r.require(p.User != "root" && p.User != "0", "postgres.user", "PostgreSQL does not run as root; expected user = \"postgres\"")
	r.require(p.StopTimeout >= time.Second, "postgres.stop_timeout", "stop_timeout %s: expected 1s or more", p.StopTimeout)

	for key, a := range map[string]Account{"superuser": p.Superuser, "replication": p.Replication} {
		path := "postgres." + key
		r.require(!a.Password.Empty() || a.PasswordFile != "" || r.set(path+".password"), path,
			`%s has no password; expected password_file = "/path" or password = env("NAME")`, path)
		r.require(!(a.PasswordFile != "" && r.set(path+".password")), path+".password", "password and password_file are both set; expected one of them")
		r.require(len(a.Name) <= 63 && !strings.HasPrefix(a.Name, "pg_"), path+".name",
			"name %q: expected a role of at most 63 bytes that does not begin with pg_", a.Name)
	}
	r.require((p.TLS.CertFile == "") == (p.TLS.KeyFile == ""), "postgres.tls", "cert_file and key_file go together; one of them is missing")
	r.require(!p.TLS.Require || p.TLS.CertFile != "" && p.TLS.CAFile != "", "postgres.tls.require",
		"require needs cert_file, key_file and ca_file: each member shows a certificate, and checks the others'")
	for _, path := range []string{p.TLS.CertFile, p.TLS.KeyFile, p.TLS.CAFile} {
		r.require(path == "" || filepath.IsAbs(path), "postgres.tls", "%q: expected an absolute path", path)
	}
	r.require(p.Superuser.Name != p.Replication.Name, "postgres.replication.name",
		"superuser and replication are both %q; expected two roles, so that a replica's password cannot change the primary", p.Superuser.Name)

	r.checkParameters(p, mode)
	for _, line := range p.HBA {
		if err := CheckHBA(line); err != nil {
			r.refuse("postgres.hba", "hba %q: %s", line, err)
		}
	}
}

func (r *reader) checkAddresses(c *Config) {
	for path, a := range map[string]string{
		"postgres.listen": c.Postgres.Listen, "postgres.advertise": c.Postgres.Advertise,
		"api.listen": c.API.Listen, "api.advertise": c.API.Advertise,
	} {
		if a == "" {
			continue // derive has said why
		}
		host, _, _ := net.SplitHostPort(a)
		key := path[strings.LastIndexByte(path, '.')+1:]
		switch {
		case bareIPv6(a):
			at := strings.LastIndexByte(a, ':')
			r.refuse(path, `%s %q: an IPv6 address has brackets; expected "[%s]%s"`, key, a, a[:at], a[at:])
		case hostPort(a) != nil:
			r.refuse(path, `%s %q: expected host:port, such as "10.0.0.1:5432"`, key, a)
		case key == "advertise" && wildcard(host):
			r.refuse(path, "advertise %q: nobody can connect to that; expected an address of this machine that the others reach", a)
		}
	}
	r.require(!samePort(c.Postgres.Listen, c.API.Listen), "api.listen",
		"api and postgres both listen on %s; expected two ports", c.API.Listen)
	r.require((c.API.TLS.CertFile == "") == (c.API.TLS.KeyFile == ""), "api.tls", "cert_file and key_file go together; one of them is missing")
	r.require(c.API.TLS.ClientCAFile == "" || c.API.TLS.CertFile != "", "api.tls.client_ca_file", "client_ca_file needs cert_file and key_file")
	r.require(c.API.TLS.CAFile == "" || c.API.TLS.CertFile != "", "api.tls.ca_file", "ca_file needs cert_file and key_file: the members have all TLS, or none")
	r.require(!c.API.TLS.RequireClient || c.API.TLS.ClientCAFile != "", "api.tls.require_client_cert",
		"require_client_cert needs client_ca_file, which says whose certificates are good")
	r.require(!(r.set("api.token_file") && r.set("api.token")), "api.token", "token and token_file are both set; expected one of them")
	r.require(!(r.set("peers.key_file") && r.set("peers.key")), "peers.key", "key and key_file are both set; expected one of them")
}

// bareIPv6 reports whether a is an IPv6 address and a port, without the brackets
// that tell one from the other: what a go-sockaddr template makes on some machines.
func bareIPv6(a string) bool {
	host, err := netip.ParseAddr(a[:max(strings.LastIndexByte(a, ':'), 0)])
	return err == nil && host.Is6()
}

// samePort reports whether two listeners would collide.
func samePort(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	return errA == nil && errB == nil && portA == portB && (hostA == hostB || wildcard(hostA) || wildcard(hostB))
}

// CheckFailureTimeout returns what is wrong with a failure_timeout beside a lease.
func CheckFailureTimeout(timeout, lease time.Duration) error {
	switch {
	case timeout < 500*time.Millisecond:
		return fmt.Errorf("failure_timeout %s: expected 500ms or more; a heartbeat and a pause of the scheduler must fit in", timeout)
	case 2*timeout > lease:
		return fmt.Errorf("failure_timeout %s is more than half of the lease of %s, which one lost heartbeat would then end; expected %s or less", timeout, lease, lease/2)
	}
	return nil
}

func (r *reader) checkTimers(c *Config) {
	f := &c.Failover
	if err := CheckFailureTimeout(f.FailureTimeout, 2*f.FailureTimeout); err != nil { // the lease has a line of its own
		r.refuse("failover.failure_timeout", "%s", err)
	}
	r.require(f.FailureTimeoutMin >= 500*time.Millisecond, "failover.failure_timeout_min",
		"failure_timeout_min %s: expected 500ms or more; a heartbeat and a pause of the scheduler must fit in", f.FailureTimeoutMin)
	r.require(f.Lease >= 2*f.FailureTimeout, "failover.lease",
		"lease %s is less than twice failure_timeout %s; expected %s or more, or one lost heartbeat would end it", f.Lease, f.FailureTimeout, 2*f.FailureTimeout)
	r.require(f.Lease <= c.Consul.SessionTTL, "failover.lease",
		"lease %s is longer than consul session_ttl %s; expected at most that, so that a primary whose session has expired has stopped", f.Lease, c.Consul.SessionTTL)
	r.require(f.HandoverTimeout >= time.Second, "failover.handover_timeout",
		"handover_timeout %s: expected 1s or more; the old primary's shutdown checkpoint must fit in", f.HandoverTimeout)
	r.require(f.AgentTimeout == 0 || f.AgentTimeout >= 5*time.Second, "failover.agent_timeout",
		"agent_timeout %s: expected 5s or more, or 0s for never; an agent that restarts is not lost", f.AgentTimeout)
}

func (r *reader) checkDurability(d *Durability) {
	if d.Mode == ha.ModeAsync {
		for _, key := range []string{"standbys", "strict", "max_voters", "zones"} {
			r.require(!r.set("durability."+key), "durability."+key, "%s has no meaning in mode \"async\", where commits wait for no standby; expected mode = \"quorum\", or no %s", key, key)
		}
		return // the rest holds if the cluster-wide settings say quorum
	}
	if err := settings.CheckStandbys(d.Standbys); err != nil {
		r.refuse("durability.standbys", "%s", err)
	}
	r.require(d.MaxVoters == 0 || d.MaxVoters >= d.Standbys, "durability.max_voters",
		"max_voters %d is less than standbys %d; expected %d or more, or 0 for twice standbys", d.MaxVoters, d.Standbys, d.Standbys)
	if err := settings.CheckZones(d.Zones, d.Standbys); err != nil {
		r.refuse("durability.zones", "%s", err)
	}
}

func (r *reader) checkTags(c *Config) {
	t := &c.Tags
	r.require(c.Durability.Zones <= 1 || t.Own[ha.ZoneTag] != "", "durability.zones", "zones %d: this member's zone is not known; expected one in its tags, such as tags { zone = \"a\" }", c.Durability.Zones)
	r.require(!t.NoFailover || t.Priority == 0, "tags.priority", "priority %d has no meaning with nofailover: this member never leads", t.Priority)
	r.require(t.ReplicateFrom != c.Member || c.Member == "", "tags.replicatefrom", "replicatefrom names this member itself; expected another")
	r.require(t.ReplicateFrom == "" || name.MatchString(t.ReplicateFrom), "tags.replicatefrom", "replicatefrom %q: "+nameRule, t.ReplicateFrom, "n2")
}

func (r *reader) checkTemplates(c *Config) {
	writes := map[string]string{}
	for i := range c.Templates {
		t := &c.Templates[i]
		path := "template." + t.Name
		r.require((t.Source == "") != (t.Builtin == ""), path, "template %q: expected either source or builtin", t.Name)
		r.require(filepath.IsAbs(t.Destination), path+".destination", "template %q: expected destination, an absolute path", t.Name)
		r.require(t.Timeout >= 100*time.Millisecond, path+".timeout", "timeout %s: expected 100ms or more", t.Timeout)
		r.require(t.Reload == "" || len(t.Command) == 0, path+".reload", "template %q: reload and command are both set; expected one of them", t.Name)
		r.require(t.Reload == "" || c.HAProxy.MasterSocket != "", path+".reload",
			"template %q: reload needs master_socket in the block haproxy", t.Name)
		if other, taken := writes[t.Destination]; taken && t.Destination != "" {
			r.refuse(path+".destination", "template %q writes %s, and so does %q", t.Name, t.Destination, other)
		}
		writes[t.Destination] = t.Name
	}
	r.checkHAProxy(&c.HAProxy)
}

func (r *reader) checkHAProxy(h *HAProxy) {
	r.require(h.Socket == "" || filepath.IsAbs(h.Socket) || hostPort(h.Socket) == nil, "haproxy.socket",
		"socket %q: expected the absolute path of HAProxy's stats socket, or host:port", h.Socket)
	r.require(h.AgentSocket == "" || filepath.IsAbs(h.AgentSocket) || hostPort(h.AgentSocket) == nil, "haproxy.agent_socket",
		"agent_socket %q: expected an absolute path, or host:port", h.AgentSocket)
	r.require(h.MasterSocket == "" || filepath.IsAbs(h.MasterSocket) || hostPort(h.MasterSocket) == nil, "haproxy.master_socket",
		"master_socket %q: expected the absolute path that HAProxy was given with -S, or host:port", h.MasterSocket)
	r.require(h.MasterSocket == "" || h.Socket != "", "haproxy.master_socket", "master_socket: expected socket beside it, HAProxy's stats socket")
	r.require(h.MasterSocket == "" || h.MasterSocket != h.Socket, "haproxy.master_socket",
		"master_socket and socket are both %q; expected HAProxy's stats socket, and the one that it was given with -S", h.Socket)
	r.require(h.CheckCAFile == "" || filepath.IsAbs(h.CheckCAFile), "haproxy.check_ca_file", "check_ca_file %q: expected an absolute path", h.CheckCAFile)
	r.require(h.CheckCertFile == "" || filepath.IsAbs(h.CheckCertFile), "haproxy.check_cert_file", "check_cert_file %q: expected an absolute path", h.CheckCertFile)
	r.require(h.CheckCertFile == "" || h.CheckCAFile != "", "haproxy.check_cert_file",
		"check_cert_file: expected check_ca_file beside it: without it the checks do not use TLS")
	for _, a := range h.Resolvers {
		dns, err := netip.ParseAddrPort(a)
		r.require(err == nil && dns.Port() > 0 && dns.Addr().Zone() == "", "haproxy.resolvers",
			`resolvers %q: expected the IP address and port of a DNS server, such as "127.0.0.1:8600"`, a)
	}
	ports := map[int]string{}
	for _, p := range []struct {
		key  string
		port int
	}{{"primary_port", h.PrimaryPort}, {"replica_port", h.ReplicaPort}, {"stats_port", h.StatsPort}} {
		if p.port == 0 && p.key == "stats_port" {
			continue
		}
		r.require(p.port >= 1 && p.port <= 65535, "haproxy."+p.key, "%s %d: expected 1 to 65535", p.key, p.port)
		r.require(ports[p.port] == "", "haproxy."+p.key, "%s and %s are both %d; expected two ports", ports[p.port], p.key, p.port)
		ports[p.port] = p.key
	}
}
