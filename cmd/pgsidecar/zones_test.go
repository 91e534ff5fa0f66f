package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// TestZones: commits wait for the standby in the other zone, and for it alone: while it is
// gone they wait, and the command that status names lets them continue in one zone. After a
// switchover into the other zone they are held in the first.
func TestZones(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	o := newOperated(t)
	st := o.whole(t)
	replicas := o.replicas(st)
	near, far := replicas[0], replicas[1]
	status, _, said := command(t, "settings", "set", "--yes", "durability.zones=2")
	if status == 0 || !strings.Contains(said, "the zone of ") {
		t.Fatalf("zones without tags: status %d, %q", status, said)
	}
	o.good(t, fmt.Sprintf("settings set --yes tags.%s.zone=a tags.%s.zone=a tags.%s.zone=b durability.zones=2", st.Leader, near, far))
	o.until(t, "a setting across zones", func() bool {
		return o.asked(t, st.Leader, "show synchronous_standby_names") == `ANY 1 ("`+far+`")`
	})

	if err := o.KillMember(t.Context(), far); err != nil {
		t.Fatal(err)
	}
	config, err := o.ConnConfig(lab.SuperuserRole, st.Leader)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	committed := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "create table zoned ()")
		committed <- err
	}()
	const override = "pgsidecar settings set durability.zones=1"
	o.until(t, "block", func() bool {
		_, shown, _ := command(t, "status")
		return strings.Contains(shown, "in a zone other than a") && strings.Contains(shown, override)
	})
	select {
	case err := <-committed:
		t.Fatalf("a commit did not wait for the other zone: %v", err)
	default:
	}
	o.good(t, strings.TrimPrefix(override, "pgsidecar ")+" --yes")
	select {
	case err := <-committed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the commit still waits")
	}

	if err := o.Start(t.Context(), far, lab.Sidecar); err != nil {
		t.Fatal(err)
	}
	o.whole(t)
	o.good(t, "settings set --yes durability.zones=2")
	o.good(t, "switchover --to "+far)
	o.until(t, "a setting of the first zone", func() bool {
		names := o.asked(t, far, "show synchronous_standby_names")
		both := []string{st.Leader, near}
		slices.Sort(both)
		return names == `ANY 1 ("`+strings.Join(both, `", "`)+`")`
	})
}
