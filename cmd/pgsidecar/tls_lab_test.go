package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

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
	if code, _, stderr := c.run("reload", "n1"); code != cli.ExitOK {
		t.Errorf("with a certificate: exit status %d, %s", code, stderr)
	}
	r.logged(long, "change requested", "change=reload", "certificate of operator")
}

// haproxy: with what `pgsidecar proxy` writes, HAProxy finds the primary by its own
// checks, which show a certificate.
func (c *tlsCluster) haproxy(t *testing.T, leader string) {
	path := labtest.Program(t, programs.HAProxy)
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
	labtest.Start(t, exec.Command(path, "-db", "-f", file))
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

// renewal: new certificates count without a restart or a reload, in the API at once and in
// PostgreSQL within seconds; and so does, in three steps, a new authority.
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
		c.agent.Signal(syscall.SIGHUP) // Consul reads its certificates again
		for _, name := range tlsMembers {
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
			if code != cli.ExitOK || json.Unmarshal([]byte(stdout), &after) != nil {
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
