package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

var (
	proofTime     = flag.Duration("proof.time", 30*time.Second, "for how long TestRestoreAfterFailovers writes")
	proofEvery    = flag.Duration("proof.every", 10*time.Second, "how often it ends the primary")
	proofRestores = flag.Int("proof.restores", 2, "to how many random times it restores")
	proofSeed     = flag.Uint64("proof.seed", 0, "of those times; 0: another each time")
)

// TestRestoreAfterFailovers: 200 rows a second are written while one primary after the
// other is killed. Afterwards the archive has no hole, and a restore to a random time gives
// exactly the rows that were acknowledged up to then.
//
//	go test -run TestRestoreAfterFailovers -v -timeout 30m ./cmd/pgsidecar -args -proof.time 10m -proof.every 20s -proof.restores 5
func TestRestoreAfterFailovers(t *testing.T) {
	seed := *proofSeed
	if seed == 0 {
		seed = rand.Uint64N(1_000_000) + 1
	}
	random := rand.New(rand.NewPCG(seed, 0))
	s := newSaved(t)
	st := s.whole("a cluster", 1)
	l := newLedger(s, st.Member, 200, 64)
	s.command("backup", "run")
	began := time.Now()
	failovers := s.failovers(began.Add(*proofTime))
	end := time.Now()
	l.stop()
	rows, longest, errors := l.acked()
	now := s.whole("a whole cluster after all", st.Term+uint64(failovers))
	t.Logf("seed %d: %d failovers in %s, term %d to %d, timeline %d; %d rows acknowledged (%.0f a second), longest pause %s, %d errors", seed, failovers,
		end.Sub(began).Round(time.Second), st.Term, now.Term, now.Members[0].Position.TLI, rows, float64(rows)/end.Sub(began).Seconds(), longest.Round(time.Millisecond), errors)
	s.command("backup", "check")
	s.await("an archive of all", func(st *api.Status) bool { return st.Archive.Files == 0 && st.Archive.Problem == "" })
	for _, hole := range s.holes() {
		t.Error(hole)
	}
	if found := s.status().Archive.Gaps; len(found) > 0 {
		t.Errorf("status tells of gaps: %q", found)
	}
	t.Log(s.command("backup", "list"))
	l.check(now.Member, time.Now())
	var moments []time.Time
	for range *proofRestores {
		moments = append(moments, began.Add(time.Duration(random.Int64N(int64(end.Sub(began))))))
	}
	// The latest first: what is restored has nothing from after its moment.
	slices.SortFunc(moments, func(a, b time.Time) int { return b.Compare(a) })
	for _, moment := range moments {
		s.whole("a whole cluster", now.Term)
		s.restored(l, moment)
	}
}

// failovers ends one primary after the other until a moment: its server alone, or all of
// its member, which then is started again. In the middle another backup is begun.
func (s *saved) failovers(end time.Time) (n int) {
	s.t.Helper()
	middle := time.Now().Add(time.Until(end) / 2)
	for next := time.Now().Add(*proofEvery); next.Before(end); next = next.Add(*proofEvery) {
		pass(s.t.Context(), time.Until(next))
		st := s.whole("a whole cluster", 1)
		if !middle.IsZero() && time.Now().After(middle) {
			middle = time.Time{}
			s.command("backup", "run", "--kind", "incr", "--detach")
		}
		if n%2 == 0 {
			s.must(s.Kill(st.Member, lab.Postgres))
		} else {
			s.lose(st.Member)
		}
		s.await("another leader", func(now *api.Status) bool { return now.Term > st.Term })
		if n%2 == 1 {
			s.must(s.Start(s.within(time.Minute), st.Member, lab.Sidecar))
		}
		n++
	}
	pass(s.t.Context(), time.Until(end))
	return n
}

var historyLine = regexp.MustCompile(`(?m)^(\d+)\t([0-9A-F]+)/([0-9A-F]+)\t`)

// holes are the segments that the repository's folder lacks, on the way from its first one
// to the end of the leader's timeline.
func (s *saved) holes() (missing []string) {
	s.t.Helper()
	s.command("backup", "check") // something of the newest timeline is there then
	conn := s.connect(s.await("a leader", func(*api.Status) bool { return true }).Member)
	size := ask[int64](s, conn, "select setting::bigint from pg_settings where name = 'wal_segment_size'")
	now := ask[string](s, conn, "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")
	from, looked := int64(-1), 0
	leg := func(timeline string, to int64) { // -1: as far as there is
		var have []int64
		for _, name := range s.archived(timeline) {
			have = append(have, s.number(name[8:16])*(1<<32/size)+s.number(name[16:24]))
		}
		if len(have) > 0 && from < 0 {
			from = have[0]
		}
		if len(have) > 0 && to < 0 {
			to = have[len(have)-1] + 1
		}
		if from >= to && timeline == now {
			missing = append(missing, "nothing of timeline "+timeline+" is in the archive")
		}
		for n := from; n < to; n++ {
			looked++
			if _, found := slices.BinarySearch(have, n); !found {
				missing = append(missing, fmt.Sprintf("segment %d of timeline %s is not in the archive", n, timeline))
			}
		}
		from = to
	}
	files, err := filepath.Glob(filepath.Join(s.Plan().RepositoryDir(), "archive", "*", "*", now+".history"))
	s.must(err)
	legs := 1
	for _, file := range files { // one; timeline 1 has none
		text, err := os.ReadFile(file)
		s.must(err)
		for _, m := range historyLine.FindAllStringSubmatch(string(text), -1) {
			timeline, err := strconv.ParseInt(m[1], 10, 64)
			s.must(err)
			leg(fmt.Sprintf("%08X", timeline), (s.number(m[2])<<32+s.number(m[3]))/size)
			legs++
		}
	}
	leg(now, -1)
	s.t.Logf("the archive has %d segments on %d timelines up to %s; missing: %d", looked-len(missing), legs, now, len(missing))
	return missing
}

// number reads digits as PostgreSQL writes them in names and positions.
func (s *saved) number(digits string) int64 {
	s.t.Helper()
	n, err := strconv.ParseInt(digits, 16, 64)
	s.must(err)
	return n
}
