package drill_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// TestFaultInterrupted stops `pgsidecar drill` in the middle of a fault, in a lab that
// stays. After Ctrl-C the fault is undone. After kill -9 it stays, as nobody undoes
// it, and a primary that it hits is replaced; the next drill in that lab says so,
// undoes it, and passes.
func TestFaultInterrupted(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("takes a cluster whose hosts have links and disks of their own, and so root")
	}
	program := binary(t)
	l := up(t, lab.Options{Binary: program, Isolated: true, Breakable: true})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := l.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	d := drillProgram{binary: program, folder: l.Plan().Dir}
	for _, c := range []struct {
		scenario string
		whole    func(context.Context, *lab.Lab) error // what the fault breaks
	}{
		{"cut-off", linksCarry},
		{"network-slow", linksCarry},
		{"network-lossy", linksCarry},
		{"host-paused", sidecarsGoOn},
		{"disk-full", disksHaveRoom},
		{"token-revoked", tokenIsThere},
		{"consul-away", consulRuns},
	} {
		t.Run(c.scenario, func(t *testing.T) {
			if err := c.whole(ctx, l); err != nil {
				t.Fatalf("before the fault: %v", err)
			}
			d.interrupt(t, c.scenario, syscall.SIGINT)
			if err := c.whole(ctx, l); err != nil {
				t.Fatalf("after Ctrl-C: %v", err)
			}
			if broken, err := l.Broken(); err != nil || broken != "" {
				t.Fatalf("after Ctrl-C the lab is noted to be broken by %q (%v)", broken, err)
			}
			if err := l.WaitReady(ctx); err != nil {
				t.Fatal(err)
			}
			before := leading(t, l, 0)
			d.interrupt(t, c.scenario, syscall.SIGKILL)
			left := c.whole(ctx, l)
			if left == nil {
				t.Fatal("kill -9 left no fault; the test is no test")
			}
			t.Logf("left: %v", left)
			if s, err := drill.Find(c.scenario); err != nil {
				t.Fatal(err)
			} else if s.Expect == drill.Moves {
				leading(t, l, before+1)
			}
			out, err := d.command("switchover").CombinedOutput()
			if err != nil {
				t.Fatalf("the next drill: %v\n%s", err, out)
			}
			if said := "undoing what a drill has left that was killed: " + c.scenario; !strings.Contains(string(out), said) {
				t.Errorf("the next drill did not say %q:\n%s", said, out)
			}
			if err := c.whole(ctx, l); err != nil {
				t.Errorf("after the next drill: %v", err)
			}
			if broken, err := l.Broken(); err != nil || broken != "" {
				t.Errorf("the lab is noted to be broken by %q (%v)", broken, err)
			}
		})
	}
	t.Run("sidecar-restarted", func(t *testing.T) { restartInterrupted(ctx, t, d, l) })
}

// restartInterrupted stops a drill in the middle of a fault that brings back itself
// what it took, half a second later: after Ctrl-C it is back too.
func restartInterrupted(ctx context.Context, t *testing.T, d drillProgram, l *lab.Lab) {
	if err := l.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	d.interruptWhen(t, "sidecar-restarted", syscall.SIGINT, moment{after: "injecting the fault", wait: func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for sidecarsGoOn(ctx, l) == nil && ctx.Err() == nil {
			<-tick.C
		}
	}})
	if err := sidecarsGoOn(ctx, l); err != nil {
		t.Fatalf("after Ctrl-C: %v", err)
	}
}

// leading waits until the cluster is led in this term or a later one, and returns
// which.
func leading(t *testing.T, l *lab.Lab, term uint64) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := l.ConsulClient(l.Plan().App().Name)
	if err != nil {
		t.Fatal(err)
	}
	for r, index := (ha.Record{}), uint64(0); ; {
		q := (&api.QueryOptions{WaitIndex: index}).WithContext(ctx)
		pair, meta, err := client.KV().Get(l.Plan().Prefix+"/"+l.Plan().Cluster+"/state", q)
		if err == nil && pair == nil {
			err = errors.New("there is none")
		}
		if err == nil {
			err = json.Unmarshal(pair.Value, &r)
		}
		if err != nil {
			t.Fatalf("wait for a record of term %d in Consul: %v; seen: %+v", term, err, r)
		}
		if r.Term >= term && r.Phase == ha.PhaseLeading {
			return r.Term
		}
		index = meta.LastIndex
	}
}

// linksCarry returns an error if a member is cut off, or loses or delays packets.
func linksCarry(ctx context.Context, l *lab.Lab) error {
	dial, err := l.Dialer(l.Plan().App().Name)
	if err != nil {
		return err
	}
	for _, m := range l.Plan().Members() {
		out, err := exec.CommandContext(ctx, "tc", "-n", m.Namespace, "qdisc", "show", "dev", "eth0").CombinedOutput()
		if err != nil {
			return fmt.Errorf("look at the traffic of %s: %w: %s", m.Name, err, out)
		}
		if bytes.Contains(out, []byte("clsact")) || bytes.Contains(out, []byte("netem")) {
			return fmt.Errorf("the traffic of %s is disturbed: %s", m.Name, bytes.TrimSpace(out))
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		conn, err := dial(ctx, "tcp", m.APIAddress())
		cancel()
		if err != nil {
			return fmt.Errorf("%s cannot be reached: %w", m.Name, err)
		}
		conn.Close()
	}
	return nil
}

// sidecarsGoOn returns an error if one stands still.
func sidecarsGoOn(_ context.Context, l *lab.Lab) error {
	for _, m := range l.Plan().Members() {
		pid, err := l.PID(m.Name, lab.Sidecar)
		if err != nil {
			return err
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return err
		}
		if bytes.Contains(status, []byte("\nState:\tT")) {
			return fmt.Errorf("the sidecar of %s is stopped", m.Name)
		}
	}
	return nil
}

// disksHaveRoom returns an error if a member's disk is full.
func disksHaveRoom(_ context.Context, l *lab.Lab) error {
	for _, m := range l.Plan().Members() {
		var s unix.Statfs_t
		if err := unix.Statfs(m.DataDir(), &s); err != nil {
			return fmt.Errorf("look at the disk of %s: %w", m.Name, err)
		}
		if free := s.Bavail * uint64(s.Bsize); free < 1<<30 {
			return fmt.Errorf("the disk of %s has room for %d bytes", m.Name, free)
		}
	}
	return nil
}

// tokenIsThere returns an error if Consul does not know the members' token.
func tokenIsThere(ctx context.Context, l *lab.Lab) error {
	client, err := l.ConsulClient(l.Plan().App().Name)
	if err != nil {
		return err
	}
	tokens, _, err := client.ACL().TokenList((&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("list Consul's tokens: %w", err)
	}
	if !slices.ContainsFunc(tokens, func(t *api.ACLTokenListEntry) bool { return t.Description == "consul-member" }) {
		return errors.New("Consul does not know the members' token")
	}
	return nil
}

// consulRuns returns an error if one of Consul's servers does not.
func consulRuns(_ context.Context, l *lab.Lab) error {
	for _, server := range l.Plan().Servers() {
		if _, err := l.PID(server.Name, lab.Consul); err != nil {
			return err
		}
	}
	return nil
}
