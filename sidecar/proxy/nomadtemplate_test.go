package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/templates"
)

// The template blocks, in a task of a real Nomad: HAProxy routes to the member whose
// API says that it is the primary, and is reloaded when a member comes.
func TestNomadTemplate(t *testing.T) {
	program := labtest.Program(t, programs.Nomad)
	haproxy := labtest.Program(t, programs.HAProxy)
	if os.Geteuid() != 0 {
		t.Skip("a client of Nomad runs as root")
	}
	l := newProxyLab(t)
	ports := freePorts(t, 2)
	l.primary = ports[0]
	var primary atomic.Value
	primary.Store("n1")
	join := func(name string) {
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if (r.URL.Path == "/primary") != (primary.Load() == name) {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		t.Cleanup(api.Close)
		l.registerAPI(name, "replica", 1, api.Listener.Addr().String())
	}
	for name := range l.servers {
		join(name)
	}
	nomad := l.startNomad(program)
	job := filepath.Join(l.dir, "lb.nomad.hcl")
	l.must(os.WriteFile(job, []byte(l.nomadJob(haproxy, ports)), 0o600))
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Env = append(os.Environ(), "NOMAD_ADDR="+nomad)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nomad %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("job", "run", "-detach", job)
	t.Cleanup(func() { run("job", "stop", "-purge", "-detach", "lb") }) // before its agent ends
	l.reachesWithin(90*time.Second, "n1")
	l.servers["n4"] = nameServer(t, "n4")
	join("n4")
	primary.Store("n4")
	start := time.Now()
	l.reachesWithin(90*time.Second, "n4")
	t.Logf("a member that came as primary was reached after %v", time.Since(start))
}

// startNomad starts an agent that is server and client, and returns its address.
func (l *proxyLab) startNomad(program string) string {
	l.t.Helper()
	p := freePorts(l.t, 3)
	text, err := json.Marshal(map[string]any{
		"bind_addr": "127.0.0.1", "data_dir": filepath.Join(l.dir, "n"), "disable_update_check": true,
		"ports":     map[string]any{"http": p[0], "rpc": p[1], "serf": p[2]},
		"advertise": map[string]any{"http": "127.0.0.1", "rpc": "127.0.0.1", "serf": "127.0.0.1"},
		"server":    map[string]any{"enabled": true, "bootstrap_expect": 1, "raft_multiplier": 1},
		"client": map[string]any{"enabled": true, "network_interface": "lo",
			"options": map[string]any{"fingerprint.denylist": "env_aws,env_azure,env_digitalocean,env_gce"}},
		"consul": map[string]any{"address": strings.TrimPrefix(l.consul, "http://"), "auto_advertise": false,
			"server_auto_join": false, "client_auto_join": false},
		"plugin": map[string]any{"raw_exec": map[string]any{"config": map[string]any{"enabled": true}}},
	})
	l.must(err)
	path := filepath.Join(l.dir, "nomad.json")
	l.must(os.WriteFile(path, text, 0o600))
	l.t.Cleanup(func() { // once it has ended: what it leaves mounted could not be removed
		mounts, err := os.ReadFile("/proc/self/mounts")
		l.must(err)
		for line := range strings.Lines(string(mounts)) {
			if f := strings.Fields(line); strings.HasPrefix(f[1], l.dir+"/") {
				l.must(syscall.Unmount(f[1], syscall.MNT_DETACH))
			}
		}
	})
	l.startProgram(program, "agent", "-config", path)
	address := fmt.Sprintf("http://127.0.0.1:%d", p[0])
	l.until(60*time.Second, "Nomad's client", func() bool {
		resp, err := http.Get(address + "/v1/nodes")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var nodes []struct{ Status string }
		return json.NewDecoder(resp.Body).Decode(&nodes) == nil && len(nodes) == 1 && nodes[0].Status == "ready"
	})
	return address
}

// nomadJob is a job with the blocks as they stand, but that the templates are in the
// job, and with the lines that the blocks' comment asks for.
func (l *proxyLab) nomadJob(haproxy string, ports []int) string {
	l.t.Helper()
	blocks, err := templates.ForConsulTemplateText("nomad-template.hcl")
	l.must(err)
	lines := regexp.MustCompile(`#   (\{\{ \$dir .*\}\})`).FindStringSubmatch(blocks)
	if lines == nil {
		l.t.Fatal("the comment does not say what to set")
	}
	for _, name := range []string{"haproxy.state.ctmpl", "haproxy.cfg.ctmpl"} {
		text, err := templates.ForConsulTemplateText(name)
		l.must(err)
		if name == "haproxy.cfg.ctmpl" {
			if !strings.Contains(text, "{{ $dir :=") {
				l.t.Fatal("the template has no $dir")
			}
			text = regexp.MustCompile(`\{\{ \$dir := [^}]*\}\}`).ReplaceAllLiteralString(text, "")
			text = regexp.MustCompile(`\{\{ \$state := [^}]*\}\}`).ReplaceAllLiteralString(text, lines[1])
			text = strings.NewReplacer("5000", fmt.Sprint(ports[0]), "5001", fmt.Sprint(ports[1])).Replace(text)
		}
		path := filepath.Join(l.dir, name)
		l.must(os.WriteFile(path, []byte(text), 0o600))
		blocks = regexp.MustCompile(`source +=  *"local/`+regexp.QuoteMeta(name)+`"`).ReplaceAllLiteralString(blocks, fmt.Sprintf("data = file(%q)", path))
	}
	return fmt.Sprintf(`job "lb" {
  group "lb" {
    task "haproxy" {
      driver = "raw_exec"
      config {
        command = %q
        args    = ["-W", "-f", "${NOMAD_TASK_DIR}/haproxy.cfg"]
      }
      resources {
        cpu    = 20
        memory = 64
      }
%s
    }
  }
}
`, haproxy, blocks)
}
