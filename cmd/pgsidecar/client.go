package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// How long a command waits for a member's API.
const (
	// askTimeout is for what is answered from memory; then the next member is
	// asked.
	askTimeout = 3 * time.Second
	// maxAnswer in bytes; the status of a hundred members is a tenth of it.
	maxAnswer = 4 << 20
)

// errNoMember is returned when no member's API answers.
var errNoMember = errors.New("no member answers")

// errNotPossible is returned for a change that cannot be done as things are.
var errNotPossible = errors.New("it cannot be done now")

// client asks members' APIs, for the commands that people type. It keeps
// nothing: each command begins with the status of the first member that
// answers, which names all others.
type client struct {
	http      *http.Client
	scheme    string
	addresses []string // tried in turn
	// registry names more of them if none answers; nil: nobody does.
	registry *registry
	token    string
	hint     string // for whoever named no member, if none answers
}

// clientFlags are how a command finds a member's API, and who it says it is.
type clientFlags struct {
	app                                  *app
	api, config                          string
	consul, cluster, service             string
	tokenFile, caFile, certFile, keyFile string
}

func (f *clientFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.api, "api", "", "`addresses` of members' APIs, tried in turn: host:port or https://host:port, with commas (default $PGSIDECAR_API, else from --config, else 127.0.0.1:8008)")
	flags.StringVar(&f.config, "config", "pg.hcl", "a member's configuration `file`, for its API's address and token, and for Consul, which names the others")
	flags.StringVar(&f.consul, "consul", "", "`addresses` of Consul, which names the members where no --api or --config does, or none of those answers (default $PGSIDECAR_CONSUL); Consul's own variables, such as CONSUL_HTTP_TOKEN, are read")
	flags.StringVar(&f.cluster, "consul-cluster", "pg", "the cluster's `name`, with --consul")
	flags.StringVar(&f.service, "consul-service", "", "the service's `name` in Consul, with --consul (default: the cluster's)")
	flags.StringVar(&f.tokenFile, "token-file", "", "`file` with the API's token (default $PGSIDECAR_TOKEN_FILE, else $PGSIDECAR_TOKEN, else from --config)")
	flags.StringVar(&f.caFile, "ca-file", "", "`file` with the authority of the API's certificates (default: from --config)")
	flags.StringVar(&f.certFile, "cert-file", "", "`file` with a client certificate (default: the member's own, from --config)")
	flags.StringVar(&f.keyFile, "key-file", "", "`file` with its key")
}

// client returns what asks the members.
func (f *clientFlags) client(cmd *cobra.Command) (*client, error) {
	c := &client{scheme: "http"}
	list := orDefault(f.api, f.app.getenv("PGSIDECAR_API"))
	if file := orDefault(f.tokenFile, f.app.getenv("PGSIDECAR_TOKEN_FILE")); file != "" {
		token, err := config.ReadSecretFile(file)
		if err != nil {
			return nil, usage("token: %w", err)
		}
		c.token = token
	} else {
		c.token = f.app.getenv("PGSIDECAR_TOKEN")
	}
	c.registry = f.registry()
	if list == "" {
		var err error
		if list, err = f.fromConfig(cmd, c); err != nil {
			return nil, err
		}
	}
	for _, address := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		address = strings.TrimSuffix(address, "/")
		if rest, secure := strings.CutPrefix(address, "https://"); secure {
			address, c.scheme = rest, "https"
		}
		c.addresses = append(c.addresses, strings.TrimPrefix(address, "http://"))
	}
	if f.caFile != "" {
		c.scheme = "https" // and Consul names no scheme
	}
	t, err := f.tls()
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{Transport: &http.Transport{TLSClientConfig: t, DisableKeepAlives: true}}
	return c, nil
}

// fromConfig takes address and token from the configuration file. That the
// file is not there matters only if it was named.
func (f *clientFlags) fromConfig(cmd *cobra.Command, c *client) (string, error) {
	if _, err := os.Stat(f.config); errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Changed("config") {
		if c.registry != nil {
			return "", nil
		}
		c.hint = "; say where one is: --api HOST:8008, --config /etc/pgsidecar/pg.hcl, or --consul HOST:8500"
		return "127.0.0.1:8008", nil
	}
	cfg, err := config.Load(f.config, environment())
	if err != nil {
		return "", reportFaults(f.app, err)
	}
	if c.token == "" {
		c.token = cfg.API.Token.Reveal()
	}
	if c.registry == nil {
		c.registry = registryOf(cfg)
	}
	if t := cfg.API.TLS; t.CertFile != "" {
		f.caFile = orDefault(f.caFile, t.Authority())
		if f.certFile == "" && f.keyFile == "" && readable(t.KeyFile) {
			f.certFile, f.keyFile = t.CertFile, t.KeyFile // the member's own
		}
		return "https://" + cfg.API.Advertise, nil
	}
	return cfg.API.Advertise, nil
}

// readable reports whether this user may read the file.
func readable(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	file.Close()
	return true
}

func (f *clientFlags) tls() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.caFile != "" {
		pem, err := os.ReadFile(f.caFile)
		if err != nil {
			return nil, usage("read authority: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usage("read authority: %s holds no certificate", f.caFile)
		}
	}
	if f.certFile != "" || f.keyFile != "" {
		pair, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
		if err != nil {
			return nil, usage("read client certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// status returns the status of the cluster as its leader knows it, or as the
// first member does that answers: of those named, then of those that Consul
// names. It returns errNoMember, with each one's error, if none does.
func (c *client) status(ctx context.Context) (*api.Status, error) {
	st, err := c.statusOfAny(ctx, c.addresses)
	if err == nil || c.registry == nil || ctx.Err() != nil {
		return st, err
	}
	more, unknown := c.registry.members(ctx, c.addresses)
	if unknown != nil {
		if len(c.addresses) == 0 {
			return nil, fmt.Errorf("%w: %w", errNoMember, unknown)
		}
		return nil, errors.Join(err, unknown)
	}
	st, second := c.statusOfAny(ctx, more)
	if second != nil {
		return nil, errors.Join(err, second)
	}
	c.addresses = append(more, c.addresses...)
	return st, nil
}

func (c *client) statusOfAny(ctx context.Context, addresses []string) (*api.Status, error) {
	var failures []error
	for _, address := range addresses {
		st, err := c.statusOf(ctx, address)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		// Leases and lag are known best to the leader.
		if leader, ok := memberAPI(st, st.Leader); ok && st.Leader != st.Member {
			if better, err := c.statusOf(ctx, leader); err == nil && better.Term >= st.Term {
				return better, nil
			}
		}
		return st, nil
	}
	if failures == nil {
		return nil, errNoMember // none was asked
	}
	return nil, fmt.Errorf("%w: %w%s", errNoMember, errors.Join(failures...), c.hint)
}

func (c *client) statusOf(ctx context.Context, address string) (*api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := c.ask(ctx, http.MethodGet, address, "/status", nil)
	if err != nil {
		return nil, err
	}
	var st api.Status
	if err := json.Unmarshal(answer, &st); err != nil {
		return nil, fmt.Errorf("read status of %s: %w", address, err)
	}
	return &st, nil
}

// memberAPI returns a member's API address, if the status knows it.
func memberAPI(st *api.Status, name string) (address string, ok bool) {
	i := slices.IndexFunc(st.Members, func(m api.MemberStatus) bool { return m.Member == name })
	if i < 0 || st.Members[i].API == "" {
		return "", false
	}
	return st.Members[i].API, true
}

// unknownMember says that there is no such member, or that nobody knows where its API is.
func unknownMember(st *api.Status, name string) error {
	var names []string
	for _, m := range st.Members {
		if m.Member == name {
			return fmt.Errorf("%s does not answer, and where its API is is not known; see pgsidecar status", name)
		}
		names = append(names, m.Member)
	}
	return fmt.Errorf("there is no member %s; there are %s", name, strings.Join(names, ", "))
}

// change asks one member for a change and prints what it answers.
func (c *client) change(ctx context.Context, to io.Writer, address, path string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	answer, err := c.ask(ctx, http.MethodPost, address, path, text)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(to, strings.TrimSpace(string(answer)))
	return err
}

// forget asks whoever answered for the end of something planned.
func (c *client) forget(ctx context.Context, to io.Writer, st *api.Status, path string) error {
	address, ok := memberAPI(st, st.Member)
	if !ok {
		address = c.addresses[0]
	}
	answer, err := c.ask(ctx, http.MethodDelete, address, path, nil)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(to, strings.TrimSpace(string(answer)))
	return err
}

// ask does one request. An answer other than 2xx is an error with its text.
func (c *client) ask(ctx context.Context, method, address, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.scheme+"://"+address+path, bytes.NewReader(body))
	if err != nil {
		return nil, usage("address %q: expected host:port", address)
	}
	if c.token != "" && method != http.MethodGet {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask member: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", address, err)
	}
	switch text := strings.TrimSpace(string(answer)); {
	case res.StatusCode == http.StatusPreconditionFailed:
		return nil, fmt.Errorf("%s: %w: %s", address, errNotPossible, orDefault(text, "no text"))
	case res.StatusCode == http.StatusUnauthorized && text == api.NoToken:
		return nil, fmt.Errorf("%s: %s", address, text)
	case res.StatusCode == http.StatusUnauthorized && c.token == "":
		return nil, fmt.Errorf("%s: %s; name the token's file with --token-file", address, text)
	case res.StatusCode == http.StatusUnauthorized:
		return nil, fmt.Errorf("%s: %s: the token is not the one of token_file, in the block api of that member's pg.hcl", address, text)
	case res.StatusCode >= 300 && text != "" && strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain"):
		return nil, fmt.Errorf("%s: %s", address, text)
	case res.StatusCode >= 300:
		return nil, fmt.Errorf("%s: %s (%s)", address, orDefault(text, "no text"), res.Status)
	}
	return answer, nil
}

// confirm asks a person to type a word before something that cannot be undone.
func confirm(a *app, what, word string) error {
	fmt.Fprintf(a.stderr, "%s\nType %s to go on: ", what, word)
	var typed string
	if _, err := fmt.Fscanln(a.stdin, &typed); err != nil || typed != word {
		return errors.New("nothing was done; --yes goes on without asking")
	}
	return nil
}
