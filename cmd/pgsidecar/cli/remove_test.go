package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRemoveMember: only a member that is gone, only once its name was typed,
// and by the leader.
func TestRemoveMember(t *testing.T) {
	t.Setenv("PGSIDECAR_TOKEN", fakeToken)
	for _, c := range []struct {
		name, line, answers string
		code                int
		asked, want         string
	}{
		{"gone", "remove n3", "n3\n", 0, `POST /remove {"member":"n3"}`, "its sidecar, if it is ever started again, brings it back"},
		{"known by the record alone", "remove n4", "n4\n", 0, `POST /remove {"member":"n4"}`, "n4 is removed"},
		{"unknown", "remove n5", "n5\n", 1, "", "there is no member n5; there are n1, n2, n3"},
		{"another name typed", "remove n3", "n1\n", 1, "", `nothing was removed: "n1" was typed, not "n3"`},
		{"yes typed", "remove n3", "yes\n", 1, "", "nothing was removed"},
		{"nothing typed", "remove n3", "", 1, "", "nothing was removed"},
		{"alive", "remove n1", "n1\n", 1, "", "n1 is alive; stop its sidecar first"},
		{"the leader", "remove n2", "n2\n", 1, "", "n2 leads; hand over first: pgsidecar switchover"},
		{"nobody named", "remove", "", 2, "", "takes the name of one member"},
		{"two", "remove n1 n3", "", 2, "", "takes the name of one member"},
		{"both", "remove n3 --cluster pg", "", 2, "", "not both"},
		{"no way around", "remove n3 --yes", "", 2, "", "unknown flag"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n1, n2 := fakeCluster(t)
			code, stdout, stderr := typed(t, c.answers, append(strings.Fields(c.line), "-api", n1.address())...)
			if code != c.code || !strings.Contains(stderr, c.want) || (code == 0) != (stdout == "done\n") {
				t.Errorf("exit status %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			if n1.requests() != "" || n2.requests() != c.asked {
				t.Errorf("n1 was asked %q, n2 %q", n1.requests(), n2.requests())
			}
		})
	}
}

// TestRemoveCluster: with a real Consul, nothing goes while a member is
// registered, or without the name.
func TestRemoveCluster(t *testing.T) {
	l := startConsul(t)
	t.Setenv("TEST_PASSWORD", "hunter2")
	path := filepath.Join(t.TempDir(), "pg.hcl")
	text := fmt.Sprintf(`cluster = "main"
service {
  name = "pg"
}
member = "n1"
consul { address = [%q] }
postgres {
  listen = "127.0.0.1:5432"
  superuser { password = env("TEST_PASSWORD") }
  replication { password = env("TEST_PASSWORD") }
}
api { listen = "127.0.0.1:8008" }
`, strings.TrimPrefix(l.url, "http://"))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	remove := func(answers, cluster string) (int, string, string) {
		return typed(t, answers, "remove", "--cluster", cluster, "-config", path)
	}
	refused := func(name, answers, cluster string, want ...string) {
		t.Helper()
		code, stdout, stderr := remove(answers, cluster)
		if code == ExitOK || stdout != "" {
			t.Errorf("%s: exit status %d, stdout %q", name, code, stdout)
		}
		for _, part := range want {
			if !strings.Contains(stderr, part) {
				t.Errorf("%s: stderr %q does not say %q", name, stderr, part)
			}
		}
	}
	refused("no cluster", "main\n", "main", "there is no cluster main in Consul", "under pgsidecar/")
	refused("another's configuration", "pg\n", "pg", "is of cluster main, not of pg")

	l.must(l.put("/v1/kv/pgsidecar/main/state", `{"version":1}`))
	l.must(l.put("/v1/kv/pgsidecar/main/leader", "n1"))
	l.must(l.put("/v1/kv/pgsidecar/other/state", `{"version":1}`))
	l.must(l.put("/v1/agent/service/register", map[string]any{"ID": "pg-n1", "Name": "pg", "Meta": map[string]string{"member": "n1", "cluster": "main"}}))
	l.until("the instance", func() bool {
		_, _, stderr := remove("", "main")
		return strings.Contains(stderr, "is registered")
	})
	refused("in use", "main\n", "main", "nothing was deleted", "member n1 is registered on node c as pg-n1", "consul force-leave -prune c",
		"consul services deregister -id pg-n1")
	l.must(l.put("/v1/agent/service/deregister/pg-n1", ""))
	l.until("the end of the instance", func() bool {
		_, _, stderr := remove("", "main")
		return !strings.Contains(stderr, "is registered")
	})
	refused("the name is not typed", "yes\n", "main", "pgsidecar/main/leader", "pgsidecar/main/state", `"yes" was typed, not "main"`)

	code, stdout, stderr := remove("main\n", "main")
	if code != ExitOK || stdout != "cluster main is removed: 2 keys\n" || strings.Contains(stderr, "other") {
		t.Errorf("exit status %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	refused("gone", "main\n", "main", "there is no cluster main in Consul")
}
