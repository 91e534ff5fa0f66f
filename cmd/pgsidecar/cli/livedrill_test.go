package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// wholeCluster is the status of a cluster that may be drilled.
func wholeCluster() *api.Status {
	at := ha.Position{TLI: 3, LSN: 0x1000}
	lag := uint64(100)
	return &api.Status{Cluster: "pg", Member: "n1", Leader: "n1", Phase: ha.PhaseLeading, Term: 3,
		Durability: ha.Durability{Mode: ha.ModeQuorum, K: 1, Voters: []string{"n2"}},
		Consul:     api.ConsulStatus{Reachable: ha.Yes.String()},
		Members: []api.MemberStatus{
			{Member: "n1", Role: ha.RolePrimary, Link: "self", Writable: true, Position: at},
			{Member: "n2", Role: ha.RoleReplica, Link: "up", Streaming: true, Voter: true, Lag: &lag, Position: at},
		}}
}

func TestSurvives(t *testing.T) {
	before, err := survives(wholeCluster())
	if err != nil || before.Primary != "n1" || before.Timeline != 3 || len(before.Replicas) != 1 {
		t.Fatalf("a whole cluster: %+v, %v", before, err)
	}
	far := uint64(maxDrillLag + 1)
	for want, spoil := range map[string]func(*api.Status){
		"no primary":         func(s *api.Status) { s.Leader = "" },
		"it has no primary":  func(s *api.Status) { s.Phase = ha.PhaseElecting },
		"paused":             func(s *api.Status) { s.Paused = true },
		"blocked: votes":     func(s *api.Status) { s.Blocks = []api.BlockStatus{{What: "votes"}} },
		"not reachable":      func(s *api.Status) { s.Consul.Reachable = ha.No.String() },
		"token was revoked":  func(s *api.Status) { s.Consul.Problem = "token was revoked" },
		"has each commit":    func(s *api.Status) { s.Durability.K = 0 },
		"not writable":       func(s *api.Status) { s.Members[0].Writable = false },
		"n2 is unreachable":  func(s *api.Status) { s.Members[1].Link = "silent" },
		"n2 does not stream": func(s *api.Status) { s.Members[1].Streaming = false },
		"n2 is behind":       func(s *api.Status) { s.Members[1].Lag = &far },
		"behind: unknown":    func(s *api.Status) { s.Members[1].Lag = nil },
		"n2 is blocked":      func(s *api.Status) { s.Members[1].Blocked = "by hand" },
		"no replica":         func(s *api.Status) { s.Members = s.Members[:1] },
	} {
		st := wholeCluster()
		spoil(st)
		if _, err := survives(st); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestLiveDrillRefuses: with exit status 2, and without a change asked of
// anyone.
func TestLiveDrillRefuses(t *testing.T) {
	var mu sync.Mutex
	var changes []string
	st := wholeCluster()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Method != http.MethodGet {
			changes = append(changes, r.Method+" "+r.URL.Path)
		}
		_ = json.NewEncoder(w).Encode(st)
	}))
	defer server.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	st.Paused = true
	good := []string{"drill", "live", "switchover", "--api", server.URL, "--yes", "--token-file", token}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"say so with --yes", good[:5]},
		{"token is missing", good[:6]},
		{"it is paused", good},
		{"expected 1s to 1m0s", append(good, "--for", "2m")},
		{"--database", append(good, "--database", "port=nonsense")},
		{"are not negative", append(good, "--rpo", "-1")},
		{"no such file", append(good, "--html", "/no/such/folder/x.html")},
		{"say which drill", []string{"drill", "live", "earthquake", "--yes"}},
		{"say which drill", []string{"drill", "live", "--yes"}},
	} {
		code, stdout, stderr := command(t, c.args...)
		if code != ExitUsage || stdout != "" || !strings.Contains(stderr, c.want) || strings.Contains(stderr, "secret") {
			t.Errorf("%v: exit status %d, %q, %q", c.args, code, stdout, stderr)
		}
	}
	if len(changes) != 0 {
		t.Errorf("asked for %v", changes)
	}
}

// TestLastDrillWords: what status and history say of the last drill.
func TestLastDrillWords(t *testing.T) {
	at := time.Date(2026, 1, 31, 4, 0, 0, 0, time.UTC)
	l := drill.Last{Scenario: "host-lost", At: at, Passed: true, RTOMs: 412.4}
	if got := screen.LastDrill(l, at.Add(3*time.Hour)); !strings.Contains(got, "host-lost") || !strings.Contains(got, "3 h ago") ||
		!strings.Contains(got, "RTO 412 ms, RPO 0 rows, passed") {
		t.Errorf("%q", got)
	}
	l.Passed, l.Failures, l.RPORows = false, []string{"2 acknowledged rows are lost; the objective is 0"}, 2
	if got := screen.LastDrill(l, at.AddDate(0, 4, 0)); !strings.Contains(got, "120 days ago") || !strings.Contains(got, "FAILED: 2 acknowledged rows") {
		t.Errorf("%q", got)
	}
}
