package member

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/hooks"
)

// faultInjector is a member's part in faultInjector of a live cluster.
type faultInjector struct{ *Member }

var _ api.Drills = faultInjector{}

// LastDrill reads it from Consul.
func (d faultInjector) LastDrill(ctx context.Context) (json.RawMessage, error) {
	return d.cluster.LastDrill(ctx)
}

// KeepDrill keeps it in Consul, if it is one, with those before it.
func (d faultInjector) KeepDrill(ctx context.Context, last json.RawMessage) error {
	var l drill.Last
	if err := json.Unmarshal(last, &l); err != nil || l.Scenario == "" || l.At.IsZero() {
		return api.Refuse(http.StatusBadRequest, "the body is not the result of a drill")
	}
	kept, err := d.cluster.LastDrill(ctx)
	if err != nil {
		return err
	}
	text, err := l.After(kept)
	if err != nil {
		return err
	}
	return d.cluster.PutLastDrill(ctx, text)
}

// Inject does what is asked to this member, if its configuration allows it, and
// it is the primary of a cluster that can stand it.
func (d faultInjector) Inject(ctx context.Context, f api.Fault) error {
	snap := d.sidecar.Snapshot()
	switch {
	case !d.config.API.Drills:
		return api.Refuse(http.StatusForbidden, "%s does not allow faults to be injected; drills = true in the block api of its configuration does (and a restart of the sidecar)", d.config.Member)
	case snap == nil:
		return api.Refuse(http.StatusServiceUnavailable, "nothing is decided yet; try again in a second")
	case snap.State.Role != ha.RolePrimary:
		return api.Refuse(http.StatusPreconditionFailed, "%s is not the primary", d.config.Member)
	}
	var streaming []string
	for _, w := range snap.Observation.Server.Walsenders {
		if w.Streaming && snap.Observation.Consul.Record.Durability.Has(w.Member) {
			streaming = append(streaming, w.Member)
		}
	}
	if len(streaming) == 0 || snap.Observation.Policy.Paused {
		return api.Refuse(http.StatusPreconditionFailed, "nobody could take over: no replica that holds each commit streams from %s, or the cluster is paused", d.config.Member)
	}
	d.log.Warn("a fault is injected into this member, for a drill", "fault", f.Name, "for", f.For, "streaming", strings.Join(streaming, ","))
	d.hooks.Tell(hooks.Event{Kind: hooks.Drill, Role: snap.State.Role, Term: snap.Observation.Consul.Record.Term,
		Leader: d.config.Member, Summary: "a drill injects " + f.Name + " into " + d.config.Member})
	if f.Name == api.FaultPostgresKilled {
		return d.guard.Signal(ctx, int(syscall.SIGKILL))
	}
	return stopMyself(f.For)
}

// answerFirst is how long the API has to send its answer before the process
// stops.
const answerFirst = 200 * time.Millisecond

// stopMyself stops this process for a time. A stopped process cannot wake
// itself, so a small one that is started before does.
func stopMyself(d time.Duration) error {
	pid := os.Getpid()
	waker := exec.Command("/bin/sh", "-c", fmt.Sprintf("sleep %.3f; kill -CONT %d", (d+answerFirst).Seconds(), pid))
	waker.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := waker.Start(); err != nil {
		return fmt.Errorf("start what wakes the sidecar again: %w", err)
	}
	go func() { _ = waker.Wait() }() // it ends by itself; nothing depends on how
	time.AfterFunc(answerFirst, func() { _ = syscall.Kill(pid, syscall.SIGSTOP) })
	return nil
}
