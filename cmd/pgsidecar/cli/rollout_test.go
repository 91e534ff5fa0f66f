package cli

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// fakeRollout is three members of which the first's restart has another take over from n2.
type fakeRollout struct {
	mu      sync.Mutex
	leader  string
	takes   string          // who takes over when n1 restarts; empty: nobody
	fresh   map[string]bool // whose server was started anew
	members []*fakeMember
}

func newFakeRollout(t *testing.T, takes string) *fakeRollout {
	f := &fakeRollout{leader: "n2", takes: takes, fresh: map[string]bool{}}
	for _, name := range []string{"n1", "n2", "n3"} {
		m := newFakeMember(t, name)
		m.onChange = func(path string) { f.changed(name, path) }
		m.onStatus = func(st *api.Status) { f.status(name, st) }
		f.members = append(f.members, m)
	}
	return f
}

// changed does what a member was asked for.
func (f *fakeRollout) changed(name, path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fresh[name] = true
	switch {
	case path == "/switchover":
		f.leader = "n1"
	case name == "n1" && f.takes != "":
		f.fresh[f.leader] = true // it has crashed, and was started
		f.leader, f.takes = f.takes, ""
	}
}

func (f *fakeRollout) status(name string, st *api.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st.Leader, st.NewPrograms, st.Members = f.leader, !f.fresh[name], nil
	lag := uint64(0)
	for _, m := range f.members {
		one := api.MemberStatus{Member: m.status.Member, API: m.address(), Link: "up", Role: ha.RolePrimary, Writable: true}
		if one.Member != f.leader {
			one.Role, one.Writable, one.Streaming, one.Lag = ha.RoleReplica, false, true, &lag
		}
		st.Members = append(st.Members, one)
	}
}

// TestRestartThroughFailover: a restart of many members goes on when another one takes over
// in its middle. Nobody who leads is restarted where it is, and with --upgrade nobody is
// restarted who runs the programs on disk by then.
func TestRestartThroughFailover(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(fakeToken), 0o600); err != nil {
		t.Fatal(err)
	}
	const restart, handOver2, handOver3 = "POST /restart {}", `POST /switchover {"leader":"n2"}`, `POST /switchover {"leader":"n3"}`
	for _, c := range []struct {
		name, line, takes string
		asked             [3]string
	}{
		{"nobody takes over", "--all", "", [3]string{restart, handOver2, restart}},
		{"who was restarted", "--all", "n1", [3]string{restart, restart, restart}},
		{"who was not", "--all", "n3", [3]string{restart, restart, handOver3}},
		{"who was restarted, new programs", "--all --upgrade", "n1", [3]string{restart, "", restart}},
		{"who was not, new programs", "--all --upgrade", "n3", [3]string{restart, "", handOver3}},
		{"of replicas only", "--role replica", "n3", [3]string{restart, "", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeRollout(t, c.takes)
			code, out, stderr := command(t, append(strings.Fields("restart "+c.line), "--token-file", token, "--api", f.members[1].address())...)
			if code != ExitOK || stderr != "" || strings.Contains(out, " leads now, and n2 did") != (c.takes != "") {
				t.Errorf("exit status %d, %s%s", code, out, stderr)
			}
			for i, m := range f.members {
				if m.requests() != c.asked[i] {
					t.Errorf("n%d was asked %q, want %q", i+1, m.requests(), c.asked[i])
				}
			}
		})
	}
}

// TestUpgradeOfPrimaryAlone: where only the primary runs old programs, it hands over.
func TestUpgradeOfPrimaryAlone(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(fakeToken), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFakeRollout(t, "")
	f.fresh["n1"], f.fresh["n3"] = true, true
	code, out, stderr := command(t, "restart", "--all", "--upgrade", "--token-file", token, "--api", f.members[0].address())
	if want := `POST /switchover {"leader":"n2"}`; code != ExitOK || f.members[1].requests() != want {
		t.Errorf("exit status %d, n2 was asked %q, %s%s", code, f.members[1].requests(), out, stderr)
	}
}
