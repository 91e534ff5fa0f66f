package checks_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/checks"
)

// TestFull: a server all of whose sessions are used is told from one that refuses this
// program alone.
func TestFull(t *testing.T) {
	p := primary(t, "n1")
	ctx := within(t, time.Minute)
	config := p.sql().Config()
	for {
		other, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			break
		}
		t.Cleanup(func() { _ = other.Close(t.Context()) })
	}
	conn := p.newConn()
	defer conn.Close()
	_, err := conn.Read(ctx)
	if !checks.Full(err) || checks.Refusal(err) == "" {
		t.Errorf("full %t, refusal %q: %v", checks.Full(err), checks.Refusal(err), err)
	}
	if checks.Full(nil) || checks.Full(ctx.Err()) {
		t.Error("what is no refusal is taken for one")
	}
}
