package nomad_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/nomad"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

var realNomad = flag.Bool("nomad", false, "run the tests that need a Nomad (make test-nomad)")

// world is Consul and Nomad on this machine: a server of each, and five nodes
// with a client of each. Three have a host volume, for members; one is for
// applications; and the last, a spare with a volume, takes nothing until a test
// lets it. All of it listens on 127.0.0.1, at ports that were free.
type world struct {
	t         *testing.T
	dir       string
	nomad     string        // the program
	release   nomad.Release // whose job files it is to run
	consul    string        // the program
	pgsidecar string        // built for this test
	http      string        // Nomad's API
	consulAPI string
	dns       string            // Consul's
	token     string            // Consul's bootstrap token; empty: no ACLs
	haproxy   [2]int            // the ports of the HAProxy job
	chroot    map[string]string // of exec tasks: file or directory here to there
	nodes     []*node
}

// node is one client of Nomad.
type node struct {
	name        string
	volume      string // the host volume's path
	consul      string // its agent, as Nomad's clients each have their own
	agent       *exec.Cmd
	consulAgent *exec.Cmd
}

// newWorld starts everything and waits until three nodes are ready.
func newWorld(t *testing.T) *world {
	t.Helper()
	if !*realNomad {
		t.Skip("needs a Nomad: make test-nomad")
	}
	w := &world{t: t}
	var err error
	if w.nomad, err = programs.Nomad(); err != nil {
		t.Fatal(err)
	}
	if w.consul, err = programs.Consul(); err != nil {
		t.Fatal(err)
	}
	if w.dir, err = os.MkdirTemp("", "n"); err != nil {
		t.Fatal(err)
	}
	// The server's user must reach its volume.
	if err := os.Chmod(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.remove)
	w.release = releaseOf(t, w.nomad)
	w.pgsidecar = filepath.Join(w.dir, "pgsidecar")
	build := exec.Command("go", "build", "-o", w.pgsidecar, "../cmd/pgsidecar")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build pgsidecar: %v\n%s", err, out)
	}
	return w
}

// start starts the agents: with acl, a Consul that lets nobody do anything
// without a token.
func (w *world) start(acl bool) {
	w.t.Helper()
	ports := freePorts(w.t, 10)
	w.haproxy = [2]int{ports[8], ports[9]}
	w.startConsul(ports[:5], acl)
	w.startNomadServer(ports[5:8])
	for i := range 5 {
		w.startNode(i, ports[6], ports[2])
	}
	w.eventually(time.Minute, "all nodes are ready", func(ctx context.Context) error {
		var nodes []struct{ Name, Status string }
		if err := w.get(ctx, "/v1/nodes", &nodes); err != nil {
			return err
		}
		for _, n := range nodes {
			if n.Status != "ready" {
				return fmt.Errorf("node %s is %s", n.Name, n.Status)
			}
		}
		if len(nodes) != len(w.nodes) {
			return fmt.Errorf("%d nodes", len(nodes))
		}
		return nil
	})
	w.must("node", "eligibility", "-disable", w.nodeID(spare))
}

// spare is the node that takes nothing until a test lets it.
const spare = "n5"

func (w *world) nodeID(name string) string {
	w.t.Helper()
	var nodes []struct{ ID, Name string }
	if err := w.get(w.t.Context(), "/v1/nodes", &nodes); err != nil {
		w.t.Fatal(err)
	}
	for _, n := range nodes {
		if n.Name == name {
			return n.ID
		}
	}
	w.t.Fatalf("no node %s", name)
	return ""
}

func (w *world) startConsul(ports []int, acl bool) {
	w.t.Helper()
	w.consulAPI, w.dns = "127.0.0.1:"+strconv.Itoa(ports[0]), "127.0.0.1:"+strconv.Itoa(ports[1])
	c := map[string]any{
		"node_name": "consul", "data_dir": filepath.Join(w.dir, "consul"), "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
		"server": true, "bootstrap_expect": 1, "disable_update_check": true, "performance": map[string]any{"raft_multiplier": 1},
		"ports": map[string]any{"http": ports[0], "dns": ports[1], "serf_lan": ports[2], "server": ports[3], "grpc": ports[4], "serf_wan": -1},
	}
	dialect := labtest.Dialect(w.t)
	for name, port := range dialect.WithoutGRPC() {
		if name != "grpc" { // Nomad's Connect asks there
			c["ports"].(map[string]any)[name] = port
		}
	}
	if acl {
		w.token = "5d2a7a1e-0000-4000-8000-7f6a9c0e1b2d"
		c["acl"] = map[string]any{"enabled": true, "default_policy": "deny", "tokens": map[string]any{dialect.ManagementToken(): w.token, "agent": w.token}}
	}
	w.agent("consul", c, w.consul, "agent", "-config-file")
	w.eventually(time.Minute, "Consul has a leader", func(ctx context.Context) error {
		var leader string
		if err := w.getFrom(ctx, "http://"+w.consulAPI+"/v1/status/leader", &leader); err != nil || leader == "" {
			return fmt.Errorf("leader %q: %w", leader, err)
		}
		return nil
	})
}

// startConsulClient starts a node's own agent. (Two of Nomad's clients with one
// agent would each remove the other's services from it.)
func (w *world) startConsulClient(n *node, join int) {
	ports := freePorts(w.t, 2)
	n.consul = "127.0.0.1:" + strconv.Itoa(ports[0])
	c := map[string]any{
		"node_name": n.name, "data_dir": filepath.Join(w.dir, "consul-"+n.name), "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
		"disable_update_check": true, "retry_join": []string{"127.0.0.1:" + strconv.Itoa(join)}, "retry_interval": "1s",
		"ports": map[string]any{"http": ports[0], "dns": -1, "serf_lan": ports[1]},
	}
	for name, port := range labtest.Dialect(w.t).WithoutGRPC() {
		c["ports"].(map[string]any)[name] = port
	}
	if w.token != "" {
		c["acl"] = map[string]any{"enabled": true, "default_policy": "deny", "tokens": map[string]any{"agent": w.token}}
	}
	n.consulAgent = w.agent("consul-"+n.name, c, w.consul, "agent", "-config-file")
	w.eventually(time.Minute, "Consul's agent of "+n.name+" knows the leader", func(ctx context.Context) error {
		var leader string
		if err := w.getFrom(ctx, "http://"+n.consul+"/v1/status/leader", &leader); err != nil || leader == "" {
			return fmt.Errorf("leader %q: %w", leader, err)
		}
		return nil
	})
}

// withConsul is how an agent of Nomad reaches Consul.
func (w *world) withConsul(address string) map[string]any {
	c := map[string]any{"address": address, "auto_advertise": false, "server_auto_join": false, "client_auto_join": false}
	if w.token != "" {
		c["token"] = w.token
		if w.release != nomad.Release16 { // which gives no task a token
			identity := map[string]any{"aud": []string{"consul.io"}, "ttl": "1h"}
			c["service_identity"], c["task_identity"] = identity, identity
		}
	}
	return c
}

// advertise is what Nomad will not take by itself on a loopback address.
var advertise = map[string]string{"http": "127.0.0.1", "rpc": "127.0.0.1", "serf": "127.0.0.1"}

func (w *world) startNomadServer(ports []int) {
	w.http = "http://127.0.0.1:" + strconv.Itoa(ports[0])
	w.agent("server", map[string]any{
		"name": "server", "data_dir": filepath.Join(w.dir, "server"), "bind_addr": "127.0.0.1", "disable_update_check": true,
		"ports":     map[string]any{"http": ports[0], "rpc": ports[1], "serf": ports[2]},
		"advertise": advertise,
		"server": map[string]any{"enabled": true, "bootstrap_expect": 1, "raft_multiplier": 1,
			"heartbeat_grace": "2s", "min_heartbeat_ttl": "3s"},
		"consul": w.withConsul(w.consulAPI),
	}, w.nomad, "agent", "-config")
}

// startNode starts a client. The fourth has no volume for members, and is of the
// node pool apps: what runs there is not drained with a member.
func (w *world) startNode(i, rpc, join int) {
	pool := "default"
	if i == 3 {
		pool = "apps"
	}
	n := &node{name: "n" + strconv.Itoa(i+1)}
	n.volume = filepath.Join(w.dir, "volumes", n.name)
	if err := os.MkdirAll(n.volume, 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.startConsulClient(n, join)
	http := freePorts(w.t, 1)[0]
	// Clients know of no port that another one has given away, so each has its
	// own range.
	from := 21000 + 300*i + 1000*(os.Getpid()%8)
	volume := "pgdata"
	if pool == "apps" {
		volume = "scratch"
	}
	client := map[string]any{"enabled": true, "servers": []string{"127.0.0.1:" + strconv.Itoa(rpc)}, "network_interface": "lo",
		"min_dynamic_port": from, "max_dynamic_port": from + 299, "meta": map[string]any{"pgdata": n.volume, "consul": n.consul},
		"options":   map[string]any{"fingerprint.denylist": "env_aws,env_azure,env_digitalocean,env_gce"},
		"node_pool": pool, "host_volume": map[string]any{volume: map[string]any{"path": n.volume}}}
	if w.chroot != nil {
		client["chroot_env"] = w.chroot
	}
	n.agent = w.agent(n.name, map[string]any{
		"name": n.name, "data_dir": filepath.Join(w.dir, n.name), "bind_addr": "127.0.0.1", "disable_update_check": true,
		"leave_on_interrupt": false, "leave_on_terminate": false,
		"ports": map[string]any{"http": http}, "advertise": advertise,
		"client": client,
		"plugin": map[string]any{"raw_exec": map[string]any{"config": map[string]any{"enabled": true}}},
		"consul": w.withConsul(n.consul),
	}, w.nomad, "agent", "-config")
	w.nodes = append(w.nodes, n)
}

// agent writes an agent's configuration and starts it. Its log is
// <dir>/<name>.log.
func (w *world) agent(name string, config map[string]any, argv ...string) *exec.Cmd {
	w.t.Helper()
	b, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		w.t.Fatal(err)
	}
	path := filepath.Join(w.dir, name+".json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(w.dir, name+".log"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(argv[0], append(argv[1:], path)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGCONT)
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait() // it was told to end; how it did is no matter
		kill.Stop()
	})
	return cmd
}

// remove takes away what the agents have left: tasks that could not be stopped,
// and the allocations' own file systems.
func (w *world) remove() {
	killAll(w.dir)
	if w.t.Failed() && os.Getenv("KEEP") != "" {
		w.t.Logf("kept: %s", w.dir)
		return
	}
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		w.t.Error(err)
	}
	lines := strings.Split(string(b), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if f := strings.Fields(lines[i]); len(f) > 1 && strings.HasPrefix(f[1], w.dir+"/") {
			if err := syscall.Unmount(f[1], 0); err != nil {
				w.t.Errorf("unmount %s: %v", f[1], err)
			}
		}
	}
	if err := os.RemoveAll(w.dir); err != nil {
		w.t.Error(err)
	}
}

// killAll ends the processes that have dir in their command line.
func killAll(dir string) {
	for _, pid := range processes(dir) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// processes returns the processes that have one of dirs in their command line.
func processes(dirs ...string) []int {
	var found []int
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		b, err := os.ReadFile(file) // one that is gone has none
		pid, number := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && number == nil && slices.ContainsFunc(dirs, func(dir string) bool { return bytes.Contains(b, []byte(dir+"/")) }) {
			found = append(found, pid)
		}
	}
	return found
}

// descendants adds the children of processes, and theirs.
func descendants(of []int) []int {
	for i := 0; i < len(of); i++ {
		// A child of any thread is a child.
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", of[i]))
		for _, file := range files {
			b, _ := os.ReadFile(file) // one that is gone has none
			for _, field := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(field); err == nil && !slices.Contains(of, pid) {
					of = append(of, pid)
				}
			}
		}
	}
	return of
}

// freePorts returns ports that nobody listens on.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		port, err := programs.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = port
	}
	return ports
}

// eventually asks until there is no error: for what tells nobody when it has
// happened.
func (w *world) eventually(within time.Duration, what string, try func(ctx context.Context) error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), within)
	defer cancel()
	labtest.Eventually(w.t, within, what, func() error { return try(ctx) })
}

// get asks Nomad.
func (w *world) get(ctx context.Context, path string, to any) error {
	return w.getFrom(ctx, w.http+path, to)
}

func (w *world) getFrom(ctx context.Context, url string, to any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if w.token != "" {
		r.Header.Set("X-Consul-Token", w.token)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, response.Status, bytes.TrimSpace(body))
	}
	return json.Unmarshal(body, to)
}

// command runs nomad, and returns what it printed and its exit status.
func (w *world) command(args ...string) (out string, status int) {
	w.t.Helper()
	// Not the test's: its end is not the end of cleaning up.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.nomad, args...)
	cmd.Env = append(os.Environ(), "NOMAD_ADDR="+w.http, "CONSUL_HTTP_ADDR="+w.consulAPI, "CONSUL_HTTP_TOKEN="+w.token)
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("nomad %s: %v", strings.Join(args, " "), err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// must runs nomad, which has to succeed.
func (w *world) must(args ...string) string {
	w.t.Helper()
	out, status := w.command(args...)
	if status != 0 {
		w.t.Fatalf("nomad %s: exit status %d\n%s", strings.Join(args, " "), status, out)
	}
	return out
}

// alloc is what Nomad says of an allocation.
type alloc struct {
	ID, Name, NodeName, JobID, ClientStatus, DesiredStatus string
	JobVersion                                             int
	TaskStates                                             map[string]struct {
		State    string
		Restarts int
		Events   []struct{ DisplayMessage string }
	}
}

// allocs returns a job's allocations, newest first.
func (w *world) allocs(ctx context.Context, job string) ([]alloc, error) {
	var all []alloc
	err := w.get(ctx, "/v1/job/"+job+"/allocations", &all)
	return all, err
}

// running returns those of a job's allocations that are meant to run, and do.
func (w *world) running(ctx context.Context, job string) (map[string]alloc, error) {
	all, err := w.allocs(ctx, job)
	byNode := map[string]alloc{}
	for _, a := range all {
		if a.ClientStatus == "running" && a.DesiredStatus == "run" {
			byNode[a.NodeName] = a
		}
	}
	return byNode, err
}

// log returns what a task of an allocation has logged.
func (w *world) log(id, task string) string {
	w.t.Helper()
	var all strings.Builder
	for _, n := range w.nodes {
		paths, _ := filepath.Glob(filepath.Join(w.dir, n.name, "alloc", id, "alloc", "logs", task+".std*.[0-9]*"))
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				w.t.Error(err)
			}
			all.Write(b)
		}
	}
	return all.String()
}
