package sessions_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sessions"
)

func TestOptions(t *testing.T) {
	for name, change := range map[string]func(*sessions.Options){
		"no address":       func(o *sessions.Options) { o.Addresses = nil },
		"bad address":      func(o *sessions.Options) { o.Addresses = []string{"localhost"} },
		"bad scheme":       func(o *sessions.Options) { o.Scheme = "gopher" },
		"no member":        func(o *sessions.Options) { o.Member = "" },
		"slash in cluster": func(o *sessions.Options) { o.Cluster = "a/b" },
		"slash at prefix":  func(o *sessions.Options) { o.Prefix = "/a" },
		"short TTL":        func(o *sessions.Options) { o.TTL = time.Second },
		"no token file":    func(o *sessions.Options) { o.TokenFile = "/nowhere/token" },
		"no CA file":       func(o *sessions.Options) { o.CAFile = "/nowhere/ca.pem" },
		"no certificate":   func(o *sessions.Options) { o.CertFile, o.KeyFile = "/nowhere/pem", "/nowhere/key" },
		"a path":           func(o *sessions.Options) { o.Addresses = []string{"http://localhost:8500/consul"} },
	} {
		t.Run(name, func(t *testing.T) {
			o := options("n1", "127.0.0.1:8500")
			change(&o)
			if _, err := sessions.New(o); err == nil {
				t.Error("accepted")
			} else {
				t.Log(err)
			}
		})
	}
}

// Consul by HTTPS with a certificate that nobody here trusts: refused, unless it is
// said that certificates do not matter.
func TestSecureAddresses(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Consul-Index", "1")
		_, _ = io.WriteString(w, "[]")
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "https://")
	for _, c := range []struct {
		address, scheme string
		insecure, works bool
	}{
		{server.URL, "", true, true},
		{server.URL, "", false, false},
		{host, "https", true, true},
		{host, "https", false, false},
		{host, "", true, false}, // by http
	} {
		o := options("n1", c.address)
		o.Scheme, o.Insecure = c.scheme, c.insecure
		n1, err := sessions.New(o)
		must(t, err)
		if _, err := n1.Members(background(t)); (err == nil) != c.works {
			t.Errorf("%+v: %v", c, err)
		}
	}
	o := options("n1", "https://consul.example") // at 443, as for Consul's own programs
	_, err := sessions.New(o)
	must(t, err)
}

// Consul at a Unix socket, and nobody there.
func TestUnixSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "consul.sock")
	c, err := sessions.New(options("n1", "unix://"+socket))
	must(t, err)
	wantErr(t, c.Confirm(background(t)), sessions.ErrUnreachable, "consul.sock")
	server := newAgent(t, "server", "", `addresses { http = "127.0.0.1 unix://`+socket+`" }`)
	must(t, c.Confirm(background(t)))
	server.kill()
	wantErr(t, c.Confirm(background(t)), sessions.ErrUnreachable)
}
