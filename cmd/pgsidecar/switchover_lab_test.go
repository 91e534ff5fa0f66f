package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// switchLab is a whole cluster with HAProxy, PgBouncer and `pgsidecar proxy`.
type switchLab struct {
	*lab.Lab
	t        testing.TB
	pgbench  string
	password string
}

func newSwitchLab(t testing.TB) *switchLab {
	t.Helper()
	l := newSwitchLabOf(t, lab.Options{PgBouncer: true})
	l.run(t.Context(), "-i", "-q", "-s", "2").wait()
	return l
}

func newSwitchLabOf(t testing.TB, options lab.Options) *switchLab {
	t.Helper()
	bin := labtest.Program(t, programs.PostgresBin)
	binary, err := builtOnce()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "swl") // short, and open to PostgreSQL's user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &switchLab{t: t, pgbench: filepath.Join(bin, "pgbench")}
	l.must(os.Chmod(dir, 0o755))
	options.Dir, options.Binary = filepath.Join(dir, "lab"), binary
	l.Lab, err = lab.New(options)
	if errors.Is(err, programs.ErrMissing) {
		t.Skip(err)
	}
	l.must(err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	l.must(l.Up(ctx, func(string) {}))
	l.must(l.WaitReady(ctx))
	secret, err := os.ReadFile(l.Plan().PasswordFile(lab.ApplicationRole))
	l.must(err)
	l.password = strings.TrimSpace(string(secret))
	l.makeRole(ctx)
	return l
}

func (l *switchLab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// makeRole makes the application's role, as superuser through HAProxy.
func (l *switchLab) makeRole(ctx context.Context) {
	l.t.Helper()
	conn, err := l.connect(ctx, lab.SuperuserRole, l.Plan().App().Ports.Primary)
	l.must(err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, fmt.Sprintf(`create role %[1]s login password '%[2]s'; grant all on schema public to %[1]s`, lab.ApplicationRole, l.password))
	l.must(err)
}

// connect connects to a port of the application's host.
func (l *switchLab) connect(ctx context.Context, role string, port int) (*pgx.Conn, error) {
	config, err := l.ConnConfig(role, l.Plan().Members()[0].Name)
	if err != nil {
		return nil, err
	}
	config.Host, config.Port, config.Fallbacks = l.Plan().App().Address, uint16(port), nil
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	return pgx.ConnectConfig(ctx, config)
}

// bench is one run of pgbench through PgBouncer.
type bench struct {
	l    *switchLab
	cmd  *exec.Cmd
	said bytes.Buffer
	dir  string
}

func (l *switchLab) run(ctx context.Context, args ...string) *bench {
	l.t.Helper()
	b := &bench{l: l, dir: l.t.TempDir()}
	host, port, err := net.SplitHostPort(l.Plan().App().PoolAddress())
	l.must(err)
	b.cmd = exec.CommandContext(ctx, l.pgbench, append(args, "-h", host, "-p", port, "-U", lab.ApplicationRole, "postgres")...)
	b.cmd.Env = append(os.Environ(), "PGPASSWORD="+l.password)
	b.cmd.Dir = b.dir
	b.cmd.Stdout, b.cmd.Stderr = &b.said, &b.said
	l.must(b.cmd.Start())
	return b
}

// wait returns when it has ended, and fails the test for each error of a client.
func (b *bench) wait() {
	b.l.t.Helper()
	err := b.cmd.Wait()
	if said := b.said.String(); err != nil || strings.Contains(said, "aborted") || strings.Contains(said, "error") {
		b.l.t.Errorf("pgbench: %v\n%s", err, said)
	}
}

// ended are the times at which its transactions ended, sorted: of its log
// (pgbench's documentation, "Per-Transaction Logging").
func (b *bench) ended() []time.Time {
	b.l.t.Helper()
	files, err := filepath.Glob(filepath.Join(b.dir, "pgbench_log.*"))
	b.l.must(err)
	var times []time.Time
	for _, name := range files {
		f, err := os.Open(name)
		b.l.must(err)
		for s := bufio.NewScanner(f); s.Scan(); {
			w := strings.Fields(s.Text())
			if len(w) < 6 {
				continue
			}
			seconds, err1 := strconv.ParseInt(w[4], 10, 64)
			micros, err2 := strconv.ParseInt(w[5], 10, 64)
			b.l.must(errors.Join(err1, err2))
			times = append(times, time.Unix(seconds, micros*1000))
		}
		f.Close()
	}
	slices.SortFunc(times, time.Time.Compare)
	return times
}

// longest is the longest time between two ends of transactions after a moment,
// within three seconds.
func longest(times []time.Time, after time.Time) time.Duration {
	var worst time.Duration
	for i := 1; i < len(times); i++ {
		if t := times[i-1]; t.After(after.Add(-100*time.Millisecond)) && t.Before(after.Add(3*time.Second)) {
			worst = max(worst, times[i].Sub(t))
		}
	}
	return worst
}

// switchover asks for one, and returns when the cluster is whole again.
func (l *switchLab) switchover() error {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	consul, err := l.ConsulClient(l.Plan().App().Name)
	l.must(err)
	pair, _, err := consul.KV().Get(l.Plan().Prefix+"/"+l.Plan().Cluster+"/leader", nil)
	l.must(err)
	if err := l.Change(ctx, string(pair.Value), "/switchover", fmt.Appendf(nil, `{"leader":%q}`, pair.Value)); err != nil {
		return err
	}
	return l.WaitReady(ctx)
}

// cutOff reports whether the server had taken a connection, and was stopped before
// it had authenticated its user: such a client came before the hold.
func cutOff(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Code == "57P01" || strings.Contains(err.Error(), "failed SASL auth: unexpected EOF")
}

// unanswered is a connection that ended before its server had said a word. So ends one
// whose server process had not yet read who it is, and one that is lost in HAProxy:
// only when it was begun tells which.
type unanswered struct {
	begun, ended time.Time
	err          error
}

// before reports whether it was begun before clients were held, and ended after that.
func (u unanswered) before(holds []time.Time) bool {
	return slices.ContainsFunc(holds, func(held time.Time) bool {
		return u.begun.Before(held) && u.ended.After(held)
	})
}

// holds are the times from which HAProxy held new clients, as `pgsidecar proxy` logs it.
func (l *switchLab) holds() []time.Time {
	l.t.Helper()
	said, err := os.ReadFile(filepath.Join(l.Plan().App().Dir, "proxy.log"))
	l.must(err)
	var holds []time.Time
	for line := range strings.Lines(string(said)) {
		if !strings.Contains(line, "haproxy switched: ") || !strings.Contains(line, " held=true ") {
			continue
		}
		stamp, _, _ := strings.Cut(line, " ")
		at, err1 := time.Parse(time.RFC3339, stamp)
		_, rest, _ := strings.Cut(line, " took=")
		took, err2 := time.ParseDuration(strings.Trim(strings.TrimSpace(rest), `"`))
		l.must(errors.Join(err1, err2))
		holds = append(holds, at.Add(-took))
	}
	return holds
}

// newcomers connect through HAProxy again and again until the context ends; none
// may be refused. They return how many were cut off while they logged in, of how
// many; a client that came before the hold may be, and no other.
func (l *switchLab) newcomers(ctx context.Context, workers int) (cut, all int) {
	var mu sync.Mutex
	var group sync.WaitGroup
	var silent []unanswered
	for range workers {
		group.Go(func() {
			for ctx.Err() == nil {
				one, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
				begun := time.Now()
				conn, err := l.connect(one, lab.ApplicationRole, l.Plan().App().Ports.Primary)
				ended := time.Now()
				if err == nil {
					conn.Close(one)
				}
				cancel()
				mu.Lock()
				switch all++; {
				case err != nil && cutOff(err):
					cut++
				case err != nil && strings.Contains(err.Error(), "failed to receive message: unexpected EOF"):
					silent = append(silent, unanswered{begun, ended, err})
				case err != nil:
					l.t.Errorf("a new connection through HAProxy, begun at %s, ended after %s: %v", begun.UTC().Format(time.StampMilli), ended.Sub(begun), err)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	holds := l.holds()
	for _, u := range silent {
		l.t.Logf("begun at %s, ended after %s without an answer: %v", u.begun.UTC().Format(time.StampMilli), u.ended.Sub(u.begun), u.err)
		if cut++; !u.before(holds) {
			l.t.Errorf("a new connection through HAProxy was lost, and not by a hold that began in it: %v", u.err)
		}
	}
	return cut, all
}

// measure plays switchovers under pgbench with 50 clients through PgBouncer, and
// new connections through HAProxy. No client sees an error. It returns the
// pauses of the former.
func (l *switchLab) measure(times int) []time.Duration {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	defer cancel()
	var beside sync.WaitGroup
	var cut, all int
	beside.Go(func() { cut, all = l.newcomers(ctx, 4) })
	// A rate that leaves the machine room: what is measured is the pause, not
	// how long transactions wait for a processor.
	load := l.run(context.WithoutCancel(ctx), "-n", "-N", "-M", "simple", "-c", "50", "-j", "2", "-R", "300", "-T", strconv.Itoa(4+times*5), "-l")
	settle := time.NewTimer(2 * time.Second)
	<-settle.C
	var at []time.Time
	for range times {
		begun := time.Now()
		at = append(at, begun)
		if err := l.switchover(); err != nil {
			l.t.Errorf("switchover: %v", err)
		}
		settle.Reset(max(0, 4*time.Second-time.Since(begun)))
		<-settle.C
	}
	load.wait()
	cancel()
	beside.Wait()
	ends := load.ended()
	var pauses []time.Duration
	for _, a := range at {
		pauses = append(pauses, longest(ends, a))
	}
	slices.Sort(pauses)
	l.t.Logf("%d transactions through PgBouncer, pauses %v; %d new connections through HAProxy, %d cut off while they logged in", len(ends), pauses, all, cut)
	return pauses
}

// A planned switchover under load: no client of PgBouncer sees an error, and
// HAProxy refuses no new one. A transaction that does not end forbids it: it
// goes on, and so does everybody else.
func TestSwitchoverUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	l := newSwitchLab(t)
	l.measure(2)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := l.connect(ctx, lab.ApplicationRole, l.Plan().App().Ports.Pool)
	l.must(err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "begin; create table kept (i int); insert into kept values (1)")
	l.must(err)
	if err := l.switchover(); err == nil || !strings.Contains(err.Error(), "transactions") {
		t.Errorf("with an open transaction: %v", err)
	}
	if _, err = conn.Exec(ctx, "insert into kept values (2); commit"); err != nil {
		t.Errorf("the open transaction: %v", err)
	}
	other, err := l.connect(ctx, lab.ApplicationRole, l.Plan().App().Ports.Pool)
	l.must(err)
	defer other.Close(ctx)
	var rows int
	if err := other.QueryRow(ctx, "select count(*) from kept").Scan(&rows); err != nil || rows != 2 {
		t.Errorf("after it: %d rows, %v", rows, err)
	}
	l.must(l.switchover())
	if t.Failed() {
		l.showLogs()
	}
}

// BenchmarkSwitchover measures the pause of a planned switchover that clients of
// PgBouncer see; the goal is 400 ms at worst, and no error.
func BenchmarkSwitchover(b *testing.B) {
	l := newSwitchLab(b)
	pauses := l.measure(max(b.N, 10))
	b.ReportMetric(float64(pauses[len(pauses)/2].Microseconds())/1000, "ms-median")
	b.ReportMetric(float64(pauses[len(pauses)-1].Microseconds())/1000, "ms-worst")
	b.ReportMetric(400, "ms-goal")
	b.ReportMetric(0, "ns/op")
}

// showLogs shows what the parts said at last.
func (l *switchLab) showLogs() {
	for _, h := range l.Plan().Hosts {
		for _, name := range []string{"sidecar.log", "proxy.log", "pgbouncer.log"} {
			f, err := os.Open(filepath.Join(h.Dir, name))
			if err != nil {
				continue
			}
			b, err := io.ReadAll(f)
			f.Close()
			if err == nil {
				l.t.Logf("%s %s:\n%s", h.Name, name, b[max(0, len(b)-4000):])
			}
		}
	}
}
