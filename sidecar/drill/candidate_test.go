package drill_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// moments are when the candidate of a switchover dies: what the old primary's log
// has just said, or the candidate's own.
//
// The last is as soon as the record counts on the votes of others alone. Until then
// a candidate that has claimed its timeline may, by the record, have acknowledged
// commits that nobody else has (S4): if it dies in that moment, which lasts as long
// as another's fence, the members wait for it, and say so (S11).
var moments = []struct {
	name      string
	candidate bool     // whose log
	words     []string // that a line of it has
	without   string   // and this not; %s: the candidate
}{
	{"chosen", false, []string{"checkpoint done"}, ""},
	{"the old primary stops", false, []string{" stop: ", "hand over as asked"}, ""},
	{"the lock was passed", false, []string{"record changed", "what=pass"}, ""},
	{"it is not needed any more", true, []string{"record changed", "leader=", `voters=["`}, `"%s"`},
}

// rollbackGoal is how long nobody may write if the candidate dies, on a machine
// that does nothing else.
const rollbackGoal = time.Second

// candidateKilled is a switchover whose candidate is killed, sidecar, guard and
// server, as soon as the words are in the log. On a machine that stands still meanwhile
// it may have claimed its timeline already: this is another moment, for which no promise
// is made (see moments). It is told, and the candidate is started again at once.
func candidateKilled(t testing.TB, moment int, candidate func(drill.Cast) string, late func()) drill.Scenario {
	m := moments[moment]
	return drill.Scenario{
		Name: "candidate-killed", Why: "the candidate of a switchover is killed: " + m.name, Expect: drill.Either,
		Fault: func(ctx context.Context, c drill.Cast) error {
			target := candidate(c)
			var victims []int
			for _, program := range []lab.Program{lab.Sidecar, lab.Guard, lab.Postgres} {
				pid, err := c.Lab.PID(target, program)
				if err != nil {
					return err
				}
				victims = append(victims, pid)
			}
			speaker := c.Primary
			if m.candidate {
				speaker = target
			}
			its := func(line string) bool {
				_, voters, _ := strings.Cut(line, "voters=")
				return !slices.ContainsFunc(m.words, func(w string) bool { return !strings.Contains(line, w) }) &&
					(m.without == "" || strings.Contains(voters, "]") && !strings.Contains(voters, strings.ReplaceAll(m.without, "%s", target)))
			}
			host, err := c.Lab.Plan().Host(speaker)
			if err != nil {
				return err
			}
			log, err := os.Open(filepath.Join(host.Dir, "sidecar.log"))
			if err != nil {
				return err
			}
			defer log.Close()
			if _, err := log.Seek(0, io.SeekEnd); err != nil {
				return err
			}
			answered := make(chan error, 1)
			go func() {
				answered <- c.Lab.Change(ctx, c.Primary, "/switchover", fmt.Appendf(nil, `{"leader":%q,"candidate":%q}`, c.Primary, target))
			}()
			waiting, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			if err := saidInLog(waiting, log, its); err != nil {
				return fmt.Errorf("wait for %q of %s: %w", m.words, speaker, err)
			}
			for _, pid := range victims {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
					return err
				}
			}
			if !m.candidate {
				claimed, err := hasClaimed(waiting, c, target)
				if err != nil {
					return err
				}
				if claimed {
					late()
					return c.Lab.Start(ctx, target, lab.Sidecar)
				}
			}
			t.Logf("%s asked to hand over to %s, killed when %s; the answer: %v", c.Primary, target, m.name, <-answered)
			return nil
		},
		Undo: func(ctx context.Context, c drill.Cast) error {
			for _, h := range c.Lab.Plan().Members() {
				if _, err := c.Lab.PID(h.Name, lab.Sidecar); errors.Is(err, lab.ErrNotRunning) {
					if err := c.Lab.Start(ctx, h.Name, lab.Sidecar); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
}

// hasClaimed waits until the old primary knows what came of a candidate that was killed: it
// has claimed a timeline, or another leads, or stands.
func hasClaimed(ctx context.Context, c drill.Cast, candidate string) (bool, error) {
	old, err := c.Lab.Plan().Host(c.Primary)
	if err != nil {
		return false, err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := statusOf(ctx, c.Lab, old)
		switch {
		case err != nil: // asked again
		case st.Leader == candidate && st.Phase != ha.PhaseElecting:
			return true, nil
		case st.Primary, st.Leader != candidate && st.Leader != c.Primary:
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("wait for what came of %s: %w", candidate, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// saidInLog waits until a line that is written from now on is the one. A log tells
// nobody, so it is read again and again.
func saidInLog(ctx context.Context, log io.Reader, its func(line string) bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var seen strings.Builder
	for {
		if _, err := io.Copy(&seen, log); err != nil {
			return err
		}
		for line := range strings.Lines(seen.String()) {
			if its(line) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func firstReplica(c drill.Cast) string { return c.Replicas[0] }

// TestCandidateKilled: if the candidate of a switchover dies, at whatever moment,
// somebody takes writes again soon, nothing is lost, and no two do. Where the third
// member may not lead, that is the old primary.
func TestCandidateKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	l := cluster(t, lab.Options{Isolated: true})
	t.Cleanup(func() {
		if t.Failed() {
			keepLogs(t, l, "failed-candidate")
		}
	})
	for i, m := range moments {
		t.Run(m.name, func(t *testing.T) { killCandidate(t, l, i, firstReplica) })
	}
	t.Run("nobody else may lead", func(t *testing.T) {
		third := l.Plan().Members()[2].Name
		forbidToLead(t, l, third)
		for i, m := range moments {
			t.Run(m.name, func(t *testing.T) {
				r := killCandidate(t, l, i, func(c drill.Cast) string {
					return c.Replicas[slices.IndexFunc(c.Replicas, func(name string) bool { return name != third })]
				})
				if r.Primary == third {
					t.Errorf("%s leads although it must not", third)
				}
			})
		}
	})
}

// killCandidate plays one such switchover, on a machine that may be busy.
func killCandidate(t *testing.T, l *lab.Lab, moment int, candidate func(drill.Cast) string) *drill.Report {
	t.Helper()
	var r *drill.Report
	for tries, late := 5, true; late; tries-- {
		if tries == 0 {
			t.Fatal("the candidate could not be killed in this moment")
		}
		late = false
		var err error
		r, err = drill.Run(t.Context(), candidateKilled(t, moment, candidate, func() { late = true }), drill.Options{Lab: l, Routes: []string{"haproxy"}, PauseOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if late {
			t.Logf("the candidate had claimed its timeline when it was killed; played again")
		}
	}
	t.Logf("no writes for %.0f ms; %s was the primary, %s is; %d rows acknowledged, %d lost", r.RTOMs, r.Initial.Primary, r.Primary, r.Rows.Acked, r.Rows.Lost)
	for _, f := range r.Failures {
		t.Error(f)
	}
	if r.RTOMs > 10*float64(rollbackGoal.Milliseconds()) {
		t.Errorf("no writes for %.0f ms; %v is the goal where nothing else runs (BenchmarkCandidateKilled)", r.RTOMs, rollbackGoal)
	}
	return r
}

// forbidToLead gives a member the tag nofailover, from the end of the cluster's
// next look at it on.
func forbidToLead(t *testing.T, l *lab.Lab, member string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	leads := func() string {
		st, err := statusOf(ctx, l, l.Plan().Members()[0])
		if err != nil {
			t.Fatal(err)
		}
		return st.Leader
	}
	if leads() == member {
		if err := l.Change(ctx, member, "/switchover", fmt.Appendf(nil, `{"leader":%q}`, member)); err != nil {
			t.Fatal(err)
		}
	}
	h, err := l.Plan().Host(member)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(filepath.Join(h.Dir, "pg.hcl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString("\ntags {\n  nofailover = true\n}\n")
	if err := errors.Join(err, file.Close(), l.Signal(member, lab.Sidecar, syscall.SIGHUP)); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		primary, err := l.Plan().Host(leads())
		if err != nil {
			t.Fatal(err)
		}
		if st, err := statusOf(ctx, l, primary); err == nil && !slices.ContainsFunc(st.Members, func(m memberStatus) bool { return m.Member == member && m.Eligible }) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s may still lead", member)
		case <-tick.C:
		}
	}
}

type memberStatus struct {
	Member   string `json:"member"`
	Eligible bool   `json:"eligible"`
}

type clusterStatus struct {
	Leader  string         `json:"leader"`
	Phase   ha.Phase       `json:"phase"`
	Primary bool           `json:"primary"`
	Members []memberStatus `json:"members"`
}

func statusOf(ctx context.Context, l *lab.Lab, h lab.Host) (st clusterStatus, err error) {
	dial, err := l.Dialer(l.Plan().App().Name)
	if err != nil {
		return st, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.APIAddress()+"/status", nil)
	if err != nil {
		return st, err
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 3 * time.Second}
	answer, err := client.Do(req)
	if err != nil {
		return st, err
	}
	defer answer.Body.Close()
	return st, json.NewDecoder(answer.Body).Decode(&st)
}

// BenchmarkCandidateKilled plays it b.N times at each moment and reports the
// pause that writers through HAProxy see, beside the goal.
func BenchmarkCandidateKilled(b *testing.B) {
	l := cluster(b, lab.Options{Isolated: true})
	for i, m := range moments {
		b.Run(strings.ReplaceAll(m.name, " ", "-"), func(b *testing.B) {
			reports, err := drill.Repeat(b.Context(), candidateKilled(b, i, firstReplica, func() { b.Log("the candidate had claimed its timeline when it was killed") }),
				drill.Options{Lab: l, Routes: []string{"haproxy"}, PauseOnly: true}, b.N)
			if err != nil {
				b.Fatal(err)
			}
			for _, r := range reports {
				for _, f := range r.Failures {
					b.Error(f)
				}
			}
			summary := drill.Summarize(reports)
			b.ReportMetric(float64(summary.Median.Microseconds())/1000, "ms-median")
			b.ReportMetric(float64(summary.Worst.Microseconds())/1000, "ms-worst")
			b.ReportMetric(float64(rollbackGoal.Milliseconds()), "ms-goal")
			b.ReportMetric(0, "ns/op")
		})
	}
}
