package drill

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// byHandTimeout is how long a person waits for the server to work on.
const byHandTimeout = time.Minute

// onStandby waits until a member's server runs as a standby, as a person does who is
// about to work on it.
func onStandby(ctx context.Context, c Cast, member string) error {
	return onServer(ctx, c, member, true)
}

func onServer(ctx context.Context, c Cast, member string, standby bool) error {
	ctx, cancel := context.WithTimeout(ctx, byHandTimeout)
	defer cancel()
	return c.Lab.WaitServer(ctx, member, standby)
}

// byHandScenarios are what people do to the servers with PostgreSQL's own programs.
// Nobody undoes what they did: the cluster is to find it and to get over it.
func byHandScenarios() []Scenario {
	var data int // the data directory before the fault
	return []Scenario{
		{
			Name: "replica-promoted", Why: "a person promotes a replica (pg_ctl promote): it is found, and cloned anew", Away: true, Expect: Stays,
			Hold: 3 * time.Second,
			Fault: func(ctx context.Context, c Cast) (err error) {
				if err := onStandby(ctx, c, c.Replicas[0]); err != nil {
					return err
				}
				if data, err = c.Lab.DataID(c.Replicas[0]); err != nil {
					return err
				}
				return c.Lab.PgCtl(ctx, c.Replicas[0], "promote", "--no-wait")
			},
			Check: func(ctx context.Context, c Cast) error { return cloned(ctx, c, c.Replicas[0], data) },
		},
		{
			Name: "replica-written", Why: "a person starts a stopped replica as a primary, writes to it, and gives it back as a standby; then the primary is killed, and comes back",
			Away: true, Expect: Moves,
			Fault: func(ctx context.Context, c Cast) (err error) {
				if err := onStandby(ctx, c, c.Replicas[0]); err != nil {
					return err
				}
				if data, err = c.Lab.DataID(c.Replicas[0]); err != nil {
					return err
				}
				return writeReplica(ctx, c)
			},
			Check: func(ctx context.Context, c Cast) error { return cloned(ctx, c, c.Replicas[0], data) },
			Undo: func(ctx context.Context, c Cast) error {
				return errors.Join(startAbsent(ctx, c, c.Replicas[0], lab.Sidecar), startSidecar(ctx, c))
			},
		},
		{
			Name: "primary-restarted", Why: "a person restarts the primary's PostgreSQL beside the sidecar (pg_ctl restart)", Away: true, Expect: Either,
			Hold: 3 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				if err := onServer(ctx, c, c.Primary, false); err != nil {
					return err
				}
				return c.Lab.PgCtl(ctx, c.Primary, "restart", "--no-wait")
			},
		},
		{
			Name: "replica-restarted", Why: "a person restarts a replica's PostgreSQL beside the sidecar (pg_ctl restart)", Away: true, Expect: Stays,
			Hold: 3 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				if err := onStandby(ctx, c, c.Replicas[0]); err != nil {
					return err
				}
				return c.Lab.PgCtl(ctx, c.Replicas[0], "restart", "--no-wait")
			},
		},
	}
}

// cloned waits until a member has another data directory than it had.
func cloned(ctx context.Context, c Cast, member string, had int) error {
	_, err := waitUntil(ctx, func() (int, error) { return c.Lab.DataID(member) }, func(id int) bool { return id != 0 && id != had })
	if err != nil {
		return fmt.Errorf("wait until %s is cloned anew: %w", member, err)
	}
	return nil
}

// writeReplica gives a replica a history of its own, waits until no commit counts on
// it, and kills the primary in the moment in which the replica is back.
func writeReplica(ctx context.Context, c Cast) error {
	replica := c.Replicas[0]
	if err := c.Lab.Signal(replica, lab.Sidecar, syscall.SIGTERM); err != nil {
		return err
	}
	if err := gone(ctx, c, replica, lab.Sidecar, lab.Postgres); err != nil {
		return err
	}
	if err := c.Lab.PrimaryByHand(ctx, replica); err != nil {
		return err
	}
	others, err := c.Lab.WaitRecord(ctx, func(r ha.Record) bool {
		return r.Phase == ha.PhaseLeading && (r.Durability.Mode == ha.ModeAsync || r.Durability.K > 0 && !r.Durability.Has(replica))
	})
	if err != nil {
		return fmt.Errorf("wait until no commit counts on %s (voters %v): %w", replica, others.Durability.Voters, err)
	}
	if err := startAbsent(ctx, c, replica, lab.Sidecar); err != nil {
		return err
	}
	if err := kill(ctx, c, c.Primary, lab.Sidecar, lab.Guard, lab.Postgres); err != nil {
		return err
	}
	return startSidecar(ctx, c)
}

// keyScenarios are what people do to what the cluster keeps in Consul.
func keyScenarios() []Scenario {
	without := func(which lab.Keys) func(context.Context, Cast) error {
		return func(ctx context.Context, c Cast) error { return c.Lab.DeleteKeys(ctx, which) }
	}
	restated := func(ctx context.Context, c Cast) error {
		if _, err := c.Lab.WaitRecord(ctx, func(r ha.Record) bool { return r.Phase == ha.PhaseLeading }); err != nil {
			return fmt.Errorf("wait until Consul has the record again: %w", err)
		}
		return nil
	}
	var term uint64 // of the primary that Consul forgets
	return []Scenario{
		{
			Name: "keys-deleted", Why: "all keys of the cluster are deleted in Consul", Expect: Stays, Hold: 5 * time.Second,
			Fault: without(lab.AllKeys), Check: restated,
		},
		{
			Name: "record-deleted", Why: "the cluster's record (the key state) is deleted in Consul", Expect: Stays, Hold: 5 * time.Second,
			Fault: without(lab.StateKey), Check: restated,
		},
		{
			Name: "lock-deleted", Why: "the leader lock (the key leader) is deleted in Consul", Expect: Stays, Hold: 5 * time.Second,
			Fault: without(lab.LockKey), Check: restated,
		},
		{
			Name: "consul-restored", Why: "Consul is put back to a snapshot from before a failover", Catalog: true, Expect: Moves, Hold: 5 * time.Second,
			Fault: func(ctx context.Context, c Cast) (err error) {
				term, err = restoreConsul(ctx, c)
				return err
			},
			Check: func(ctx context.Context, c Cast) error {
				if _, err := c.Lab.WaitRecord(ctx, func(r ha.Record) bool { return r.Term >= term && r.Phase == ha.PhaseLeading }); err != nil {
					return fmt.Errorf("wait until Consul has the record of term %d again: %w", term, err)
				}
				return nil
			},
		},
	}
}

// restoreConsul takes a snapshot, loses the primary's server, waits for the next
// primary, and puts Consul back. It returns that primary's term.
func restoreConsul(ctx context.Context, c Cast) (uint64, error) {
	before, err := c.Lab.Record(ctx)
	if err != nil {
		return 0, err
	}
	snapshot, err := c.Lab.SaveConsul(ctx)
	if err != nil {
		return 0, err
	}
	if err := c.Lab.Kill(c.Primary, lab.Postgres); err != nil {
		return 0, err
	}
	// The new primary is to have voters again: its first seconds are another fault's.
	led := func(r ha.Record) bool {
		return r.Term > before.Term && r.Phase == ha.PhaseLeading && (r.Durability.Mode == ha.ModeAsync || r.Durability.K > 0)
	}
	now, err := c.Lab.WaitRecord(ctx, led)
	if err != nil {
		return 0, fmt.Errorf("wait for the next primary: %w", err)
	}
	return now.Term, c.Lab.RestoreConsul(ctx, snapshot)
}
