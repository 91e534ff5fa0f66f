package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// WaitReady waits until the cluster is whole: Consul's health names one primary
// and all others as replicas, all passing; each member's sidecar says so of itself;
// all others stream from the primary and have flushed what it writes now; and the
// record says that as many voters hold each commit as were configured. Consul is
// watched; sidecars and PostgreSQL, which tell nobody, are asked.
//
// What Consul, the record and a primary's list of streams say of a member that was
// lost a moment ago is what they knew of it before: only what it does now counts.
//
// Of two sites the one that takes the writes is to be like this, and the other to follow it.
//
// It gives up when a sidecar ends.
func (l *Lab) WaitReady(ctx context.Context) error {
	if l.other != nil {
		return l.waitSites(ctx)
	}
	return l.waitWhole(ctx)
}

// waitWhole waits for the cluster of one site that takes writes.
func (l *Lab) waitWhole(ctx context.Context) error {
	ctx, stop := l.whileSidecarsRun(ctx)
	defer stop()
	if l.agent != nil {
		return l.waitAgentWhole(ctx)
	}
	for {
		primary, err := l.waitRegistered(ctx)
		if err != nil {
			return err
		}
		if err := l.present(ctx, primary); err != nil {
			if again := askAgain(ctx, err); again != nil {
				return fmt.Errorf("wait until all members follow %s: %w", primary, again)
			}
			continue
		}
		if err := l.waitDurable(ctx); err != nil {
			return err
		}
		if still, err := l.waitRegistered(ctx); err != nil || still == primary {
			return err
		}
	}
}

// present asks every member now: each sidecar for its role, and the primary's server
// for the streams of all others.
func (l *Lab) present(ctx context.Context, primary string) error {
	if err := l.waitStreaming(ctx, primary); err != nil {
		return err
	}
	for _, h := range l.plan.Members() {
		path := "/replica?replication_state=streaming"
		if h.Name == primary {
			path = "/primary"
		}
		if err := l.ask(ctx, h, path); err != nil {
			return err
		}
	}
	return nil
}

// streamTimeout is how long replicas are waited for before Consul is asked again
// who is primary: it may be another by then.
const streamTimeout = 5 * time.Second

// waitStreaming writes a mark on the primary, and waits until all others have
// flushed it: a stream whose other end is gone is listed for a while.
func (l *Lab) waitStreaming(ctx context.Context, primary string) error {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	config, err := l.ConnConfig(SuperuserRole, primary)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("ask %s who streams from it: %w", primary, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var mark string
	// Not synchronously: who is to flush it may not be there.
	if _, err := conn.Exec(ctx, "SET synchronous_commit = local"); err != nil {
		return fmt.Errorf("write a mark on %s: %w", primary, err)
	}
	if err := conn.QueryRow(ctx, "SELECT pg_logical_emit_message(true, 'lab', 'whole')::text").Scan(&mark); err != nil {
		return fmt.Errorf("write a mark on %s: %w", primary, err)
	}
	var others []string
	for _, h := range l.plan.Members() {
		if h.Name != primary {
			others = append(others, h.Name)
		}
	}
	streaming := 0
	err = every(ctx, 50*time.Millisecond, func() (bool, error) {
		err := conn.QueryRow(ctx, `SELECT count(DISTINCT application_name) FROM pg_stat_replication
			WHERE application_name = ANY ($1) AND state = 'streaming' AND flush_lsn >= $2::pg_lsn`, others, mark).Scan(&streaming)
		return streaming == len(others), err
	})
	if err != nil {
		return fmt.Errorf("wait until %d replicas stream from %s, and not %d: %w", len(others), primary, streaming, err)
	}
	return nil
}

// whileSidecarsRun returns a context that ends, with a cause that says why, when
// a sidecar that runs now ends. The caller calls stop.
func (l *Lab) whileSidecarsRun(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	for _, h := range l.plan.Members() {
		p, err := l.find(h, Sidecar)
		if err != nil {
			continue
		}
		watching.Go(func() {
			defer p.close()
			if p.wait(ctx) == nil {
				cancel(fmt.Errorf("sidecar on %s: %w any more; it said:\n%s", h.Name, ErrNotRunning, lastWords(h, Sidecar)))
			}
		})
	}
	return ctx, func() {
		cancel(nil)
		watching.Wait()
	}
}

// waitRegistered waits for one passing primary and the others as passing
// replicas. It returns the primary's name.
func (l *Lab) waitRegistered(ctx context.Context) (string, error) {
	client, err := l.ConsulClient(l.plan.App().Name)
	if err != nil {
		return "", err
	}
	var index uint64
	var seen string
	for {
		q := (&api.QueryOptions{WaitIndex: index, WaitTime: time.Minute}).WithContext(ctx)
		services, meta, err := client.Health().Service(l.plan.Cluster, "", true, q)
		if err != nil {
			if again := askAgain(ctx, err); again != nil {
				return "", fmt.Errorf("wait for the members in Consul (seen: %s): %w", seen, again)
			}
			index = 0
			continue
		}
		var primaries, replicas []string
		for _, s := range services {
			for _, tag := range s.Service.Tags {
				switch tag {
				case "primary":
					primaries = append(primaries, s.Node.Node)
				case "replica":
					replicas = append(replicas, s.Node.Node)
				}
			}
		}
		if len(primaries) == 1 && len(replicas) == len(l.plan.Members())-1 {
			return primaries[0], nil
		}
		seen = fmt.Sprintf("primary %v, replicas %v", primaries, replicas)
		index = meta.LastIndex
	}
}

// waitDurable waits until the record in Consul has all members, and asks for the
// standbys that it is to ask for: before, a failover may have to wait for a
// primary that nobody has all the commits of.
func (l *Lab) waitDurable(ctx context.Context) error {
	client, err := l.ConsulClient(l.plan.App().Name)
	if err != nil {
		return err
	}
	var index uint64
	var r ha.Record
	for {
		q := (&api.QueryOptions{WaitIndex: index, WaitTime: time.Minute}).WithContext(ctx)
		pair, meta, err := client.KV().Get(l.plan.Prefix+"/"+l.plan.Cluster+"/state", q)
		if err != nil {
			if again := askAgain(ctx, err); again != nil {
				return fmt.Errorf("wait for the cluster's record (leader %s, %s, %+v): %w", r.Leader, r.Phase, r.Durability, again)
			}
			index = 0
			continue
		}
		if pair != nil {
			if err := json.Unmarshal(pair.Value, &r); err != nil {
				return fmt.Errorf("read the cluster's record: %w", err)
			}
			if l.durable(r) {
				return nil
			}
		}
		index = meta.LastIndex
	}
}

// askAgain waits a little after Consul gave no answer: it may be coming back
// from a drill. When the context has ended it says why, and what Consul said.
func askAgain(ctx context.Context, err error) error {
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), err)
	case <-timer.C:
		return nil
	}
}

func (l *Lab) durable(r ha.Record) bool {
	if r.Phase != ha.PhaseLeading || len(r.Members) != len(l.plan.Members()) {
		return false
	}
	if l.plan.Mode == string(ha.ModeAsync) {
		return true
	}
	others := len(r.Members) - 1
	return r.Durability.K == min(l.plan.Standbys, others) &&
		len(r.Durability.Voters) == min(2*l.plan.Standbys, others) && !r.Durability.Has(r.Leader)
}

// WaitServer waits until a member's server answers as a standby, or as a primary.
func (l *Lab) WaitServer(ctx context.Context, member string, standby bool) error {
	config, err := l.ConnConfig(SuperuserRole, member)
	if err != nil {
		return err
	}
	var last error
	err = every(ctx, 50*time.Millisecond, func() (bool, error) {
		var is bool
		is, last = inRecovery(ctx, config)
		return last == nil && is == standby, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the server of %s (a standby: %t): %w", member, standby, errors.Join(err, last))
	}
	return nil
}

func inRecovery(ctx context.Context, config *pgx.ConnConfig) (is bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return is, conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&is)
}

// ConnConfig returns how the application connects, as a role, directly to a
// member's server. Change its Host and Port for another way.
func (l *Lab) ConnConfig(role, member string) (*pgx.ConnConfig, error) {
	h, err := l.plan.Host(member)
	if err != nil {
		return nil, err
	}
	dial, err := l.Dialer(l.plan.App().Name)
	if err != nil {
		return nil, err
	}
	password, err := os.ReadFile(l.plan.PasswordFile(role))
	if err != nil {
		return nil, fmt.Errorf("read a password: %w", err)
	}
	config, err := pgx.ParseConfig("sslmode=disable connect_timeout=2")
	if err != nil {
		return nil, fmt.Errorf("make a connection's configuration: %w", err)
	}
	config.Host, config.Port = h.Address, uint16(h.Ports.Postgres)
	config.User, config.Password, config.Database = role, strings.TrimSpace(string(password)), "postgres"
	config.Fallbacks = nil
	config.DialFunc = dial
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	return config, nil
}

// Status is what a lab is at a moment.
type Status struct {
	Dir   string       `json:"dir"`
	ID    string       `json:"id"`
	Hosts []HostStatus `json:"hosts"`
	// Site is the datacenter of one of two, and Other the second one, as the first tells it.
	Site  string  `json:"site,omitempty"`
	Other *Status `json:"other,omitempty"`
}

// HostStatus is what runs on a host.
type HostStatus struct {
	Host
	PIDs map[Program]int `json:"pids"` // only of what runs
	// Tags are the member's tags in Consul's catalog, and Checks the state of
	// its checks, worst first; both empty when it is not registered.
	Tags   []string `json:"tags,omitempty"`
	Health string   `json:"health,omitempty"`
}

// Status looks at the lab's processes, and asks Consul for the members' tags
// and health. Where Consul does not answer within two seconds they are left
// out.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	s := Status{Dir: l.plan.Dir, ID: l.plan.ID}
	if l.other != nil {
		s.Site = l.Name()
	}
	if l.other != nil && l.ownsWAN() {
		other, err := l.other.Status(ctx)
		if err != nil {
			return Status{}, err
		}
		s.Other = &other
	}
	for _, h := range l.plan.Hosts {
		hs := HostStatus{Host: h, PIDs: map[Program]int{}}
		for _, program := range []Program{Consul, Sidecar, Guard, Postgres, HAProxy, Proxy, PgBouncer} {
			pid, err := l.PID(h.Name, program)
			if errors.Is(err, ErrNotRunning) {
				continue
			}
			if err != nil {
				return Status{}, err
			}
			hs.PIDs[program] = pid
		}
		s.Hosts = append(s.Hosts, hs)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	client, err := l.ConsulClient(l.plan.App().Name)
	if err != nil {
		return Status{}, err
	}
	services, _, err := client.Health().Service(l.plan.Cluster, "", false, new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return s, nil
	}
	for _, service := range services {
		for i := range s.Hosts {
			if s.Hosts[i].Name == service.Node.Node {
				s.Hosts[i].Tags, s.Hosts[i].Health = service.Service.Tags, service.Checks.AggregatedStatus()
			}
		}
	}
	return s, nil
}
