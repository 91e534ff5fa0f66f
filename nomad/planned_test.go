package nomad_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

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
	out, status := c.command(append([]string{"job", "plan"}, append(c.clusterVars(), c.jobFile("raw_exec"))...)...)
	if status != 0 {
		t.Errorf("exit status %d, want 0: no changes\n%s", status, out)
	}
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
		c.must(append([]string{"job", "run", "-detach"}, append(c.clusterVars("cpu", cpu), c.jobFile("raw_exec"))...)...)
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
