package proxy

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

	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/templates"
)

// consulTemplate finds the real program, which nothing here needs but this
// test: `make programs` builds it (.tools/consul-template).
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
	replace := strings.NewReplacer(`"/run/haproxy"`, fmt.Sprintf("%q", l.dir), "/etc/haproxy/", l.dir+"/", "/admin.sock", "/s", "5000", fmt.Sprint(ports[0]), "5001", fmt.Sprint(ports[1]))
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

	haproxy := labtest.Program(l.t, programs.HAProxy)
	l.startProgram(haproxy, "-W", "-f", filepath.Join(l.dir, "haproxy.cfg"), "-p", filepath.Join(l.dir, "pid"))
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
	l.followWithConsulTemplate(program)
}

// followWithConsulTemplate runs it with its configuration file: a member that
// comes is in HAProxy after a reload, and PgBouncer's file names who is
// registered as primary.
func (l *proxyLab) followWithConsulTemplate(program string) {
	l.t.Helper()
	text, err := templates.ForConsulTemplateText("consul-template.hcl")
	l.must(err)
	reload := fmt.Sprintf("sh -c 'kill -USR2 $(cat %s/pid)'", l.dir)
	text = strings.NewReplacer("/etc/pgsidecar/", l.dir+"/", "/run/haproxy/", l.dir+"/", "/etc/haproxy/", l.dir+"/",
		"/etc/pgbouncer/pgsidecar.ini", l.dir+"/pgbouncer.ini", "systemctl reload haproxy", reload,
		"systemctl reload pgbouncer", "touch "+l.dir+"/reloaded").Replace(text)
	path := filepath.Join(l.dir, "consul-template.hcl")
	l.must(os.WriteFile(path, []byte(text), 0o600))
	pid := l.worker()
	l.startProgram(program, "-consul-addr", strings.TrimPrefix(l.consul, "http://"), "-config", path)

	l.servers["n4"] = nameServer(l.t, "n4")
	l.registerAPI("n4", "replica", 1, l.servers["n4"].Addr().String())
	l.contains(filepath.Join(l.dir, "haproxy.cfg"), "server n4 "+l.servers["n4"].Addr().String())
	l.until(10*time.Second, "HAProxy's reload", func() bool { now := l.worker(); return now != "" && now != pid })
	l.reaches("n3")
	api := l.servers["n2"].Addr().String()
	l.registerAPI("n1", "replica", 2, api)
	l.registerAPI("n2", "primary", 2, api)
	l.contains(filepath.Join(l.dir, "pgbouncer.ini"), "port="+strings.TrimPrefix(l.servers["n2"].Addr().String(), "127.0.0.1:")+"\n")
	l.until(10*time.Second, "PgBouncer's reload", func() bool { _, err := os.Stat(filepath.Join(l.dir, "reloaded")); return err == nil })
}

// worker is the process id of HAProxy's worker; nothing if it does not answer.
func (l *proxyLab) worker() string {
	for line := range strings.Lines(l.cli("show info")) {
		if pid, found := strings.CutPrefix(line, "Pid: "); found {
			return strings.TrimSpace(pid)
		}
	}
	return ""
}
