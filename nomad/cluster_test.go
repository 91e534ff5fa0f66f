package nomad_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
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
	t.Cleanup(func() { c.purge("pg", "pg-haproxy", "pg-app") })
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
	step("update", func(t *testing.T) { c.testUpdate(t, "2", "101") })
	step("update from index 0", func(t *testing.T) { c.testUpdate(t, "0", "102") })
	step("client lost", c.testClientLost)
	step("node lost", c.testNodeLost)
	step("application", c.testApplication)
	c.judge(t)
	step("kill_timeout too small", c.testKillTimeout)
	step("stop cut short", c.testCutShort)
	step("no volume", c.testNoVolume)
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

func (w *world) binDir() string {
	dir, err := programs.PostgresBin()
	if err != nil {
		w.t.Fatal(err)
	}
	return dir
}

func jobFile(name string) string { return filepath.Join("jobs", name+".nomad.hcl") }

// testPlan: every job validates, and plans: those for whose driver this machine
// has what it needs without a failed placement.
func (c *cluster) testPlan(t *testing.T) {
	for name, args := range map[string][]string{
		"raw_exec": c.clusterVars(), "exec": vars("bin_dir", c.binDir()), "docker": nil,
		"haproxy": c.haproxyVars("count", "1"), "haproxy-system": c.haproxyVars("job", "pg-haproxy-system", "node_pool", "all"), "app": nil, "app-dns": nil,
	} {
		c.must(append([]string{"job", "validate"}, append(args, jobFile(name))...)...)
		out, status := c.command(append([]string{"job", "plan"}, append(args, jobFile(name))...)...)
		if status != 0 && status != 1 || strings.Contains(out, "WARNING") && name != "docker" {
			t.Errorf("nomad job plan %s: exit status %d\n%s", name, status, out)
		}
	}
	csi := vars("volume_type", "csi")
	c.must(append([]string{"job", "validate"}, append(csi, jobFile("docker"))...)...)
	if out, status := c.command(append([]string{"job", "plan"}, append(csi, jobFile("docker"))...)...); status != 0 && status != 1 {
		t.Errorf("nomad job plan docker with csi: exit status %d\n%s", status, out)
	}
}

func (c *cluster) testRun(t *testing.T) {
	began := time.Now()
	c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars(), jobFile("raw_exec"))...)...)
	c.firstWrite(t, began)
	c.whole()
	c.must(append([]string{"job", "run", "-detach"}, append(c.haproxyVars("count", "1"), jobFile("haproxy"))...)...)
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

// whole waits until Nomad runs three members and the record has a leader and the
// standby that commits are to wait for.
func (c *cluster) whole() {
	c.t.Helper()
	c.eventually(2*time.Minute, "three members, one of them primary", func(ctx context.Context) error {
		byNode, err := c.running(ctx, "pg")
		if err != nil {
			return err
		}
		r := c.record()
		if len(byNode) != 3 || r.Phase != ha.PhaseLeading || len(r.Members) != 3 || r.Durability.K < 1 || len(r.Durability.Voters) < 2 {
			return fmt.Errorf("%d allocations, leader %q, %s, %+v", len(byNode), r.Leader, r.Phase, r.Durability)
		}
		for node := range byNode {
			if err := c.ready(ctx, byNode[node]); err != nil {
				return err
			}
		}
		c.byNode = byNode
		return nil
	})
}

// ready asks Consul for the check that Nomad's updates wait for.
func (c *cluster) ready(ctx context.Context, a alloc) error {
	var services []struct {
		Checks []struct{ Name, Status, ServiceID string }
	}
	if err := c.getFrom(ctx, "http://"+c.consulAPI+"/v1/health/service/pg-agent", &services); err != nil {
		return err
	}
	for _, s := range services {
		for _, k := range s.Checks {
			if k.Name == "ready" && strings.Contains(k.ServiceID, a.ID) {
				if k.Status != "passing" {
					return fmt.Errorf("%s is not ready", a.NodeName)
				}
				return nil
			}
		}
	}
	return fmt.Errorf("no check of %s", a.NodeName)
}

// record is the cluster's record in Consul.
func (c *cluster) record() ha.Record {
	var pairs []struct{ Value string }
	var r ha.Record
	if err := c.getFrom(context.Background(), "http://"+c.consulAPI+"/v1/kv/pgsidecar/pg/state", &pairs); err != nil || len(pairs) != 1 {
		return r
	}
	b, err := base64.StdEncoding.DecodeString(pairs[0].Value)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		c.t.Error(err)
	}
	return r
}

// primary is the allocation of the leader; members are called as their nodes.
func (c *cluster) primary(t *testing.T) alloc {
	t.Helper()
	a, ok := c.byNode[c.record().Leader]
	if !ok {
		t.Fatalf("leader %q has no allocation in %v", c.record().Leader, c.byNode)
	}
	return a
}

// handedOver waits until another member leads.
func (c *cluster) handedOver(from alloc) {
	c.t.Helper()
	c.eventually(time.Minute, "another leader than "+from.NodeName, func(context.Context) error {
		if r := c.record(); r.Leader == from.NodeName || r.Phase != ha.PhaseLeading {
			return fmt.Errorf("leader %s, %s", r.Leader, r.Phase)
		}
		return nil
	})
}

func (c *cluster) testPlanAgain(t *testing.T) {
	out, status := c.command(append([]string{"job", "plan"}, append(c.clusterVars(), jobFile("raw_exec"))...)...)
	if status != 0 {
		t.Errorf("exit status %d, want 0: no changes\n%s", status, out)
	}
}

// testKill kills pgsidecar alone: the guard and PostgreSQL live on, and Nomad
// starts another one (restart, delay 2s) within the lease (5s).
func (c *cluster) testKill(t *testing.T) {
	a, before := c.primary(t), c.record().Term
	c.measured(t, "primary's pgsidecar killed", func() {
		c.must("alloc", "signal", "-s", "SIGKILL", a.ID)
		c.eventually(time.Minute, "the task is started again", func(ctx context.Context) error {
			all, err := c.running(ctx, "pg")
			if err == nil && all[a.NodeName].TaskStates["pgsidecar"].Restarts == 0 {
				err = errors.New("no restart")
			}
			return err
		})
	})
	t.Logf("terms passed: %d", c.record().Term-before)
}

// testKillAll kills all that the primary's task consists of, at once.
func (c *cluster) testKillAll(t *testing.T) {
	a := c.primary(t)
	c.measured(t, "primary's whole task killed", func() {
		c.must("alloc", "signal", "-s", "SIGKILL", a.ID)
		killAll(c.node(a.NodeName).volume)
		c.handedOver(a)
	})
}

// node is the client of that name.
func (c *cluster) node(name string) *node {
	for _, n := range c.nodes {
		if n.name == name {
			return n
		}
	}
	c.t.Fatalf("no node %s", name)
	return nil
}

func (c *cluster) testStop(t *testing.T) {
	var a alloc
	c.measured(t, "primary's allocation stopped", func() {
		a = c.primary(t)
		c.must("alloc", "stop", "-detach", a.ID)
		c.handedOver(a)
	})
	log := c.log(a.ID, "pgsidecar")
	if !strings.Contains(log, "asked to stop: hand over") || !strings.Contains(log, "the member ends") {
		t.Errorf("the stopped member has not said that it ended:\n%s", log)
	}
	if b := c.byNode[a.NodeName]; b.ID == a.ID {
		t.Errorf("allocation %s runs on", a.ID)
	}
}

func (c *cluster) testDrain(t *testing.T) {
	a := c.primary(t)
	c.measured(t, "primary's node drained", func() {
		c.must("node", "drain", "-enable", "-yes", "-detach", "-deadline", "2m", c.nodeID(a.NodeName))
		c.handedOver(a)
		c.eventually(time.Minute, "the drained allocation has ended", func(ctx context.Context) error {
			all, err := c.allocs(ctx, "pg")
			for _, b := range all {
				if b.ID == a.ID && b.ClientStatus != "complete" {
					err = errors.Join(err, fmt.Errorf("it is %s", b.ClientStatus))
				}
			}
			return err
		})
		c.must("node", "drain", "-disable", "-yes", c.nodeID(a.NodeName))
	})
}

// testUpdate updates the job with the primary at an index. Nomad updates the
// lowest first: a primary of another index hands over once, to a member that has
// been updated. At index 0 there is none, and it takes two.
func (c *cluster) testUpdate(t *testing.T, index, cpu string) {
	c.lead(t, index)
	before := c.record().Term
	c.measured(t, "the whole job updated, the primary at index "+index, func() {
		c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars("cpu", cpu), jobFile("raw_exec"))...)...)
		c.updated()
	})
	want := uint64(1)
	if index == "0" {
		want = 2
	}
	if n := c.record().Term - before; n != want {
		t.Errorf("%d switchovers with the primary at index %s, expected %d", n, index, want)
	}
}

// lead makes the member of an index the primary, as a person would.
func (c *cluster) lead(t *testing.T, index string) {
	t.Helper()
	at := c.primary(t)
	for name, a := range c.byNode {
		if !strings.HasSuffix(a.Name, "["+index+"]") || name == at.NodeName {
			continue
		}
		c.must("alloc", "exec", "-i=false", "-t=false", at.ID, "/bin/sh", "-c", c.pgsidecar+` switchover -config "$NOMAD_TASK_DIR/pg.hcl" --to `+name)
		c.eventually(time.Minute, name+" leads", func(context.Context) error {
			if r := c.record(); r.Leader != name || r.Phase != ha.PhaseLeading {
				return fmt.Errorf("leader %s, %s", r.Leader, r.Phase)
			}
			return nil
		})
		c.whole()
	}
}

// updated waits for the end of the job's deployment.
func (c *cluster) updated() {
	c.t.Helper()
	c.eventually(5*time.Minute, "the deployment has ended", func(ctx context.Context) error {
		var d struct{ Status, StatusDescription string }
		if err := c.get(ctx, "/v1/job/pg/deployment", &d); err != nil {
			return err
		}
		var job struct{ Version int }
		if err := c.get(ctx, "/v1/job/pg", &job); err != nil {
			return err
		}
		running, err := c.running(ctx, "pg")
		if err != nil {
			return err
		}
		for _, a := range running {
			if a.JobVersion != job.Version {
				return fmt.Errorf("%s is of version %d, not %d: %s", a.Name, a.JobVersion, job.Version, d.StatusDescription)
			}
		}
		if d.Status != "successful" {
			return fmt.Errorf("it is %s: %s", d.Status, d.StatusDescription)
		}
		return nil
	})
}

// unknown waits until Nomad has lost the client of an allocation.
func (c *cluster) unknown(a alloc) {
	c.t.Helper()
	c.eventually(2*time.Minute, "Nomad misses the client", func(ctx context.Context) error {
		all, err := c.allocs(ctx, "pg")
		if err != nil {
			return err
		}
		for _, b := range all {
			if b.ID == a.ID && b.ClientStatus == "unknown" {
				return nil
			}
		}
		return errors.New("the allocation is not unknown")
	})
}

// kept holds Nomad to what it had: the same three allocations, and nothing on
// the spare node, which could have taken one.
func (c *cluster) kept(t *testing.T, a alloc) {
	t.Helper()
	if c.byNode[a.NodeName].ID != a.ID {
		t.Errorf("allocation %s on %s, want %s as before", c.byNode[a.NodeName].ID, a.NodeName, a.ID)
	}
	all, err := c.allocs(t.Context(), "pg")
	if err != nil {
		t.Fatal(err)
	}
	alive := 0
	for _, b := range all {
		if b.NodeName == spare {
			t.Errorf("a second copy: %s was placed on %s", b.Name, spare)
		}
		if b.ClientStatus == "running" || b.ClientStatus == "pending" {
			alive++
		}
	}
	if alive != 3 {
		t.Errorf("%d allocations, want 3", alive)
	}
}

// testClientLost: Nomad loses the primary's client, and marks the allocation
// unknown. Nothing happens to the member, and no second one is started, although
// there is a node that could take it.
func (c *cluster) testClientLost(t *testing.T) {
	c.must("node", "eligibility", "-enable", c.nodeID(spare))
	a := c.primary(t)
	agent, before := c.node(a.NodeName).agent, c.record()
	c.measured(t, "primary's client lost and back", func() {
		if err := agent.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		c.unknown(a)
		if err := agent.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	})
	if after := c.record(); after.Term != before.Term {
		t.Errorf("term %d, want %d as before", after.Term, before.Term)
	}
	c.kept(t, a)
}

// testNodeLost stops all of the primary's node, as a machine that is suspended:
// both clients, and the member with its server. The others take over; when the
// node is back its member, which knows nothing of it, acknowledges no write, and
// Nomad keeps the allocation.
func (c *cluster) testNodeLost(t *testing.T) {
	c.must("node", "eligibility", "-enable", c.nodeID(spare))
	a := c.primary(t)
	n := c.node(a.NodeName)
	port := c.port(t)
	beside := startWriter(t, "beside the old primary", func(ctx context.Context) (*pgx.Conn, error) { return connect(ctx, "127.0.0.1", port) })
	c.eventually(10*time.Second, "a write beside the old primary", func(context.Context) error {
		if beside.count() == 0 {
			return fmt.Errorf("none yet, %w", beside.problem())
		}
		return nil
	})
	c.measuredWithin(t, nodeLostLimit, "primary's node stopped and back", func() {
		node := descendants(append(processes(n.volume, filepath.Join(c.dir, n.name)), n.agent.Process.Pid, n.consulAgent.Process.Pid))
		for _, pid := range node {
			syscall.Kill(pid, syscall.SIGSTOP)
		}
		c.handedOver(a)
		c.unknown(a)
		frozen := beside.count()
		for _, pid := range node {
			syscall.Kill(pid, syscall.SIGCONT)
		}
		c.whole()
		// One may have been on its way, and with a voter, when all stopped.
		if n := beside.count(); n > frozen+1 {
			t.Errorf("the old primary has acknowledged %d writes after another had taken over", n-frozen)
		}
	})
	beside.close()
	beside.dial = c.byDNS("pg")
	c.writers = append(c.writers, beside)
	c.kept(t, a)
	c.must("node", "eligibility", "-disable", c.nodeID(spare))
}

// nodeLostLimit is for a machine that is gone without a word: the failure timeout
// (2s) is waited for, and then it is an election on a machine that is busy.
const nodeLostLimit = 10 * time.Second

// testApplication runs pgbench as its job does, by the template block.
func (c *cluster) testApplication(t *testing.T) {
	c.must("var", "put", "-force", "nomad/jobs/pg-app", "password="+superuserPassword)
	c.must(append([]string{"job", "run", "-detach"}, append(vars("user", "postgres", "clients", "1", "pgbench", filepath.Join(c.binDir(), "pgbench")), jobFile("app"))...)...)
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

// fails runs the job with bad settings and waits until an allocation's log has
// the words. The cluster goes on with what it has.
func (c *cluster) fails(t *testing.T, words string, settings ...string) {
	t.Helper()
	before := c.record()
	c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars(settings...), jobFile("raw_exec"))...)...)
	c.eventually(time.Minute, "an allocation's log has "+words, func(ctx context.Context) error {
		all, err := c.allocs(ctx, "pg")
		if err != nil {
			return err
		}
		for _, a := range all {
			if strings.Contains(c.log(a.ID, "pgsidecar"), words) {
				return nil
			}
		}
		return errors.New("no")
	})
	// One member is being updated, and no other is touched before it is healthy.
	r := c.record()
	conn, err := c.byDNS("pg")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "INSERT INTO acked VALUES ('bad', 1)"); err != nil {
		t.Errorf("the cluster takes no writes: %v", err)
	}
	if r.Term > before.Term+1 {
		t.Errorf("%d changes of leader", r.Term-before.Term)
	}
}

// mended runs the job as it was before fails.
func (c *cluster) mended() {
	c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars(), jobFile("raw_exec"))...)...)
	c.whole()
}

func (c *cluster) testKillTimeout(t *testing.T) {
	c.fails(t, "kill_timeout is too short: it is 2s", "kill_timeout", "2s")
	c.mended()
}

func (c *cluster) testNoVolume(t *testing.T) {
	c.fails(t, "data directory is not on a volume", "data_dir", "${NOMAD_ALLOC_DIR}/data/pg")
	c.mended()
}

// testCutShort kills a replica that was told to end and cannot, as Nomad does
// after kill_timeout: its next task says so.
func (c *cluster) testCutShort(t *testing.T) {
	var a alloc
	for name, b := range c.byNode {
		if name != c.record().Leader {
			a = b
		}
	}
	dir := filepath.Join(c.node(a.NodeName).volume, "pg")
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	postmaster, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(postmaster, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.must("alloc", "signal", "-s", "SIGTERM", a.ID)
	c.eventually(10*time.Second, "the stop is noted", func(context.Context) error {
		_, err := os.Stat(dir + ".pgsidecar/stopping")
		return err
	})
	c.must("alloc", "signal", "-s", "SIGKILL", a.ID)
	if err := syscall.Kill(postmaster, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.says("pg", "cut short")
	c.whole()
}

// between is what all members have logged between two times, in order.
func (c *cluster) between(from, to time.Time) string {
	var lines []string
	var all []alloc
	if err := c.get(context.Background(), "/v1/allocations", &all); err != nil {
		return err.Error()
	}
	for _, a := range all {
		for line := range strings.Lines(c.log(a.ID, "pgsidecar")) {
			var entry struct {
				Timestamp time.Time `json:"@timestamp"`
			}
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Timestamp.After(from) && entry.Timestamp.Before(to) {
				lines = append(lines, entry.Timestamp.Format(logTime)+" "+a.NodeName+" "+line)
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// purge stops jobs and forgets them.
func (c *cluster) purge(jobs ...string) {
	for _, job := range jobs {
		c.command("job", "stop", "-purge", "-detach", job)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var all []alloc
		err := c.get(ctx, "/v1/allocations", &all)
		left := 0
		for _, a := range all {
			for _, job := range jobs {
				if a.JobID == job && (a.ClientStatus == "running" || a.ClientStatus == "pending") {
					left++
				}
			}
		}
		if err == nil && left == 0 {
			return
		}
		select {
		case <-ctx.Done():
			c.t.Errorf("%d allocations do not end: %v", left, err)
			return
		case <-tick.C:
		}
	}
}

// words is what the tasks have logged last, for a failure's message.
func (c *cluster) words() string {
	var all []alloc
	if err := c.get(context.Background(), "/v1/allocations", &all); err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, a := range all {
		for task, state := range a.TaskStates {
			log := c.log(a.ID, task)
			fmt.Fprintf(&b, "%s, task %s, on %s is %s, %+v:\n%s\n", a.Name, task, a.NodeName, a.ClientStatus, state, log[max(0, len(log)-3000):])
		}
	}
	return b.String()
}
