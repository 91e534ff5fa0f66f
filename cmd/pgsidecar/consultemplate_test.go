package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/templates"
)

// consulTemplate finds the real program, which nothing here needs but this
// test: `GOBIN=$PWD/.cache/bin go install github.com/hashicorp/consul-template@v0.41.1`.
func consulTemplate(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../.cache/bin/consul-template")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		return path
	}
	path, err = exec.LookPath("consul-template")
	if err != nil {
		t.Skip(err)
	}
	return path
}

// The files for consul-template, rendered by the real one, route as ours do:
// to the member whose API says that it is the primary, to nobody else, also
// right after HAProxy's start.
func TestConsulTemplate(t *testing.T) {
	program := consulTemplate(t)
	l := newProxyLab(t)
	ports := freePorts(t, 2)
	l.primary = ports[0]
	var primary atomic.Value
	primary.Store("")
	for name := range l.servers {
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if (r.URL.Path == "/primary") != (primary.Load() == name) {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		t.Cleanup(api.Close)
		role := "replica"
		if name == "n1" {
			role = "primary"
		}
		l.registerAPI(name, role, 1, api.Listener.Addr().String())
	}
	replace := strings.NewReplacer(`"/run/haproxy"`, fmt.Sprintf("%q", l.dir), "/admin.sock", "/s", "5000", fmt.Sprint(ports[0]), "5001", fmt.Sprint(ports[1]))
	args := []string{"-once", "-consul-addr", strings.TrimPrefix(l.consul, "http://")}
	for _, name := range []string{"haproxy.cfg", "haproxy.state", "pgbouncer.ini"} {
		text, err := templates.ForConsulTemplateText(name + ".ctmpl")
		l.must(err)
		in, out := filepath.Join(l.dir, name+".ctmpl"), filepath.Join(l.dir, name)
		if name == "haproxy.state" {
			out = filepath.Join(l.dir, "pg.state")
		}
		l.must(os.WriteFile(in, []byte(replace.Replace(text)), 0o600))
		args = append(args, "-template", in+":"+out)
	}
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("consul-template: %v\n%s", err, out)
	}
	ini, err := os.ReadFile(filepath.Join(l.dir, "pgbouncer.ini"))
	l.must(err)
	if want := "\n* = host=127.0.0.1 port=" + strings.TrimPrefix(l.servers["n1"].Addr().String(), "127.0.0.1:") + "\n"; !strings.Contains(string(ini), want) {
		t.Errorf("pgbouncer.ini:\n%s", ini)
	}

	haproxy, err := programs.HAProxy()
	l.must(err)
	l.startProgram(haproxy, "-W", "-f", filepath.Join(l.dir, "haproxy.cfg"))
	l.until(10*time.Second, "haproxy", func() bool { return strings.Contains(l.cli("show info"), "Pid") })
	first := make(chan error, 1)
	go func() { // waits while there is no primary
		c, name, err := l.connect()
		if err == nil {
			c.Close()
			if name != "n2" {
				err = errors.New("it was sent to " + name)
			}
		}
		first <- err
	}()
	select {
	case err := <-first:
		t.Fatalf("a client while nobody is primary: %v", err)
	case <-time.After(1500 * time.Millisecond):
	}
	primary.Store("n2")
	if err := <-first; err != nil {
		t.Fatalf("the client that waited: %v", err)
	}
	start := time.Now()
	primary.Store("n3")
	l.until(10*time.Second, "the new primary", func() bool {
		c, name, err := l.connect()
		if err != nil {
			return false
		}
		c.Close()
		return name == "n3"
	})
	t.Logf("switched by checks within %v", time.Since(start))
}
