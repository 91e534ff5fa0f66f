package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// How long a command waits for a member's API.
const (
	// askTimeout is for what is answered from memory; then the next member is
	// asked.
	AskTimeout = 3 * time.Second
	// maxAnswer in bytes; the status of a hundred members is a tenth of it.
	maxAnswer = 4 << 20
)

// errNoMember is returned when no member's API answers.
var errNoMember = errors.New("no member answers")

// ErrAddress is returned for what is no address of an API.
var ErrAddress = errors.New("address")

// ErrNotPossible is returned for a change that cannot be done as things are.
var ErrNotPossible = errors.New("it cannot be done now")

// Refused is an answer other than 2xx.
type Refused struct {
	Status int    // of HTTP
	Text   string // as the member gave it
	err    error
}

// Error returns the text for people, with the address that was asked.
func (r *Refused) Error() string { return r.err.Error() }

// Unwrap returns what errors.Is may know.
func (r *Refused) Unwrap() error { return r.err }

// Options say whom a client asks, and how.
type Options struct {
	// Addresses are members' APIs, tried in turn: host:port.
	Addresses []string
	// Registry names more of them if none answers; nil: nobody does.
	Registry *Registry
	// Token is shown for changes; empty: there is none.
	Token string
	// Hint is for those who named no member, if none answers.
	Hint string
	// TLS is how the APIs are reached with Secure; nil: as Go does by itself.
	TLS    *tls.Config
	Secure bool
	// Keep leaves connections open from one request to the next, until Close; else each
	// request has one of its own.
	Keep bool
	// Dial reaches the APIs; nil: by the network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client asks members' APIs, for the commands that people type. It keeps
// nothing: each command begins with the status of the first member that
// answers, which names all others.
type Client struct {
	o         Options
	http      *http.Client
	scheme    string
	addresses []string // tried in turn
}

// New returns a client.
func New(o Options) *Client {
	c := &Client{o: o, scheme: "http", addresses: o.Addresses,
		http: &http.Client{Transport: &http.Transport{TLSClientConfig: o.TLS, DialContext: o.Dial, DisableKeepAlives: !o.Keep}}}
	if o.Secure {
		c.scheme = "https"
	}
	return c
}

// Close ends the connections that were left open.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Authenticates reports whether a change would show who asks for it.
func (c *Client) Authenticates() bool {
	return c.o.Token != "" || c.o.TLS != nil && c.o.TLS.Certificates != nil
}

// Status returns the status of the cluster as its leader knows it, or as the
// first member does that answers: of those named, then of those that Consul
// names. It returns errNoMember, with each one's error, if none does.
func (c *Client) Status(ctx context.Context) (*api.Status, error) {
	st, err := c.statusOfAny(ctx, c.addresses)
	if err == nil || c.o.Registry == nil || ctx.Err() != nil {
		return st, err
	}
	more, unknown := c.o.Registry.members(ctx, c.addresses)
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

func (c *Client) statusOfAny(ctx context.Context, addresses []string) (*api.Status, error) {
	var failures []error
	for _, address := range addresses {
		st, err := c.StatusOf(ctx, address)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		// Leases and lag are known best to the leader.
		if leader, ok := MemberAPI(st, st.Leader); ok && st.Leader != st.Member {
			if better, err := c.StatusOf(ctx, leader); err == nil && better.Term >= st.Term {
				return better, nil
			}
		}
		return st, nil
	}
	if failures == nil {
		return nil, errNoMember // none was asked
	}
	return nil, fmt.Errorf("%w: %w%s", errNoMember, errors.Join(failures...), c.o.Hint)
}

func (c *Client) StatusOf(ctx context.Context, address string) (*api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, AskTimeout)
	defer cancel()
	answer, err := c.Ask(ctx, http.MethodGet, address, "/status", nil)
	if err != nil {
		return nil, err
	}
	var st api.Status
	if err := json.Unmarshal(answer, &st); err != nil {
		return nil, fmt.Errorf("read status of %s: %w", address, err)
	}
	return &st, nil
}

// MemberAPI returns a member's API address, if the status knows it.
func MemberAPI(st *api.Status, name string) (address string, ok bool) {
	i := slices.IndexFunc(st.Members, func(m api.MemberStatus) bool { return m.Member == name })
	if i < 0 || st.Members[i].API == "" {
		return "", false
	}
	return st.Members[i].API, true
}

// Answered returns the API's address of the member that gave the status.
func (c *Client) Answered(st *api.Status) string {
	if address, ok := MemberAPI(st, st.Member); ok {
		return address
	}
	return c.addresses[0]
}

// UnknownMember says that there is no such member, or that nobody knows where its API is.
func UnknownMember(st *api.Status, name string) error {
	var names []string
	for _, m := range st.Members {
		if m.Member == name {
			return fmt.Errorf("%s is not responding and the address of its API is unknown; see pgsidecar status", name)
		}
		names = append(names, m.Member)
	}
	return fmt.Errorf("there is no member %s; there are %s", name, strings.Join(names, ", "))
}

// Change asks one member for a change and prints what it answers.
func (c *Client) Change(ctx context.Context, to io.Writer, address, path string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	answer, err := c.Ask(ctx, http.MethodPost, address, path, text)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(to, strings.TrimSpace(string(answer)))
	return err
}

// Drill reads the result of the cluster's last drill from the first member that has
// one. It returns errNoMember if none has.
func (c *Client) Drill(ctx context.Context, last any) error {
	for _, address := range c.addresses {
		bounded, cancel := context.WithTimeout(ctx, AskTimeout)
		answer, err := c.Ask(bounded, http.MethodGet, address, "/drill", nil)
		cancel()
		if err == nil && json.Unmarshal(answer, last) == nil { // else written by another version
			return nil
		}
	}
	return errNoMember
}

// Backups reads what the repositories have, from the first member that answers with
// it, and the answer as it came.
func (c *Client) Backups(ctx context.Context) (lists []api.BackupList, text []byte, err error) {
	st, err := c.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	if text, err = c.Ask(ctx, http.MethodGet, c.Answered(st), "/backup", nil); err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(text, &lists); err != nil {
		return nil, nil, fmt.Errorf("read the list of backups: %w", err)
	}
	return lists, text, nil
}

// Forget asks the member that answered to end something planned.
func (c *Client) Forget(ctx context.Context, to io.Writer, st *api.Status, path string) error {
	answer, err := c.Ask(ctx, http.MethodDelete, c.Answered(st), path, nil)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(to, strings.TrimSpace(string(answer)))
	return err
}

// Ask does one request. An answer other than 2xx is a *Refused.
func (c *Client) Ask(ctx context.Context, method, address, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.scheme+"://"+address+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w %q: expected host:port", ErrAddress, address)
	}
	if c.o.Token != "" && method != http.MethodGet {
		req.Header.Set("Authorization", "Bearer "+c.o.Token)
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
	if res.StatusCode >= 300 {
		return nil, &Refused{Status: res.StatusCode, Text: strings.TrimSpace(string(answer)), err: c.refusal(address, res, strings.TrimSpace(string(answer)))}
	}
	return answer, nil
}

// refusal is an answer's text for people.
func (c *Client) refusal(address string, res *http.Response, text string) error {
	switch {
	case res.StatusCode == http.StatusPreconditionFailed:
		return fmt.Errorf("%s: %w: %s", address, ErrNotPossible, cmp.Or(text, "no text"))
	case res.StatusCode == http.StatusUnauthorized && text == api.NoToken:
		return fmt.Errorf("%s: %s", address, text)
	case res.StatusCode == http.StatusUnauthorized && c.o.Token == "":
		return fmt.Errorf("%s: %s; name the token's file with --token-file", address, text)
	case res.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%s: %s: the token is not the one of token_file, in the block api of that member's pg.hcl", address, text)
	case text != "" && strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain"):
		return fmt.Errorf("%s: %s", address, text)
	}
	return fmt.Errorf("%s: %s (%s)", address, cmp.Or(text, "no text"), res.Status)
}
