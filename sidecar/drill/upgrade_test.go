package drill_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// The version before this one is what runs in production while this one is installed,
// member by member, and what is put back if that was a mistake.
const (
	landed = "262c3245cda2eae92e0fcf5d9a4ee81d1bdc3985"
	// Beside a Consul before 1.14, with which that one does not work: the first landed that does.
	landedForOld = "9a9e712994c87242f7cc3ce4c858cd37bb376192"
)

// TestRollingUpgrade replaces, under writes, one member after the other of a cluster of
// the version before by this one, and then by the older one again, with an unplanned
// failover in each mixed state. No acknowledged row is lost, and each member comes back
// by itself. A field of the record and a setting that a version does not know do no
// harm: this version keeps the field, and the older one goes on without the setting.
func TestRollingUpgrade(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	u := newUpgrade(t)
	leader := u.leader()
	others := u.others(leader)
	t.Run("up", func(t *testing.T) {
		u.replace(t, others[0], u.new, syscall.SIGTERM)
		u.failover(t) // old and new
		u.replace(t, u.others(u.leader())[0], u.new, syscall.SIGKILL)
		u.replace(t, u.leader(), u.new, syscall.SIGTERM)
		for _, m := range u.Plan().Members() {
			if u.runs[m.Name] != u.new {
				u.replace(t, m.Name, u.new, syscall.SIGKILL) // its guard and its server go on
			}
		}
	})
	t.Run("what is not known", func(t *testing.T) {
		u.put(t, "config", map[string]any{"failover": map[string]any{"max_lag": "16MB"}}) // since this version
		u.addField(t)
		u.failover(t)
		if !strings.Contains(u.raw(t), `"of_tomorrow"`) {
			t.Errorf("a field that this version does not know is gone from the record: %s", u.raw(t))
		}
	})
	t.Run("down", func(t *testing.T) {
		leader := u.leader()
		u.replace(t, u.others(leader)[0], u.old, syscall.SIGTERM)
		u.failover(t)
		for _, m := range u.Plan().Members() {
			if u.runs[m.Name] != u.old {
				u.replace(t, m.Name, u.old, syscall.SIGTERM)
			}
		}
	})
	u.rows(t)
}

// upgrade is a lab whose members can be of two versions, and who writes to it.
type upgrade struct {
	*lab.Lab
	old, new string            // programs
	current  string            // the link that the lab starts members by
	runs     map[string]string // by member: which program
	writer   *drill.Writer
}

func newUpgrade(t *testing.T) *upgrade {
	dir, err := os.MkdirTemp("", "upgrade") // open to every user, unlike t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	version := landed
	if path, err := programs.Consul(); err == nil {
		if dialect, err := programs.DialectOf(path); err == nil && dialect.Major == 1 && dialect.Minor < 14 {
			version = landedForOld
		}
	}
	u := &upgrade{old: buildLanded(t, dir, version), new: binary(t), current: filepath.Join(dir, "current"), runs: map[string]string{}}
	if err := os.Symlink(u.old, u.current); err != nil {
		t.Fatal(err)
	}
	u.Lab = up(t, lab.Options{Binary: u.current})
	u.whole(t)
	for _, m := range u.Plan().Members() {
		u.runs[m.Name] = u.old
	}
	u.write(t)
	return u
}

// buildLanded builds the version before from the history, which a copy of the sources
// alone does not have.
func buildLanded(t *testing.T, dir, version string) string {
	sources := filepath.Join(dir, "landed")
	if err := os.Mkdir(sources, 0o755); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "landed.tar")
	history := exec.Command("git", "archive", "-o", archive, version)
	history.Dir = "../.." // from a folder below, git takes only that
	if out, err := history.CombinedOutput(); err != nil {
		t.Skipf("needs the version before, %.7s, from the git history: %v: %s", version, err, out)
	}
	if out, err := exec.Command("tar", "-xf", archive, "-C", sources).CombinedOutput(); err != nil {
		t.Fatalf("unpack the version before: %v: %s", err, out)
	}
	path := filepath.Join(dir, "pgsidecar-before")
	build := exec.Command("go", "build", "-o", path, "./cmd/pgsidecar")
	build.Dir = sources
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the version before: %v: %s", err, out)
	}
	return path
}

// write begins to write through HAProxy.
func (u *upgrade) write(t *testing.T) {
	conn := u.primary(t)
	defer conn.Close(context.WithoutCancel(t.Context()))
	u.writer = written(t, u.Lab, conn)
}

// written begins to write through HAProxy, for the length of the test, into a table that
// is made on the primary.
func written(t *testing.T, l *lab.Lab, primary *pgx.Conn) *drill.Writer {
	t.Helper()
	routes, err := drill.Routes(l)
	if err != nil {
		t.Fatal(err)
	}
	password, err := os.ReadFile(l.Plan().PasswordFile(lab.ApplicationRole))
	if err != nil {
		t.Fatal(err)
	}
	if err := drill.Prepare(t.Context(), primary, lab.ApplicationRole, strings.TrimSpace(string(password))); err != nil {
		t.Fatal(err)
	}
	w := &drill.Writer{Route: routes[0], Run: time.Now().UnixNano(), Workers: 4, Interval: 5 * time.Millisecond}
	w.Start()
	t.Cleanup(w.Stop)
	return w
}

// primary connects to the server of the recorded leader.
func (u *upgrade) primary(t *testing.T) *pgx.Conn {
	t.Helper()
	config, err := u.ConnConfig(lab.SuperuserRole, u.leader())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// leader is the primary that Consul's record names.
func (u *upgrade) leader() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, _ := u.WaitRecord(ctx, func(r ha.Record) bool { return r.Phase == ha.PhaseLeading })
	return r.Leader
}

func (u *upgrade) others(member string) (others []string) {
	for _, m := range u.Plan().Members() {
		if m.Name != member {
			others = append(others, m.Name)
		}
	}
	return others
}

// whole waits until all members are well and rows are written.
func (u *upgrade) whole(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := u.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if u.writer == nil {
		return
	}
	if err := u.writer.WaitAcked(ctx, 20); err != nil {
		t.Fatal(err)
	}
}

// replace ends a member's sidecar with a signal and starts it with another program:
// after SIGTERM with its server, after SIGKILL beside the server, which goes on under
// the guard of the other version.
func (u *upgrade) replace(t *testing.T, member, program string, sig syscall.Signal) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begun := time.Now()
	if err := u.Signal(member, lab.Sidecar, sig); err != nil {
		t.Fatal(err)
	}
	if err := u.Wait(ctx, member, lab.Sidecar); err != nil {
		t.Fatal(err)
	}
	next := u.current + ".next"
	if err := os.Symlink(program, next); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, u.current); err != nil {
		t.Fatal(err)
	}
	if err := u.Start(ctx, member, lab.Sidecar); err != nil {
		t.Fatal(err)
	}
	u.runs[member] = program
	u.whole(t)
	t.Logf("%s runs %s after %s: whole after %v, led by %s", member, filepath.Base(program), sig, time.Since(begun).Round(time.Millisecond), u.leader())
}

// failover crashes the primary's server until another leads: one that does not hear its
// voters yet, as they have only just been replaced, starts its server in place.
func (u *upgrade) failover(t *testing.T) {
	t.Helper()
	for range 5 {
		before, after := u.crash(t)
		u.whole(t)
		if after.Term > before.Term {
			t.Logf("failover from %s (%s) to %s (%s)", before.Leader, filepath.Base(u.runs[before.Leader]), after.Leader, filepath.Base(u.runs[after.Leader]))
			return
		}
		t.Logf("%s (%s) started in place", before.Leader, filepath.Base(u.runs[before.Leader]))
	}
	t.Fatal("nobody took over")
}

// crash kills the primary's server, and returns the record before and after.
func (u *upgrade) crash(t *testing.T) (before, after ha.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	before, err := u.Record(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Kill(before.Leader, lab.Postgres); err != nil {
		t.Fatal(err)
	}
	after, err = u.WaitRecord(ctx, func(r ha.Record) bool { return r.Term > before.Term && r.Phase == ha.PhaseLeading })
	if err != nil {
		return before, before
	}
	return before, after
}

func (u *upgrade) key(name string) string {
	return u.Plan().Prefix + "/" + u.Plan().Cluster + "/" + name
}

func (u *upgrade) consul(t *testing.T) *api.KV {
	t.Helper()
	client, err := u.ConsulClient(u.Plan().App().Name)
	if err != nil {
		t.Fatal(err)
	}
	return client.KV()
}

// put writes a key of the cluster.
func (u *upgrade) put(t *testing.T, name string, value any) {
	t.Helper()
	b, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.consul(t).Put(&api.KVPair{Key: u.key(name), Value: b}, nil); err != nil {
		t.Fatal(err)
	}
}

// raw is the record as it is in Consul.
func (u *upgrade) raw(t *testing.T) string {
	t.Helper()
	pair, _, err := u.consul(t).Get(u.key("state"), &api.QueryOptions{RequireConsistent: true})
	if err != nil || pair == nil {
		t.Fatalf("read the record: %v", err)
	}
	return string(pair.Value)
}

// addField writes a field into the record that no version knows yet.
func (u *upgrade) addField(t *testing.T) {
	t.Helper()
	for range 20 {
		pair, _, err := u.consul(t).Get(u.key("state"), &api.QueryOptions{RequireConsistent: true})
		if err != nil || pair == nil {
			t.Fatalf("read the record: %v", err)
		}
		pair.Value = fmt.Appendf(nil, `{"of_tomorrow": {"a": [1]}, %s`, strings.TrimPrefix(strings.TrimSpace(string(pair.Value)), "{"))
		if done, _, err := u.consul(t).CAS(pair, nil); err != nil {
			t.Fatal(err)
		} else if done {
			return
		}
	}
	t.Fatal("the record changes all the time")
}

// rows reads back what was acknowledged.
func (u *upgrade) rows(t *testing.T) {
	t.Helper()
	u.whole(t)
	conn := u.primary(t)
	defer conn.Close(context.WithoutCancel(t.Context()))
	v, err := drill.Verify(t.Context(), conn, u.writer)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rows acknowledged, %d lost", v.Acked, v.Lost)
	if v.Lost > 0 || v.Twice > 0 || v.Strange > 0 || v.Acked == 0 {
		t.Errorf("%+v", v)
	}
}
