package checks_test

import (
	"context"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
)

// TestSiteSession: a session with a server of another site tells when it has ended, and is as
// good as before where nobody waited long enough for that.
func TestSiteSession(t *testing.T) {
	s := primary(t, "n1")
	ctx := within(t, 10*time.Second)
	session, err := checks.DialSite(ctx, checks.Upstream{Host: "127.0.0.1", Port: s.port, User: "postgres", Self: "n9"}, func() (string, error) { return "", nil })
	must(t, err)
	defer session.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server ends the session either way
	for range 2 {
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		must(t, session.Wait(short))
		cancel()
		said, err := session.Ask(ctx)
		must(t, err)
		if said.Standby || said.SystemID == "" {
			t.Errorf("it says %+v", said)
		}
	}
	must(t, session.EnsureSlot(ctx, "site_pg2_n9"))
	must(t, session.DropSlot(ctx, "site_pg2_n9"))
	ended := make(chan error, 1)
	go func() { ended <- session.Wait(ctx) }()
	s.exec("select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'walsender'")
	if err := <-ended; err == nil || ctx.Err() != nil {
		t.Errorf("the session has ended: %v; %v", err, ctx.Err())
	}
	if _, err := session.Ask(ctx); err == nil {
		t.Error("it answers after its end")
	}
}
