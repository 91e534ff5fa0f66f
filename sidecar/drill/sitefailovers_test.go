package drill_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
)

var siteFailovers = flag.Int("drill.sitefailovers", 0, "how many failovers TestSiteFailovers has, 4 s each; 0: it is skipped")

// siteFailoverTime is what one may take, and the end of both sites.
const siteFailoverTime = time.Minute

// streamBack is how long after its site's own pause the stream between the sites may take to
// come back here, on a machine that does other things too. A second is the aim.
const streamBack = 10 * time.Second

// TestSiteFailovers has one failover after the other, in both sites in turn, while one follows
// the other: the stream between them comes back after each, and nobody is cloned for it.
//
//	go test ./sidecar/drill -run SiteFailovers -drill.sitefailovers 100 -timeout 30m -v
func TestSiteFailovers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two clusters")
	}
	if *siteFailovers == 0 {
		t.Skip("-drill.sitefailovers names none")
	}
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	f := &followed{Lab: cluster(t, lab.Options{Isolated: true, Sites: 2})}
	f.write(t, "CREATE TABLE IF NOT EXISTS arrived (n int PRIMARY KEY)")
	data := f.data(t)
	ways := []string{"postgres-killed", "member-killed", "switchover"}
	late := map[string][]time.Duration{}
	begun, done := time.Now(), 0
	for i := range *siteFailovers {
		if deadline, ok := t.Deadline(); ok && time.Until(deadline) < siteFailoverTime {
			t.Errorf("there was time for %d of %d", i, *siteFailovers)
			break
		}
		site, way := f.Sites()[i%2], ways[i/2%len(ways)]
		pause, stream := f.failover(t, site, way, i)
		what := fmt.Sprintf("%s at %s", way, site.Name())
		t.Logf("%d: %s: its own pause %v, then the stream was back after %v", i+1, what, pause.Round(time.Millisecond), stream.Round(time.Millisecond))
		if late[what] = append(late[what], stream); stream > streamBack {
			t.Errorf("%d: %s: the stream between the sites was back %v after its site", i+1, what, stream)
		}
		now := f.data(t)
		for member, id := range data {
			if now[member] != id {
				t.Errorf("%d: %s: %s was cloned", i+1, what, member)
			}
		}
		if data = now; t.Failed() {
			break
		}
		done++
	}
	for what, all := range late {
		slices.Sort(all)
		t.Logf("%s: %d, the stream was back after the site's own pause and %v (median), %v (worst)", what, len(all), all[len(all)/2].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond))
	}
	t.Logf("%d failovers in %v", done, time.Since(begun).Round(time.Second))
}

// followed are two sites, the second of which follows the first.
type followed struct{ *lab.Lab }

// failover lets a site fail over, and returns how long that took, and how long after it a row
// of the first site, which was written after the fault, was at the second site's leader.
func (f *followed) failover(t *testing.T, site *lab.Lab, way string, n int) (pause, stream time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	before, err := site.Record(ctx)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	switch way {
	case "switchover":
		err = site.Change(ctx, before.Leader, "/switchover", []byte(`{"leader":"`+before.Leader+`"}`))
	case "postgres-killed":
		err = site.Kill(before.Leader, lab.Postgres)
	default:
		err = site.KillMember(ctx, before.Leader)
	}
	if err != nil {
		t.Fatal(err)
	}
	after, err := site.WaitRecord(ctx, func(r ha.Record) bool { return r.Term > before.Term && r.Phase == ha.PhaseLeading })
	if err != nil {
		t.Fatal(err)
	}
	pause = time.Since(begun)
	if after.Leader == before.Leader {
		t.Errorf("%s: %s leads again", way, after.Leader)
	}
	f.write(t, fmt.Sprintf("INSERT INTO arrived VALUES (%d) ON CONFLICT DO NOTHING", n))
	labtest.Eventually(t, time.Minute, "the row at the site that follows", func() error { return f.arrived(ctx, n) })
	stream = time.Since(begun) - pause
	if way == "member-killed" {
		if err := site.Start(ctx, before.Leader, lab.Sidecar); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return pause, stream
}

// write has the primary of the first site carry out a statement.
func (f *followed) write(t *testing.T, sql string) {
	t.Helper()
	labtest.Eventually(t, time.Minute, "the first site to carry out "+sql, func() error {
		var errs []error
		for _, m := range f.Plan().Members() {
			err := f.on(t.Context(), f.Lab, m.Name, true, func(ctx context.Context, conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, sql)
				return err
			})
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// arrived returns why a row is not at the leader of the second site yet; nil: it is.
func (f *followed) arrived(ctx context.Context, n int) error {
	r, err := f.Other().Record(ctx)
	if err != nil {
		return err
	}
	return f.on(ctx, f.Other(), r.Leader, false, func(ctx context.Context, conn *pgx.Conn) error {
		var is bool
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM arrived WHERE n = $1)", n).Scan(&is); err != nil || is {
			return err
		}
		return fmt.Errorf("%s has no row %d", r.Leader, n)
	})
}

// on asks a member's server.
func (f *followed) on(ctx context.Context, site *lab.Lab, member string, writes bool, ask func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	config, err := site.ConnConfig(lab.SuperuserRole, member)
	if err != nil {
		return err
	}
	if writes {
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server ends the session either way
	return ask(ctx, conn)
}

// data is what tells all members' data directories from clones of them.
func (f *followed) data(t *testing.T) map[string]int {
	t.Helper()
	all := map[string]int{}
	for _, site := range f.Sites() {
		for _, m := range site.Plan().Members() {
			id, err := site.DataID(m.Name)
			if err != nil || id == 0 {
				t.Fatalf("%s: %d, %v", m.Name, id, err)
			}
			all[m.Name] = id
		}
	}
	return all
}
