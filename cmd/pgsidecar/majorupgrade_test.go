package main

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// upgradePause is how long applications may wait for the switch to another major version:
// the figure in `pgsidecar help upgrade`.
const upgradePause = 5 * time.Second

// The statements of `pgsidecar help upgrade`: the test looks that they are there.
const (
	closeShop = "alter database shop connection limit 0"
	endShop   = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'shop' and backend_type = 'client backend' and pid <> pg_backend_pid()"
	unready   = "select count(*) from pg_subscription_rel where srsubstate <> 'r'"
	position  = "select pg_current_wal_lsn()"
	behind    = "select confirmed_flush_lsn < 'POSITION' from pg_replication_slots where slot_name = 'upgrade'"
	sequences = "select format('select setval(%L, %s);', quote_ident(schemaname) || '.' || quote_ident(sequencename), last_value) from pg_sequences where last_value is not null"
)

// TestMajorUpgrade does what `pgsidecar help upgrade` says of a major version, under
// writers: their cluster's data go into a cluster of a newer PostgreSQL by logical
// replication, and then they go there. Each acknowledged row is there, once, and the
// sequences go on. Needs two versions of PostgreSQL (make matrix MATRIX=trixie:upgrade).
func TestMajorUpgrade(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two clusters")
	}
	newest := labtest.Program(t, programs.PostgresBin)
	all, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Sort(all)
	if err != nil || len(all) < 2 || all[0] == newest {
		t.Skip("needs two versions of PostgreSQL")
	}
	u := &majorUpgrade{t: t, bin: newest}
	u.old = newOperatedLab(t, lab.Options{PostgresBin: all[0]})
	u.to = newOperatedLab(t, lab.Options{})
	for _, o := range []*operated{u.old, u.to} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		err := o.WaitReady(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	u.old.here(t)
	u.old.good(t, "config set parameters.wal_level=logical -yes")
	labtest.Until(t, time.Minute, "wal_level=logical", func() bool {
		u.old.good(t, "restart --pending")
		return u.old.asked(t, u.old.whole(t).Leader, "show wal_level") == "logical"
	})
	u.shop()
	w := u.open()
	u.copy()
	w.forget()
	u.change(w)
	w.more(t, 1000)
	t.Logf("applications waited for %v", w.longest().Round(time.Millisecond))
	if w.longest() > upgradePause {
		t.Errorf("applications waited for %v", w.longest())
	}
	u.compare(w.stop(t))
}

// majorUpgrade is a cluster, and the one of a newer version that takes its place.
type majorUpgrade struct {
	t       *testing.T
	bin     string // the newer version's programs
	old, to *operated
}

// at is where a cluster takes writes: the database is the operator's or the application's.
func (u *majorUpgrade) at(o *operated, database string) string {
	return strings.Replace(o.conninfo(u.t), "dbname=postgres", "dbname="+database, 1)
}

// types is a line that an operator types, with PostgreSQL's newer programs; OLD and NEW
// stand for the clusters.
func (u *majorUpgrade) types(line string) string {
	u.t.Helper()
	out, err := u.try(line)
	if err != nil {
		u.t.Fatalf("%s: %v: %s", line, err, out)
	}
	return out
}

func (u *majorUpgrade) try(line string) (string, error) {
	ctx, cancel := context.WithTimeout(u.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", line)
	cmd.Env = append(cmd.Environ(), "PATH="+u.bin+":/usr/bin:/bin", "PGOPTIONS=", "OLD="+u.at(u.old, "shop"), "NEW="+u.at(u.to, "shop"), "NEWPOSTGRES="+u.at(u.to, "postgres"))
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// opens waits until all members have the new database: psql asks a replica first, and gives
// up where that does not have it yet.
func (u *majorUpgrade) opens(where string) {
	u.t.Helper()
	labtest.Until(u.t, time.Minute, "the new database", func() bool {
		_, err := u.try("psql -XAtq -d \"$" + where + "\" -c 'select 1'")
		return err == nil
	})
}

func (u *majorUpgrade) sql(where, statement string) string {
	u.t.Helper()
	return u.types("psql -XAtq -v ON_ERROR_STOP=1 -d \"$" + where + "\" -c " + strconv.Quote(statement))
}

// shop makes the application's database, with rows, in the old cluster.
func (u *majorUpgrade) shop() {
	u.t.Helper()
	leader := u.old.whole(u.t).Leader
	u.old.must(u.t, leader, "create role clerk login password 'clerk'")
	u.old.must(u.t, leader, "create database shop owner clerk")
	u.opens("OLD")
	u.sql("OLD", "create table orders (id bigserial primary key, n bigint not null); alter table orders owner to clerk; insert into orders (n) select -i from generate_series(1, 50000) i")
}

// copy is all that comes before the switch; applications do not notice.
func (u *majorUpgrade) copy() {
	u.t.Helper()
	u.to.here(u.t)
	u.to.whole(u.t)
	u.types(`pg_dumpall --roles-only -d "$OLD" | grep -vE '^(CREATE|ALTER) ROLE (postgres|replicator)\b' | psql -Xq -v ON_ERROR_STOP=1 -d "$NEWPOSTGRES"`)
	u.types(`psql -Xq -d "$NEWPOSTGRES" -c 'create database shop owner clerk'`)
	u.opens("NEW")
	u.types(`pg_dump --schema-only -d "$OLD" | psql -Xq -v ON_ERROR_STOP=1 -d "$NEW"`)
	u.sql("OLD", "create publication upgrade for all tables")
	u.sql("NEW", "create subscription upgrade connection '"+u.at(u.old, "shop")+"' publication upgrade")
	labtest.Until(u.t, time.Minute, "the copy", func() bool { return u.sql("NEW", unready) == "0" })
}

// change is the switch.
func (u *majorUpgrade) change(w *clerks) {
	u.t.Helper()
	help := strings.Join(strings.Fields(u.types(u.binary()+" help upgrade")), " ")
	for _, statement := range []string{closeShop, endShop, unready, position, behind, sequences} {
		if !strings.Contains(help, statement) {
			u.t.Errorf("help upgrade does not say: %s", statement)
		}
	}
	u.sql("OLD", closeShop)
	labtest.Until(u.t, time.Minute, "the end of the sessions", func() bool { return u.sql("OLD", endShop) == "" })
	at := u.sql("OLD", position)
	labtest.Until(u.t, time.Minute, "the last rows", func() bool { return u.sql("OLD", strings.Replace(behind, "POSITION", at, 1)) == "f" })
	u.types(`psql -XAtq -d "$OLD" -c ` + strconv.Quote(sequences) + ` | psql -Xq -v ON_ERROR_STOP=1 -d "$NEW" -o /dev/null`)
	u.sql("NEW", "drop subscription upgrade")
	w.where.Store(u.to)
}

func (u *majorUpgrade) binary() string {
	u.t.Helper()
	binary, err := builtOnce()
	if err != nil {
		u.t.Fatal(err)
	}
	return binary
}

// compare looks that the new cluster has each acknowledged row once.
func (u *majorUpgrade) compare(acknowledged map[int64]bool) {
	u.t.Helper()
	lines := strings.Fields(u.sql("NEW", "select n from orders"))
	there := map[int64]int{}
	for _, line := range lines {
		n, err := strconv.ParseInt(line, 10, 64)
		if err != nil {
			u.t.Fatal(err)
		}
		there[n]++
	}
	lost, twice := 0, 0
	for n := range acknowledged {
		if there[n] == 0 {
			lost++
		}
	}
	for _, times := range there {
		if times > 1 {
			twice++
		}
	}
	u.t.Logf("%d rows acknowledged, %d lost, %d twice, of %d", len(acknowledged), lost, twice, len(lines))
	if lost > 0 || twice > 0 || len(lines) < 50000+len(acknowledged) {
		u.t.Errorf("%d rows are lost, %d are there twice", lost, twice)
	}
}

var account = regexp.MustCompile(`user=\S+ password=\S+`)

// clerks write as an application does: to the cluster of the moment, each row once.
type clerks struct {
	where  atomic.Pointer[operated]
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu    sync.Mutex // guards what follows
	acked map[int64]bool
	last  time.Time
	pause time.Duration
	wrong []string // what must not happen: a number that was given out before
}

// open begins to write.
func (u *majorUpgrade) open() *clerks {
	ctx, cancel := context.WithCancel(u.t.Context())
	w := &clerks{cancel: cancel, acked: map[int64]bool{}, last: time.Now()}
	w.where.Store(u.old)
	var next atomic.Int64
	for range 4 {
		w.wait.Go(func() {
			for ctx.Err() == nil {
				w.serve(ctx, u, &next)
			}
		})
	}
	u.t.Cleanup(func() { w.cancel(); w.wait.Wait() })
	return w
}

// serve writes by one connection until that fails.
func (w *clerks) serve(ctx context.Context, u *majorUpgrade, next *atomic.Int64) {
	here := w.where.Load()
	once, done := context.WithTimeout(ctx, 2*time.Second)
	conn, err := pgx.Connect(once, account.ReplaceAllString(u.at(here, "shop"), "user=clerk password=clerk"))
	done()
	if err != nil {
		return
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it is given up
	for ctx.Err() == nil && w.where.Load() == here {
		n := next.Add(1)
		once, done := context.WithTimeout(ctx, 5*time.Second)
		_, err := conn.Exec(once, "insert into orders (n) values ($1)", n)
		done()
		if w.note(n, err); err != nil {
			return
		}
	}
}

func (w *clerks) note(n int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "23505" {
		w.wrong = append(w.wrong, refused.Message+": "+refused.Detail)
	}
	if err != nil {
		return
	}
	w.acked[n] = true
	now := time.Now()
	w.pause, w.last = max(w.pause, now.Sub(w.last)), now
}

// forget has what was before count for no pause.
func (w *clerks) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pause = 0
}

func (w *clerks) longest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pause
}

// more waits until n more rows are acknowledged.
func (w *clerks) more(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.acked)
	}
	want := count() + n
	labtest.Until(t, time.Minute, "more rows", func() bool { return count() >= want })
}

// stop ends the writing and returns what was acknowledged.
func (w *clerks) stop(t *testing.T) map[int64]bool {
	t.Helper()
	w.cancel()
	w.wait.Wait()
	if len(w.wrong) > 0 {
		t.Errorf("%d times a number was given out again: %s", len(w.wrong), w.wrong[0])
	}
	return w.acked
}
