package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// sites are two labs, whose clusters have the same data.
type sites struct {
	*testing.T
	west, east *operated
	way        far // between them
	rows       int // written one by one so far
}

// TestSites: a cluster follows another site's through failovers in both, a planned change
// of sites loses nothing there and back, and a site that comes back after the other was
// promoted without it follows, and keeps aside what it had beyond.
func TestSites(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	w := &sites{T: t, west: newOperated(t), rows: 1, way: far{t: t, by: map[string]string{}}}
	st := w.west.whole(t)
	w.west.must(t, st.Leader, "create table rows (n bigint primary key)")
	w.east = newOperatedLab(t, lab.Options{Other: w.west.Plan()})
	w.follows(w.east)
	t.Cleanup(w.said)
	t.Run("a row gets there", func(t *testing.T) { w.row(t, w.west, w.east, 1) })
	t.Run("failover at the site that is followed", func(t *testing.T) { w.failover(t, w.west) })
	t.Run("failover at the site that follows", func(t *testing.T) { w.failover(t, w.east) })
	w.name(w.west, w.east)
	w.name(w.east, w.west)
	if t.Failed() {
		return
	}
	t.Run("planned change of sites", func(t *testing.T) { w.change(t, w.west, w.east, 1000) })
	t.Run("and back", func(t *testing.T) { w.change(t, w.east, w.west, 100000) })
	t.Run("disaster", w.disaster)
}

// said shows the ends of the members' logs where the test has failed.
func (w *sites) said() {
	if !w.Failed() {
		return
	}
	for _, o := range []*operated{w.west, w.east} {
		for _, m := range o.Plan().Members() {
			if log, err := os.ReadFile(filepath.Join(m.Dir, "sidecar.log")); err == nil {
				lines := strings.Split(strings.TrimSpace(string(log)), "\n")
				w.Logf("%s:\n%s", m.Dir, strings.Join(lines[max(0, len(lines)-40):], "\n"))
			}
		}
	}
}

// follows waits until all of a site's members stream, its leader from the other site.
func (w *sites) follows(o *operated) *api.Status {
	w.Helper()
	o.here(w.T)
	var st *api.Status
	o.until(w.T, "the site to follow the other", func() bool {
		code, stdout, _ := command(w.T, "status", "--json")
		st = new(api.Status)
		if err := json.Unmarshal([]byte(stdout), st); code != 0 || err != nil {
			return false // it is just starting
		}
		return st.Site != nil && st.Site.Follows && st.Site.Lag != nil && st.Role == ha.RoleStandbyLeader && len(st.Members) == 3 && len(st.Recorded) == 3 &&
			!slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool { return !m.Streaming })
	})
	return st
}

// row writes a row at one site, and waits for it on the leader of the other.
func (w *sites) row(t *testing.T, from, to *operated, n int) {
	t.Helper()
	from.here(w.T)
	from.must(t, from.status().Leader, fmt.Sprintf("insert into rows values (%d)", n))
	to.here(w.T)
	to.until(t, "the row at the other site", func() bool {
		return to.asked(t, to.status().Leader, fmt.Sprintf("select count(*)::text from rows where n = %d", n)) == "1"
	})
}

// failover kills the leader of a site: the stream between the sites comes back without it.
func (w *sites) failover(t *testing.T, o *operated) {
	o.here(w.T)
	before := o.status()
	if err := o.KillMember(t.Context(), before.Leader); err != nil {
		t.Fatal(err)
	}
	o.until(t, "another leader", func() bool {
		st := o.status()
		return st.Term > before.Term && st.Phase == ha.PhaseLeading && (st.Primary || st.Role == ha.RoleStandbyLeader)
	})
	w.rows++
	w.row(t, w.west, w.east, w.rows)
	if err := o.Start(t.Context(), before.Leader, lab.Sidecar); err != nil {
		t.Fatal(err)
	}
	w.west.here(w.T)
	w.west.whole(t)
	w.follows(w.east)
}

// name tells a site of the other.
func (w *sites) name(o, other *operated) {
	w.Helper()
	o.here(w.T)
	var addresses, apis []string
	for _, m := range other.Plan().Members() {
		addresses, apis = append(addresses, w.way.of(m.PostgresAddress())), append(apis, w.way.of(m.APIAddress()))
	}
	o.good(w.T, fmt.Sprintf(`settings set standby_of.addresses=["%s"] standby_of.apis=["%s"] --yes`, strings.Join(addresses, `","`), strings.Join(apis, `","`)))
	o.until(w.T, "the other site to be known", func() bool { return o.status().Site != nil })
}

// write writes rows wherever writes are taken, from the number on, until it is told to
// stop; what came of a commit that failed is not known. It returns how many were
// acknowledged, and the longest time between two.
func (w *sites) write(t *testing.T, from int) (stop func() (acknowledged []int, pause time.Duration)) {
	ctx, cancel := context.WithCancel(t.Context())
	var acknowledged []int
	var pause time.Duration
	var writer sync.WaitGroup
	writer.Go(func() {
		var conn *pgx.Conn
		last := time.Now()
		for n := from; ctx.Err() == nil; n++ {
			for conn == nil || conn.IsClosed() {
				for _, o := range []*operated{w.west, w.east} {
					if conn = o.leads(ctx); conn != nil {
						break
					}
				}
				if ctx.Err() != nil {
					return
				}
			}
			once, done := context.WithTimeout(ctx, 2*time.Second)
			_, err := conn.Exec(once, "insert into rows values ($1)", n)
			done()
			if err != nil {
				conn.Close(ctx) //nolint:errcheck // it is given up
				conn = nil
				continue
			}
			acknowledged = append(acknowledged, n)
			pause, last = max(pause, time.Since(last)), time.Now()
		}
	})
	return func() ([]int, time.Duration) { cancel(); writer.Wait(); return acknowledged, pause }
}

// change has the other site take the writes, under a writer: no row is lost.
func (w *sites) change(t *testing.T, from, to *operated, rows int) {
	w.follows(to)
	from.here(w.T)
	from.whole(t)
	stop := w.write(t, rows)
	from.until(t, "rows", func() bool {
		return from.asked(t, from.status().Leader, fmt.Sprintf("select (count(*) > 20)::text from rows where n >= %d", rows)) == "true"
	})
	w.sameTimeline(t, from, to)
	fetched := histories(t, to)
	from.until(t, "the other site to be let take the writes", func() bool {
		code, said, why := command(t, "site", "switch")
		if code != 0 && !strings.Contains(why, "does not stream") { // it may just have begun to
			t.Fatal(said, why)
		}
		t.Log(strings.TrimSpace(said + why))
		return code == 0
	})
	began := time.Now()
	w.follows(from)
	t.Logf("the old site follows after %v", time.Since(began).Round(time.Millisecond))
	to.here(w.T)
	st := to.whole(t)
	to.until(t, "rows", func() bool {
		return to.asked(t, st.Leader, fmt.Sprintf("select (count(*) > 50)::text from rows where n >= %d", rows)) == "true"
	})
	if n := histories(t, to) - fetched; n > 8 {
		t.Errorf("the standbys of the new primary fetched %d timeline histories before they followed it", n)
	}
	acknowledged, pause := stop()
	t.Logf("%d rows acknowledged, the longest pause was %v", len(acknowledged), pause.Round(time.Millisecond))
	w.has(t, to, acknowledged)
}

// sameTimeline waits until all of a site's members are on the timeline of the site that they follow.
func (w *sites) sameTimeline(t *testing.T, from, to *operated) {
	st := from.status()
	at := slices.IndexFunc(st.Members, func(m api.MemberStatus) bool { return m.Member == st.Leader })
	want := st.Members[at].Position.TLI
	to.here(w.T)
	defer from.here(w.T)
	to.until(t, "the members on the other site's timeline", func() bool {
		return !slices.ContainsFunc(to.status().Members, func(m api.MemberStatus) bool { return m.Position.TLI != want })
	})
}

// histories is how many timeline histories a site's standbys have fetched, one by one and before
// they stream. A change of sites passes over nearly a hundred timelines, which nobody was on.
func histories(t *testing.T, o *operated) (n int) {
	for _, m := range o.Plan().Members() {
		log, err := os.ReadFile(filepath.Join(m.DataDir()+".pgsidecar", "postgresql.log"))
		if err != nil {
			t.Fatal(err)
		}
		n += strings.Count(string(log), "fetching timeline history file")
	}
	return n
}

// has fails unless the leader of a site has all of the rows.
func (w *sites) has(t *testing.T, o *operated, rows []int) {
	t.Helper()
	if len(rows) == 0 {
		t.Fatal("no row was acknowledged")
	}
	o.here(w.T)
	missing := o.asked(t, o.status().Leader, fmt.Sprintf("select count(*)::text from unnest(array%s) n where not exists (select from rows r where r.n = n)",
		strings.ReplaceAll(fmt.Sprint(rows), " ", ",")))
	if missing != "0" {
		t.Errorf("%s of %d acknowledged rows are lost", missing, len(rows))
	}
}

// disaster: the site that takes the writes is gone, the other is promoted without it, and
// then the first comes back.
func (w *sites) disaster(t *testing.T) {
	w.follows(w.east)
	w.west.here(w.T)
	st := w.west.whole(t)
	code, _, said := command(t, "site", "promote", "--accept-data-loss", "--yes")
	if code == 0 || !strings.Contains(said, "takes the writes already") {
		t.Errorf("promoted where it leads: %d %s", code, said)
	}
	w.east.here(w.T)
	if code, _, said := command(t, "site", "promote", "--accept-data-loss", "--yes"); code == 0 || !strings.Contains(said, "takes writes, at ") {
		t.Errorf("promoted while the other site takes writes: %d %s", code, said)
	}
	for _, m := range w.west.Plan().Members() {
		if err := w.west.KillMember(t.Context(), m.Name); err != nil {
			t.Fatal(err)
		}
	}
	w.east.until(t, "the other site not to be heard", func() bool { return len(w.east.status().Blocks) > 0 })
	t.Log(w.east.status().Blocks[0])
	t.Log(strings.TrimSpace(w.east.good(t, "site")))
	t.Log(strings.TrimSpace(w.east.good(t, "site promote --accept-data-loss --yes")))
	east := w.east.whole(t)
	w.east.must(t, east.Leader, "insert into rows values (-1)")
	for _, m := range w.west.Plan().Members() {
		if err := w.west.Start(t.Context(), m.Name, lab.Sidecar); err != nil {
			t.Fatal(err)
		}
	}
	w.follows(w.west)
	for _, m := range w.west.Plan().Members() {
		w.west.until(t, "the row that the other site has", func() bool {
			return w.west.asked(t, m.Name, "select count(*)::text from rows where n = -1") == "1"
		})
	}
	if now := w.west.status(); now.Term <= st.Term {
		t.Errorf("it follows in term %d, and led in %d", now.Term, st.Term)
	}
}
