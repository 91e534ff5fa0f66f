package config

import (
	"cmp"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// derive fills in what follows from other values, from the environment, and
// from the files that hold secrets. What the file said itself always counts.
func (r *reader) derive(c *Config, of kind) {
	r.deriveConsul(&c.Consul)
	if c.Service.Name == "" && !r.set("service.name") {
		// Two clusters under one service would take each other's clients.
		c.Service.Name = c.Cluster
	}
	r.password("pgbouncer", &c.PgBouncer.Account)
	if of == proxyFile {
		c.Member = cmp.Or(c.Member, strings.ToLower(label(r.env.Hostname)))
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
	if p.BinDir == "" && r.env.BinDir != nil {
		p.BinDir = r.env.BinDir(p.DataDir)
	}
	if r.env.Task != nil {
		r.deriveTask(c)
	}
	deriveHooks(c)
	r.password("postgres.superuser", &p.Superuser)
	r.password("postgres.replication", &p.Replication)
	r.deriveAddresses("postgres", postgresPort, &p.Listen, &p.Advertise)
	r.deriveAddresses("api", apiPort, &c.API.Listen, &c.API.Advertise)
	r.secretFile("api.token_file", c.API.TokenFile, &c.API.Token)
	r.secretFile("peers.key_file", c.Peers.KeyFile, &c.Peers.Key)
}

// deriveTask takes the rest from the scheduler's task: the member's name, which
// its data have, and secrets that the job has put where they are expected.
func (r *reader) deriveTask(c *Config) {
	if !r.set("member") {
		var err error
		if c.Member, err = r.env.Task.Member(c.Postgres.StateDir); err != nil {
			r.refuse("member", "member: %v", err)
		}
	}
	r.taskAccount("postgres.superuser", "superuser.password", &c.Postgres.Superuser)
	r.taskAccount("postgres.replication", "replication.password", &c.Postgres.Replication)
	r.taskSecret("api.token", "api.token", &c.API.TokenFile)
	r.taskSecret("peers.key", "peers.key", &c.Peers.KeyFile)
}

func (r *reader) taskAccount(path, name string, a *Account) {
	if !r.set(path + ".password") {
		r.taskSecret(path+".password", name, &a.PasswordFile)
	}
}

// taskSecret sets the file of a secret that is set nowhere, if the task has it.
func (r *reader) taskSecret(path, name string, file *string) {
	if *file != "" || r.set(path) {
		return
	}
	if candidate := r.env.Task.Secret(name); candidate != "" && isFile(candidate) {
		*file = candidate
	}
}

// taskToken returns the file with the task's own token for Consul: unless
// another token was put into the environment over it, and unless it is for
// root's eyes only and this process is not root (Nomad's exec driver), which has
// the token in its environment only.
func (r *reader) taskToken() string {
	if t := r.env.Getenv("CONSUL_HTTP_TOKEN"); t != "" && t != r.env.Getenv("CONSUL_TOKEN") {
		return ""
	}
	path := r.env.Task.Secret("consul_token")
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	f.Close()
	return path
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// deriveConsul takes from the environment what Consul's own programs do, and
// the token that Nomad gives a task with a Consul identity: its file, which Nomad
// writes anew, before CONSUL_TOKEN, which stays as it was.
func (r *reader) deriveConsul(c *Consul) {
	if a := r.env.Getenv("CONSUL_HTTP_ADDR"); a != "" && !r.set("consul.address") {
		c.Addresses = strings.Split(a, ",")
	}
	if c.TokenFile == "" && c.Token.Empty() {
		// Relative to the working directory, as for Consul's own programs.
		c.TokenFile = r.env.Getenv("CONSUL_HTTP_TOKEN_FILE")
		if c.TokenFile == "" && r.env.Task != nil {
			c.TokenFile = r.taskToken()
		}
		if c.TokenFile == "" {
			c.Token = NewSecret(cmp.Or(r.env.Getenv("CONSUL_HTTP_TOKEN"), r.env.Getenv("CONSUL_TOKEN")))
		}
	}
	r.secretFile("consul.token_file", c.TokenFile, &c.Token)
	t := &c.TLS
	t.CAFile = cmp.Or(t.CAFile, r.env.Getenv("CONSUL_CACERT"))
	t.CertFile = cmp.Or(t.CertFile, r.env.Getenv("CONSUL_CLIENT_CERT"))
	t.KeyFile = cmp.Or(t.KeyFile, r.env.Getenv("CONSUL_CLIENT_KEY"))
	t.ServerName = cmp.Or(t.ServerName, r.env.Getenv("CONSUL_TLS_SERVER_NAME"))
	c.Secure = r.truth("CONSUL_HTTP_SSL", false)
	t.Insecure = !r.truth("CONSUL_HTTP_SSL_VERIFY", true)
	r.refuseConsul()
}

// unused are the variables of Consul's own programs that are not used here, and what to do
// without each. One that is set is refused: without it another Consul would be spoken
// to, or another part of it, than was meant.
var unused = [...][2]string{
	{"CONSUL_HTTP_AUTH", "give Consul's addresses without HTTP authentication, and a token"},
	{"CONSUL_CAPATH", "put the authorities into one file, and name it in CONSUL_CACERT or consul.tls.ca_file"},
	{"CONSUL_NAMESPACE", "only the namespace default is used"},
	{"CONSUL_PARTITION", "only the partition default is used"},
}

// refuseConsul refuses variables that Consul's programs would heed.
func (r *reader) refuseConsul() {
	for _, u := range unused {
		if value := r.env.Getenv(u[0]); value != "" && value != "default" {
			r.refuse("consul", "the environment's %s is set, and pgsidecar does not use it; expected it to be unset: %s", u[0], u[1])
		}
	}
}

// truth reads a boolean of the environment; unset says otherwise.
func (r *reader) truth(name string, otherwise bool) bool {
	text := r.env.Getenv(name)
	if text == "" {
		return otherwise
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		r.refuse("consul", "the environment's %s is %q; expected true or false", name, text)
		return otherwise
	}
	return value
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
// scheduler's task with a port of this name both are known: the port inside the
// task's network, and the host's address and port.
func (r *reader) deriveAddresses(name, port string, listen, advertise *string) {
	if r.env.Task != nil && *listen == "" {
		inside, outside := r.env.Task.Port(name)
		*listen, *advertise = inside, cmp.Or(*advertise, outside)
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
