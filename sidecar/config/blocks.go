package config

import (
	"slices"
	"strconv"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// kind says which of the two files is read.
type kind uint8

const (
	memberFile kind = iota // pg.hcl
	proxyFile              // proxy.hcl
)

// root reads a whole file into c.
func (r *reader) root(b *hclsyntax.Body, c *Config, of kind) {
	fields := []field{
		text("cluster", &c.Cluster),
		text("member", &c.Member),
	}
	blocks := []block{
		r.once("consul", func(b *hclsyntax.Body, path string) { r.consul(b, path, &c.Consul, of) }),
		r.once("service", func(b *hclsyntax.Body, path string) { r.service(b, path, &c.Service) }),
		{name: "template", labelled: true, read: func(b *hclsyntax.Body, path, name string) {
			t := templateDefaults(name)
			r.template(b, path, &t)
			c.Templates = append(c.Templates, t)
		}},
		r.once("haproxy", func(b *hclsyntax.Body, path string) { r.haproxy(b, path, &c.HAProxy) }),
		r.once("pgbouncer", func(b *hclsyntax.Body, path string) { r.pgbouncer(b, path, &c.PgBouncer) }),
		r.once("log", func(b *hclsyntax.Body, path string) { r.log(b, path, &c.Log) }),
	}
	if of == memberFile {
		blocks = append(blocks,
			r.once("postgres", func(b *hclsyntax.Body, path string) { r.postgres(b, path, &c.Postgres) }),
			r.once("api", func(b *hclsyntax.Body, path string) { r.api(b, path, &c.API) }),
			r.once("peers", func(b *hclsyntax.Body, path string) { r.peers(b, path, &c.Peers) }),
			r.once("durability", func(b *hclsyntax.Body, path string) { r.durability(b, path, &c.Durability) }),
			r.once("failover", func(b *hclsyntax.Body, path string) { r.failover(b, path, &c.Failover) }),
			r.once("standby_of", func(b *hclsyntax.Body, path string) {
				r.body(b, path, []field{
					text("service", &c.StandbyOf.Service),
					text("datacenter", &c.StandbyOf.Datacenter),
					list("addresses", &c.StandbyOf.Addresses),
					list("apis", &c.StandbyOf.APIs),
					text("alone", &c.StandbyOf.Alone),
					text("witness", &c.StandbyOf.Witness),
				}, nil)
			}),
			r.once("tags", func(b *hclsyntax.Body, path string) { r.tags(b, path, &c.Tags) }),
			r.once("trace", func(b *hclsyntax.Body, path string) { r.trace(b, path, &c.Trace) }),
			r.once("clone", func(b *hclsyntax.Body, path string) {
				r.clone(b, path, &c.Postgres)
			}),
			r.once("bootstrap", func(b *hclsyntax.Body, path string) { r.bootstrap(b, path, &c.Bootstrap) }),
			block{name: "backup", labelled: true, read: func(b *hclsyntax.Body, path, name string) {
				k := backupDefaults(name)
				r.backup(b, path, &k)
				c.Backups = append(c.Backups, k)
			}},
		)
		blocks = append(blocks, r.hookBlocks(c)...)
	}
	if of == proxyFile {
		blocks = append(blocks, r.once("api", func(b *hclsyntax.Body, path string) {
			r.body(b, path, []field{r.address("listen", &c.API.Listen)}, nil)
		}))
	}
	r.body(b, "", fields, blocks)
}

// once is a block without a name.
func (r *reader) once(name string, read func(b *hclsyntax.Body, path string)) block {
	return block{name: name, read: func(b *hclsyntax.Body, path, _ string) { read(b, path) }}
}

func (r *reader) consul(b *hclsyntax.Body, path string, c *Consul, of kind) {
	fields := []field{
		list("address", &c.Addresses),
		text("prefix", &c.Prefix),
		r.path("token_file", &c.TokenFile),
		secret("token", &c.Token),
		text("datacenter", &c.Datacenter),
		duration("session_ttl", &c.SessionTTL),
	}
	if of == proxyFile {
		fields = append(fields, text("other_datacenter", &c.OtherDatacenter))
	}
	r.body(b, path, fields, []block{r.once("tls", func(b *hclsyntax.Body, path string) {
		r.body(b, path, []field{
			r.path("ca_file", &c.TLS.CAFile),
			r.path("cert_file", &c.TLS.CertFile),
			r.path("key_file", &c.TLS.KeyFile),
			text("server_name", &c.TLS.ServerName),
		}, nil)
	})})
}

func (r *reader) service(b *hclsyntax.Body, path string, s *Service) {
	r.body(b, path, []field{
		text("name", &s.Name),
		list("tags", &s.Tags),
		table("meta", &s.Meta),
		size("replica_max_lag", &s.Reads.Lag),
		duration("replica_max_delay", &s.Reads.Delay),
	}, nil)
}

func (r *reader) postgres(b *hclsyntax.Body, path string, p *Postgres) {
	r.body(b, path, []field{
		text("bin_dir", &p.BinDir),
		text("data_dir", &p.DataDir),
		text("state_dir", &p.StateDir),
		text("wal_dir", &p.WALDir),
		text("user", &p.User),
		r.address("listen", &p.Listen),
		r.address("advertise", &p.Advertise),
		table("parameters", &p.Parameters),
		list("hba", &p.HBA),
		list("ident", &p.Ident),
		duration("stop_timeout", &p.StopTimeout),
	}, []block{
		r.once("superuser", func(b *hclsyntax.Body, path string) { r.account(b, path, &p.Superuser) }),
		r.once("replication", func(b *hclsyntax.Body, path string) { r.account(b, path, &p.Replication) }),
		r.once("tls", func(b *hclsyntax.Body, path string) {
			r.body(b, path, []field{
				r.path("cert_file", &p.TLS.CertFile),
				r.path("key_file", &p.TLS.KeyFile),
				r.path("ca_file", &p.TLS.CAFile),
				claim("require", &p.TLS.Require),
			}, nil)
		}),
	})
}

func (r *reader) account(b *hclsyntax.Body, path string, a *Account) {
	r.body(b, path, []field{
		text("name", &a.Name),
		r.path("password_file", &a.PasswordFile),
		secret("password", &a.Password),
	}, nil)
}

func (r *reader) api(b *hclsyntax.Body, path string, a *API) {
	r.body(b, path, []field{
		r.address("listen", &a.Listen),
		r.address("advertise", &a.Advertise),
		r.path("token_file", &a.TokenFile),
		secret("token", &a.Token),
		networks("allow", &a.Allow),
		claim("drills", &a.Drills),
		claim("ui", &a.UI),
	}, []block{r.once("tls", func(b *hclsyntax.Body, path string) {
		r.body(b, path, []field{
			r.path("cert_file", &a.TLS.CertFile),
			r.path("key_file", &a.TLS.KeyFile),
			r.path("client_ca_file", &a.TLS.ClientCAFile),
			claim("require_client_cert", &a.TLS.RequireClient),
			r.path("ca_file", &a.TLS.CAFile),
		}, nil)
	})})
}

func (r *reader) peers(b *hclsyntax.Body, path string, p *Peers) {
	r.body(b, path, []field{
		r.path("key_file", &p.KeyFile),
		secret("key", &p.Key),
	}, nil)
}

func (r *reader) durability(b *hclsyntax.Body, path string, d *Durability) {
	r.body(b, path, []field{
		choice("mode", &d.Mode, ha.ModeQuorum, ha.ModeAsync),
		number("standbys", &d.Standbys),
		claim("strict", &d.Strict),
		number("max_voters", &d.MaxVoters),
		number("zones", &d.Zones),
	}, nil)
}

func (r *reader) failover(b *hclsyntax.Body, path string, f *Failover) {
	r.body(b, path, []field{
		claim("automatic", &f.Automatic),
		duration("failure_timeout", &f.FailureTimeout),
		duration("failure_timeout_min", &f.FailureTimeoutMin),
		duration("lease", &f.Lease),
		duration("handover_timeout", &f.HandoverTimeout),
		duration("agent_timeout", &f.AgentTimeout),
		size("max_lag", &f.MaxLag),
		claim("refused_is_dead", &f.RefusedIsDead),
	}, nil)
}

func (r *reader) tags(b *hclsyntax.Body, path string, t *Tags) {
	fields := []field{
		claim("nofailover", &t.NoFailover),
		number("priority", &t.Priority),
		claim("nosync", &t.NoSync),
		number("sync_priority", &t.SyncPriority),
		claim("noloadbalance", &t.NoLoadBalance),
		claim("clonefrom", &t.CloneFrom),
		text("replicatefrom", &t.ReplicateFrom),
	}
	known := names(fields, nil)
	for name := range b.Attributes {
		if !slices.Contains(known, name) && settings.CheckTag(name, "") == nil {
			fields = append(fields, ownTag(name, t))
		}
	}
	r.body(b, path, fields, nil)
}

// ownTag takes a tag of other programs.
func ownTag(name string, t *Tags) field {
	return field{name: name, take: func(v cty.Value) string {
		var text string
		switch v.Type() {
		case cty.String:
			text = v.AsString()
		case cty.Number:
			text = v.AsBigFloat().Text('f', -1)
		case cty.Bool:
			text = strconv.FormatBool(v.True())
		}
		if text == "" || settings.CheckTag(name, text) != nil {
			return "text of one line, a number, true or false"
		}
		if t.Own == nil {
			t.Own = map[string]string{}
		}
		t.Own[name] = text
		return ""
	}}
}

func (r *reader) template(b *hclsyntax.Body, path string, t *Template) {
	r.body(b, path, []field{
		r.path("source", &t.Source),
		text("builtin", &t.Builtin),
		text("destination", &t.Destination),
		list("check", &t.Check),
		list("command", &t.Command),
		choice("reload", &t.Reload, "haproxy"),
		perms("perms", &t.Perms),
		text("user", &t.User),
		text("group", &t.Group),
		duration("timeout", &t.Timeout),
	}, nil)
}

func (r *reader) haproxy(b *hclsyntax.Body, path string, h *HAProxy) {
	r.body(b, path, []field{
		text("socket", &h.Socket),
		text("agent_socket", &h.AgentSocket),
		text("master_socket", &h.MasterSocket),
		r.address("bind", &h.Bind),
		number("primary_port", &h.PrimaryPort),
		number("replica_port", &h.ReplicaPort),
		number("stats_port", &h.StatsPort),
		claim("primary_takes_reads", &h.PrimaryTakesReads),
		number("maxconn", &h.MaxConn),
		duration("connect_timeout", &h.ConnectTimeout),
		duration("queue_timeout", &h.QueueTimeout),
		duration("idle_timeout", &h.IdleTimeout),
		list("resolvers", &h.Resolvers),
		list("global", &h.Global),
		text("check_ca_file", &h.CheckCAFile),
		text("check_cert_file", &h.CheckCertFile),
	}, nil)
}

func (r *reader) pgbouncer(b *hclsyntax.Body, path string, p *PgBouncer) {
	r.body(b, path, []field{
		text("address", &p.Address),
		text("user", &p.Account.Name),
		r.path("password_file", &p.Account.PasswordFile),
		secret("password", &p.Account.Password),
		text("database", &p.Database),
	}, nil)
}

func (r *reader) log(b *hclsyntax.Body, path string, l *Log) {
	r.body(b, path, []field{
		choice("level", &l.Level, "trace", "debug", "info", "warn", "error"),
		choice("format", &l.Format, "text", "json"),
	}, nil)
}
