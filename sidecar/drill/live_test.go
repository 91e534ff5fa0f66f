package drill_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// whole returns the state of a lab's cluster, as one outside of it sees it.
func whole(l *lab.Lab) func(ctx context.Context) (drill.Initial, error) {
	return func(ctx context.Context) (drill.Initial, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if err := l.WaitReady(ctx); err != nil {
			return drill.Initial{}, err
		}
		s, err := l.Status(ctx)
		if err != nil {
			return drill.Initial{}, err
		}
		before := drill.Initial{Mode: "quorum", Standbys: 1, Replicas: []string{}}
		for _, h := range s.Hosts {
			switch {
			case slices.Contains(h.Tags, "primary"):
				before.Primary = h.Name
			case slices.Contains(h.Tags, "replica"):
				before.Replicas = append(before.Replicas, h.Name)
			}
		}
		return before, nil
	}
}

// TestLive does each drill of a live cluster once: by the members' API and an
// application's connection string, with nothing that only a lab has.
func TestLive(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	l := cluster(t, lab.Options{})
	password, err := os.ReadFile(l.Plan().PasswordFile(lab.SuperuserRole))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGPASSWORD", strings.TrimSpace(string(password)))
	app := l.Plan().App()
	route, err := drill.Application(fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=disable", app.Address, app.Ports.Primary, lab.SuperuserRole))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct{ name, path, body string }{
		{"switchover", "/switchover", `{"leader": "LEADER"}`},
		{"postgres-killed", "/drill", `{"fault": "postgres-killed"}`},
		{"sidecar-stopped", "/drill", `{"fault": "sidecar-stopped", "seconds": 7}`},
	} {
		live := drill.Live{Scenario: s.name, Why: s.path, Route: route, Check: whole(l), Progress: func(what string) { t.Log(what) },
			Inject: func(ctx context.Context, before drill.Initial) error {
				return l.Change(ctx, before.Primary, s.path, []byte(strings.ReplaceAll(s.body, "LEADER", before.Primary)))
			},
			Account: func(context.Context) (*failover.Record, error) {
				return &failover.Record{Term: 9, Leader: "n9", Announced: time.Now()}, nil
			}}
		report, err := live.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !report.Passed() || !report.Moved || report.Returned == nil || report.Rows.Acked < 200 || report.Rows.Lost != 0 || report.StaleReads() != 0 {
			t.Errorf("%s: %+v", s.name, report)
		}
		if faults := describedBySchema(t, drill.NewResults("test", []*drill.Report{report})); len(faults) > 0 {
			t.Errorf("%s: not as the schema says: %q", s.name, faults)
		}
	}
	plantInDrill(t, l)
	sequenceGoesOn(t, l)
	planted := errors.New("a planted fault")
	_, err = drill.Live{Route: route, Check: func(context.Context) (drill.Initial, error) { return drill.Initial{}, planted },
		Inject: func(context.Context, drill.Initial) error { t.Error("a sick cluster was broken"); return nil }}.Run(t.Context())
	if !errors.Is(err, drill.ErrNotPossible) || !errors.Is(err, planted) {
		t.Errorf("a sick cluster: %v", err)
	}
}

// plantInDrill does a whole drill whose fault takes three acknowledged rows away,
// and lets nobody write for 300 ms: the report has both.
func plantInDrill(t *testing.T, l *lab.Lab) {
	t.Helper()
	report, err := drill.Run(t.Context(), drill.Scenario{Name: "planted", Why: "rows are deleted, and the table is locked", Expect: drill.Stays,
		Fault: func(ctx context.Context, c drill.Cast) error {
			config, err := l.ConnConfig(lab.SuperuserRole, c.Primary)
			if err != nil {
				return err
			}
			conn, err := pgx.ConnectConfig(ctx, config)
			if err != nil {
				return err
			}
			defer conn.Close(ctx)
			_, err = conn.Exec(ctx, `BEGIN; LOCK TABLE drill.writes IN EXCLUSIVE MODE;
				DELETE FROM drill.writes WHERE ctid IN (SELECT ctid FROM drill.writes WHERE seq BETWEEN 5 AND 7 AND worker = (SELECT min(worker) FROM drill.writes));
				SELECT pg_sleep(0.3); COMMIT`, pgx.QueryExecModeSimpleProtocol)
			return err
		}}, drill.Options{Lab: l, Routes: []string{"haproxy"}, Objective: drill.Objective{RTO: 299 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	if report.Rows.Lost < 3 || report.RTOMs < 300 || len(report.Failures) < 2 {
		t.Errorf("three rows and 300 ms were planted: lost %d, pause %.0f ms, failures %q", report.Rows.Lost, report.RTOMs, report.Failures)
	}
	if faults := describedBySchema(t, drill.NewResults("test", []*drill.Report{report})); len(faults) > 0 {
		t.Errorf("not as the schema says: %q", faults)
	}
	client, err := l.ConsulClient(l.Plan().App().Name)
	if err != nil {
		t.Fatal(err)
	}
	kept, _, err := client.KV().Get("pgsidecar/pg/drill/last", nil)
	if err != nil || kept == nil {
		t.Fatalf("nothing is kept of the last drill: %v", err)
	}
	var last drill.Last
	if err := json.Unmarshal(kept.Value, &last); err != nil || last.Scenario != "planted" || last.Passed || last.RPORows != report.Rows.Lost || last.RPOBytes != report.Rows.LostBytes {
		t.Errorf("kept of the last drill: %s, %v", kept.Value, err)
	}
}

// sequenceGoesOn lets a drill break off in the middle, with a member down: the
// lab is mended, the next drill is done, and the table has both.
func sequenceGoesOn(t *testing.T, l *lab.Lab) {
	t.Helper()
	planted := errors.New("a planted fault")
	brokenOff := drill.Scenario{Name: "broken-off", Why: "a test", Expect: drill.Stays, Fault: func(ctx context.Context, c drill.Cast) error {
		if err := c.Lab.KillMember(ctx, c.Replicas[0]); err != nil {
			return err
		}
		return planted
	}}
	nothing := drill.Scenario{Name: "nothing", Why: "a test", Expect: drill.Stays, Fault: func(context.Context, drill.Cast) error { return nil }}
	told := 0
	reports, err := drill.Sequence(t.Context(), []drill.Scenario{brokenOff, nothing}, 1, drill.Options{Lab: l, Routes: []string{"haproxy"}, PauseOnly: true,
		Progress: func(what string) { t.Log(what) }}, func(*drill.Report) error { told++; return nil })
	if err != nil || len(reports) != 2 || told != 2 || reports[0].Passed() || !reports[1].Passed() {
		t.Fatalf("%d reports, %d told, %v: %+v", len(reports), told, err, reports)
	}
	results := drill.NewResults("test", reports)
	if faults := describedBySchema(t, results); len(faults) > 0 {
		t.Errorf("not as the schema says: %q", faults)
	}
	var table, page strings.Builder
	if err := errors.Join(results.WriteTable(&table), results.WriteHTML(&page), results.WriteJUnit(&page)); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"broken-off  FAILED", "1 passed, 1 failed; 0 of ", "not done to its end: drill broken-off: a planted fault"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("%q is not in\n%s", want, table.String())
		}
	}
	impossible := drill.Scenario{Name: "impossible", Isolated: true}
	if reports, err := drill.Sequence(t.Context(), []drill.Scenario{nothing, impossible}, 1, drill.Options{Lab: l}, nil); !errors.Is(err, drill.ErrNotPossible) || len(reports) != 0 {
		t.Errorf("%d reports of a sequence that cannot be played, %v", len(reports), err)
	}
}
