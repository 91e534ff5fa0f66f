package proxy

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// configureMaster is configure with HAProxy's master socket in place of a command,
// and a port for status and metrics, whose address is returned.
func (l *proxyLab) configureMaster() (*config.Config, string) {
	l.t.Helper()
	l.configure("true")
	path := filepath.Join(l.dir, "proxy.hcl")
	b, err := os.ReadFile(path)
	l.must(err)
	status := fmt.Sprintf("127.0.0.1:%d", freePorts(l.t, 1)[0])
	text := strings.NewReplacer("  command     = [\"/bin/sh\", \"-c\", \"true\"]\n", "",
		"haproxy {\n", fmt.Sprintf("api {\n  listen = %q\n}\nhaproxy {\n  master_socket = %q\n", status, filepath.Join(l.dir, "m"))).Replace(string(b))
	l.must(os.WriteFile(path, []byte(text), 0o600))
	cfg, err := config.LoadProxy(path, config.OSEnvironment())
	l.must(err)
	return cfg, status
}

// The whole program: a new member in Consul reloads HAProxy by its master's socket,
// once; a session that stays in the old worker ends when its primary is deposed; a
// change of roles reloads nothing.
func TestProxyReloadsHAProxyByItsMaster(t *testing.T) {
	l := newProxyLab(t)
	cfg, status := l.configureMaster()
	l.register("n1", "primary", 1)
	l.register("n2", "replica", 1)
	l.record(1, "n1", ha.PhaseLeading)
	haproxy := labtest.Program(t, programs.HAProxy)
	l.runProxy(cfg)
	ask := func(path string) string {
		resp, err := http.Get("http://" + status + path)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	file := filepath.Join(l.dir, "haproxy.cfg")
	l.until(30*time.Second, "the file, of which nobody is to be told yet", func() bool {
		_, err := os.Stat(file)
		return err == nil && strings.Contains(ask("/metrics"), `pgsidecar_template_ok{template="haproxy"} 1`)
	})
	l.startProgram(haproxy, "-W", "-S", filepath.Join(l.dir, "m"), "-f", file)
	metric := func(name string, value int) string {
		return fmt.Sprintf("pgsidecar_%s{socket=%q} %d\n", name, filepath.Join(l.dir, "s"), value)
	}
	l.until(30*time.Second, "all to be well", func() bool {
		return ask("/readiness") == "" && strings.Contains(ask("/metrics"), metric("haproxy_master_ok", 1))
	})
	l.reaches("n1")
	conn, name, err := l.connect()
	l.must(err)
	defer conn.Close()
	if name != "n1" {
		t.Fatalf("sent to %s", name)
	}
	before := l.worker()
	l.register("n3", "replica", 1)
	l.until(20*time.Second, "the reload", func() bool {
		return strings.Contains(ask("/metrics"), metric("haproxy_reloads_total", 1)) && l.worker() != before
	})
	l.until(10*time.Second, "the old worker to be known", func() bool { return strings.Contains(ask("/metrics"), metric("haproxy_old_workers", 1)) })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn.SetReadDeadline(time.Now().Add(20 * time.Second)) //nolint:errcheck // a TCP connection has deadlines
		io.Copy(io.Discard, conn)                              //nolint:errcheck // until closed
	}()
	select {
	case <-ended:
		t.Fatal("the reload ended a session")
	default:
	}
	start := time.Now()
	l.record(2, "n3", ha.PhaseLeading)
	select {
	case <-ended:
		t.Logf("the session in the old worker ended %v after the record's change", time.Since(start))
	case <-time.After(10 * time.Second):
		t.Fatal("the session of the deposed primary goes on in the old worker")
	}
	l.reaches("n3")
	l.until(10*time.Second, "the count", func() bool {
		all := ask("/metrics")
		return strings.Contains(all, metric("haproxy_old_sessions_ended_total", 1)) && strings.Contains(all, metric("haproxy_old_workers", 0))
	})
	if all := ask("/metrics"); !strings.Contains(all, metric("haproxy_reloads_total", 1)) || !strings.Contains(all, metric("haproxy_master_ok", 1)) {
		t.Errorf("a change of roles reloaded HAProxy, or its master is not reached:\n%s", all)
	}
}

// The state file, without which HAProxy takes all servers for healthy when it
// starts, stands where a start of the machine does not remove it.
func TestStateFileBesideHAProxysOwn(t *testing.T) {
	of := func(more ...config.Template) (string, int) {
		cfg := &config.Config{Service: config.Service{Name: "pg"}, HAProxy: config.HAProxy{Socket: "/run/haproxy/admin.sock"},
			Templates: append(more, config.Template{Name: "haproxy", Builtin: "haproxy.cfg", Destination: "/etc/haproxy/haproxy.cfg"})}
		s, err := templateSettings(cfg)
		if err != nil {
			t.Fatal(err)
		}
		files, err := templateFiles(cfg, s)
		if err != nil {
			t.Fatal(err)
		}
		if files[0].Destination != s.HAProxy.StateFile {
			t.Errorf("the first file is %s, HAProxy reads %s", files[0].Destination, s.HAProxy.StateFile)
		}
		return s.HAProxy.StateFile, len(files)
	}
	if path, n := of(); path != "/etc/haproxy/pg.state" || n != 2 {
		t.Errorf("%s, %d files", path, n)
	}
	if path, n := of(config.Template{Name: "state", Builtin: "haproxy.state", Destination: "/var/lib/x"}); path != "/var/lib/x" || n != 2 {
		t.Errorf("%s, %d files", path, n)
	}
}
