package nomad_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/nomad"
)

// TestToken runs the cluster on a Consul that lets nobody do anything without a
// token: with none, with one that may not do enough, and with the one that
// Nomad gets for the tasks once their role has the policy. Between them nothing
// is repaired but the role: the waiting members go on by themselves.
func TestToken(t *testing.T) {
	w := newWorld(t)
	w.newerOnly("a token of the task's own identity")
	w.start(true)
	c := &cluster{world: w, byNode: map[string]alloc{}}
	t.Cleanup(func() { c.purge("pg", "pg-no-token") })
	w.must("var", "put", "-force", "nomad/jobs/pg", "superuser="+superuserPassword, "replication="+replicationPassword, "api="+apiToken)
	w.must("var", "put", "-force", "nomad/jobs/pg-no-token", "superuser="+superuserPassword, "replication="+replicationPassword, "api="+apiToken)
	w.must("setup", "consul", "-y", "-jwks-url", w.http+"/.well-known/jwks.json")

	// No consul block: Nomad asks Consul for no token.
	text, err := nomad.Job("raw_exec", w.release, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(w.dir, "no-token.nomad.hcl")
	if err := os.WriteFile(path, []byte(strings.Replace(text, "      consul {}\n", "", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars("job", "pg-no-token", "count", "1", "data_dir", "${meta.pgdata}/none"), path)...)...)
	c.says("pg-no-token", "anonymous token")
	c.purge("pg-no-token")

	c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars(), c.jobFile("raw_exec"))...)...)
	c.says("pg", "Permission denied")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}

	c.putPolicy(t)
	began := time.Now()
	c.eventually(90*time.Second, "a write through DNS", func(ctx context.Context) error {
		conn, err := c.byDNS("pg")(ctx)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "CREATE TABLE acked (writer text, id int)")
		return err
	})
	t.Logf("the right policy to the first write: %s", time.Since(began).Round(10*time.Millisecond))
	c.whole()
	c.testRenewed(t)
}

// TestTokenByVariable is TestToken for the older job files, whose members have one
// token, from Nomad's variables: none, one that may do nothing, and one with the
// policy. It is another one in the end, which is given by the variables too.
func TestTokenByVariable(t *testing.T) {
	w := newWorld(t)
	if w.release != nomad.Release16 {
		t.Skip("a token from Nomad's variables is in the job files for Nomad 1.6 and 1.7 only")
	}
	w.start(true)
	c := &cluster{world: w, byNode: map[string]alloc{}}
	t.Cleanup(func() { c.purge("pg", "pg-no-token") })
	give := func(job, token string) {
		w.must("var", "put", "-force", "nomad/jobs/"+job, "superuser="+superuserPassword, "replication="+replicationPassword, "api="+apiToken, "consul="+token)
	}
	c.putPolicies(t)
	may, mayNot := c.newToken(t, "pgsidecar-pg"), c.newToken(t)

	// The variable consul_acl is false: no file is written, and Consul is asked with none.
	give("pg-no-token", may.SecretID)
	c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars("job", "pg-no-token", "count", "1", "data_dir", "${meta.pgdata}/none"), c.jobFile("raw_exec"))...)...)
	c.says("pg-no-token", "Permission denied")
	all, err := c.running(t.Context(), "pg-no-token")
	if err != nil {
		t.Fatal(err)
	}
	for node, a := range all {
		if _, err := os.Stat(c.tokenFile(node, a)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a token's file without consul_acl on %s: %v", node, err)
		}
	}
	c.purge("pg-no-token")

	give("pg", mayNot.SecretID)
	c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars("consul_acl", "true"), c.jobFile("raw_exec"))...)...)
	c.says("pg", "Permission denied")

	give("pg", may.SecretID)
	c.firstWrite(t, time.Now())
	c.whole()

	other := c.newToken(t, "pgsidecar-pg")
	give("pg", other.SecretID)
	c.eventually(time.Minute, "the members' files have the other token", func(context.Context) error {
		for node, a := range c.byNode {
			b, err := os.ReadFile(c.tokenFile(node, a))
			if err != nil || string(bytes.TrimSpace(b)) != other.SecretID {
				return fmt.Errorf("%s has not, %w", node, err)
			}
		}
		return nil
	})
	c.request(t, http.MethodDelete, "/v1/acl/token/"+may.AccessorID, nil)
	c.testOtherToken(t)
}

// token is one of Consul's.
type token struct{ AccessorID, SecretID string }

// newToken makes a token with policies.
func (c *cluster) newToken(t *testing.T, policies ...string) token {
	t.Helper()
	var links []map[string]string
	for _, name := range policies {
		links = append(links, map[string]string{"Name": name})
	}
	var made token
	if err := json.Unmarshal(c.put(t, "/v1/acl/token", map[string]any{"Description": "of the members", "Policies": links}), &made); err != nil {
		t.Fatal(err)
	}
	return made
}

// tokenFile is where a member finds its token for Consul.
func (c *cluster) tokenFile(node string, a alloc) string {
	return filepath.Join(c.dir, node, "alloc", a.ID, "pgsidecar", "secrets", "consul_token")
}

// testRenewed puts other tokens into the tasks' directories and takes the first
// ones away from Consul: the members go on, and hand over, with the new ones.
func (c *cluster) testRenewed(t *testing.T) {
	var role struct{ ID string }
	if err := c.getFrom(t.Context(), "http://"+c.consulAPI+"/v1/acl/role/name/nomad-default-tasks", &role); err != nil {
		t.Fatal(err)
	}
	old := map[string]bool{}
	for node, a := range c.byNode {
		path := c.tokenFile(node, a)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		old[string(bytes.TrimSpace(b))] = true
		var token token
		if err := json.Unmarshal(c.put(t, "/v1/acl/token", map[string]any{"Description": "another of " + node, "Roles": []map[string]string{{"ID": role.ID}}}), &token); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(token.SecretID), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	var tokens []token
	if err := c.getFrom(t.Context(), "http://"+c.consulAPI+"/v1/acl/tokens", &tokens); err != nil {
		t.Fatal(err)
	}
	for _, token := range tokens {
		if old[token.SecretID] {
			c.request(t, http.MethodDelete, "/v1/acl/token/"+token.AccessorID, nil)
			delete(old, token.SecretID)
		}
	}
	if len(old) > 0 {
		t.Fatalf("%d tokens of tasks that Consul does not know", len(old))
	}
	c.testOtherToken(t)
}

// testOtherToken: with the tokens that the members' files have by now, another member
// leads and takes writes.
func (c *cluster) testOtherToken(t *testing.T) {
	before := c.primary(t)
	term := c.record().Term
	for name := range c.byNode {
		if name != before.NodeName {
			c.lead(t, strings.TrimSuffix(c.byNode[name].Name[strings.IndexByte(c.byNode[name].Name, '[')+1:], "]"))
			break
		}
	}
	if got := c.record().Term; got != term+1 {
		t.Errorf("%d changes of leader, want the one that was asked for", got-term)
	}
	conn, err := c.byDNS("pg")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "INSERT INTO acked VALUES ('renewed', 1)"); err != nil {
		t.Error(err)
	}
}

// says waits until a job's allocation has logged the words.
func (c *cluster) says(job, words string) {
	c.t.Helper()
	c.eventually(time.Minute, "an allocation of "+job+" says "+words, func(ctx context.Context) error {
		all, err := c.allocs(ctx, job)
		if err != nil {
			return err
		}
		for _, a := range all {
			for line := range strings.Lines(c.log(a.ID, "pgsidecar")) {
				if strings.Contains(line, words) {
					c.t.Logf("%s: %s", job, strings.TrimSpace(line))
					return nil
				}
			}
		}
		return errors.New(c.words())
	})
}

// putPolicies makes the policy that `pgsidecar files policy` prints, and gives
// Consul's DNS the right to answer.
func (c *cluster) putPolicies(t *testing.T) {
	t.Helper()
	policy, err := os.ReadFile("../sessions/policy.hcl")
	if err != nil {
		t.Fatal(err)
	}
	c.put(t, "/v1/acl/policy", map[string]any{"Name": "pgsidecar-pg", "Rules": string(policy)})
	c.put(t, "/v1/acl/policy", map[string]any{"Name": "dns", "Rules": `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`})
	c.put(t, "/v1/acl/token/00000000-0000-0000-0000-000000000002", map[string]any{"Policies": []map[string]string{{"Name": "dns"}}})
}

// putPolicy gives the policy to the tasks' role, besides what it has.
func (c *cluster) putPolicy(t *testing.T) {
	t.Helper()
	c.putPolicies(t)
	var role map[string]any
	if err := c.getFrom(t.Context(), "http://"+c.consulAPI+"/v1/acl/role/name/nomad-default-tasks", &role); err != nil {
		t.Fatal(err)
	}
	role["Policies"] = append(role["Policies"].([]any), map[string]any{"Name": "pgsidecar-pg"})
	c.put(t, fmt.Sprint("/v1/acl/role/", role["ID"]), role)
}

// put writes something into Consul, and returns what it answers.
func (c *cluster) put(t *testing.T, path string, what any) []byte {
	t.Helper()
	b, err := json.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	return c.request(t, http.MethodPut, path, b)
}

// request asks Consul for something that it has to do.
func (c *cluster) request(t *testing.T, method, path string, body []byte) []byte {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+c.consulAPI+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Consul-Token", c.token)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s: %s", method, path, response.Status, answer)
	}
	return answer
}
