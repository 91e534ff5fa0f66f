package cli

import (
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// fakeMember is a member's API with a given status. It keeps what was asked.
type fakeMember struct {
	*httptest.Server
	mu     sync.Mutex
	status api.Status
	asked  []string // "POST /pause {…}"
	answer string   // to a change; empty: "done"
	// onChange is told what was asked; nil: nobody is.
	onChange func(string)
	// onStatus changes the status before it is told; nil: nobody does.
	onStatus func(*api.Status)
}

const fakeToken = "hunter2"

func newFakeMember(t *testing.T, name string) *fakeMember {
	t.Helper()
	m := &fakeMember{status: api.Status{Cluster: "pg", Member: name, Server: "running", Term: 7, Phase: ha.PhaseLeading,
		Consul:     api.ConsulStatus{Reachable: "yes"},
		Durability: ha.Durability{Mode: ha.ModeQuorum, K: 1, Voters: []string{"n1", "n3"}}}}
	m.Server = httptest.NewServer(http.HandlerFunc(m.serve))
	t.Cleanup(m.Close)
	return m
}

func (m *fakeMember) address() string { return strings.TrimPrefix(m.URL, "http://") }

func (m *fakeMember) serve(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.Method == http.MethodGet && r.URL.Path == "/status" {
		if m.onStatus != nil {
			m.onStatus(&m.status)
		}
		_ = json.NewEncoder(w).Encode(m.status)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+fakeToken {
		http.Error(w, "no auth header received", http.StatusUnauthorized)
		return
	}
	body, _ := io.ReadAll(r.Body)
	m.asked = append(m.asked, r.Method+" "+r.URL.Path+" "+string(body))
	if m.onChange != nil {
		m.onChange(r.URL.Path)
	}
	_, _ = io.WriteString(w, cmp.Or(m.answer, "done"))
}

func (m *fakeMember) requests() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.asked, "\n")
}

// fakeCluster is n1, a replica, and n2, the leader, which know each other; and
// n3, which is silent.
func fakeCluster(t *testing.T) (n1, n2 *fakeMember) {
	t.Helper()
	n1, n2 = newFakeMember(t, "n1"), newFakeMember(t, "n2")
	lag := uint64(3 << 20)
	at := func(lsn ha.LSN) ha.Position { return ha.Position{TLI: 4, LSN: lsn} }
	members := []api.MemberStatus{
		{Member: "n1", Role: ha.RoleReplica, Term: 7, Position: at(0x3000000), Lag: &lag, Streaming: true, Voter: true, Link: "up", HeardAge: 0.24,
			API: n1.address(), Postgres: "10.0.0.1:5432", Oddities: api.Oddities{Upstream: "n2"}},
		{Member: "n2", Role: ha.RolePrimary, Term: 7, Position: at(0x3300000), Writable: true, Link: "self", API: n2.address(), Postgres: "10.0.0.2:5432"},
		{Member: "n3", Role: ha.RoleReplica, Term: 6, Link: "silent", HeardAge: 31, Voter: true, Restart: true, Postgres: "10.0.0.3:5432"},
	}
	n1.status.Leader, n1.status.Members = "n2", members
	n2.status.Recorded = []string{"n1", "n2", "n3", "n4"}
	n2.status.Leader, n2.status.Members = "n2", members
	n2.status.LeaseLeft = 4.62
	n2.status.Templates = json.RawMessage(`{"templates":[{"name":"uri"},{"name":"pgbouncer","error":"checker refused the file: exit status 1"}],` +
		`"haproxy":[{"socket":"/run/haproxy/admin.sock","error":"reach haproxy's stats socket: no such file"}]}`)
	n2.status.Blocks = []api.BlockStatus{{What: "commits wait", Missing: "a vote of n3", Age: 12,
		Override: "pgsidecar failover --to n1 --accept-data-loss", Cost: "what n1 has not received"}}
	start := time.Date(2026, 1, 31, 4, 0, 0, 0, time.UTC)
	n2.status.History = []failover.Record{{Term: 7, Timeline: 4, Leader: "n2", Reason: "the server of n1 exited", Detected: start,
		Elected: start.Add(6 * time.Millisecond), Promoted: start.Add(51 * time.Millisecond), Announced: start.Add(60 * time.Millisecond), Routed: start.Add(78 * time.Millisecond)}}
	return n1, n2
}

// TestStatus shows the leader's view, whoever was asked; its text is golden.
func TestStatus(t *testing.T) {
	t.Setenv("TZ", "UTC")
	n1, n2 := fakeCluster(t)
	n2.status.Members[0].Tags = []ha.Tag{{Name: "failover_priority", Value: "2"}, {Name: "nofailover", Value: "true"}, {Name: "nosync", Value: "false"}}
	for name, args := range map[string][]string{"status": {"status"}, "history": {"history"}} {
		code, got, stderr := command(t, append(args, "-api", n1.address())...)
		if code != ExitOK || stderr != "" {
			t.Fatalf("exit status %d, stderr %q", code, stderr)
		}
		golden := filepath.Join("testdata", name+".txt")
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
	code, got, _ := command(t, "status", "-json", "-api", n1.address())
	var st api.Status
	if err := json.Unmarshal([]byte(got), &st); code != ExitOK || err != nil || st.Member != "n2" {
		t.Errorf("exit status %d, %v, member %s", code, err, st.Member)
	}
	n2.Close()
	if code, got, stderr := command(t, "status", "-api", n1.address()); code != ExitOK || !strings.Contains(got, "leader n2") {
		t.Errorf("without the leader: exit status %d, %s%s", code, got, stderr)
	}
}

// TestStatusOddities: what is wrong although all members work is said, with what to type.
func TestStatusOddities(t *testing.T) {
	n1, n2 := fakeCluster(t)
	st := &n2.status
	st.InEffect = &api.InEffect{K: 1, Names: []string{"n1", "n3"}}
	st.Members[0].Lease, st.Members[1].Lease = 5, 5
	shown := func() string {
		t.Helper()
		code, got, stderr := command(t, "status", "-api", n1.address())
		if code != ExitOK || stderr != "" {
			t.Fatalf("exit status %d, stderr %q", code, stderr)
		}
		return got
	}
	if got := shown(); !strings.Contains(got, "the primary's server waits for 1 of n1, n3\n") || strings.Contains(got, "WARNING") {
		t.Errorf("nothing is wrong:\n%s", got)
	}
	st.InEffect.Relaxed, st.InEffect.Unsure, st.InEffect.K = "synchronous_commit = off, from postgresql.auto.conf", true, 0
	st.InEffect.SyncCommit, st.InEffect.Weak, st.InEffect.CancelledWaits, st.InEffect.ReadOnly = "off", []string{"role app"}, 3, []string{"default_transaction_read_only=on in database app"}
	st.ConfigProblem, st.Members[0].ConfigProblem = "pg_hba.conf line 3: invalid method", "postgresql.conf line 9: syntax error"
	st.Members[1].Misled, st.Members[0].Apart = "postgres.advertise is 10.0.0.2:6432, and a pooler answers", "state_dir is on another file system"
	st.Members[0].Blocked, st.Members[0].Override, st.Members[0].Cost = "this standby comes no further", "pgsidecar reinit n1 ", "it is cloned anew"
	st.Members[0].Lease, st.Members[0].Strayed, st.Members[1].Hidden = 10, "promoted by hand", "maintenance mode of the node"
	got := shown()
	for _, words := range []string{"the primary's server waits for no standby, synchronous_commit = off, when last seen; a change is under way\n",
		"WARNING: commits are acknowledged too early on n2: synchronous_commit = off, from postgresql.auto.conf", "pgsidecar reload n2",
		"WARNING: these roles or databases commit without waiting for a standby: role app", "WARNING: 3 commits on n2", "WARNING: n2 takes writes, but transactions are read-only by default: default_transaction_read_only=on in database app.",
		"WARNING: n1 has log that is none of this cluster's", "pgsidecar reinit n1", "the members' leases differ (n1 10s, n2 5s)",
		"PostgreSQL on n1 refuses its configuration: postgresql.conf line 9: syntax error. Correct that, then type: pgsidecar reload n1",
		"\nn1 is blocked: this standby comes no further\n  override:    pgsidecar reinit n1 \n  risk:        it is cloned anew\n",
		"WARNING: clients and the other members do not get to the server of n2: postgres.advertise is 10.0.0.2:6432, and a pooler answers.",
		"writable, not in DNS ", "WARNING: Consul's DNS does not show n2: maintenance mode of the node\n", "streaming, voter, strayed", "NOTE: n1: state_dir is on another file system\n"} {
		if !strings.Contains(got, words) {
			t.Errorf("no %q in\n%s", words, got)
		}
	}
}

// TestStatusWhy: each member is asked for its own rules, and one that does not answer is named.
func TestStatusWhy(t *testing.T) {
	n1, n2 := fakeCluster(t)
	n1.status.Rules, n1.status.DecidedAge = []string{"follow", "follow-fenced"}, 0.3
	n2.status.Rules, n2.status.Blocks[0].Rule = []string{"lead", "durability-wait"}, "durability-wait"
	code, got, stderr := command(t, "status", "-why", "-api", n1.address())
	if code != ExitOK || stderr != "" {
		t.Fatalf("exit status %d, stderr %q", code, stderr)
	}
	for _, line := range []string{"  n1, 300ms ago: follow, follow-fenced\n", "  n2, 0s ago: lead, durability-wait\n", "    durability-wait: commits wait\n",
		"  n3: where its API listens is not known\n"} {
		if !strings.Contains(got, line) {
			t.Errorf("no line %q in\n%s", line, got)
		}
	}
	n1.Close()
	if _, got, _ = command(t, "status", "-why", "-api", n2.address()); !strings.Contains(got, "  n1: it does not answer: ") {
		t.Errorf("n1 is down:\n%s", got)
	}
	if _, got, _ = command(t, "status", "-api", n2.address()); strings.Contains(got, "durability-wait") {
		t.Errorf("without --why:\n%s", got)
	}
}

// TestChanges: each change goes to the member that can make it, with the token.
func TestChanges(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(fakeToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line   string
		n1, n2 string // what each was asked
	}{
		{"switchover", "", `POST /switchover {"leader":"n2"}`},
		{"switchover -to n1 -at 2036-01-31T04:00:00Z", "", `POST /switchover {"leader":"n2","candidate":"n1","scheduled_at":"2036-01-31T04:00:00Z"}`},
		{"failover -to n1", `POST /failover {"candidate":"n1"}`, ""},
		{"failover -to n1 -accept-data-loss -yes", `POST /failover {"candidate":"n1","accept_data_loss":true}`, ""},
		{"pause -for 10m -reason upgrade n1", "", `POST /pause {"for":"10m0s","members":["n1"],"reason":"upgrade"}`},
		{"resume", "", `POST /resume {"members":[]}`},
		{"restart n1 -pending", `POST /restart {"restart_pending":true}`, ""},
		{"reload n2", "", `POST /reload {}`},
		{"reinit n1 -yes -detach", `POST /reinitialize {}`, ""},
		{"reinit n1 -yes -from n2 -detach", `POST /reinitialize {"from":"n2"}`, ""},
		{"switchover -cancel", "", `DELETE /switchover `},
	} {
		t.Run(c.line, func(t *testing.T) {
			n1, n2 := fakeCluster(t)
			args := append(strings.Fields(c.line), "-token-file", token, "-api", n1.address())
			code, stdout, stderr := command(t, args...)
			said := "done\n"
			if strings.Contains(c.line, "-accept-data-loss") {
				said += "If no standby is left, commits wait for one: pgsidecar status says so, and what ends it.\n"
			}
			met := ""
			if c.line == "switchover" || strings.HasPrefix(c.line, "failover") {
				met = "Note: n3 is unreachable: the new primary has one replica less\n"
			}
			if code != ExitOK || stdout != said || stderr != met {
				t.Errorf("exit status %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			if n1.requests() != c.n1 || n2.requests() != c.n2 {
				t.Errorf("n1 was asked %q, n2 %q", n1.requests(), n2.requests())
			}
		})
	}
}

// TestChangesRefused: what is wrong is said, with what to do, and nothing is
// asked for.
func TestChangesRefused(t *testing.T) {
	n1, n2 := fakeCluster(t)
	gone := httptest.NewServer(nil)
	gone.Close()
	api := n1.address()
	wrong := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(wrong, []byte("guessed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, line string
		code       int
		stderr     string
	}{
		{"no token", "switchover -api " + api, 1, "name the token's file with --token-file"},
		{"a wrong token", "switchover -token-file " + wrong + " -api " + api, 1, "the token is not the one of token_file"},
		{"no such member", "restart n9 -api " + api, 1, "there is no member n9; there are n1, n2, n3\n"},
		{"no such candidate", "switchover -to n9 -api " + api, 1, "there is no member n9; there are n1, n2, n3\n"},
		{"the leader as candidate", "switchover -to n2 -api " + api, 1, "n2 leads already\n"},
		{"nobody to clone, before asking", "reinit n9 -api " + api, 1, "pgsidecar: there is no member n9"},
		{"nobody to remove, before asking", "remove n9 -api " + api, 1, "pgsidecar: there is no member n9"},
		{"its API is not known", "restart n3 -api " + api, 1, "n3 is not responding"},
		{"a time that a person may type", "switchover -at tomorrow -api " + api, 2, "such as 2026-01-31T04:00:00Z"},
		{"no member", "restart -api " + api, 2, "which members?"},
		{"no candidate", "failover -api " + api, 2, "--to is missing"},
		{"not confirmed", "failover -to n1 -accept-data-loss -api " + api, 1, "nothing was done"},
		{"not confirmed", "reinit n1 -api " + api, 1, "nothing was done"},
		{"two things at once", "switchover -cancel -to n1 -api " + api, 2, "--cancel stands alone"},
		{"a time without zone", "switchover -at 2036-01-31T04:00:00 -api " + api, 2, "expected a time with its zone"},
		{"no time", "pause -for 0s -api " + api, 2, "expected a time such as 30m"},
		{"nobody there", "status -api " + strings.TrimPrefix(gone.URL, "http://"), 1, "no member answers"},
		{"where members may be", "status", 1, "say where one is: --api"},
		{"no such configuration", "status -config nowhere.hcl", 2, "nowhere.hcl: cannot be read"},
		{"no such token", "status -token-file nowhere", 2, "nowhere"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := command(t, strings.Fields(c.line)...)
			if code != c.code || stdout != "" || !strings.Contains(stderr, c.stderr) {
				t.Errorf("exit status %d, stdout %q, stderr %q", code, stdout, stderr)
			}
		})
	}
	if n1.requests()+n2.requests() != "" {
		t.Errorf("n1 was asked %q, n2 %q", n1.requests(), n2.requests())
	}
}

// TestFoundInConsul: where no address is known, or none answers, Consul names the
// members; with the catalog's own words where it knows none.
func TestFoundInConsul(t *testing.T) {
	l := startConsul(t)
	n1, _ := fakeCluster(t)
	gone := httptest.NewServer(nil)
	gone.Close()
	dead := strings.TrimPrefix(gone.URL, "http://")
	code, stdout, stderr := command(t, "status", "-consul", l.url, "-consul-cluster", "main", "-consul-service", "db")
	if code != ExitFailed || !strings.Contains(stderr, "no member answers: no other member in Consul's catalog: cluster main, service db\n") {
		t.Errorf("an empty catalog: exit status %d, %s%s", code, stdout, stderr)
	}
	for id, api := range map[string]string{"db-n1": n1.address(), "db-n9": dead} {
		l.must(l.put("/v1/agent/service/register", map[string]any{"ID": id, "Name": "db", "Tags": []string{"replica"},
			"Meta": map[string]string{"member": id[3:], "cluster": "main", "api": api}}))
	}
	for _, args := range [][]string{{"status"}, {"status", "-api", dead}} {
		args = append(args, "-consul", l.url, "-consul-cluster", "main", "-consul-service", "db")
		l.until("the members", func() bool {
			code, stdout, stderr = command(t, args...)
			return code == ExitOK && strings.Contains(stdout, "leader n2")
		})
		if t.Failed() {
			t.Errorf("%q: exit status %d, %s%s", args, code, stdout, stderr)
		}
	}
	// A member's own file names Consul as well.
	t.Setenv("TEST_PASSWORD", "hunter2")
	path := filepath.Join(t.TempDir(), "pg.hcl")
	text := `cluster = "main"
member = "n9"
consul { address = ["` + strings.TrimPrefix(l.url, "http://") + `"] }
service { name = "db" }
postgres {
  listen = "127.0.0.1:5432"
  superuser { password = env("TEST_PASSWORD") }
  replication { password = env("TEST_PASSWORD") }
}
api { listen = "` + dead + `" }
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := command(t, "status", "-config", path); code != ExitOK || !strings.Contains(stdout, "leader n2") {
		t.Errorf("by -config: exit status %d, %s%s", code, stdout, stderr)
	}
}

// TestCompletion: a shell gets commands, and the names of members that are not
// named yet.
func TestCompletion(t *testing.T) {
	n1, _ := fakeCluster(t)
	for _, c := range []struct {
		words []string
		want  []string
		not   string
	}{
		{[]string{"swi"}, []string{"switchover\tHand"}, "pause"},
		{[]string{"restart", "--api", n1.address(), "n1", ""}, []string{"n2\tprimary", "n3\treplica"}, "n1\t"},
		{[]string{"switchover", "--api", n1.address(), "--to", ""}, []string{"n1\treplica"}, "no such"},
		{[]string{"reinit", "--api", n1.address(), "--from", ""}, []string{"n2\tprimary"}, "no such"},
	} {
		code, stdout, stderr := command(t, append([]string{"__complete"}, c.words...)...)
		for _, want := range c.want {
			if code != ExitOK || !strings.Contains(stdout, want) || strings.Contains(stdout, c.not) {
				t.Errorf("%q: exit status %d, stdout %q, stderr %q", c.words, code, stdout, stderr)
			}
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, stdout, _ := command(t, "completion", shell); code != ExitOK || !strings.Contains(stdout, "pgsidecar") {
			t.Errorf("completion %s: exit status %d", shell, code)
		}
	}
}

// TestReinitShown: until the member streams again it is said how far its clone is,
// and what it waits for.
func TestReinitShown(t *testing.T) {
	n1, _ := fakeCluster(t)
	t.Setenv("PGSIDECAR_TOKEN", fakeToken)
	steps := []func(st *api.Status){
		func(st *api.Status) {
			st.Reinit, st.Blocks = true, []api.BlockStatus{{What: "it is not cloned", Missing: "n2 to do without", Override: "pgsidecar settings set x"}}
		},
		func(st *api.Status) {
			st.Blocks, st.Progress = nil, &api.Progress{What: "cloning", From: "n2", Done: 1 << 20, Total: 4 << 20}
		},
		func(st *api.Status) { st.Progress, st.Server = nil, "starting"; st.Members[0].Streaming = false },
		func(st *api.Status) { st.Reinit = false },
		func(st *api.Status) { st.Members[0].Streaming = true },
	}
	n1.status.Members = append([]api.MemberStatus{}, n1.status.Members...)
	n1.onStatus = func(st *api.Status) {
		if len(n1.asked) > 0 && len(steps) > 0 { // the clone was asked for
			steps[0](st)
			steps = steps[1:]
		}
	}
	code, stdout, stderr := command(t, "reinit", "n1", "-yes", "-api", n1.address())
	want := `done
n1: it is not cloned; waiting for: n2 to do without; to skip it: pgsidecar settings set x
n1: cloning from n2: 1 MB of 4 MB (25 %)
n1: starting
n1: streams
`
	if code != ExitOK || stdout != want || stderr != "" {
		t.Errorf("exit status %d, stdout\n%s, stderr %q", code, stdout, stderr)
	}
}

// TestNextAddress: a member that does not answer is passed over.
func TestNextAddress(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	n1, _ := fakeCluster(t)
	t.Setenv("PGSIDECAR_API", gone.URL+", "+n1.URL)
	if code, stdout, stderr := command(t, "status"); code != ExitOK || !strings.Contains(stdout, "leader n2") {
		t.Errorf("exit status %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

// TestLeaderNotHeard: a leader that is gone is shown as such, not as a second
// primary, and nobody is asked for what it alone, or another silent one, can do.
func TestLeaderNotHeard(t *testing.T) {
	n1, n2 := fakeCluster(t)
	n2.Close()
	n1.status.Members[1].Link, n1.status.Members[0].Link = "refused", "self"
	if code, got, stderr := command(t, "status", "-api", n1.address()); code != ExitOK || !strings.Contains(got, "leader n2, which is unreachable") ||
		!strings.Contains(got, "was primary") {
		t.Errorf("exit status %d, %s%s", code, got, stderr)
	}
	for line, want := range map[string]string{
		"switchover":                "the leader, n2, is unreachable",
		"failover -to n3":           "n3 is unreachable and cannot lead",
		"failover -to n2 -yes":      "n2 is unreachable and cannot lead",
		"switchover -to n1 -cancel": "--cancel stands alone",
	} {
		if code, stdout, stderr := command(t, append(strings.Fields(line), "-api", n1.address())...); code == ExitOK || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit status %d, %s%s", line, code, stdout, stderr)
		}
	}
	if n1.requests() != "" {
		t.Errorf("n1 was asked %q", n1.requests())
	}
}

// TestHandoverMeets: --check does nothing but say what would be met; without it that is said
// beside what is done.
func TestHandoverMeets(t *testing.T) {
	n1, n2 := fakeCluster(t)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(fakeToken), 0o600); err != nil {
		t.Fatal(err)
	}
	n2.status.Blocks = nil
	n2.status.Members[0].Recorded, n2.status.Members[0].Eligible = true, true
	for _, verb := range []string{"switchover", "failover"} {
		run := func(more ...string) (int, string, string) {
			return command(t, append([]string{verb, "--to", "n1", "--api", n2.address(), "--token-file", token}, more...)...)
		}
		code, out, _ := run("--check")
		if code != ExitOK || !strings.Contains(out, "Note: n3 is unreachable") || !strings.Contains(out, "It can be done.") {
			t.Errorf("%s --check: exit status %d, %s", verb, code, out)
		}
		n2.status.Members[0].Tags = []ha.Tag{{Name: "nofailover", Value: "true"}}
		if code, out, stderr := run("--check"); code != ExitFailed || !strings.Contains(out, "It cannot be done: n1 has the tag nofailover") || !strings.Contains(stderr, "nothing was done") {
			t.Errorf("%s --check: exit status %d, %s%s", verb, code, out, stderr)
		}
		n2.status.Members[0].Tags = nil
		if asked := n1.requests() + n2.requests(); asked != "" {
			t.Fatalf("%s --check asked for %s", verb, asked)
		}
		if code, _, stderr := run(); code != ExitOK || !strings.Contains(stderr, "Note: n3 is unreachable") {
			t.Errorf("%s: exit status %d, %s", verb, code, stderr)
		}
		n1.asked, n2.asked = nil, nil
	}
	if code, _, stderr := command(t, "switchover", "--check", "--at", "2026-01-31T04:00:00Z", "--api", n2.address()); code != ExitUsage {
		t.Errorf("--check --at: exit status %d, %s", code, stderr)
	}
}

// TestHandedOverElsewhere: a switchover or failover after which another member leads than the
// one that was asked for has failed.
func TestHandedOverElsewhere(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(fakeToken), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line, answer string
		code         int
	}{
		{"switchover --to n1", `Switched over to "n3" instead of "n1"`, ExitFailed},
		{"switchover --to n1", `Successfully switched over to "n1"`, ExitOK},
		{"switchover", `Successfully switched over to "n3"`, ExitOK},
		{"failover --to n1", `Failed over to "n3" instead of "n1"`, ExitFailed},
		{"failover --to n1", `Successfully failed over to "n1"`, ExitOK},
	} {
		n1, n2 := fakeCluster(t)
		n1.answer, n2.answer = c.answer, c.answer
		code, out, stderr := command(t, append(strings.Fields(c.line), "--token-file", token, "--api", n2.address())...)
		if code != c.code || !strings.Contains(out, c.answer) || (code != ExitOK) != strings.Contains(stderr, "n1 does not lead") {
			t.Errorf("%s, %s: status %d, %q, %q", c.line, c.answer, code, out, stderr)
		}
	}
}
