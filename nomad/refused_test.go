package nomad_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fails runs the job with bad settings and waits until an allocation's log has
// the words. The cluster goes on with what it has.
func (c *cluster) fails(t *testing.T, words string, settings ...string) {
	t.Helper()
	before := c.record()
	c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars(settings...), c.jobFile("raw_exec"))...)...)
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
	c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars(), c.jobFile("raw_exec"))...)...)
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

// testNoHostVolume: Nomad finds no node for an update that asks for a volume
// which none has. It says so, and leaves the members alone.
func (c *cluster) testNoHostVolume(t *testing.T) {
	before, record := c.byNode, c.record()
	args := append(c.clusterVars("volume", "elsewhere"), c.jobFile("raw_exec"))
	const words = "missing compatible host volumes"
	if out, status := c.command(append([]string{"job", "plan"}, args...)...); status != 1 || !strings.Contains(out, words) {
		t.Errorf("nomad job plan: exit status %d, expected 1 and %q:\n%s", status, words, out)
	}
	c.must(append([]string{"job", "run", "-detach"}, args...)...)
	c.eventually(time.Minute, "nomad job status says "+words, func(context.Context) error {
		out, _ := c.command("job", "status", "pg")
		if !strings.Contains(out, words) {
			return errors.New(out)
		}
		return nil
	})
	c.whole()
	for name, a := range before {
		if c.byNode[name].ID != a.ID {
			t.Errorf("the member on %s was replaced", name)
		}
	}
	if after := c.record(); after.Term != record.Term {
		t.Errorf("%d changes of leader", after.Term-record.Term)
	}
	c.mended()
}

// testNoVariables: a task whose passwords are not in Nomad's variables waits for
// them; one of which a password is missing does not start with another.
func (c *cluster) testNoVariables(t *testing.T) {
	const job = "pg-no-variables"
	c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars("job", job, "count", "1", "standbys", "0",
		"data_dir", "${meta.pgdata}/"+job), c.jobFile("raw_exec"))...)...)
	c.event(job, "Missing: nomad.var.block(nomad/jobs/"+job)
	c.must("var", "put", "-force", "nomad/jobs/"+job, "superuser="+superuserPassword, "api="+apiToken)
	c.says(job, "replication.password is empty")
	for _, n := range c.nodes {
		if _, err := os.Stat(filepath.Join(n.volume, job)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a data directory was made on %s without all passwords: %v", n.name, err)
		}
	}
	c.must("var", "put", "-force", "nomad/jobs/"+job, "superuser="+superuserPassword, "replication="+replicationPassword, "api="+apiToken)
	c.eventually(time.Minute, "a write, when the passwords are there", func(ctx context.Context) error {
		conn, err := c.byDNS(job)(ctx)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "CREATE TABLE t ()")
		return err
	})
	c.purge(job)
}

// event waits until Nomad says the words of a task of the job, as nomad alloc
// status shows it.
func (c *cluster) event(job, words string) {
	c.t.Helper()
	c.eventually(time.Minute, "Nomad says of "+job+": "+words, func(ctx context.Context) error {
		all, err := c.allocs(ctx, job)
		if err != nil {
			return err
		}
		var said []string
		for _, a := range all {
			for _, state := range a.TaskStates {
				for _, e := range state.Events {
					if strings.Contains(e.DisplayMessage, words) {
						c.t.Logf("%s: %s", job, e.DisplayMessage)
						return nil
					}
					said = append(said, e.DisplayMessage)
				}
			}
		}
		return fmt.Errorf("it says %q", said)
	})
}
