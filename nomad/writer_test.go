package nomad_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// writer is an application: it inserts rows one after the other through one
// way to the primary, connects again when that ends, and knows which rows were
// acknowledged.
type writer struct {
	name   string
	dial   func(ctx context.Context) (*pgx.Conn, error)
	stop   context.CancelFunc
	ended  sync.WaitGroup
	mu     sync.Mutex
	acked  []int
	last   time.Time     // of an acknowledgement
	pause  time.Duration // the longest between two, since forget
	over   time.Time     // when that one ended
	failed error         // the last failure
}

// patience is how long a writer waits for one answer, as an application with a
// statement's time limit would.
const patience = 2 * time.Second

func startWriter(t *testing.T, name string, dial func(context.Context) (*pgx.Conn, error)) *writer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{name: name, dial: dial, stop: cancel, last: time.Now()}
	w.ended.Go(func() { w.run(ctx) })
	t.Cleanup(w.close)
	return w
}

func (w *writer) close() {
	w.stop()
	w.ended.Wait()
}

func (w *writer) run(ctx context.Context) {
	var conn *pgx.Conn
	again := time.NewTimer(0)
	defer again.Stop()
	for id := 1; ctx.Err() == nil; id++ {
		err := w.write(ctx, &conn, id)
		w.note(id, err)
		if err == nil {
			continue
		}
		if conn != nil {
			closing, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			conn.Close(closing)
			cancel()
			conn = nil
		}
		again.Reset(10 * time.Millisecond)
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
	if conn != nil {
		conn.Close(context.Background())
	}
}

func (w *writer) write(ctx context.Context, conn **pgx.Conn, id int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if *conn == nil {
		c, err := w.dial(ctx)
		if err != nil {
			return err
		}
		*conn = c
	}
	_, err := (*conn).Exec(ctx, "INSERT INTO acked VALUES ($1, $2)", w.name, id)
	return err
}

func (w *writer) note(id int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.failed = err
		return
	}
	now := time.Now()
	if pause := now.Sub(w.last); pause > w.pause {
		w.pause, w.over = pause, now
	}
	w.last, w.acked = now, append(w.acked, id)
}

// forget begins a new measurement.
func (w *writer) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pause, w.over = 0, time.Time{}
}

// longest is the longest pause between two acknowledgements since forget, one
// that is not over included, and when it ended.
func (w *writer) longest() (pause time.Duration, over time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if since := time.Since(w.last); since > w.pause {
		return since, time.Now()
	}
	return w.pause, w.over
}

// count is the number of acknowledged rows.
func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// problem is the last failure.
func (w *writer) problem() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// lost returns the acknowledged rows that are not there.
func (w *writer) lost(ctx context.Context) (acked int, lost []int, err error) {
	conn, err := w.dial(ctx)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "SELECT id FROM acked WHERE writer = $1", w.name)
	if err != nil {
		return 0, nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return 0, nil, err
	}
	there := make(map[int]bool, len(ids))
	for _, id := range ids {
		there[id] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range w.acked {
		if !there[id] {
			lost = append(lost, id)
		}
	}
	return len(w.acked), lost, nil
}

// connect connects as the superuser, whose password is the test's own.
func connect(ctx context.Context, host string, port int) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres sslmode=disable", host, port))
	if err != nil {
		return nil, err
	}
	config.Password, config.Fallbacks = superuserPassword, nil
	return pgx.ConnectConfig(ctx, config)
}

// port is where the primary listens, by Consul's DNS.
func (c *cluster) port(t *testing.T) int {
	t.Helper()
	conn, err := c.byDNS("pg")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	return int(conn.Config().Port)
}

// byDNS connects to what Consul's DNS says is the primary: its SRV record, for
// the port is Nomad's choice.
func (w *world) byDNS(service string) func(context.Context) (*pgx.Conn, error) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, w.dns)
	}}
	return func(ctx context.Context) (*pgx.Conn, error) {
		_, found, err := resolver.LookupSRV(ctx, "", "", "primary."+service+".service.consul.")
		if err != nil {
			return nil, err
		}
		if len(found) != 1 {
			return nil, fmt.Errorf("%d primaries in DNS", len(found))
		}
		return connect(ctx, "127.0.0.1", int(found[0].Port))
	}
}

// byHAProxy connects through the HAProxy job.
func (w *world) byHAProxy(ctx context.Context) (*pgx.Conn, error) {
	return connect(ctx, "127.0.0.1", w.haproxy[0])
}

// superuserPassword and replicationPassword are put into Nomad's variables.
const (
	superuserPassword   = "s3cret-of-the-superuser"
	replicationPassword = "s3cret-of-the-replicas"
	apiToken            = "s3cret-of-the-api"
)

func vars(pairs ...string) []string {
	var args []string
	for i := 0; i < len(pairs); i += 2 {
		args = append(args, "-var", pairs[i]+"="+pairs[i+1])
	}
	return args
}

// clusterVars are the raw_exec job's variables for this machine.
func (w *world) clusterVars(more ...string) []string {
	return vars(append([]string{"command", w.pgsidecar, "consul", "${meta.consul}", "bin_dir", w.binDir(), "data_dir", "${meta.pgdata}/pg", "cpu", "100", "memory", "300",
		"hba", `["host all all 127.0.0.1/32 scram-sha-256"]`, "min_healthy_time", "3s",
		"parameters", `{ shared_buffers = "16MB", dynamic_shared_memory_type = "mmap" }`}, more...)...)
}

// haproxyVars are the HAProxy job's.
func (w *world) haproxyVars(more ...string) []string {
	return vars(append([]string{"command", w.pgsidecar, "consul", "${meta.consul}", "node_pool", "apps", "bind", "127.0.0.1", "primary_port", strconv.Itoa(w.haproxy[0]),
		"replica_port", strconv.Itoa(w.haproxy[1])}, more...)...)
}
