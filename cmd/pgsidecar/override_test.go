package main

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// TestPauseAndOverride: what is stopped by a switchover or a restart in a pause starts
// again; and the command that status names for a restarted primary without its voters
// does what it says.
func TestPauseAndOverride(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	o := newOperated(t)
	replicas := o.replicas(o.whole(t))
	heir := replicas[0]
	o.good(t, "pause --for 10m")
	o.until(t, "pause", func() bool { return o.status().Paused })
	o.good(t, "switchover --to "+heir)
	o.good(t, "restart "+replicas[1])
	st := o.whole(t)
	if st.Leader != heir {
		t.Fatalf("%s leads, not %s", st.Leader, heir)
	}
	o.good(t, "resume")
	o.newPassword(t, st)

	for _, m := range o.replicas(st) {
		if err := o.KillMember(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	restarted := make(chan struct{})
	go func() { defer close(restarted); command(t, "restart", heir) }()
	override := "pgsidecar failover --to " + heir + " --accept-data-loss"
	o.until(t, "block", func() bool {
		_, shown, _ := command(t, "status")
		return strings.Contains(shown, "clients are kept out") && strings.Contains(shown, override)
	})
	o.good(t, strings.TrimPrefix(override, "pgsidecar ")+" --yes")
	<-restarted
	o.until(t, "primary that lets clients in", func() bool {
		now := o.status()
		return slices.ContainsFunc(now.Members, func(m api.MemberStatus) bool { return m.Member == heir }) && now.Primary
	})
}

// newPassword changes that of the replication role, in the file and by a reload alone:
// a replica that logs in again streams.
func (o *operated) newPassword(t *testing.T, st *api.Status) {
	t.Helper()
	verifier := func() string {
		return o.asked(t, st.Leader, "select rolpassword from pg_authid where rolname = '"+lab.ReplicationRole+"'")
	}
	before := verifier() // what keeps the role may read the file at any moment
	f, err := os.OpenFile(o.Plan().PasswordFile(lab.ReplicationRole), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("another secret of the replicas\n")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, m := range st.Members {
		o.good(t, "reload "+m.Member)
	}
	o.until(t, "new password of the role", func() bool { return verifier() != before })
	o.good(t, "restart "+o.replicas(st)[0])
	o.whole(t)
}
