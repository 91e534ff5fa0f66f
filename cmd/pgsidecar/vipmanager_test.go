package main

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// vip-manager follows the leader key as it stands: its value is the leader's name.
// Debian's package (1.0.2) is built without Consul; this wants another.
func TestVIPManager(t *testing.T) {
	path, err := exec.LookPath("vip-manager")
	if err != nil {
		t.Skip(err)
	}
	if out, _ := exec.Command(path, "--ip", "127.213.77.1", "--netmask", "32", "--interface", "lo", "--dcs-type", "consul", "--trigger-key", "k",
		"--trigger-value", "v", "--dcs-endpoints", "").CombinedOutput(); strings.Contains(string(out), "not supported") {
		t.Skip("this vip-manager is built without Consul")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root may add an address")
	}
	l := newProxyLab(t)
	leader := func(name string) { l.must(l.put("/v1/kv/pgsidecar/pg/leader", name)) }
	leader("n2")
	l.record(1, "n2", ha.PhaseLeading)
	// Of a network for documentation (RFC 5737), on an interface that leads nowhere:
	// it refuses the loopback interface.
	const address, device = "192.0.2.77", "pgsidecarvip"
	ip := func(args ...string) {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Skipf("ip %v: %v: %s", args, err, out)
		}
	}
	exec.Command("ip", "link", "del", device).Run() //nolint:errcheck // a killed test's
	ip("link", "add", device, "type", "veth", "peer", "name", device+"2")
	t.Cleanup(func() { exec.Command("ip", "link", "del", device).Run() }) //nolint:errcheck // the test is over
	ip("link", "set", device, "up")
	ip("link", "set", device+"2", "up")
	present := func() bool {
		all, err := net.InterfaceAddrs()
		l.must(err)
		for _, a := range all {
			if strings.HasPrefix(a.String(), address+"/") {
				return true
			}
		}
		return false
	}
	l.startProgram(path, "--ip", address, "--netmask", "32", "--interface", device, "--interval", "100", "--dcs-type", "consul",
		"--dcs-endpoints", l.consul, "--trigger-key", "pgsidecar/pg/leader", "--trigger-value", "n1")
	for range 2 {
		leader("n1")
		start := time.Now()
		l.until(20*time.Second, "the address of the leader", present)
		t.Logf("added %v after the leader key", time.Since(start))
		leader("n3")
		start = time.Now()
		l.until(20*time.Second, "the end of the address", func() bool { return !present() })
		t.Logf("removed %v after the leader key", time.Since(start))
	}
}
