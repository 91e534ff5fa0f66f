package checks_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/checks"
)

// client is one of the application's, until the end of the test.
func (s *server) client(ctx context.Context) *pgx.Conn {
	s.t.Helper()
	c, err := pgx.Connect(ctx, fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=disable", s.port))
	must(s.t, err)
	s.t.Cleanup(func() { c.Close(context.WithoutCancel(ctx)) })
	return c
}

func do(t testing.TB, c *pgx.Conn, sql string) {
	t.Helper()
	_, err := c.Exec(within(t, 10*time.Second), sql)
	must(t, err)
}

// A planned stop waits for what clients had begun before proxies held them, and then
// looks for a moment in which nothing is open.
func TestDrainAndLull(t *testing.T) {
	p := primary(t, "n1")
	ctx := within(t, time.Minute)
	early, late := p.client(ctx), p.client(ctx)
	do(t, early, "begin; select 1")
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := p.conn.Drain(short, 20*time.Millisecond); !errors.Is(err, checks.ErrTransactions) {
		t.Fatalf("drain with an open transaction: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.conn.Drain(ctx, 20*time.Millisecond) }()
	do(t, early, "commit")
	must(t, <-ended)

	// What began later forbids nothing, and is waited for a while.
	do(t, late, "begin; select 1")
	short, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	must(t, p.conn.WaitQuietFor(short, func() bool { return true }))
	if short.Err() == nil {
		t.Fatalf("a lull after %v, with a transaction open", time.Since(begun))
	}
	lull := make(chan error, 1)
	asked := make(chan struct{}, 1000)
	go func() {
		lull <- p.conn.WaitQuietFor(ctx, func() bool { asked <- struct{}{}; return true })
	}()
	<-asked
	do(t, late, "commit")
	must(t, <-lull)
	if ctx.Err() != nil {
		t.Fatal(ctx.Err())
	}

	// Neither is there a lull while the caller sees none.
	short, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	must(t, p.conn.WaitQuietFor(short, func() bool { return false }))
	if short.Err() == nil {
		t.Fatal("a lull that the caller did not see")
	}
}
