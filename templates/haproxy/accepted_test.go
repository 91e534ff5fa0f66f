package haproxy_test

import (
	"encoding/pem"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/templates"
)

// TestHAProxyFilesAreAccepted: HAProxy reads the files without a warning, whichever
// settings there are. What a newer version warns of, a later one refuses.
func TestHAProxyFilesAreAccepted(t *testing.T) {
	path := labtest.Program(t, programs.HAProxy)
	for _, c := range []struct {
		name    string
		members int
		change  func(*lab)
	}{
		{"no member", 0, func(*lab) {}},
		{"one member", 1, func(*lab) {}},
		{"three members", 3, func(*lab) {}},
		{"no statistics, an end to old workers, other lines", 2, func(l *lab) {
			l.settings.StatsPort, l.settings.Global = 0, []string{"log /dev/log local0", "nbthread 1", "hard-stop-after 1h"}
		}},
		{"socket with a port", 2, func(l *lab) {
			l.settings.Socket = net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t)))
			l.settings.StateFile = filepath.Join(l.dir, "pg.state")
		}},
		{"names", 2, byUnknownName},
		{"checks with TLS", 2, withAuthority},
		{"names, checks with TLS", 2, func(l *lab) { byUnknownName(l); withAuthority(l) }},
	} {
		for _, file := range []string{"haproxy.cfg", "haproxy-static.cfg"} {
			if file == "haproxy-static.cfg" && c.members == 0 {
				continue // it waits for a primary
			}
			t.Run(file+", "+c.name, func(t *testing.T) {
				l := newLab(t, c.members)
				c.change(l)
				topology := l.topology(1, "pg1", ha.PhaseLeading)
				l.write(topology) // the state of the servers, which haproxy.cfg names
				text := render(t, file, topology, templates.Settings{HAProxy: l.settings})
				if err := os.WriteFile(l.config(), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := exec.Command(path, "-c", "-f", l.config()).CombinedOutput()
				if complaints := regexp.MustCompile(`(?m)^\[(WARNING|ALERT)\].*`).FindAllString(string(out), -1); err != nil || slices.ContainsFunc(complaints, isComplaint) {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}

// isComplaint reports whether a line is about the file: that all checked servers start
// down is what haproxy.state is for, and HAProxy says so as if they had failed.
func isComplaint(line string) bool {
	return !strings.Contains(line, " is DOWN, changed from server-state after a reload.") && !strings.Contains(line, " is DOWN via ")
}

func byUnknownName(l *lab) {
	l.settings.Resolvers = []string{"127.0.0.1:1"}
	for _, s := range l.servers {
		s.host = s.name + ".node.dc1.consul"
	}
}

func withAuthority(l *lab) {
	l.t.Helper()
	api := httptest.NewTLSServer(nil)
	defer api.Close()
	l.settings.CheckCAFile = filepath.Join(l.dir, "ca.crt")
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	if err := os.WriteFile(l.settings.CheckCAFile, authority, 0o600); err != nil {
		l.t.Fatal(err)
	}
}
