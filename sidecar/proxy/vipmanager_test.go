package proxy

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// inNamespace names the variable that tells a test that it runs in the namespace
// that it asked for.
const inNamespace = "PGSIDECAR_TEST_NAMESPACE"

// ownNetwork runs the calling test again in a process with a network of its own,
// and returns true there. What the test adds to that network ends with it.
func ownNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("bring up the loopback interface: %v: %s", err, out)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("only root may make a network")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "-test.run", "^"+t.Name()+"$", "-test.v", "-test.count", "1")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("in a network of its own:\n%s", out)
	if err != nil {
		t.Errorf("in a network of its own: %v", err)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skip("skipped there, see above")
	}
	return false
}

// vip is an address on an interface that leads nowhere, which a vip-manager adds
// and removes.
type vip struct {
	*proxyLab
	address, device string
}

// newVIP makes the interface: vip-manager refuses the loopback interface.
func newVIP(t *testing.T, l *proxyLab) *vip {
	t.Helper()
	v := &vip{proxyLab: l, address: "192.0.2.77", device: "vip0"} // for documentation (RFC 5737)
	for _, args := range [][]string{{"link", "add", v.device, "type", "veth", "peer", "name", "vip1"}, {"link", "set", v.device, "up"}, {"link", "set", "vip1", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	return v
}

func (v *vip) manage(path, kind, endpoint, key, value string) {
	v.t.Helper()
	v.startProgram(path, "--ip", v.address, "--netmask", "32", "--interface", v.device, "--interval", "100", "--dcs-type", kind,
		"--dcs-endpoints", endpoint, "--trigger-key", key, "--trigger-value", value)
}

func (v *vip) present() bool {
	all, err := net.InterfaceAddrs()
	v.must(err)
	for _, a := range all {
		if strings.HasPrefix(a.String(), v.address+"/") {
			return true
		}
	}
	return false
}

// follows waits until the address is there while this member leads, and gone
// while another does.
func (v *vip) follows(lead func(here bool)) {
	v.t.Helper()
	for range 2 {
		lead(true)
		start := time.Now()
		v.until(20*time.Second, "the address of the leader", v.present)
		v.t.Logf("added after %v", time.Since(start))
		lead(false)
		start = time.Now()
		v.until(20*time.Second, "the end of the address", func() bool { return !v.present() })
		v.t.Logf("removed after %v", time.Since(start))
	}
}

// vip-manager follows the leader key as it stands: its value is the leader's name.
func TestVIPManager(t *testing.T) {
	path := labtest.Program(t, programs.VIPManager)
	if !ownNetwork(t) {
		return
	}
	v := newVIP(t, newProxyLab(t))
	v.record(1, "n2", ha.PhaseLeading)
	lead := func(here bool) {
		name := "n2"
		if here {
			name = "n1"
		}
		v.must(v.put("/v1/kv/pgsidecar/pg/leader", name))
	}
	lead(false)
	v.manage(path, "consul", v.consul, "pgsidecar/pg/leader", "n1")
	v.follows(lead)
}

// vip-manager from its version 2.2 on follows a member's /leader, as Patroni has it.
func TestVIPManagerOfAPatroni(t *testing.T) {
	path := labtest.Program(t, programs.VIPManager2)
	if !ownNetwork(t) {
		return
	}
	var leads atomic.Bool
	server, err := api.New(api.Options{Member: "n1", Cluster: "pg", Listen: "127.0.0.1:0", Now: guard.Now, View: func() *api.View {
		if leads.Load() {
			return viewOf("n1", ha.No)
		}
		return viewOf("n2", ha.Yes)
	}})
	if err != nil {
		t.Fatal(err)
	}
	address, err := server.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	v := newVIP(t, &proxyLab{t: t})
	v.manage(path, "patroni", "http://"+address.String()+"/", "/leader", "200")
	v.follows(leads.Store)
}

// viewOf is what n1 sees of a healthy cluster that leader leads.
func viewOf(leader string, inRecovery ha.Tri) *api.View {
	now := guard.Now()
	v := &api.View{Cluster: "pg", Report: ha.Report{Member: "n1", Writable: inRecovery == ha.No}}
	o := &v.Observation
	o.Now, o.Self = now, "n1"
	o.Policy = settings.Default()
	o.Consul = ha.Consul{SeenAt: now, Reachable: ha.Yes, Record: ha.Record{Version: ha.RecordVersion, SystemID: "7", Term: 7, Leader: leader, Phase: ha.PhaseLeading}}
	o.Server = ha.Server{
		Postmaster: ha.Postmaster{Process: ha.ProcessRunning, StartedAt: 1},
		Files:      ha.Files{DataDir: ha.DataPresent, SystemID: "7"},
		SQL:        ha.SQL{SeenAt: now, InRecovery: inRecovery},
	}
	v.State.LeaseUntil = now + ha.Instant(time.Minute)
	return v
}
