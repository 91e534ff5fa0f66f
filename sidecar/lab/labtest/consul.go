package labtest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// ConsulOptions say which Consul agent a test wants. The zero value is a server
// of its own that keeps nothing.
type ConsulOptions struct {
	Name string // of its node; "c" by default
	Port int    // of its API; zero: a free one
	// Dir keeps its data, so that it can be started again. Without one it keeps
	// nothing, and elects itself at once (-dev).
	Dir  string
	Join string // the Serf address of a server: the agent is a client of it
	TLS  *ConsulTLS
	// Quiet: one that keeps its data logs warnings alone, not each request.
	Quiet bool
	// Config is more of its configuration, in HCL. MANAGEMENT in it becomes what
	// the agent's version calls the token by which the first policies are made.
	Config string
}

// ConsulTLS are the files of an agent that answers by HTTPS alone, and only to
// those who show a certificate of the same authority.
type ConsulTLS struct{ CA, Cert, Key string }

// Consul is a real agent, which ends with the test.
type Consul struct {
	*Process
	Address   string // host:port of its API
	DNS, Serf string
	Dir       string // ConsulOptions.Dir
	client    *http.Client
	scheme    string
	args      []string
}

// leaderWithin is how long an agent may take to know a leader, on a machine that
// does much else.
const leaderWithin = 60 * time.Second

// StartConsul starts an agent and returns when it knows a leader. The test fails
// at once, with what the agent said, if it ends, as it does for a flag or a
// setting that its version does not know.
func StartConsul(t testing.TB, o ConsulOptions) *Consul {
	t.Helper()
	path := Program(t, programs.Consul)
	if o.Port == 0 {
		o.Port = FreePort(t)
	}
	dns, serf, folder := FreePort(t), FreePort(t), o.Dir
	c := &Consul{client: http.DefaultClient, scheme: "http", Address: local(o.Port), DNS: local(dns), Serf: local(serf), Dir: o.Dir}
	if o.TLS != nil {
		c.client, c.scheme = o.TLS.client(t), "https"
	}
	if folder == "" {
		folder = t.TempDir()
	}
	file := filepath.Join(folder, "agent.hcl")
	if err := os.WriteFile(file, []byte(o.text(t, dns, serf)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.args = []string{path, "agent", "-config-file", file}
	if o.Dir == "" {
		c.args = append(c.args, "-dev")
	}
	c.Start(t)
	return c
}

// text is the agent's configuration.
func (o *ConsulOptions) text(t testing.TB, dns, serf int) string {
	t.Helper()
	dialect := Dialect(t)
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	name := o.Name
	if name == "" {
		name = "c"
	}
	line("node_name = %q\nbind_addr = \"127.0.0.1\"\nclient_addr = \"127.0.0.1\"\ndisable_update_check = true", name)
	if o.Dir != "" {
		level := "debug"
		if o.Quiet {
			level = "warn"
		}
		line("data_dir = %q\nlog_level = %q\nperformance { raft_multiplier = 1 }", filepath.Join(o.Dir, "data"), level)
	} else {
		line("log_level = \"warn\"")
	}
	switch {
	case o.Join != "":
		line("server = false\nretry_join = [%q]\nretry_interval = \"1s\"", o.Join)
	case o.Dir != "":
		line("server = true\nbootstrap_expect = 1")
	}
	off := ""
	for port, number := range dialect.WithoutGRPC() {
		off += fmt.Sprintf(" %s = %d ", port, number)
	}
	api := fmt.Sprintf("http = %d", o.Port)
	if o.TLS != nil {
		api = fmt.Sprintf("http = -1  https = %d", o.Port)
		line("%s", dialect.TLS(o.TLS.CA, o.TLS.Cert, o.TLS.Key, "verify_incoming = true"))
	}
	line("ports { %s  dns = %d  serf_lan = %d  server = %d  serf_wan = -1  %s }", api, dns, serf, FreePort(t), off)
	line("%s", strings.ReplaceAll(o.Config, "MANAGEMENT", dialect.ManagementToken()))
	return b.String()
}

// client shows the agent's own certificate to it.
func (f *ConsulTLS) client(t testing.TB) *http.Client {
	t.Helper()
	authority, err := os.ReadFile(f.CA)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}}}
}

func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// Start starts the agent anew, after its end, and returns when it knows a leader.
func (c *Consul) Start(t testing.TB) {
	t.Helper()
	c.Process = Start(t, exec.Command(c.args[0], c.args[1:]...))
	c.Await(leaderWithin, "it knows a leader", func() error {
		answer, err := c.ask(t, http.MethodGet, "/v1/status/leader", nil)
		if err == nil && answer == `""` {
			err = errors.New("it knows none")
		}
		return err
	})
}

// URL is where the agent's API is.
func (c *Consul) URL() string { return c.scheme + "://" + c.Address }

// Put sends the API a body as JSON, or a text as it is.
func (c *Consul) Put(t testing.TB, path string, body any) error {
	t.Helper()
	text, is := body.(string)
	if !is {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		text = string(b)
	}
	_, err := c.ask(t, http.MethodPut, path, []byte(text))
	return err
}

func (c *Consul) ask(t testing.TB, method, path string, body []byte) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.URL()+path, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	answer := strings.TrimSpace(string(b))
	if resp.StatusCode != http.StatusOK {
		return answer, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	return answer, nil
}
