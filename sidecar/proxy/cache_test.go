package proxy

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// What was known before a start serves for two things: a member that is away stays in
// the files, and a file that is missing while Consul is away is written all the same,
// while one that is there stays as it is.
func TestProxyRecalls(t *testing.T) {
	l := newProxyLab(t)
	one, two := filepath.Join(l.dir, "one"), filepath.Join(l.dir, "two")
	source, path := filepath.Join(l.dir, "source.tmpl"), filepath.Join(l.dir, "proxy.hcl")
	status := fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)[0])
	l.must(os.WriteFile(source, []byte("term {{ .Term }}:{{ range .Members }} {{ .Name }}{{ end }}\n"), 0o600))
	l.must(os.WriteFile(path, fmt.Appendf(nil, `
cluster = "pg"
consul { address = [%q] }
api { listen = %q }
template "one" {
  source      = %q
  destination = %q
}
template "two" {
  source      = %q
  destination = %q
}
`, strings.TrimPrefix(l.consul, "http://"), status, source, one, source, two), 0o600))
	cfg, err := config.LoadProxy(path, config.OSEnvironment())
	l.must(err)
	l.register("n1", "primary", 1)
	l.register("n2", "replica", 1)
	l.record(1, "n1", ha.PhaseLeading)
	stop := l.runProxy(cfg)
	l.contains(two, "term 1: n1 n2\n")
	stop()

	// n2 is away, and the record still names it.
	l.must(l.put("/v1/agent/service/deregister/pg-n2", ""))
	l.record(2, "n1", ha.PhaseLeading)
	stop = l.runProxy(cfg)
	l.contains(two, "term 2: n1 n2\n")
	stop()

	l.must(os.Remove(two))
	l.must(os.WriteFile(one, []byte("from before\n"), 0o600))
	l.signal(syscall.SIGSTOP)
	defer l.signal(syscall.SIGCONT)
	l.runProxy(cfg)
	l.contains(two, "term 2: n1 n2\n")
	l.contains(one, "from before\n")
	answer := func() string {
		resp, err := http.Get("http://" + status + "/status")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		l.must(err)
		return string(b)
	}
	if got := answer(); !strings.Contains(got, `"recalled":true`) || !strings.Contains(got, `"ready":false`) {
		t.Errorf("status %s", got)
	}
	l.signal(syscall.SIGCONT)
	l.contains(one, "term 2: n1 n2\n")
	l.until(10*time.Second, "the status of now", func() bool {
		got := answer()
		return !strings.Contains(got, `"recalled":true`) && strings.Contains(got, `"ready":true`)
	})
}

// What cannot be read, or is of another cluster, is as nothing; what could end a line
// comes into no file.
func TestKnowledgeRefused(t *testing.T) {
	cfg := &config.Config{Cluster: "pg", Service: config.Service{Name: "pg"},
		Templates: []config.Template{{Name: "x", Destination: filepath.Join(t.TempDir(), "x")}}}
	for _, c := range []struct {
		text  string
		found bool
		bad   bool
	}{
		{`{"cluster":"pg","service":"pg","record":{"term":3,"leader":"n1","phase":"leading"},"members":[{"Name":"n1","Postgres":"10.0.0.1:5432"}]}`, true, false},
		{`{"cluster":"other","service":"pg","record":{"term":3}}`, false, false},
		{`{"cluster":"pg","serv`, false, true},
		{``, false, true},
		{`{"cluster":"pg","service":"pg","record":{"term":3},"members":[{"Name":"n1","Postgres":"10.0.0.1:5432\n    server evil 6.6.6.6:1"}]}`, false, true},
	} {
		k := newTopologyCache(cfg)
		if err := os.WriteFile(k.path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		top, found, err := k.load(cfg)
		if found != c.found || (err != nil) != c.bad {
			t.Errorf("%s: %v, %v", c.text, found, err)
		}
		if found && (top.Term != 3 || top.Primary == nil || top.Primary.Address() != "10.0.0.1:5432") {
			t.Errorf("%+v", top)
		}
	}
}
