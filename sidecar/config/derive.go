package config

import (
	"net"
	"path/filepath"
	"strings"
)

// derive fills in what follows from other values, from the environment, and
// from the files that hold secrets. What the file said itself always counts.
func (r *reader) derive(c *Config, of kind) {
	r.deriveConsul(&c.Consul)
	r.password("pgbouncer", &c.PgBouncer.Account)
	if of == proxyFile {
		return
	}
	p := &c.Postgres
	if p.DataDir == "" {
		p.DataDir = filepath.Join("/var/lib/pgsidecar", c.Member)
	}
	if p.StateDir == "" {
		// Beside the data directory, on the same file system most likely, but
		// not in it: a clone replaces that.
		p.StateDir = strings.TrimRight(p.DataDir, "/") + ".pgsidecar"
	}
	r.password("postgres.superuser", &p.Superuser)
	r.password("postgres.replication", &p.Replication)
	r.deriveAddresses("postgres", postgresPort, &p.Listen, &p.Advertise)
	r.deriveAddresses("api", apiPort, &c.API.Listen, &c.API.Advertise)
	r.secretFile("api.token_file", c.API.TokenFile, &c.API.Token)
	r.secretFile("peers.key_file", c.Peers.KeyFile, &c.Peers.Key)
}

// deriveConsul takes from the environment what Consul's own programs do, and
// the token that Nomad gives a task with a Consul identity (CONSUL_TOKEN).
func (r *reader) deriveConsul(c *Consul) {
	if a := r.env.Getenv("CONSUL_HTTP_ADDR"); a != "" && !r.set("consul.address") {
		c.Addresses = strings.Split(a, ",")
	}
	if c.TokenFile == "" && c.Token.Empty() {
		// Relative to the working directory, as for Consul's own programs.
		c.TokenFile = r.env.Getenv("CONSUL_HTTP_TOKEN_FILE")
		if c.TokenFile == "" {
			c.Token = NewSecret(first(r.env.Getenv("CONSUL_HTTP_TOKEN"), r.env.Getenv("CONSUL_TOKEN")))
		}
	}
	r.secretFile("consul.token_file", c.TokenFile, &c.Token)
	t := &c.TLS
	t.CAFile = first(t.CAFile, r.env.Getenv("CONSUL_CACERT"))
	t.CertFile = first(t.CertFile, r.env.Getenv("CONSUL_CLIENT_CERT"))
	t.KeyFile = first(t.KeyFile, r.env.Getenv("CONSUL_CLIENT_KEY"))
	t.ServerName = first(t.ServerName, r.env.Getenv("CONSUL_TLS_SERVER_NAME"))
}

// password reads an account's password file.
func (r *reader) password(path string, a *Account) {
	r.secretFile(path+".password_file", a.PasswordFile, &a.Password)
}

// secretFile reads a secret. It is the file's whole text, without the newline
// at its end.
func (r *reader) secretFile(path, file string, to *Secret) {
	if file == "" {
		return
	}
	key := path[strings.LastIndexByte(path, '.')+1:]
	s, err := ReadSecretFile(file)
	if err != nil {
		r.refuse(path, "%s: %s", key, strings.TrimSuffix(err.Error(), ": "+ErrConfig.Error()))
		return
	}
	*to = NewSecret(s)
}

// deriveAddresses fills in where to listen and what to tell the others. In a
// Nomad task with a port of this name, Nomad has said both: the port inside the
// task's network, and the host's address and port.
func (r *reader) deriveAddresses(name, port string, listen, advertise *string) {
	if inside := r.env.Getenv("NOMAD_PORT_" + name); inside != "" && *listen == "" {
		*listen = net.JoinHostPort("0.0.0.0", inside)
		if *advertise == "" {
			*advertise = net.JoinHostPort(r.env.Getenv("NOMAD_IP_"+name), first(r.env.Getenv("NOMAD_HOST_PORT_"+name), inside))
		}
	}
	if *listen == "" {
		*listen = r.private(name+".listen", port)
	}
	if *advertise != "" || *listen == "" {
		return
	}
	host, listenPort, err := net.SplitHostPort(*listen)
	if err != nil {
		return // check says so
	}
	*advertise = *listen
	if wildcard(host) {
		*advertise = r.private(name+".advertise", listenPort)
	}
}

// private returns this machine's private address with a port.
func (r *reader) private(path, port string) string {
	host, err := resolve(r.env, "{{ GetPrivateIP }}")
	if err != nil {
		r.refuse(path, "%s is not set, and cannot be guessed: %v; expected %s = \"host:%s\"",
			path, err, path[strings.LastIndexByte(path, '.')+1:], port)
		return ""
	}
	return net.JoinHostPort(host, port)
}

// wildcard reports whether a host to listen on means every address.
func wildcard(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || host == "*" || ip != nil && ip.IsUnspecified()
}
