package drill

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// SitesReport is what a drill of two sites has beside all others.
type SitesReport struct {
	Before string     `json:"before"` // the site that took the writes
	After  string     `json:"after"`
	Rows   []SiteRows `json:"rows"` // by the site that acknowledged them
	// Announced is what was said to be lost before the other site was promoted; nil: it
	// was not, without the first.
	Announced *Announced `json:"announced,omitempty"`
	// Refused is what was refused while the fault lasted, and what was said; empty: nothing
	// was to be.
	Refused string `json:"refused,omitempty"`
	// BothMs is how long both sites took writes beside each other, where nothing kept them
	// from it; 0: they did not.
	BothMs float64 `json:"both_ms,omitempty"`
	// KeptBytes is what the members of the site that took the writes before have kept aside
	// of their log since the drill began, in bytes.
	KeptBytes int64 `json:"kept_bytes"`
}

// SiteRows is what became of the rows that a site acknowledged.
type SiteRows struct {
	Site  string `json:"site"`
	Acked int64  `json:"acked"`
	Lost  int64  `json:"lost"`
}

// Announced is what site promote says that is lost at most: what the site lacked of the
// other's log when it heard it last, and all since.
type Announced struct {
	Words    string    `json:"words"`
	Heard    time.Time `json:"heard,omitzero"` // zero: never
	LagBytes int64     `json:"lag_bytes"`      // -1: not known
	// Since is how many rows the lost site acknowledged after that, and Bound, with those
	// that LagBytes can hold, how many may be lost.
	Since int64 `json:"since"`
	Bound int64 `json:"bound"`
}

// rowLog is at least what one row of drill.writes takes of the log: its record, that of its
// index, and its commit's.
const rowLog = 100

// ackLog remembers who acknowledged each row, and when.
type ackLog struct {
	mu   sync.Mutex
	acks []loggedAck
}

type loggedAck struct {
	worker int
	seq    int64
	member string
	acked  time.Time
}

func (l *ackLog) add(worker int, seq int64, a Ack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acks = append(l.acks, loggedAck{worker: worker, seq: seq, member: a.Member, acked: a.Acked})
}

// count fills in what became of the rows, by site; lost are those that are not there.
func (s *SitesReport) count(acks []loggedAck, lost map[int][]span, siteOf func(member string) string) {
	rows := map[string]*SiteRows{}
	for _, a := range acks {
		site := siteOf(a.member)
		if rows[site] == nil {
			rows[site] = &SiteRows{Site: site}
		}
		rows[site].Acked++
		if slices.ContainsFunc(lost[a.worker], func(s span) bool { return s.first <= a.seq && a.seq <= s.last }) {
			rows[site].Lost++
		}
		if n := s.Announced; n != nil && site == s.Before && a.acked.After(n.Heard) {
			n.Since++
		}
	}
	s.Rows = []SiteRows{}
	for _, r := range rows {
		s.Rows = append(s.Rows, *r)
	}
	slices.SortFunc(s.Rows, func(a, b SiteRows) int { return cmp.Compare(a.Site, b.Site) })
	if n := s.Announced; n != nil {
		n.Bound = n.Since + max(0, n.LagBytes)/rowLog
	}
}

// lost is how many rows of a site are lost.
func (s *SitesReport) lost(site string) int64 {
	for _, r := range s.Rows {
		if r.Site == site {
			return r.Lost
		}
	}
	return 0
}

// judge says what was not as announced. Without an announcement no row may be lost but as
// the objective says, which is judged for all drills.
func (s *SitesReport) judge(fail func(format string, args ...any)) {
	if s.Announced == nil {
		return
	}
	for _, r := range s.Rows {
		if r.Site != s.Before && r.Lost > 0 {
			fail("%d rows are lost that %s acknowledged, which was not lost", r.Lost, r.Site)
		}
	}
	switch lost := s.lost(s.Before); {
	case s.Announced.LagBytes < 0:
		fail("site promote did not say how much is lost: %s", s.Announced.Words)
	case lost > s.Announced.Bound:
		fail("%d rows of %s are lost, and site promote had announced %d at most: %s", lost, s.Before, s.Announced.Bound, s.Announced.Words)
	case lost > 0 && s.KeptBytes == 0:
		fail("%d rows of %s are lost, and nothing was kept aside there", lost, s.Before)
	}
}

// allowed is how many lost rows were announced.
func (s *SitesReport) allowed() int64 {
	if s == nil || s.Announced == nil {
		return 0
	}
	return s.Announced.Bound
}

// beginSites notes how it is before the fault.
func (r *rehearsal) beginSites() error {
	if !r.scenario.Sites {
		return nil
	}
	kept, err := kept(r.Lab)
	r.report.Sites = &SitesReport{Before: r.Lab.Name(), KeptBytes: -kept}
	r.cast.Sites = r.report.Sites
	return err
}

// closeSites fills in the report of two sites.
func (r *rehearsal) closeSites(v Verdict) error {
	s := r.report.Sites
	if s == nil {
		return nil
	}
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	s.count(r.log.acks, v.spans, func(member string) string { return r.Lab.SiteOf(member).Name() })
	kept, err := kept(r.Lab)
	s.KeptBytes += kept
	return err
}

// closeSplit tells the overlap of two sites that nothing kept from it, which is what is to be
// seen, from one within a site.
func (r *rehearsal) closeSplit() {
	p := r.report
	p.Overlaps = p.Sites.split(r.primaries.overlaps(), func(member string) string { return r.Lab.SiteOf(member).Name() })
	if p.Sites.BothMs < ms(r.scenario.Hold) {
		p.Failures = append(p.Failures, fmt.Sprintf("both sites took writes for %.0f ms, and the fault lasted for %v", p.Sites.BothMs, r.scenario.Hold))
	}
}

// split notes for how long both sites took writes, and returns in words where two servers of
// one site did.
func (s *SitesReport) split(all []overlap, siteOf func(member string) string) (within []string) {
	for _, o := range all {
		if siteOf(o.before.Member) == siteOf(o.after.Member) {
			within = append(within, o.String())
			continue
		}
		s.BothMs = max(s.BothMs, ms(o.lasted()))
	}
	return within
}

// kept is how much the members of a site have kept aside of their log.
func kept(site *lab.Lab) (sum int64, err error) {
	for _, m := range site.Plan().Members() {
		n, err := site.Kept(m.Name)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// waitSiteReturned waits until the site that took the writes before, if the other does now,
// follows that one, and notes when. What is wrong, waiting for both sites finds out.
func (r *rehearsal) waitSiteReturned(ctx context.Context, now string) {
	if r.Lab.SiteOf(now) == r.Lab {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.Deadline/2)
	defer cancel()
	if err := r.Lab.WaitFollows(ctx); err == nil {
		r.returned = time.Now()
	}
}

// unheard reports whether a way is of those that are not waited for while the fault lasts.
func (r *rehearsal) unheard(route string) bool {
	return r.scenario.Unheard != nil && strings.HasSuffix(route, "-"+r.scenario.Unheard(r.cast).Name())
}

// writeSites says what a drill of two sites has shown.
func (r *Report) writeSites(line func(name, format string, args ...any)) {
	s := r.Sites
	if s == nil || s.After == "" { // given up before
		return
	}
	after := s.After + " takes the writes"
	if s.After == s.Before {
		after = s.After + " still takes the writes"
	}
	line("sites", "%s took the writes, and %s", s.Before, after)
	var rows []string
	for _, site := range s.Rows {
		rows = append(rows, fmt.Sprintf("%s acknowledged %d and lost %d", site.Site, site.Acked, site.Lost))
	}
	line("  rows by site", "%s", strings.Join(rows, "; "))
	if a := s.Announced; a != nil {
		line("  announced", "%s", a.Words)
		line("", "that is %d rows at most: %d acknowledged since, and %d bytes of log", a.Bound, a.Since, a.LagBytes)
		line("  kept aside", "%d bytes of log at %s", s.KeptBytes, s.Before)
	}
	if s.BothMs > 0 {
		line("  both", "took writes beside each other for %.1f s", s.BothMs/1000)
	}
	if s.Refused != "" {
		line("  refused", "%s", s.Refused)
	}
}
