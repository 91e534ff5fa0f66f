package main

import (
	"context"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// TestTwoOfThreeDie: two of three members die at once. The third waits, says for
// whom and what would go on without; an ordinary failover is refused; with the loss
// accepted it leads, and says that commits wait, and what ends that; then it takes
// writes. A member that is removed, and all that come back, join again.
func TestTwoOfThreeDie(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	o := newOperated(t)
	st := o.whole(t)
	replicas := o.replicas(st)
	left, dead := replicas[0], []string{st.Leader, replicas[1]}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// At one moment: a second later the other would have been voted for, or done without.
	var victims []int
	for _, m := range dead {
		for _, program := range []lab.Program{lab.Sidecar, lab.Guard, lab.Postgres} {
			pid, err := o.PID(m, program)
			if err != nil {
				t.Fatal(err)
			}
			victims = append(victims, pid)
		}
	}
	for _, pid := range victims {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	override := "pgsidecar failover --to " + left + " --accept-data-loss"
	shown := ""
	defer func() {
		if t.Failed() {
			t.Logf("the last status of %s:\n%s", left, shown)
		}
	}()
	o.until(t, "word of what would help", func() bool {
		_, shown, _ = command(t, "status")
		return strings.Contains(shown, "BLOCKED for") && strings.Contains(shown, "override:    "+override)
	})
	if code, _, stderr := command(t, "failover", "--to", left); code != cli.ExitFailed || !strings.Contains(stderr, "waiting for: ") {
		t.Errorf("without the loss accepted: exit status %d, %s", code, stderr)
	}
	if said := o.good(t, "failover --to "+left+" --accept-data-loss --yes"); !strings.Contains(said, `Successfully failed over to "`+left+`"`) {
		t.Errorf("it says %s", said)
	}
	// Nobody is there to hold a commit besides, and the default is not to go on without.
	override = "pgsidecar settings set durability.strict=false"
	o.until(t, "word that commits wait", func() bool {
		_, shown, _ = command(t, "status")
		return strings.Contains(shown, "commits wait") && strings.Contains(shown, "override:    "+override)
	})
	o.good(t, strings.TrimPrefix(override, "pgsidecar ")+" --yes")
	o.until(t, "write to "+left, func() bool {
		return o.asked(t, left, "with w as (select pg_logical_emit_message(true, 'a', 'b')) select pg_is_in_recovery()::text from w") == "false"
	})
	o.good(t, "settings set tags."+dead[1]+".priority=3 --yes")
	// Consul's checks of the dead pass until their time is over; till then it is refused.
	o.until(t, "removal of "+dead[1], func() bool {
		code, stdout, stderr := typed(t, dead[1]+"\n", "remove", dead[1])
		shown = stdout + stderr
		return code == cli.ExitOK && strings.Contains(stdout, dead[1]+" is removed")
	})
	if now := o.status(); slices.Contains(now.Recorded, dead[1]) || now.Term <= st.Term || now.Leader != left {
		t.Errorf("%+v", now)
	}
	if shown := o.good(t, "settings show"); strings.Contains(shown, dead[1]) {
		t.Errorf("the removed member's tags are still there:\n%s", shown)
	}
	for _, m := range dead {
		if err := o.Start(ctx, m, lab.Sidecar); err != nil {
			t.Fatal(err)
		}
	}
	o.whole(t)
}
