package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
)

// follow runs `pgsidecar proxy` in this process with one template, and returns
// the file that it writes and the address of its status.
func (l *proxyLab) follow(template string) (file, status string) {
	l.t.Helper()
	source, path := filepath.Join(l.dir, "source.tmpl"), filepath.Join(l.dir, "proxy.hcl")
	file, status = filepath.Join(l.dir, "out"), fmt.Sprintf("127.0.0.1:%d", freePorts(l.t, 1)[0])
	l.must(os.WriteFile(source, []byte(template), 0o600))
	l.must(os.WriteFile(path, fmt.Appendf(nil, `
cluster = "pg"
consul {
  address = [%q]
}
api {
  listen = %q
}
template "out" {
  source      = %q
  destination = %q
}
`, strings.TrimPrefix(l.consul, "http://"), status, source, file), 0o600))
	cfg, err := config.LoadProxy(path, config.OSEnvironment())
	l.must(err)
	log := l.t.Output()
	if _, bench := l.t.(*testing.B); bench {
		log = io.Discard // go test cuts long output, and the figures with it
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, process.Logger(cfg.Log, log)) }()
	l.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			l.t.Error(err)
		}
	})
	return file, status
}

// contains waits until the file has the text.
func (l *proxyLab) contains(file, want string) {
	l.t.Helper()
	l.until(20*time.Second, fmt.Sprintf("%q in the file", want), func() bool {
		b, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(b), want)
	})
}

func (l *proxyLab) service(name, id string, port int, status string) {
	l.t.Helper()
	l.must(l.put("/v1/agent/service/register", map[string]any{
		"ID": id, "Name": name, "Address": "10.0.0.1", "Port": port, "Tags": []string{"blue"},
		"Check": map[string]any{"TTL": "1h", "Status": status},
	}))
}

// What templates read of Consul beside the topology is followed; what is wrong
// with it shows, leaves the last good file, and goes away by itself.
func TestTemplatesReadConsul(t *testing.T) {
	l := newProxyLab(t)
	l.register("n1", "primary", 1)
	l.record(1, "n1", ha.PhaseLeading)
	l.service("web", "web-1", 81, "passing")
	l.service("web", "web-2", 82, "critical")
	file, status := l.follow(`term {{ .Term }}
color {{ key "app/color" }} size {{ keyOrDefault "app/size" "xl" }}
{{ range service "web" }}good {{ .Address }}:{{ .Port }}
{{ end }}{{ range service "blue.web|any" }}any {{ .Port }}
{{ end }}{{ range tree "app" }}{{ .Key }}={{ .Value }};{{ end }}
`)
	answer := func(path string) string {
		resp, err := http.Get("http://" + status + path)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		l.must(err)
		return resp.Status + " " + string(b)
	}
	l.until(20*time.Second, "the missing key in the status", func() bool {
		return strings.Contains(answer("/status"), "app/color") && strings.Contains(answer("/readiness"), "503")
	})
	if _, err := os.Stat(file); err == nil {
		t.Error("a file was written without a key that it needs")
	}
	l.must(l.put("/v1/kv/app/color", "red"))
	l.contains(file, "term 1\ncolor red size xl\ngood 10.0.0.1:81\nany 81\nany 82\ncolor=red;\n")

	l.must(l.put("/v1/kv/app/color", "green\nserver evil 6.6.6.6:5432"))
	l.until(20*time.Second, "the refusal in the metrics", func() bool {
		return strings.Contains(answer("/metrics"), `pgsidecar_template_ok{template="out"} 0`)
	})
	l.contains(file, "color red size")
	l.must(l.put("/v1/kv/app/size", "s"))
	l.must(l.put("/v1/kv/app/color", "blue"))
	l.must(l.put("/v1/agent/check/pass/service:web-2", ""))
	l.contains(file, "color blue size s\ngood 10.0.0.1:81\ngood 10.0.0.1:82\n")
	l.until(20*time.Second, "the recovery", func() bool {
		return strings.Contains(answer("/metrics"), `pgsidecar_template_ok{template="out"} 1`) && strings.HasPrefix(answer("/readiness"), "200")
	})
	var s followerStatus
	_, body, _ := strings.Cut(answer("/status"), " OK ")
	l.must(json.Unmarshal([]byte(body), &s))
	if !s.Ready || s.Term != 1 || s.Primary != "n1" || len(s.Files) != 1 || s.Files[0].Writes < 2 {
		t.Errorf("status %+v", s)
	}
}

// A file from before stays as it is while Consul is away at the start, and is
// written when it comes.
func TestProxyStartsWithoutConsul(t *testing.T) {
	l := newProxyLab(t)
	l.must(os.WriteFile(filepath.Join(l.dir, "out"), []byte("from before\n"), 0o600))
	l.signal(syscall.SIGSTOP)
	file, status := l.follow("term {{ .Term }}\n")
	l.until(10*time.Second, "the error in the status", func() bool {
		resp, err := http.Get("http://" + status + "/status")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return err == nil && strings.Contains(string(b), "consul does not answer")
	})
	l.contains(file, "from before\n")
	l.signal(syscall.SIGCONT)
	l.record(7, "n1", ha.PhaseElecting)
	l.register("n1", "replica", 6)
	l.contains(file, "term 7\n")
}

// One renderer follows 1,000 services of 5 instances: what that costs while
// nothing changes, and how long a change takes to be in the file.
func BenchmarkThousandServices(b *testing.B) {
	l := newProxyLab(b, "limits { http_max_conns_per_client = 5000 }")
	l.register("n1", "primary", 1)
	l.record(1, "n1", ha.PhaseLeading)
	const services, instances = 1000, 5
	for i := range services {
		var ops []any
		for j := range instances {
			ops = append(ops, l.catalogService(i, j, 5432)...)
		}
		l.must(l.put("/v1/txn", ops))
	}
	file, _ := l.follow(`{{ range services }}{{ range service (printf "%s|any" .Name) }}{{ .Name }} {{ .Node }} {{ .Address }}:{{ .Port }}
{{ end }}{{ end }}`)
	l.until(2*time.Minute, "all services in the file", func() bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Count(string(text), "s") > services*instances && strings.Contains(string(text), fmt.Sprintf("s%04d node-%d-%d ", services-1, services-1, instances-1))
	})
	var before, after syscall.Rusage
	l.must(syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	start := time.Now()
	idle := time.NewTimer(10 * time.Second)
	<-idle.C
	l.must(syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	spent := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	core := 100 * spent.Seconds() / time.Since(start).Seconds()
	var took []time.Duration
	for n := range max(b.N, 20) {
		service, port := n*37%services, 10000+n
		want := fmt.Sprintf("s%04d node-%d-2 10.0.0.1:%d\n", service, service, port)
		last, err := os.Stat(file)
		l.must(err)
		start := time.Now()
		l.must(l.put("/v1/txn", l.catalogService(service, 2, port)))
		l.until(20*time.Second, want, func() bool {
			now, err := os.Stat(file)
			if err != nil || os.SameFile(now, last) {
				return false // to read it all the time would take the processor that writes it
			}
			last = now
			text, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(text), want)
		})
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(core, "%-of-a-core-idle")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-median")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms-worst")
	b.ReportMetric(0, "ns/op")
}

// catalogService are a transaction's operations that register one instance, on a
// node of its own that has no agent.
func (l *proxyLab) catalogService(service, instance, port int) []any {
	name := fmt.Sprintf("s%04d", service)
	node := fmt.Sprintf("node-%d-%d", service, instance)
	return []any{
		map[string]any{"Node": map[string]any{"Verb": "set", "Node": map[string]any{"Node": node, "Address": "10.0.0.1"}}},
		map[string]any{"Service": map[string]any{"Verb": "set", "Node": node, "Service": map[string]any{
			"ID": name, "Service": name, "Address": "10.0.0.1", "Port": port}}},
	}
}
