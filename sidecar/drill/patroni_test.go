package drill_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// Debian's package, which is made for Debian's interpreter.
const (
	patroniPython  = "/usr/bin/python3"
	patroniProgram = "/usr/bin/patroni"
)

// patroni runs the members of a lab by Patroni, to measure it beside pgsidecar.
// Its members ask the Consul agent of their own host; its REST API listens where
// the sidecar's would, so that what asks the one for a switchover asks the other.
type patroni struct {
	// The timers, in seconds. On Consul TTL is at least 20: the session's is half
	// of it, and Consul's session_ttl_min is 10 s. Patroni's documentation has 1
	// and 3 as the least of the other two.
	TTL, LoopWait, RetryTimeout int
	// StartTimeout is how long a primary that crashed may take to start again
	// before another is promoted, in seconds (primary_start_timeout).
	StartTimeout int
	// Sync is synchronous_mode with one synchronous standby: any of them, where the
	// version has quorum commit (quorumSince).
	Sync bool
	// Checks are HAProxy's timing of checks.
	Checks string
}

// Patroni's two ways in which it is measured.
func patroniDefaults() patroni {
	// HAProxy as in the haproxy.cfg that Patroni's package has as an example.
	return patroni{TTL: 30, LoopWait: 10, RetryTimeout: 10, StartTimeout: 300, Sync: true, Checks: "inter 3s fall 3 rise 2"}
}

func patroniFastest() patroni {
	return patroni{TTL: 20, LoopWait: 1, RetryTimeout: 3, StartTimeout: 0, Sync: true, Checks: "inter 1s fall 1 rise 1"}
}

// quorumSince is the first major version with synchronous_mode: quorum.
const quorumSince = 4

// syncMode is synchronous_mode of a version.
func syncMode(version string, sync bool) string {
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); sync && err == nil && n >= quorumSince {
		return "quorum"
	}
	return strconv.FormatBool(sync)
}

// patroniVersion returns Patroni's version, or why it cannot be measured.
func patroniVersion() (version, missing string) {
	if _, err := os.Stat(patroniProgram); err != nil {
		return "", "Patroni is missing: as root on Debian, .tools/patroni installs it"
	}
	if out, err := exec.Command(patroniPython, "-c", "import consul").CombinedOutput(); err != nil {
		return "", fmt.Sprintf("Patroni's client of Consul is missing (apt-get install python3-consul): %s", bytes.TrimSpace(out))
	}
	out, err := exec.Command(patroniPython, patroniProgram, "--version").Output()
	if err != nil {
		return "", fmt.Sprintf("Patroni does not run: %v", err)
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "patroni "), ""
}

// The parameters are those of a lab's members that pgsidecar runs, where Patroni
// lets them be set: what pgsidecar sets by itself for a fast failover is here too.
var patroniTemplate = template.Must(template.New("patroni.yml").Parse(`scope: {{.Plan.Cluster}}
name: {{.Host.Name}}
log:
  level: INFO
restapi:
  listen: {{.Host.APIAddress}}
  connect_address: {{.Host.APIAddress}}
consul:
  host: {{.Host.HTTPAddress}}
bootstrap:
  dcs:
    ttl: {{.P.TTL}}
    loop_wait: {{.P.LoopWait}}
    retry_timeout: {{.P.RetryTimeout}}
    maximum_lag_on_failover: 1048576
    primary_start_timeout: {{.P.StartTimeout}}
    synchronous_mode: {{.SyncMode}}
    synchronous_node_count: 1
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        max_connections: 100
        max_wal_senders: 16
        wal_keep_size: 512MB
        wal_log_hints: "on"
  initdb:
  - encoding: UTF8
  - data-checksums
  - no-instructions
  pg_hba:
  - host all all {{.Network}} scram-sha-256
  - host replication all {{.Network}} scram-sha-256
  - host all all 127.0.0.1/32 scram-sha-256
postgresql:
  listen: {{.Host.PostgresAddress}}
  connect_address: {{.Host.PostgresAddress}}
  bin_dir: {{.Plan.PostgresBin}}
  data_dir: {{.Host.DataDir}}
  pgpass: {{.Own}}/pgpass
  remove_data_directory_on_rewind_failure: true
  remove_data_directory_on_diverged_timelines: true
  authentication:
    superuser:
      username: {{.Superuser}}
      password: {{.SuperuserPassword}}
    replication:
      username: {{.Replication}}
      password: {{.ReplicationPassword}}
  parameters:
    shared_buffers: 16MB
    dynamic_shared_memory_type: mmap
    unix_socket_directories: {{.Own}}
    password_encryption: scram-sha-256
    wal_sender_timeout: 5s
    wal_retrieve_retry_interval: 100ms
    wal_receiver_status_interval: 1s
watchdog:
  mode: "off"
`))

func (p patroni) Files(plan *lab.Plan, h lab.Host) (map[string][]byte, error) {
	network := "127.0.0.1/32"
	if plan.Isolated {
		network = "10.213.0.0/24"
	}
	version, _ := patroniVersion()
	data := map[string]any{"P": p, "SyncMode": syncMode(version, p.Sync), "Plan": plan, "Host": h, "Network": network, "Own": filepath.Dir(h.DataDir()),
		"Superuser": lab.SuperuserRole, "Replication": lab.ReplicationRole}
	for key, role := range map[string]string{"SuperuserPassword": lab.SuperuserRole, "ReplicationPassword": lab.ReplicationRole} {
		b, err := os.ReadFile(plan.PasswordFile(role))
		if err != nil {
			return nil, fmt.Errorf("read a password: %w", err)
		}
		data[key] = strings.TrimSpace(string(b))
	}
	var b bytes.Buffer
	if err := patroniTemplate.Execute(&b, data); err != nil {
		return nil, err
	}
	return map[string][]byte{"patroni.yml": b.Bytes()}, nil
}

func (p patroni) Command(plan *lab.Plan, h lab.Host) []string {
	command := []string{patroniPython, patroniProgram, filepath.Join(h.Dir, "patroni.yml")}
	if plan.User == "" {
		return command
	}
	// setpriv becomes the program; su and runuser would stay as its parent.
	return append([]string{"setpriv", "--reuid=" + plan.User, "--regid=" + plan.User, "--init-groups"}, command...)
}

// As Patroni's own example, but for the timing of checks, and a second listener
// for the replicas.
var patroniHAProxyTemplate = template.Must(template.New("haproxy.cfg").Parse(`global
  stats socket {{.Plan.HAProxySocket}} mode 600 level admin
  maxconn 2000

defaults
  mode tcp
  retries 2
  timeout client 30m
  timeout connect 4s
  timeout server 30m
  timeout check 5s
{{range .Listen}}
listen {{.Name}}
  bind {{.Address}}
  option httpchk OPTIONS {{.Check}}
  http-check expect status 200
  default-server {{$.P.Checks}} on-marked-down shutdown-sessions
{{- range $.Plan.Members}}
  server {{.Name}} {{.PostgresAddress}} check port {{.Ports.API}}
{{- end}}
{{end}}`))

func (p patroni) HAProxy(plan *lab.Plan) ([]byte, error) {
	type listen struct{ Name, Address, Check string }
	var b bytes.Buffer
	err := patroniHAProxyTemplate.Execute(&b, map[string]any{"P": p, "Plan": plan, "Listen": []listen{
		{"primary", plan.App().PrimaryAddress(), "/primary"}, {"replicas", plan.App().ReplicasAddress(), "/replica"}}})
	return b.Bytes(), err
}

// Whole asks the members' REST API, one after the other, until one knows the
// cluster: a leader, all others there on its timeline, and a synchronous one among
// them, without which Patroni promotes nobody.
func (p patroni) Whole(ctx context.Context, l *lab.Lab) (primary, why string) {
	why = "no member was asked"
	for _, h := range l.Plan().Members() {
		var c patroniCluster
		if err := askPatroni(ctx, l, h, &c); err != nil {
			why = err.Error()
			continue
		}
		return c.whole(len(l.Plan().Members()), p.Sync)
	}
	return "", why
}

// patroniCluster is what GET /cluster answers.
type patroniCluster struct {
	Members []struct {
		Name     string `json:"name"`
		Role     string `json:"role"`
		State    string `json:"state"`
		Timeline int    `json:"timeline"`
	} `json:"members"`
}

// whole is Agent.Whole of what a member has answered.
func (c patroniCluster) whole(members int, sync bool) (primary, why string) {
	timelines, synchronous := map[int]bool{}, false
	for _, m := range c.Members {
		// From 3.2 on a replica that streams is "streaming".
		if m.State != "running" && m.State != "streaming" {
			return "", fmt.Sprintf("%s is %s", m.Name, m.State)
		}
		timelines[m.Timeline] = true
		switch m.Role {
		case "leader":
			primary = m.Name
		case "sync_standby", "quorum_standby":
			synchronous = true
		}
	}
	switch {
	case len(c.Members) < members:
		return "", fmt.Sprintf("%d of %d members are there", len(c.Members), members)
	case primary == "":
		return "", "there is no leader"
	case len(timelines) > 1:
		return "", "the members are on different timelines"
	case sync && !synchronous:
		return "", "there is no synchronous standby"
	}
	return primary, ""
}

func askPatroni(ctx context.Context, l *lab.Lab, h lab.Host, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	dial, err := l.Dialer(l.Plan().App().Name)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.APIAddress()+"/cluster", nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	answer, err := client.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", h.Name, answer.Status)
	}
	return json.NewDecoder(answer.Body).Decode(into)
}

// TestPatroni looks whether Patroni can be measured as pgsidecar is: its cluster
// forms in a lab, the drill's writers get their rows acknowledged through HAProxy,
// a switchover is seen as a pause and another primary, and every row is read back.
// With writers beside each server, two primaries would be seen too.
func TestPatroni(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	if _, missing := patroniVersion(); missing != "" {
		t.Skip(missing)
	}
	l := cluster(t, lab.Options{Isolated: true, Agent: patroniFastest()})
	r := play(t, l, "switchover")
	if r.Rows.Acked < 100 { // a busy machine writes few
		t.Errorf("%d rows acknowledged", r.Rows.Acked)
	}
	if pause := r.Routes[0].Pause.Length(); pause < 500*time.Millisecond || pause > 30*time.Second {
		t.Errorf("a pause of %v; Patroni's switchover takes some seconds", pause)
	}
}

// TestPatroniWhole holds the judgement of what Patroni answers to examples.
func TestPatroniWhole(t *testing.T) {
	const leader, sync, replica = `{"name":"n1","role":"leader","state":"running","timeline":2}`,
		`{"name":"n2","role":"sync_standby","state":"running","timeline":2}`, `{"name":"n3","role":"replica","state":"running","timeline":2}`
	for _, c := range []struct{ name, members, why string }{
		{"whole", leader + "," + sync + "," + replica, ""},
		{"one is not there", leader + "," + sync, "2 of 3 members are there"},
		{"whole by quorum", leader + "," + strings.Replace(sync, "sync_standby", "quorum_standby", 1) + "," + replica, ""},
		{"no leader", strings.Replace(leader, "leader", "replica", 1) + "," + sync + "," + replica, "there is no leader"},
		{"none is synchronous", leader + "," + strings.Replace(sync, "sync_standby", "replica", 1) + "," + replica, "there is no synchronous standby"},
		{"one starts", leader + "," + sync + "," + strings.Replace(replica, "running", "starting", 1), "n3 is starting"},
		{"one is behind", leader + "," + sync + "," + strings.Replace(replica, ":2}", ":1}", 1), "the members are on different timelines"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var answer patroniCluster
			if err := json.Unmarshal([]byte(`{"members":[`+c.members+`]}`), &answer); err != nil {
				t.Fatal(err)
			}
			if primary, why := answer.whole(3, true); why != c.why || (why == "") != (primary == "n1") {
				t.Errorf("primary %q, %q; want %q", primary, why, c.why)
			}
		})
	}
}
