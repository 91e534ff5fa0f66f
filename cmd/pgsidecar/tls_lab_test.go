package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// issuer signs certificates.
type issuer struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newIssuer(t *testing.T, name string) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{t, cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a certificate for a name at 127.0.0.1, and its key.
func (i *issuer) issue(name string, serial int64) (certificate, secret []byte) {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, &key.PublicKey, i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		i.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
}

// tlsCluster is three members, and a Consul, between which nothing goes in the
// clear: each shows a certificate to each.
type tlsCluster struct {
	t       *testing.T
	dir     string
	consul  int
	agent   *exec.Cmd
	members map[string]*rig
}

var tlsMembers = []string{"n1", "n2", "n3"}

func newTLSCluster(t *testing.T, by *issuer) *tlsCluster {
	t.Helper()
	first := newRig(t) // the folder of all, and the binary
	c := &tlsCluster{t: t, dir: first.dir, consul: freePort(t), members: map[string]*rig{}}
	c.write("ca.crt", by.pem)
	c.certify(by, 100)
	c.startConsul()
	for _, name := range tlsMembers {
		r := *first
		r.dir, r.pg, r.api, r.consul = filepath.Join(c.dir, name), freePort(t), freePort(t), c.consul
		if err := os.MkdirAll(r.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		c.configure(&r, name)
		c.members[name] = &r
		r.start()
	}
	return c
}

// write replaces a file of the cluster's folder whole, as those do who renew
// certificates. A key is for PostgreSQL's user alone.
func (c *tlsCluster) write(name string, text []byte) {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path+".next", text, 0o600); err != nil {
		c.t.Fatal(err)
	}
	if !strings.HasSuffix(name, ".key") {
		if err := os.Chmod(path+".next", 0o644); err != nil {
			c.t.Fatal(err)
		}
	} else if u, err := user.Lookup("postgres"); err == nil && os.Geteuid() == 0 {
		uid, _ := strconv.Atoi(u.Uid)
		if err := os.Chown(path+".next", uid, -1); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := os.Rename(path+".next", path); err != nil {
		c.t.Fatal(err)
	}
}

// certify gives everybody a certificate with the serial number.
func (c *tlsCluster) certify(by *issuer, serial int64) {
	c.t.Helper()
	for _, name := range append([]string{"consul", "haproxy", "operator"}, tlsMembers...) {
		certificate, key := by.issue(name, serial)
		c.write(name+".crt", certificate)
		c.write(name+".key", key)
		if name == "haproxy" {
			c.write("haproxy.pem", slices.Concat(certificate, key))
		}
	}
}

func (c *tlsCluster) path(name string) string { return filepath.Join(c.dir, name) }

// startConsul starts an agent that answers by HTTPS alone, and only to those with a
// certificate.
func (c *tlsCluster) startConsul() {
	c.t.Helper()
	text := fmt.Sprintf(`ports { http = -1  https = %d }
tls { defaults { ca_file = %q  cert_file = %q  key_file = %q  verify_incoming = true } }
`, c.consul, c.path("ca.crt"), c.path("consul.crt"), c.path("consul.key"))
	c.write("consul.hcl", []byte(text))
	path, err := programs.Consul()
	if err != nil {
		c.t.Skip(err)
	}
	port := func(name string) string { return fmt.Sprintf("-%s-port=%d", name, freePort(c.t)) }
	c.agent = exec.Command(path, "agent", "-dev", "-bind=127.0.0.1", "-log-level=error", "-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1",
		port("serf-lan"), port("serf-wan"), port("server"), "-config-file="+c.path("consul.hcl"))
	c.agent.Dir = c.dir
	if err := c.agent.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = c.agent.Process.Kill()
		_ = c.agent.Wait()
	})
}

// consulBlock is how one of them speaks with Consul.
func (c *tlsCluster) consulBlock(name string) string {
	return fmt.Sprintf(`cluster = "pg"
member  = %q
consul {
  address = ["https://127.0.0.1:%d"]
  tls {
    ca_file   = %q
    cert_file = %q
    key_file  = %q
  }
}
`, name, c.consul, c.path("ca.crt"), c.path(name+".crt"), c.path(name+".key"))
}

func (c *tlsCluster) configure(r *rig, name string) {
	c.t.Helper()
	bin, err := programs.PostgresBin()
	if err != nil {
		c.t.Skip(err)
	}
	text := c.consulBlock(name) + fmt.Sprintf(`postgres {
  bin_dir   = %q
  data_dir  = %q
  listen    = "127.0.0.1:%d"
  advertise = "127.0.0.1:%d"
  superuser {
    name          = "postgres"
    password_file = %q
  }
  replication {
    name          = "replicator"
    password_file = %q
  }
  tls {
    cert_file = %q
    key_file  = %q
    ca_file   = %q
    require   = true
  }
  hba = ["hostssl all all 127.0.0.1/32 scram-sha-256"]
}
api {
  listen = "127.0.0.1:%d"
  tls {
    cert_file           = %q
    key_file            = %q
    client_ca_file      = %q
    require_client_cert = true
  }
}
`, bin, r.data(), r.pg, r.pg, c.path("superuser"), c.path("replication"), c.path(name+".crt"), c.path(name+".key"), c.path("ca.crt"),
		r.api, c.path(name+".crt"), c.path(name+".key"), c.path("ca.crt"))
	if err := os.WriteFile(filepath.Join(r.dir, "pg.hcl"), []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// run runs a command as the operator, who has a certificate and no token.
func (c *tlsCluster) run(args ...string) (int, string, string) {
	c.t.Helper()
	var apis []string
	for _, name := range tlsMembers {
		apis = append(apis, "https://127.0.0.1:"+strconv.Itoa(c.members[name].api))
	}
	return command(c.t, append(args, "-api", strings.Join(apis, ","), "-ca-file", c.path("ca.crt"),
		"-cert-file", c.path("operator.crt"), "-key-file", c.path("operator.key"))...)
}

// whole waits until two replicas stream from a primary, and returns what it says.
func (c *tlsCluster) whole(after uint64) *api.Status {
	c.t.Helper()
	deadline := time.NewTimer(long)
	defer deadline.Stop()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	said := ""
	for {
		code, stdout, stderr := c.run("status", "--json")
		var st api.Status
		streaming := 0
		if code == exitOK && json.Unmarshal([]byte(stdout), &st) == nil {
			for _, m := range st.Members {
				if m.Streaming {
					streaming++
				}
			}
		}
		if st.Primary && streaming == 2 && st.Term > after && len(st.Durability.Voters) == 2 && st.Durability.K == 1 {
			return &st
		}
		said = stdout + stderr
		select {
		case <-deadline.C:
			c.t.Fatalf("the cluster is not whole: %s", said)
		case <-tick.C:
		}
	}
}

// client is a TLS client of the members: with this certificate, and trusting this
// authority.
func (c *tlsCluster) client(authority []byte, shown *tls.Certificate) *http.Client {
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(authority)
	if shown != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return shown, nil }
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 10 * time.Second}
}

// sql connects to a member's server.
func (c *tlsCluster) sql(name, how string) (*pgx.Conn, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	return pgx.Connect(ctx, fmt.Sprintf("host=127.0.0.1 port=%d user=postgres password='secret of superuser' dbname=postgres %s", c.members[name].pg, how))
}

// serials are the serial numbers of the certificates that a member's API and its
// server show.
func (c *tlsCluster) serials(name string, authority []byte, shown *tls.Certificate) (ofAPI, ofServer int64) {
	c.t.Helper()
	if answer, err := c.client(authority, shown).Get(fmt.Sprintf("https://127.0.0.1:%d/status", c.members[name].api)); err == nil {
		answer.Body.Close()
		ofAPI = answer.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	if conn, err := c.sql(name, "sslmode=verify-full sslrootcert="+c.path("ca.crt")); err == nil {
		if secure, is := conn.PgConn().Conn().(*tls.Conn); is {
			ofServer = secure.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
		}
		conn.Close(context.WithoutCancel(c.t.Context()))
	}
	return ofAPI, ofServer
}

// TestTLSEverywhere is a whole cluster in which Consul, the members' APIs and
// streams, replication, clients and HAProxy's checks go by TLS, with certificates on
// both sides; and in which all certificates, and at last the authority, are
// exchanged while it runs.
func TestTLSEverywhere(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	by := newIssuer(t, "first authority")
	c := newTLSCluster(t, by)
	st := c.whole(0)
	t.Run("servers", func(t *testing.T) { c.servers(t, st) })
	t.Run("strangers", func(t *testing.T) { c.strangers(t, by) })
	t.Run("haproxy's checks", func(t *testing.T) { c.haproxy(t, st.Leader) })
	t.Run("switchover through a replica", func(t *testing.T) { c.switchover(t, by) })
	t.Run("renewal", func(t *testing.T) { c.renewal(t, by) })
	t.Run("the primary is killed", c.killed)
}

// servers: replication goes by TLS, with the name checked; so do clients, and one
// without it is refused.
func (c *tlsCluster) servers(t *testing.T, st *api.Status) {
	conn, err := c.sql(st.Leader, "sslmode=verify-full sslrootcert="+c.path("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	var secure, plain int
	if err := conn.QueryRow(t.Context(), `select count(*) filter (where ssl), count(*) filter (where not ssl) from pg_stat_replication r join pg_stat_ssl s using (pid)`).
		Scan(&secure, &plain); err != nil || secure != 2 || plain != 0 {
		t.Errorf("%d walsenders with TLS, %d without, %v", secure, plain, err)
	}
	for _, name := range tlsMembers {
		if open, err := c.sql(name, "sslmode=disable"); err == nil {
			open.Close(t.Context())
			t.Errorf("%s takes clients without TLS", name)
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(c.members[name].data()), "data.pgsidecar", "postgresql.conf"))
		if name != st.Leader && err == nil && bytes.Contains(text, []byte("primary_conninfo")) && !bytes.Contains(text, []byte("verify-full")) {
			t.Errorf("%s does not check its primary's name: %s", name, text)
		}
	}
}

// strangers: who has no certificate, or another authority's, is refused by the
// handshake; so is plain HTTP.
func (c *tlsCluster) strangers(t *testing.T, by *issuer) {
	r := c.members["n1"]
	url := fmt.Sprintf("https://127.0.0.1:%d/reload", r.api)
	certificate, key := newIssuer(t, "stranger").issue("operator", 1)
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, shown := range map[string]*tls.Certificate{"no certificate": nil, "a stranger's": &pair} {
		if answer, err := c.client(by.pem, shown).Post(url, "", nil); err == nil {
			answer.Body.Close()
			t.Errorf("with %s: %s", name, answer.Status)
		}
	}
	if answer, err := http.Post(strings.Replace(url, "https", "http", 1), "", nil); err == nil {
		answer.Body.Close()
		if answer.StatusCode != http.StatusBadRequest {
			t.Errorf("in the clear: %s", answer.Status)
		}
	}
	if code, _, stderr := c.run("reload", "n1"); code != exitOK {
		t.Errorf("with a certificate: exit status %d, %s", code, stderr)
	}
	r.logged(long, "change requested", "change=reload", "certificate of operator")
}

// haproxy: with what `pgsidecar proxy` writes, HAProxy finds the primary by its own
// checks, which show a certificate.
func (c *tlsCluster) haproxy(t *testing.T, leader string) {
	path, err := programs.HAProxy()
	if err != nil {
		t.Skip(err)
	}
	port, file := freePort(t), c.path("haproxy.cfg")
	text := c.consulBlock("haproxy") + fmt.Sprintf(`haproxy {
  socket          = %q
  primary_port    = %d
  replica_port    = %d
  check_ca_file   = %q
  check_cert_file = %q
}
template "haproxy" {
  builtin     = "haproxy.cfg"
  destination = %q
  check       = [%q, "-c", "-f", "{}"]
}
`, c.path("haproxy.sock"), port, freePort(t), c.path("ca.crt"), c.path("haproxy.pem"), file, path)
	c.write("proxy.hcl", []byte(text))
	proxy := exec.CommandContext(t.Context(), c.members["n1"].binary, "proxy", "-config", c.path("proxy.hcl"))
	var log syncBuffer
	proxy.Stderr = &log
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	c.until(t, "haproxy.cfg", func() bool { b, err := os.ReadFile(file); return err == nil && bytes.Contains(b, []byte("check-ssl")) })
	if err := proxy.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := proxy.Wait(); err != nil {
		t.Errorf("proxy: %v\n%s", err, log.String())
	}
	haproxy := exec.CommandContext(t.Context(), path, "-db", "-f", file)
	haproxy.Stderr = &log
	if err := haproxy.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = haproxy.Process.Kill(); _ = haproxy.Wait() }()
	c.until(t, "way to "+leader+" through HAProxy", func() bool {
		through := *c.members[leader]
		through.pg = port
		saved := c.members["haproxy"]
		c.members["haproxy"] = &through
		defer func() { c.members["haproxy"] = saved }()
		conn, err := c.sql("haproxy", "sslmode=require")
		if err != nil {
			return false
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		var at int
		return conn.QueryRow(t.Context(), "select inet_server_port()").Scan(&at) == nil && at == c.members[leader].pg
	})
}

func (c *tlsCluster) until(t *testing.T, what string, done func() bool) {
	t.Helper()
	o := operated{t: t}
	o.until(t, what, done)
}

// switchover: asked for at a replica, which passes it on to the leader, with its own
// certificate.
func (c *tlsCluster) switchover(t *testing.T, by *issuer) {
	before := c.whole(0)
	i := slices.IndexFunc(tlsMembers, func(name string) bool { return name != before.Leader })
	certificate, key := by.issue("operator", 5)
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	client := c.client(by.pem, &pair)
	client.Timeout = time.Minute
	answer, err := client.Post(fmt.Sprintf("https://127.0.0.1:%d/switchover", c.members[tlsMembers[i]].api), "application/json",
		strings.NewReader(`{"leader":"`+before.Leader+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("answer %s", answer.Status)
	}
	if after := c.whole(before.Term); after.Leader == before.Leader {
		t.Errorf("%s leads still", after.Leader)
	}
}

// renewal: new certificates count without a restart, in the API at once and in
// PostgreSQL with a reload; and so does, in three steps, a new authority.
func (c *tlsCluster) renewal(t *testing.T, old *issuer) {
	term := c.whole(0).Term
	next := newIssuer(t, "second authority")
	shown := func(by *issuer) *tls.Certificate {
		certificate, key := by.issue("operator", 9)
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		return &pair
	}
	both := slices.Concat(old.pem, next.pem)
	for _, step := range []struct {
		name    string
		trusted []byte
		by      *issuer
		serial  int64
	}{
		{"new certificates", old.pem, old, 200},
		{"a new authority is trusted too", both, old, 200},
		{"certificates of the new authority", both, next, 300},
		{"the old one is trusted no more", next.pem, next, 400},
	} {
		c.write("ca.crt", step.trusted)
		c.certify(step.by, step.serial)
		if err := c.agent.Process.Signal(syscall.SIGHUP); err != nil { // Consul reads its certificates again
			t.Fatal(err)
		}
		for _, name := range tlsMembers {
			c.until(t, step.name+": reload of "+name, func() bool { code, _, _ := c.run("reload", name); return code == exitOK })
			c.until(t, step.name+": certificate of "+name, func() bool {
				ofAPI, ofServer := c.serials(name, step.trusted, shown(step.by))
				return ofAPI == step.serial && ofServer == step.serial
			})
		}
		if st := c.whole(0); st.Term != term {
			t.Errorf("%s: term %d became %d", step.name, term, st.Term)
		}
	}
	if answer, err := c.client(next.pem, shown(old)).Get(fmt.Sprintf("https://127.0.0.1:%d/status", c.members["n1"].api)); err == nil {
		answer.Body.Close()
		t.Errorf("a certificate of the old authority: %s", answer.Status)
	}
	// What connects from now on does so with the new ones: streams of members too.
	r := c.members[tlsMembers[0]]
	if err := r.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	r.exits(long)
	r.start()
	c.whole(0)
}

// killed: a failover, with pg_rewind or a clone after it, goes by TLS as well.
// Consul, whose authority was changed under its feet, fails for a moment every
// quarter of a minute ("error reading server preface"): a primary that is killed
// just then cannot be succeeded, is started in place, and is killed once more.
func (c *tlsCluster) killed(t *testing.T) {
	for range 5 {
		before := c.whole(0)
		killed := c.postmaster(before.Leader)
		if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		var after api.Status
		c.until(t, "a new term, or the server anew", func() bool {
			code, stdout, _ := c.run("status", "--json")
			if code != exitOK || json.Unmarshal([]byte(stdout), &after) != nil {
				return false
			}
			pid := c.postmaster(before.Leader)
			return after.Term > before.Term || pid != 0 && pid != killed && after.Primary
		})
		if after.Term > before.Term {
			c.whole(before.Term)
			t.Logf("%s led term %d, %s leads term %d", before.Leader, before.Term, after.Leader, after.Term)
			return
		}
		t.Logf("%s was started in place", before.Leader)
	}
	t.Error("no failover")
}

// postmaster returns the process id of a member's server, 0 while there is none.
func (c *tlsCluster) postmaster(member string) int {
	text, err := os.ReadFile(filepath.Join(c.members[member].data(), "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return 0
	}
	return pid
}
