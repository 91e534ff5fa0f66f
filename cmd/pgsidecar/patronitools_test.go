package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// haproxy: the checks that Patroni's documentation and templates have had, in a
// HAProxy of its own, find the primary and the replicas.
func (o *operated) haproxy(t *testing.T) {
	path := labtest.Program(t, programs.HAProxy)
	var config strings.Builder
	stats := freePort(t)
	fmt.Fprintf(&config, "global\n maxconn 100\ndefaults\n mode tcp\n retries 2\n timeout client 30m\n timeout connect 4s\n"+
		" timeout server 30m\n timeout check 5s\nlisten stats\n mode http\n bind 127.0.0.1:%d\n stats enable\n stats uri /\n", stats)
	ports := map[string]int{}
	checks := []struct{ name, check string }{{"bare", "option httpchk"}, {"primary", "option httpchk HEAD /primary"}, {"master", "option httpchk OPTIONS /master"},
		{"replica", "option httpchk HEAD /replica"}, {"lag", "option httpchk GET /replica?lag=10MB"}, {"readonly", "option httpchk OPTIONS /read-only"}}
	for _, c := range checks {
		ports[c.name] = freePort(t)
		fmt.Fprintf(&config, "listen %s\n bind 127.0.0.1:%d\n %s\n http-check expect status 200\n"+
			" default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions\n", c.name, ports[c.name], c.check)
		for _, h := range o.Plan().Members() {
			fmt.Fprintf(&config, " server %s %s maxconn 100 check port %d\n", h.Name, h.PostgresAddress(), h.Ports.API)
		}
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	labtest.Start(t, exec.Command(path, "-db", "-f", file))
	leader := o.status().Leader
	wrong := ""
	o.until(t, "right states in HAProxy", func() bool {
		_, csv := o.ask("GET", "127.0.0.1:"+strconv.Itoa(stats), "/;csv", "", "")
		wrong = ""
		for _, c := range checks {
			for _, h := range o.Plan().Members() {
				is := strings.Contains(lineOf(csv, c.name+","+h.Name+","), ",UP,")
				should := c.name == "readonly" || (h.Name == leader) == (c.name != "replica" && c.name != "lag")
				if is != should {
					wrong += fmt.Sprintf("%s of %s up: %t; ", h.Name, c.name, is)
				}
			}
		}
		return wrong == ""
	})
	for name, standby := range map[string]bool{"primary": false, "bare": false, "replica": true} {
		if got, err := o.inRecovery(t, ports[name]); err != nil || got != standby {
			t.Errorf("%s leads to a standby: %t, %v", name, got, err)
		}
	}
}

func lineOf(text, prefix string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			return line
		}
	}
	return ""
}

func (o *operated) inRecovery(t *testing.T, port int) (bool, error) {
	config, err := o.ConnConfig("postgres", o.Plan().Members()[0].Name)
	if err != nil {
		return false, err
	}
	config.Host, config.Port = "127.0.0.1", uint16(port)
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	var standby bool
	return standby, conn.QueryRow(t.Context(), "select pg_is_in_recovery()").Scan(&standby)
}

// checkPatroni: the answers have what check_patroni 2.2 reads of them.
func (o *operated) checkPatroni(t *testing.T) {
	leader := o.status().Leader
	for _, h := range o.Plan().Members() {
		var own struct {
			Timeline int               `json:"timeline"`
			State    string            `json:"state"`
			Patroni  map[string]string `json:"patroni"`
		}
		code, body := o.ask("GET", h.APIAddress(), "/patroni", "", "")
		if err := json.Unmarshal([]byte(body), &own); err != nil || code != 200 || own.Timeline < 1 || own.State != "running" {
			t.Errorf("%s: /patroni: %d %s %v", h.Name, code, body, err)
		}
		var version [3]int
		if n, err := fmt.Sscanf(own.Patroni["version"], "%d.%d.%d", &version[0], &version[1], &version[2]); n != 3 || err != nil || version[0] < 4 {
			t.Errorf("%s: version %q", h.Name, own.Patroni["version"])
		}
		var cluster struct{ Members []map[string]any }
		if _, body = o.ask("GET", h.APIAddress(), "/cluster", "", ""); json.Unmarshal([]byte(body), &cluster) != nil || len(cluster.Members) != 3 {
			t.Fatalf("%s: /cluster: %s", h.Name, body)
		}
		for _, m := range cluster.Members {
			_, lagged := m["lag"]
			role, state := m["role"], m["state"]
			leads := m["name"] == leader && role == "leader" && state == "running" && !lagged
			follows := m["name"] != leader && slices.Contains([]any{"replica", "sync_standby", "quorum_standby"}, role) && state == "streaming" && lagged
			if _, timeline := m["timeline"].(float64); !timeline || !leads && !follows {
				t.Errorf("%s: member %v", h.Name, m)
			}
		}
		for path, primary := range map[string]bool{"/primary": true, "/leader": true, "/replica?lag=10MB": false} {
			code, body := o.ask("GET", h.APIAddress(), path, "", "")
			if (code == 200) != (primary == (h.Name == leader)) {
				t.Errorf("%s: %s: %d %s", h.Name, path, code, body)
			}
		}
		for path, want := range map[string]int{"/liveness": 200, "/readiness": 200, "/health": 200, "/standby-leader": 503, "/nowhere": 404} {
			for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
				if code, _ := o.ask(method, h.APIAddress(), path, "", ""); code != want {
					t.Errorf("%s: %s %s: %d", h.Name, method, path, code)
				}
			}
		}
		_, once := o.ask("GET", h.APIAddress(), "/config", "", "")
		if _, again := o.ask("GET", h.APIAddress(), "/config", "", ""); once != again {
			t.Errorf("%s: /config changes by itself: %s, %s", h.Name, once, again)
		}
	}
}
