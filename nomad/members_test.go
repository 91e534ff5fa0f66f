package nomad_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

func (w *world) binDir() string {
	dir, err := programs.PostgresBin()
	if err != nil {
		w.t.Fatal(err)
	}
	return dir
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
