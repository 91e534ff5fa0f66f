package main

import (
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
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
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
	agent   *labtest.Consul
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
	} else {
		labtest.OwnedByServer(c.t, path+".next")
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
	c.agent = labtest.StartConsul(c.t, labtest.ConsulOptions{Port: c.consul, TLS: &labtest.ConsulTLS{
		CA: c.path("ca.crt"), Cert: c.path("consul.crt"), Key: c.path("consul.key")}})
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
	bin := labtest.Program(c.t, programs.PostgresBin)
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
		if code == cli.ExitOK && json.Unmarshal([]byte(stdout), &st) == nil {
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

func (c *tlsCluster) until(t *testing.T, what string, done func() bool) {
	t.Helper()
	labtest.Until(t, time.Minute, what, done)
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
