package config

import (
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// Write writes the configuration that is in effect, defaults and derived values
// included, as a file that Load accepts. A secret that came from the
// environment is left out, with a comment where it would stand.
func (c *Config) Write(w io.Writer) error {
	var text strings.Builder
	c.written().print(&text, "")
	_, err := io.WriteString(w, text.String())
	return err
}

// Object returns what Write writes, for programs: a block is an object, and one with a
// label stands below its label. A secret that came from the environment is left out.
func (c *Config) Object() map[string]any { return c.written().object() }

func (c *Config) written() *writer {
	root := &writer{}
	root.set("cluster", c.Cluster)
	root.set("member", c.Member)

	consul := root.block("consul")
	consul.set("address", c.Consul.Addresses)
	consul.set("prefix", c.Consul.Prefix)
	consul.secret("token", c.Consul.TokenFile, c.Consul.Token)
	consul.set("datacenter", c.Consul.Datacenter)
	consul.set("other_datacenter", c.Consul.OtherDatacenter)
	consul.set("session_ttl", c.Consul.SessionTTL)
	if c.Consul.TLS != (ConsulTLS{}) {
		tls := consul.block("tls")
		tls.set("ca_file", c.Consul.TLS.CAFile)
		tls.set("cert_file", c.Consul.TLS.CertFile)
		tls.set("key_file", c.Consul.TLS.KeyFile)
		tls.set("server_name", c.Consul.TLS.ServerName)
	}
	service := root.block("service")
	service.set("name", c.Service.Name)
	service.set("tags", c.Service.Tags)
	service.set("meta", c.Service.Meta)
	if reads := c.Service.Reads; reads != settings.DefaultReadLimits() {
		service.set("replica_max_lag", reads.Lag.String())
		service.set("replica_max_delay", reads.Delay)
	}

	if c.Postgres.DataDir != "" { // a proxy has none of these
		root.member(c)
	}
	for _, t := range c.Templates {
		b := root.labelled("template", t.Name)
		b.set("source", t.Source)
		b.set("builtin", t.Builtin)
		b.set("destination", t.Destination)
		b.set("check", t.Check)
		b.set("command", t.Command)
		b.set("reload", t.Reload)
		if t.Perms != 0 {
			b.set("perms", t.Perms)
		}
		b.set("user", t.User)
		b.set("group", t.Group)
		b.set("timeout", t.Timeout)
	}
	if c.HAProxy.Socket != "" {
		root.haproxy(&c.HAProxy)
	}
	if p := &c.PgBouncer; p.Address != "" {
		b := root.block("pgbouncer")
		b.set("address", p.Address)
		b.set("user", p.Account.Name)
		b.secret("password", p.Account.PasswordFile, p.Account.Password)
		b.set("database", p.Database)
	}
	log := root.block("log")
	log.set("level", c.Log.Level)
	log.set("format", c.Log.Format)
	return root
}

func (w *writer) postgres(p *Postgres) {
	b := w.block("postgres")
	b.set("bin_dir", p.BinDir)
	b.set("data_dir", p.DataDir)
	b.set("state_dir", p.StateDir)
	b.set("wal_dir", p.WALDir)
	b.set("user", p.User)
	b.set("listen", p.Listen)
	b.set("advertise", p.Advertise)
	b.set("parameters", p.Parameters)
	b.set("hba", p.HBA)
	b.set("ident", p.Ident)
	b.set("stop_timeout", p.StopTimeout)
	b.account("superuser", p.Superuser)
	b.account("replication", p.Replication)
	if p.TLS != (PostgresTLS{}) {
		tls := b.block("tls")
		tls.set("cert_file", p.TLS.CertFile)
		tls.set("key_file", p.TLS.KeyFile)
		tls.set("ca_file", p.TLS.CAFile)
		tls.set("require", p.TLS.Require)
	}
}

// member writes the blocks that only a member has.
func (w *writer) member(c *Config) {
	w.postgres(&c.Postgres)
	api := w.block("api")
	api.set("listen", c.API.Listen)
	api.set("advertise", c.API.Advertise)
	api.secret("token", c.API.TokenFile, c.API.Token)
	var allow []string
	for _, network := range c.API.Allow {
		allow = append(allow, network.String())
	}
	api.set("allow", allow)
	api.set("drills", c.API.Drills)
	api.set("ui", c.API.UI)
	if c.API.TLS != (ServerTLS{}) {
		tls := api.block("tls")
		tls.set("cert_file", c.API.TLS.CertFile)
		tls.set("key_file", c.API.TLS.KeyFile)
		tls.set("client_ca_file", c.API.TLS.ClientCAFile)
		tls.set("require_client_cert", c.API.TLS.RequireClient)
		tls.set("ca_file", c.API.TLS.CAFile)
	}
	w.block("peers").secret("key", c.Peers.KeyFile, c.Peers.Key)

	d := w.block("durability")
	d.set("mode", string(c.Durability.Mode))
	if c.Durability.Mode == ha.ModeQuorum {
		d.set("standbys", c.Durability.Standbys)
		d.set("strict", c.Durability.Strict)
		d.set("max_voters", c.Durability.MaxVoters)
		if c.Durability.Zones > 1 {
			d.set("zones", c.Durability.Zones)
		}
	}
	f := w.block("failover")
	f.set("automatic", c.Failover.Automatic)
	f.set("failure_timeout", c.Failover.FailureTimeout)
	f.set("failure_timeout_min", c.Failover.FailureTimeoutMin)
	f.set("lease", c.Failover.Lease)
	f.set("handover_timeout", c.Failover.HandoverTimeout)
	f.set("agent_timeout", c.Failover.AgentTimeout)
	if c.Failover.MaxLag > 0 {
		f.set("max_lag", c.Failover.MaxLag.String())
	}
	f.set("refused_is_dead", c.Failover.RefusedIsDead)

	w.site(&c.StandbyOf)
	tags := w.block("tags")
	tags.set("nofailover", c.Tags.NoFailover)
	tags.set("priority", c.Tags.Priority)
	tags.set("nosync", c.Tags.NoSync)
	tags.some("sync_priority", c.Tags.SyncPriority)
	tags.set("noloadbalance", c.Tags.NoLoadBalance)
	tags.set("clonefrom", c.Tags.CloneFrom)
	tags.set("replicatefrom", c.Tags.ReplicateFrom)
	for _, name := range sortedKeys(c.Tags.Own) {
		tags.set(name, c.Tags.Own[name])
	}
	w.beginnings(c)
	for i := range c.Backups {
		w.backup(&c.Backups[i])
	}
	w.hooks(c)
}

func (w *writer) site(s *settings.Site) {
	if !s.Given() {
		return
	}
	b := w.block("standby_of")
	b.set("service", s.Service)
	b.set("datacenter", s.Datacenter)
	b.set("addresses", s.Addresses)
	b.set("apis", s.APIs)
	b.set("alone", s.Alone)
	b.set("witness", s.Witness)
}

func (w *writer) haproxy(h *HAProxy) {
	b := w.block("haproxy")
	b.set("socket", h.Socket)
	b.set("agent_socket", h.AgentSocket)
	b.set("master_socket", h.MasterSocket)
	b.set("bind", h.Bind)
	b.set("primary_port", h.PrimaryPort)
	b.set("replica_port", h.ReplicaPort)
	b.set("stats_port", h.StatsPort)
	b.set("primary_takes_reads", h.PrimaryTakesReads)
	b.set("maxconn", h.MaxConn)
	b.set("connect_timeout", h.ConnectTimeout)
	b.set("queue_timeout", h.QueueTimeout)
	b.set("idle_timeout", h.IdleTimeout)
	b.set("resolvers", h.Resolvers)
	b.set("global", h.Global)
	b.set("check_ca_file", h.CheckCAFile)
	b.set("check_cert_file", h.CheckCertFile)
}

func (w *writer) account(name string, a Account) {
	b := w.block(name)
	b.set("name", a.Name)
	b.secret("password", a.PasswordFile, a.Password)
}

// writer gathers one body: its attributes, then its blocks.
type writer struct {
	name   string // of the block
	label  string
	lines  []attribute
	blocks []*writer
}

// attribute is one line of a body: a comment where it has no text.
type attribute struct {
	name, text string
	value      any // as a program reads it
}

func (w *writer) block(name string) *writer { return w.labelled(name, "") }

func (w *writer) labelled(name, label string) *writer {
	b := &writer{name: name, label: label}
	w.blocks = append(w.blocks, b)
	return b
}

// print writes the body with its equals signs in one column.
func (w *writer) print(to *strings.Builder, indent string) {
	width := 0
	for _, l := range w.lines {
		if l.text != "" {
			width = max(width, len(l.name))
		}
	}
	for _, l := range w.lines {
		if l.text == "" {
			fmt.Fprintf(to, "%s%s\n", indent, l.name)
			continue
		}
		fmt.Fprintf(to, "%s%-*s = %s\n", indent, width, l.name, l.text)
	}
	for _, b := range w.blocks {
		head := b.name
		if b.label != "" {
			head += " " + quote(b.label)
		}
		fmt.Fprintf(to, "%s%s {\n", indent, head)
		b.print(to, indent+"  ")
		fmt.Fprintf(to, "%s}\n", indent)
	}
}

// object returns the body as JSON has it.
func (w *writer) object() map[string]any {
	object := map[string]any{}
	for _, l := range w.lines {
		if l.text != "" {
			object[l.name] = l.value
		}
	}
	for _, b := range w.blocks {
		if b.label == "" {
			object[b.name] = b.object()
			continue
		}
		labelled, _ := object[b.name].(map[string]any)
		if labelled == nil {
			labelled = map[string]any{}
			object[b.name] = labelled
		}
		labelled[b.label] = b.object()
	}
	return object
}

// set adds an attribute; empty text, lists, maps and durations are left out.
func (w *writer) set(name string, value any) {
	var text string
	plain := value
	switch value := value.(type) {
	case string:
		text = quote(value)
	case bool:
		text = strconv.FormatBool(value)
	case int:
		text = strconv.Itoa(value)
	case time.Duration:
		text, plain = quote(value.String()), value.String()
		if value == 0 {
			return
		}
	case fs.FileMode:
		plain = fmt.Sprintf("%04o", value)
		text = quote(plain.(string))
	case []string:
		var all []string
		for _, s := range value {
			all = append(all, quote(s))
		}
		text = "[" + strings.Join(all, ", ") + "]"
	case map[string]string:
		var all []string
		for _, key := range sortedKeys(value) {
			all = append(all, quote(key)+" = "+quote(value[key]))
		}
		text = "{ " + strings.Join(all, ", ") + " }"
	}
	if text == `""` || text == "[]" || text == "{  }" {
		return
	}
	w.lines = append(w.lines, attribute{name, text, plain})
}

// some adds a number that is not zero.
func (w *writer) some(name string, n int) {
	if n != 0 {
		w.set(name, n)
	}
}

// secret adds where a secret comes from, never what it is.
func (w *writer) secret(name, file string, value Secret) {
	switch {
	case file != "":
		w.set(name+"_file", file)
	case !value.Empty():
		w.lines = append(w.lines, attribute{name: "# " + name + " is set, and secret"})
	}
}

// quote writes a string as HCL does (HCL native syntax specification,
// Template Expressions).
func quote(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`, "${", "$${", "%{", "%%{").Replace(s)
	return `"` + s + `"`
}
