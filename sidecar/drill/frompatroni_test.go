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

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
)

// movePause is how long applications may wait while a cluster changes from Patroni to
// pgsidecar. It is ten times the figure in `pgsidecar help patroni`, which holds on a
// machine that does nothing else: beside other work, 11 s were seen.
const movePause = 30 * time.Second

// TestFromPatroni does what `pgsidecar help patroni` says, under writers that come by
// Patroni's own HAProxy: three members under Patroni go on under pgsidecar, with the
// same data directories, survive a failover there, and go back to Patroni. No
// acknowledged row is lost, and nothing is copied.
func TestFromPatroni(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	if _, missing := patroniVersion(); missing != "" {
		t.Skip(missing)
	}
	t.Setenv("PGSIDECAR_TAKE_OVER", "1")
	m := newMove(t)
	t.Run("to pgsidecar", m.toPgsidecar)
	if !t.Failed() {
		t.Run("failover", m.failover)
	}
	if !t.Failed() {
		t.Run("back to Patroni", m.back)
	}
	m.rows(t)
}

// moving runs each member of a lab by Patroni, or by pgsidecar once it has moved.
type moving struct {
	patroni
	binary string
	moved  map[string]bool
}

func (m *moving) Command(plan *lab.Plan, h lab.Host) []string {
	if m.moved[h.Name] {
		return []string{m.binary, "run", "-config", filepath.Join(h.Dir, "pgsidecar", "pg.hcl")}
	}
	return m.patroni.Command(plan, h)
}

// move is a cluster that moves, and who writes to it.
type move struct {
	*lab.Lab
	agent  *moving
	writer *drill.Writer
	made   map[string]os.FileInfo // each member's data, to see that it stays the same
}

func newMove(t *testing.T) *move {
	// Its documentation's HAProxy, but quick loops: the test waits for many.
	p := patroniFastest()
	p.Checks = patroniDefaults().Checks
	m := &move{agent: &moving{patroni: p, binary: binary(t), moved: map[string]bool{}}, made: map[string]os.FileInfo{}}
	m.Lab = cluster(t, lab.Options{Agent: m.agent})
	for _, h := range m.Plan().Members() {
		m.made[h.Name] = m.identity(t, h)
		own := filepath.Join(h.Dir, "pgsidecar")
		m.run(t, m.agent.binary, "import", filepath.Join(h.Dir, "patroni.yml"), "--out", own)
		// Patroni's API has no password here, so import says that a token is missing.
		m.run(t, "sed", "-i", "s|^api {|&\\n  token_file = \""+m.Plan().APITokenFile()+"\"|", filepath.Join(own, "pg.hcl"))
	}
	conn := m.connect(t, m.primary(t))
	defer conn.Close(context.WithoutCancel(t.Context()))
	m.writer = written(t, m.Lab, conn)
	m.whole(t)
	return m
}

// identity is a file that initdb makes and no copy has.
func (m *move) identity(t *testing.T, h lab.Host) os.FileInfo {
	t.Helper()
	info, err := os.Stat(filepath.Join(h.DataDir(), "PG_VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// run is a command that an operator types.
func (m *move) run(t *testing.T, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (m *move) patronictl(t *testing.T, args ...string) string {
	t.Helper()
	return m.run(t, append([]string{patroniPython, "/usr/bin/patronictl", "-c", filepath.Join(m.Plan().Members()[0].Dir, "patroni.yml")}, args...)...)
}

// whole waits until all members are well and rows are written.
func (m *move) whole(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.writer.WaitAcked(ctx, 20); err != nil {
		t.Fatal(err)
	}
}

// primary is who takes the writes of the whole cluster.
func (m *move) primary(t *testing.T) (name string) {
	t.Helper()
	labtest.Eventually(t, time.Minute, "a whole cluster", func() error {
		var why string
		if name, why = m.agent.Whole(t.Context(), m.Lab); why != "" {
			return fmt.Errorf("%s", why)
		}
		return nil
	})
	return name
}

// stop ends a member's Patroni or pgsidecar as systemctl stop does.
func (m *move) stop(t *testing.T, member string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.Signal(member, lab.Sidecar, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(ctx, member, lab.Sidecar); err != nil {
		t.Fatal(err)
	}
}

func (m *move) start(t *testing.T, member string) {
	t.Helper()
	if err := m.Start(t.Context(), member, lab.Sidecar); err != nil {
		t.Fatal(err)
	}
}

// take moves one member whose Patroni is paused.
func (m *move) take(t *testing.T, member string) {
	t.Helper()
	m.stop(t, member)
	if _, err := m.PID(member, lab.Postgres); err != nil {
		t.Fatalf("the paused Patroni stopped its server: %v", err)
	}
	m.agent.moved[member] = true
	m.start(t, member)
}

func (m *move) connect(t *testing.T, member string) *pgx.Conn {
	t.Helper()
	config, err := m.ConnConfig(lab.SuperuserRole, member)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func (m *move) toPgsidecar(t *testing.T) {
	primary := m.primary(t)
	m.patronictl(t, "pause", "--wait")
	begun := time.Now()
	for _, h := range m.Plan().Members() {
		if h.Name != primary {
			m.take(t, h.Name)
		}
	}
	m.take(t, primary)
	m.whole(t)
	m.paused(t, begun)
	m.unchanged(t)
	for _, h := range m.Plan().Members() {
		m.dropSlots(t, h.Name, "slot_name !~ '^pgsidecar_'")
	}
}

// dropSlots drops what slots the other program has left on a member.
func (m *move) dropSlots(t *testing.T, member, which string) {
	t.Helper()
	conn := m.connect(t, member)
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), "select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active and "+which); err != nil {
		t.Errorf("drop the slots that are left: %v", err)
	}
	var left int
	if err := conn.QueryRow(t.Context(), "select count(*) from pg_replication_slots where "+which).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d slots are left (%v)", left, err)
	}
}

// paused holds the longest pause since then to its bound.
func (m *move) paused(t *testing.T, since time.Time) {
	t.Helper()
	pause := m.writer.Longest(since, time.Time{})
	t.Logf("a pause of %v", pause.Length().Round(time.Millisecond))
	if pause.Length() > movePause {
		t.Errorf("applications waited for %v", pause.Length())
	}
}

// unchanged looks that nothing was copied.
func (m *move) unchanged(t *testing.T) {
	t.Helper()
	for _, h := range m.Plan().Members() {
		if !os.SameFile(m.made[h.Name], m.identity(t, h)) {
			t.Errorf("the data of %s were copied", h.Name)
		}
	}
}

// failover has another member lead, as who goes back may do so later.
func (m *move) failover(t *testing.T) {
	before := m.primary(t)
	if err := m.Kill(before, lab.Postgres); err != nil {
		t.Fatal(err)
	}
	m.whole(t)
	if now := m.primary(t); now == before {
		t.Errorf("%s leads still", now)
	}
	m.unchanged(t)
}

// pgsidecar is a command of its own, of the first member.
func (m *move) pgsidecar(t *testing.T, args ...string) string {
	t.Helper()
	return m.run(t, append([]string{m.agent.binary}, append(args, "-config", filepath.Join(m.Plan().Members()[0].Dir, "pgsidecar", "pg.hcl"))...)...)
}

// asServer is a command that an operator types as PostgreSQL's user.
func (m *move) asServer(t *testing.T, argv ...string) {
	t.Helper()
	if m.Plan().User != "" {
		argv = append([]string{"setpriv", "--reuid=" + m.Plan().User, "--regid=" + m.Plan().User, "--init-groups"}, argv...)
	}
	m.run(t, argv...)
}

// leader is Patroni's leader, as its keys in Consul say; empty: none.
func (m *move) leader(t *testing.T) string {
	t.Helper()
	var list []struct{ Member, Role string }
	if err := json.Unmarshal([]byte(m.patronictl(t, "list", "-f", "json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, one := range list {
		if one.Role == "Leader" {
			return one.Member
		}
	}
	return ""
}

func (m *move) back(t *testing.T) {
	primary := m.primary(t)
	h, err := m.Plan().Host(primary)
	if err != nil {
		t.Fatal(err)
	}
	// Patroni's answer is that it does not lead, as long as another one's session lives.
	labtest.Until(t, 2*time.Minute, "the end of Patroni's last session", func() bool { return m.leader(t) == "" })
	set := []string{"settings", "set"}
	for _, other := range m.Plan().Members() {
		set = append(set, "tags."+other.Name+".nofailover=true")
	}
	m.pgsidecar(t, append(set, "--yes")...)
	m.run(t, "sed", "-i", "/^synchronous_standby_names/d", filepath.Join(h.DataDir(), "postgresql.conf"))
	begun := time.Now()
	m.stop(t, primary)
	m.asServer(t, filepath.Join(m.Plan().PostgresBin, "pg_ctl"), "-D", h.DataDir(), "-l", filepath.Join(filepath.Dir(h.DataDir()), "log"), "start")
	m.agent.moved[primary] = false
	m.start(t, primary)
	labtest.Until(t, time.Minute, "Patroni to lead", func() bool { return m.leader(t) == primary })
	m.patronictl(t, "resume")
	for _, other := range m.Plan().Members() {
		if other.Name != primary {
			m.stop(t, other.Name)
			m.agent.moved[other.Name] = false
			m.start(t, other.Name)
		}
	}
	m.whole(t)
	m.paused(t, begun)
	m.unchanged(t)
	m.run(t, "sh", "-c", "echo "+m.Plan().Cluster+" | "+m.agent.binary+" remove --cluster "+m.Plan().Cluster+" --config "+filepath.Join(h.Dir, "pgsidecar", "pg.hcl"))
	for _, h := range m.Plan().Members() {
		m.dropSlots(t, h.Name, "slot_name ~ '^pgsidecar_'")
		m.run(t, "rm", "-r", h.DataDir()+".pgsidecar")
	}
}

// rows reads back what was acknowledged.
func (m *move) rows(t *testing.T) {
	conn := m.connect(t, m.primary(t))
	defer conn.Close(context.WithoutCancel(t.Context()))
	v, err := drill.Verify(t.Context(), conn, m.writer)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rows acknowledged, %d lost", v.Acked, v.Lost)
	if v.Lost > 0 || v.Twice > 0 || v.Strange > 0 || v.Acked == 0 {
		t.Errorf("%+v", v)
	}
}
