package nomad_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	w.start(true)
	c := &cluster{world: w, byNode: map[string]alloc{}}
	t.Cleanup(func() { c.purge("pg", "pg-no-token") })
	w.must("var", "put", "-force", "nomad/jobs/pg", "superuser="+superuserPassword, "replication="+replicationPassword, "api="+apiToken)
	w.must("var", "put", "-force", "nomad/jobs/pg-no-token", "superuser="+superuserPassword, "replication="+replicationPassword, "api="+apiToken)
	w.must("setup", "consul", "-y", "-jwks-url", w.http+"/.well-known/jwks.json")

	// No consul block: Nomad asks Consul for no token.
	text, err := nomad.Job("raw_exec", nil)
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

	c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars(), jobFile("raw_exec"))...)...)
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

// putPolicy gives the tasks' role what `pgsidecar files policy` prints, besides
// what it has; and Consul's DNS the right to answer.
func (c *cluster) putPolicy(t *testing.T) {
	t.Helper()
	policy, err := os.ReadFile("../sessions/policy.hcl")
	if err != nil {
		t.Fatal(err)
	}
	c.put(t, "/v1/acl/policy", map[string]any{"Name": "pgsidecar-pg", "Rules": string(policy)})
	c.put(t, "/v1/acl/policy", map[string]any{"Name": "dns", "Rules": `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`})
	c.put(t, "/v1/acl/token/00000000-0000-0000-0000-000000000002", map[string]any{"Policies": []map[string]string{{"Name": "dns"}}})
	var role map[string]any
	if err := c.getFrom(t.Context(), "http://"+c.consulAPI+"/v1/acl/role/name/nomad-default-tasks", &role); err != nil {
		t.Fatal(err)
	}
	role["Policies"] = append(role["Policies"].([]any), map[string]any{"Name": "pgsidecar-pg"})
	c.put(t, fmt.Sprint("/v1/acl/role/", role["ID"]), role)
}

// put writes something into Consul.
func (c *cluster) put(t *testing.T, path string, what any) {
	t.Helper()
	b, err := json.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+c.consulAPI+path, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Consul-Token", c.token)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var text bytes.Buffer
		text.ReadFrom(response.Body)
		t.Fatalf("PUT %s: %s: %s", path, response.Status, &text)
	}
}
