package nomad_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pauseGoal is the longest pause in acknowledged writes that is wanted; of a
// longer one the members' logs are shown.
const pauseGoal = time.Second

// logTime is how a time is in the logs.
const logTime = "2006-01-02T15:04:05.000000Z07:00"

// pauseLimit is the longest pause in acknowledged writes that is accepted. CI's
// machines stand still for longer now and then, so it is more than the 1 s that
// a test prints that it wants.
const pauseLimit = 3 * time.Second

// TestCluster runs the cluster on a real Nomad and does to it what Nomad does to
// allocations, while two applications write.
func TestCluster(t *testing.T) {
	w := newWorld(t)
	w.start(false)
	w.must("var", "put", "-force", "nomad/jobs/pg", "superuser="+superuserPassword, "replication="+replicationPassword, "api="+apiToken)
	c := &cluster{world: w, byNode: map[string]alloc{}}
	t.Cleanup(func() { c.purge("pg", "pg-haproxy", "pg-app", "pg-no-variables") })
	step := c.steps(t)
	step("jobs validate and plan", c.testPlan)
	if !step("run to the first write", c.testRun) {
		t.Fatal("nothing to go on with")
	}
	c.startWriters(t)
	step("plan again changes nothing", c.testPlanAgain)
	step("kill", c.testKill)
	step("kill all", c.testKillAll)
	step("stop", c.testStop)
	step("drain", c.testDrain)
	step("update", func(t *testing.T) { c.testUpdate(t, "1", "101") })
	step("update from index 0", func(t *testing.T) { c.testUpdate(t, "0", "102") })
	step("client lost", c.testClientLost)
	step("node lost", c.testNodeLost)
	step("application", c.testApplication)
	step("haproxy's reloads", c.testReloads)
	c.judge(t)
	step("kill_timeout too small", c.testKillTimeout)
	step("stop cut short", c.testCutShort)
	step("no volume", c.testNoVolume)
	step("no host volume", c.testNoHostVolume)
	step("no variables", c.testNoVariables)
	w.t = t
}

// steps returns what runs a part of a test, which shows the tasks' logs if it
// fails.
func (c *cluster) steps(t *testing.T) func(name string, test func(*testing.T)) bool {
	return func(name string, test func(*testing.T)) bool {
		return t.Run(name, func(t *testing.T) {
			c.t = t
			defer func() {
				if t.Failed() {
					t.Log(c.words())
				}
			}()
			test(t)
		})
	}
}

// cluster is the job pg in a world, and the applications.
type cluster struct {
	*world
	byNode  map[string]alloc
	writers []*writer
}

// testPlan: every job validates, and plans: those for whose driver this machine
// has what it needs without a failed placement.
func (c *cluster) testPlan(t *testing.T) {
	for name, args := range map[string][]string{
		"raw_exec": c.clusterVars(), "exec": vars("bin_dir", c.binDir()), "docker": nil,
		"haproxy": c.haproxyVars("count", "1"), "haproxy-system": c.haproxyVars("job", "pg-haproxy-system", "node_pool", "all"), "app": nil, "app-dns": nil,
	} {
		c.must(append([]string{"job", "validate"}, append(args, c.jobFile(name))...)...)
		out, status := c.command(append([]string{"job", "plan"}, append(args, c.jobFile(name))...)...)
		if status != 0 && status != 1 || strings.Contains(out, "WARNING") && name != "docker" {
			t.Errorf("nomad job plan %s: exit status %d\n%s", name, status, out)
		}
	}
	csi := vars("volume_type", "csi")
	c.must(append([]string{"job", "validate"}, append(csi, c.jobFile("docker"))...)...)
	if out, status := c.command(append([]string{"job", "plan"}, append(csi, c.jobFile("docker"))...)...); status != 0 && status != 1 {
		t.Errorf("nomad job plan docker with csi: exit status %d\n%s", status, out)
	}
}

func (c *cluster) testRun(t *testing.T) {
	began := time.Now()
	c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars(), c.jobFile("raw_exec"))...)...)
	c.firstWrite(t, began)
	c.whole()
	c.must(append([]string{"job", "run", "-detach"}, append(c.haproxyVars("count", "1"), c.jobFile("haproxy"))...)...)
	c.eventually(time.Minute, "a write through HAProxy", func(ctx context.Context) error {
		conn, err := c.byHAProxy(ctx)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "INSERT INTO acked VALUES ('first', 1)")
		return err
	})
}

// firstWrite waits for the first write through DNS after the job was run.
func (c *cluster) firstWrite(t *testing.T, began time.Time) {
	t.Helper()
	c.eventually(time.Minute, "a write through DNS", func(ctx context.Context) error {
		conn, err := c.byDNS("pg")(ctx)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "CREATE TABLE IF NOT EXISTS acked (writer text, id int)")
		return err
	})
	took := time.Since(began)
	t.Logf("nomad job run to primary.pg.service.consul and its first write: %s", took.Round(10*time.Millisecond))
	if took > 30*time.Second {
		t.Errorf("took %s, more than 30s", took)
	}
}

func (c *cluster) startWriters(t *testing.T) {
	c.writers = []*writer{startWriter(t, "dns", c.byDNS("pg")), startWriter(t, "haproxy", c.byHAProxy)}
}

// judge counts what was acknowledged against what is there.
func (c *cluster) judge(t *testing.T) {
	for _, w := range c.writers {
		w.close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		acked, lost, err := w.lost(ctx)
		cancel()
		if err != nil || len(lost) > 0 || acked == 0 {
			t.Errorf("writer by %s: %d of %d acknowledged rows lost, %v", w.name, len(lost), acked, err)
		}
		t.Logf("writer by %s: %d rows acknowledged, %d lost", w.name, acked, len(lost))
	}
}

// measured runs what is done to the cluster, waits until it is whole again,
// and holds the writers' longest pause against the limit.
func (c *cluster) measured(t *testing.T, what string, do func()) {
	t.Helper()
	c.measuredWithin(t, pauseLimit, what, do)
}

func (c *cluster) measuredWithin(t *testing.T, limit time.Duration, what string, do func()) {
	t.Helper()
	for _, w := range c.writers {
		w.forget()
	}
	before := c.record().Term
	do()
	c.whole()
	for _, w := range c.writers {
		pause, over := w.longest()
		t.Logf("%s: writer by %s: longest pause %s", what, w.name, pause.Round(time.Millisecond))
		if pause > pauseGoal {
			t.Logf("more than %s; the members' logs from %s to %s:\n%s", pauseGoal, over.Add(-pause).Format(logTime), over.Format(logTime),
				c.between(over.Add(-pause-time.Second), over.Add(time.Second)))
		}
		if pause > limit {
			t.Errorf("%s: writer by %s: longest pause %s (%v)", what, w.name, pause, w.failed)
		}
	}
	t.Logf("%s: %d changes of leader", what, c.record().Term-before)
}

// testApplication runs pgbench as its job does, by the template block.
func (c *cluster) testApplication(t *testing.T) {
	c.must("var", "put", "-force", "nomad/jobs/pg-app", "password="+superuserPassword)
	c.must(append([]string{"job", "run", "-detach"}, append(vars("user", "postgres", "clients", "1", "pgbench", filepath.Join(c.binDir(), "pgbench")), c.jobFile("app"))...)...)
	c.eventually(time.Minute, "pgbench has written", func(ctx context.Context) error {
		conn, err := c.byDNS("pg")(ctx)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		var n int
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM pgbench_history").Scan(&n); err != nil || n == 0 {
			return fmt.Errorf("%d transactions, %w", n, err)
		}
		return nil
	})
	c.purge("pg-app")
}

// testReloads: after each change of its file, but the first, which it read when it
// started, HAProxy was reloaded through its master's socket; once for changes that
// came together.
func (c *cluster) testReloads(t *testing.T) {
	const written, reloaded = "file written: template=haproxy ", "haproxy reloaded"
	c.eventually(time.Minute, "a reload after the last change", func(ctx context.Context) error {
		all, err := c.running(ctx, "pg-haproxy")
		if err == nil && len(all) == 0 {
			err = errors.New("no HAProxy runs")
		}
		for _, a := range all {
			log := c.log(a.ID, "pgsidecar")
			changes, reloads := strings.Count(log, written)-1, strings.Count(log, reloaded)
			t.Logf("haproxy.cfg was changed %d times, HAProxy reloaded %d times", changes, reloads)
			if changes < reloads || changes > 0 && strings.LastIndex(log, reloaded) < strings.LastIndex(log, written) {
				err = errors.Join(err, fmt.Errorf("%d changes, %d reloads:\n%s", changes, reloads, log))
			}
		}
		return err
	})
}
