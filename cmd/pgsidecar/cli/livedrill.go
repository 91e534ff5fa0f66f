package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// liveOptions is the command line of `drill live`.
type liveOptions struct {
	files     drillFiles
	objective drill.Objective
	database  string
	stop      time.Duration
	yes       bool
}

// liveFaults are the drills of a live cluster, and what they stand for.
var liveFaults = map[string]string{
	"switchover":            "the primary is asked to hand over",
	api.FaultPostgresKilled: "PostgreSQL crashes: its postmaster is killed with SIGKILL",
	api.FaultSidecarStopped: "the primary's sidecar hangs (SIGSTOP) for a while; its guard does not",
}

// newLiveDrillCommand returns `drill live`.
func newLiveDrillCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var o liveOptions
	cmd := &cobra.Command{
		Use:   "live switchover|postgres-killed|sidecar-stopped",
		Short: "Do a drill of a real cluster, which applications use",
		Long: `Run a drill against a real cluster through its API. Sessions on the primary are
terminated. It begins only if every member is reachable and streams, nothing is
blocked or paused, and a replica has each commit. switchover needs the API's
token; the others also drills = true in the block api of the primary's configuration.
With --database an application's writes are measured: a table drill.writes is made
there, and removed afterwards. The exit status is 1 if an objective was missed.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || liveFaults[args[0]] == "" {
				return usage("say which drill, one of: switchover, postgres-killed or sidecar-stopped")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			return drillLive(cmd.Context(), a, c, o, args[0])
		},
	}
	flags.add(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.yes, "yes", false, "yes, this cluster is to be broken on purpose")
	f.StringVar(&o.database, "database", "", "an application's `connection` string, with what leads it to the primary; its password from $PGPASSWORD or the password file")
	f.DurationVar(&o.stop, "for", 10*time.Second, "how long the sidecar is stopped, 1s to 60s")
	f.DurationVar(&o.objective.RTO, "rto", 0, "longest pause in acknowledged writes that is allowed (default any)")
	f.Int64Var(&o.objective.RPO, "rpo", 0, "acknowledged `rows` that may be lost")
	f.StringVar(&o.files.json, "json", "", "write the results to this `file`, as JSON")
	f.StringVar(&o.files.junit, "junit", "", "write the results to this `file`, as JUnit's XML, for CI")
	f.StringVar(&o.files.html, "html", "", "write the results to this `file`, as one page with pictures")
	return cmd
}

func (o liveOptions) check() error {
	switch {
	case !o.yes:
		return usage("a drill of a live cluster breaks it on purpose: say so with --yes")
	case o.stop < time.Second || o.stop > api.MaxStop:
		return usage("--for %v: expected 1s to %v", o.stop, api.MaxStop)
	}
	return drillOptions{repeat: 1, workers: 1, objective: o.objective, files: o.files}.check()
}

// drillLive does one drill of the cluster that the client asks.
func drillLive(ctx context.Context, a *Process, c *client.Client, o liveOptions, name string) error {
	if !c.Authenticates() {
		return usage("the API's token is missing; name its file with --token-file")
	}
	var names sync.Map // of the members, by address
	live := drill.Live{Scenario: name, Why: liveFaults[name], Objective: o.objective,
		Progress: func(what string) { fmt.Fprintf(a.Stderr, "%s: %s\n", name, what) },
		Check: func(ctx context.Context) (drill.Initial, error) {
			st, err := c.Status(ctx)
			if err != nil {
				return drill.Initial{}, err
			}
			for _, m := range st.Members {
				names.Store(m.Postgres, m.Member)
			}
			return survives(st)
		},
		Inject:  func(ctx context.Context, before drill.Initial) error { return inject(ctx, c, before, name, o.stop) },
		Account: func(ctx context.Context) (*failover.Record, error) { return newestFailover(ctx, c) },
	}
	if o.database != "" {
		live.Member = func(address string) string {
			if name, ok := names.Load(address); ok {
				return name.(string)
			}
			return address
		}
		var err error
		if live.Route, err = drill.Application(o.database); err != nil {
			return usage("--database: %w", err)
		}
	}
	report, err := live.Run(ctx)
	if errors.Is(err, drill.ErrNotPossible) {
		return usage("%w", err)
	}
	if err != nil {
		return err
	}
	if err := report.WriteText(a.Stdout); err != nil {
		return err
	}
	err = errors.Join(keepDrill(ctx, c, report), o.files.write(a, drill.NewResults(a.Version, []*drill.Report{report})))
	if err == nil && !report.Passed() {
		return exitStatus(ExitFailed)
	}
	return err
}

// maxDrillLag is how far behind, in bytes, a replica may be when a drill begins.
const maxDrillLag = 16 << 20

// survives returns the state of the cluster, or why it is not in a state in
// which it should be broken on purpose.
func survives(st *api.Status) (drill.Initial, error) {
	before := drill.Initial{Primary: st.Leader, Mode: string(st.Durability.Mode), Standbys: st.Durability.K, Replicas: []string{}}
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if st.Leader == "" || st.Phase != ha.PhaseLeading {
		fault("it has no primary")
	}
	if st.Paused {
		fault("it is paused, and nobody would take over")
	}
	for _, b := range st.Blocks {
		fault("it is blocked: %s", b.What)
	}
	if st.Problem != "" || st.Consul.Problem != "" || st.Consul.Reachable != ha.Yes.String() {
		fault("%s has a problem: %s", st.Member, cmp.Or(st.Problem+st.Consul.Problem, "Consul is not reachable"))
	}
	if st.Durability.Mode == ha.ModeQuorum && st.Durability.K == 0 {
		fault("no replica has each commit yet")
	}
	for _, m := range st.Members {
		switch {
		case m.Member == st.Leader && m.Writable:
			before.Timeline = uint32(m.Position.TLI)
		case m.Member == st.Leader:
			fault("the primary, %s, is not writable", m.Member)
		case m.Link != "self" && m.Link != "up":
			fault("%s is unreachable (%s)", m.Member, m.Link)
		case !m.Streaming:
			fault("%s does not stream", m.Member)
		case m.Lag == nil || *m.Lag > maxDrillLag:
			fault("%s is behind: %s", m.Member, screen.LagWords(st, m))
		case m.Blocked != "":
			fault("%s is blocked: %s", m.Member, m.Blocked)
		default:
			before.Replicas = append(before.Replicas, m.Member)
		}
	}
	if len(before.Replicas) == 0 && len(faults) == 0 {
		fault("it has no replica")
	}
	if len(faults) > 0 {
		return before, fmt.Errorf("the cluster is not healthy enough: %s", strings.Join(slices.Compact(faults), "; "))
	}
	return before, nil
}

// inject asks the primary for the fault.
func inject(ctx context.Context, c *client.Client, before drill.Initial, name string, stop time.Duration) error {
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	leader, ok := client.MemberAPI(st, before.Primary)
	if !ok {
		return fmt.Errorf("the address of %s's API is not known", before.Primary)
	}
	path, body := "/drill", any(map[string]any{"fault": name, "seconds": stop.Seconds()})
	if name == "switchover" {
		path, body = "/switchover", handoverBody{Leader: before.Primary}
	}
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	_, err = c.Ask(ctx, http.MethodPost, leader, path, text)
	return err
}

// newestFailover returns the record of the newest term; nil: there is none.
func newestFailover(ctx context.Context, c *client.Client) (*failover.Record, error) {
	st, err := c.Status(ctx)
	if err != nil || len(st.History) == 0 {
		return nil, err
	}
	return &st.History[len(st.History)-1], nil
}

// keepDrill lets the cluster keep the drill as its last one.
func keepDrill(ctx context.Context, c *client.Client, r *drill.Report) error {
	text, err := json.Marshal(r.Last())
	if err != nil {
		return fmt.Errorf("encode the result of the drill: %w", err)
	}
	st, err := c.Status(ctx)
	if err != nil {
		return fmt.Errorf("keep the result of the drill: %w", err)
	}
	leader, ok := client.MemberAPI(st, st.Leader)
	if !ok {
		return errors.New("keep the result of the drill: there is no leader to ask")
	}
	if _, err := c.Ask(ctx, http.MethodPut, leader, "/drill", text); err != nil {
		return fmt.Errorf("keep the result of the drill: %w", err)
	}
	return nil
}
