package nomad_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/nomad"
)

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

// offerSpare lets the spare node take a second copy of a member, which Nomad is not
// to make. One older than 1.8 would: its job file says to have no such node.
func (c *cluster) offerSpare() {
	if c.release == nomad.Release16 {
		c.t.Log("without a spare node: Nomad before 1.8 would start a second copy there")
		return
	}
	c.must("node", "eligibility", "-enable", c.nodeID(spare))
}

// testClientLost: Nomad loses the primary's client, and marks the allocation
// unknown. Nothing happens to the member, and no second one is started, although
// there is a node that could take it.
func (c *cluster) testClientLost(t *testing.T) {
	c.offerSpare()
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
	c.offerSpare()
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
