package drill_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/postmaster"
)

// BenchmarkCost is what pgsidecar costs PostgreSQL: pgbench in a cluster of three in quorum
// mode, and then in the same three servers with the same command lines, settings and data,
// but without sidecars, guards and Consul's looks. Both are measured in turn, in a new lab
// each time, with WAL segments of 4 and of 16 MB.
//
//	COSTTIME=30s COSTRUNS=5 go test -run '^$' -bench '^BenchmarkCost$' -benchtime 1x ./sidecar/drill
func BenchmarkCost(b *testing.B) {
	runs := 3
	if text := os.Getenv("COSTRUNS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		runs = n
	}
	for _, mb := range []int{4, 16} {
		b.Run(fmt.Sprintf("segments=%dMB", mb), func(b *testing.B) {
			var with, without, latencies, plainLatencies, ratios []float64
			for range runs {
				l := cluster(b, lab.Options{WALSegmentMB: mb})
				c := newCost(b, l)
				tps, latency := c.pgbench(b)
				c.alone(b)
				plain, plainLatency := c.pgbench(b)
				with, without = append(with, tps), append(without, plain)
				latencies, plainLatencies = append(latencies, latency), append(plainLatencies, plainLatency)
				ratios = append(ratios, tps/plain)
				b.Logf("with pgsidecar %.0f a second, %.2f ms; alone %.0f a second, %.2f ms; ratio %.3f", tps, latency, plain, plainLatency, tps/plain)
				if err := l.Down(context.WithoutCancel(b.Context())); err != nil {
					b.Fatal(err)
				}
			}
			for unit, all := range map[string][]float64{"tps": with, "tps-alone": without, "ms": latencies, "ms-alone": plainLatencies, "ratio": ratios} {
				slices.Sort(all)
				b.ReportMetric(all[len(all)/2], unit)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// costed is a lab of which the cost is measured.
type costed struct {
	*lab.Lab
	bin, primary string
	replicas     []string
}

func newCost(b *testing.B, l *lab.Lab) *costed {
	c := &costed{Lab: l, bin: l.Plan().PostgresBin}
	for _, h := range l.Plan().Members() {
		if c.ask(b, h.Name, "select pg_is_in_recovery()::text") == "false" {
			c.primary = h.Name
		} else {
			c.replicas = append(c.replicas, h.Name)
		}
	}
	if c.primary == "" || len(c.replicas) != 2 {
		b.Fatalf("a primary and two replicas: %q %q", c.primary, c.replicas)
	}
	return c
}

// ask asks a member for one value, until it answers.
func (c *costed) ask(b *testing.B, member, query string) (value string) {
	b.Helper()
	config, err := c.ConnConfig(lab.SuperuserRole, member)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	for {
		conn, err := pgx.ConnectConfig(ctx, config)
		if err == nil {
			err = conn.QueryRow(ctx, query).Scan(&value)
			conn.Close(ctx)
		}
		switch {
		case err == nil:
			return value
		case ctx.Err() != nil:
			b.Fatalf("%s: %s: %v", member, query, err)
		}
	}
}

var tpsLine = regexp.MustCompile(`(?s)latency average = ([0-9.]+) ms.*tps = ([0-9.]+) `)

// pgbench makes its tables anew, and writes as fast as four clients can.
func (c *costed) pgbench(b *testing.B) (tps, latency float64) {
	config, err := c.ConnConfig(lab.SuperuserRole, c.primary)
	if err != nil {
		b.Fatal(err)
	}
	seconds := 20 * time.Second
	if text := os.Getenv("COSTTIME"); text != "" {
		if seconds, err = time.ParseDuration(text); err != nil {
			b.Fatal(err)
		}
	}
	run := func(args ...string) string {
		ctx, cancel := context.WithTimeout(b.Context(), seconds+2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "pgbench"), append(args, "-h", config.Host, "-p", strconv.Itoa(int(config.Port)), "-U", config.User, "postgres")...)
		cmd.Env = append(os.Environ(), "PGPASSWORD="+config.Password)
		said, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("pgbench %v: %v\n%s", args, err, said)
		}
		return string(said)
	}
	run("-i", "-q", "-s", "5")
	c.ask(b, c.primary, "select 'done' from (select pg_switch_wal()) s")
	run("-c", "4", "-j", "2", "-M", "prepared", "-T", "5") // what a server that has just started has yet to read
	said := run("-c", "4", "-j", "2", "-M", "prepared", "-T", strconv.Itoa(int(seconds.Seconds())))
	m := tpsLine.FindStringSubmatch(said)
	if m == nil {
		b.Fatal(said)
	}
	latency, _ = strconv.ParseFloat(m[1], 64)
	tps, _ = strconv.ParseFloat(m[2], 64)
	return tps, latency
}

// alone ends what runs the members, and starts their servers as they were.
func (c *costed) alone(b *testing.B) {
	all := append(slices.Clone(c.replicas), c.primary) // nobody is left to be elected
	options, upstream := map[string]string{}, map[string]string{}
	for _, m := range all {
		h, err := c.Plan().Host(m)
		if err != nil {
			b.Fatal(err)
		}
		var pid int
		options[m], pid = serverOptions(b, h.DataDir())
		upstream[m], _ = postmaster.Environment(pid, "PGSERVICEFILE")
		if err := c.KillMember(b.Context(), m); err != nil {
			b.Fatal(err)
		}
		// Its number may still be taken, by a process that nobody has waited for.
		locks, err := filepath.Glob(h.DataDir() + ".pgsidecar/sock/.s.PGSQL.*.lock")
		if err != nil {
			b.Fatal(err)
		}
		for _, lock := range append(locks, filepath.Join(h.DataDir(), "postmaster.pid")) {
			if err := os.Remove(lock); err != nil && !errors.Is(err, fs.ErrNotExist) {
				b.Fatal(err)
			}
		}
	}
	for _, m := range slices.Backward(all) {
		b.Setenv("PGSERVICEFILE", upstream[m]) // by which its primary_conninfo is found
		if err := c.PgCtl(b.Context(), m, "start", "-w", "-o", options[m]); err != nil {
			h, _ := c.Plan().Host(m)
			said, _ := os.ReadFile(h.DataDir() + ".pgsidecar/byhand.log")
			b.Fatalf("%v\n%s\n%s", err, options[m], said)
		}
		b.Cleanup(func() { c.PgCtl(context.WithoutCancel(b.Context()), m, "stop", "-m", "immediate") })
	}
	deadline := time.Now().Add(time.Minute)
	for c.ask(b, c.primary, "select count(*)::text from pg_stat_replication where state = 'streaming'") != "2" {
		if time.Now().After(deadline) {
			b.Fatal("the replicas do not stream without their sidecars")
		}
	}
	if names := c.ask(b, c.primary, "show synchronous_standby_names"); !strings.HasPrefix(names, "ANY 1 (") {
		b.Fatalf("commits do not wait: synchronous_standby_names = %q", names)
	}
}

// serverOptions are those that the postmaster was started with, quoted for a shell, and its
// number.
func serverOptions(b *testing.B, data string) (options string, pid int) {
	file, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		b.Fatal(err)
	}
	first, _, _ := strings.Cut(string(file), "\n")
	if pid, err = strconv.Atoi(first); err != nil {
		b.Fatal(err)
	}
	line, err := os.ReadFile(filepath.Join("/proc", first, "cmdline"))
	if err != nil {
		b.Fatal(err)
	}
	var quoted []string
	args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	for i := 1; i < len(args); i++ {
		if args[i] == "-D" {
			i++
			continue
		}
		quoted = append(quoted, "'"+strings.ReplaceAll(args[i], "'", `'\''`)+"'")
	}
	return strings.Join(quoted, " "), pid
}
