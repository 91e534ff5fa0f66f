package drill

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// lateServer returns the configuration of a client whose server lets it in after some time,
// with the connect_timeout that those of a lab have.
func lateServer(t *testing.T, late time.Duration) *pgx.ConnConfig {
	t.Helper()
	config, err := pgx.ParseConfig("host=192.0.2.1 user=drill sslmode=disable connect_timeout=2")
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	var servers sync.WaitGroup
	t.Cleanup(servers.Wait)
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		servers.Go(func() { letIn(server, late) })
		return client, nil
	}
	return config
}

// letIn is a server that is slow to let a client in, takes every query for one whether it
// is read only, and ends with the client.
func letIn(conn net.Conn, late time.Duration) {
	defer conn.Close()
	b := pgproto3.NewBackend(conn, conn)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return
	}
	time.Sleep(late)
	b.Send(&pgproto3.AuthenticationOk{})
	for {
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		if b.Flush() != nil {
			return
		}
		m, err := b.Receive()
		if _, asked := m.(*pgproto3.Query); err != nil || !asked {
			return
		}
		b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("transaction_read_only"), DataTypeOID: 25, DataTypeSize: -1}}})
		b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte("off")}})
		b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SHOW")})
	}
}

// A client that is patient is let in by a server that takes longer than the connect_timeout
// of its configuration: each that gives up then makes the crowd larger, for which a busy
// machine never has the time. An impatient one gives up when its own time is over.
func TestPatienceIsTheClients(t *testing.T) {
	members := []lab.Host{{Address: "192.0.2.1"}, {Address: "192.0.2.2"}}
	for name, connect := range map[string]func(*pgx.ConnConfig) func(context.Context) (*pgx.Conn, error){
		"one address": func(base *pgx.ConnConfig) func(context.Context) (*pgx.Conn, error) {
			return to(base, "192.0.2.1", 5432)
		},
		"both sites": func(base *pgx.ConnConfig) func(context.Context) (*pgx.Conn, error) { return anyOf(base, members) },
		"multi-host": func(base *pgx.ConnConfig) func(context.Context) (*pgx.Conn, error) { return multiHost(base, members) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, test := range []struct {
					patience time.Duration
					in       bool
				}{{10 * time.Second, true}, {3500 * time.Millisecond, false}} {
					ctx, cancel := context.WithTimeout(t.Context(), test.patience)
					begun := time.Now()
					conn, err := connect(lateServer(t, 4*time.Second))(ctx)
					cancel()
					if err == nil {
						closeNow(conn)
					}
					if (err == nil) != test.in {
						t.Errorf("a client that waits for %v gave up after %v: %v", test.patience, time.Since(begun), err)
					}
				}
			})
		})
	}
}

// At an address at which nobody answers nobody waits for long, however patient: the way may
// be open elsewhere by now.
func TestNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := lateServer(t, 0)
		config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), longestPatience)
		defer cancel()
		begun := time.Now()
		_, err := to(config, "192.0.2.1", 5432)(ctx)
		if took := time.Since(begun); took != dialTimeout || kind(err) != "timeout" {
			t.Errorf("given up after %v: %v", took, err)
		}
	})
}
