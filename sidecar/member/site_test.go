package member

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// TestPrimaryOf: which server of the other site is its primary, and what is said where none is.
func TestPrimaryOf(t *testing.T) {
	primary := func(address string, tli ha.TLI, major int) siteAnswer {
		return siteAnswer{address: address, said: checks.SiteServer{SystemID: "1", Major: major, Position: ha.Position{TLI: tli, LSN: 1}}}
	}
	standby := siteAnswer{address: "m2:5432", said: checks.SiteServer{SystemID: "1", Major: 15, Standby: true}}
	refused := siteAnswer{address: "m1:5432", err: &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}}
	for name, c := range map[string]struct {
		answers []siteAnswer
		primary string
		heard   bool
		problem string
	}{
		"a primary":              {answers: []siteAnswer{standby, primary("m1:5432", 3, 15)}, primary: "m1:5432", heard: true, problem: "1 of its servers"},
		"two primaries":          {answers: []siteAnswer{primary("m1:5432", 3, 15), primary("m2:5432", 4, 15)}, primary: "m2:5432"},
		"an older PostgreSQL":    {answers: []siteAnswer{primary("m1:5432", 3, 14)}, problem: "m1:5432 runs PostgreSQL 14, and this member 15: a site can follow only one of its own major version"},
		"a newer PostgreSQL":     {answers: []siteAnswer{primary("m1:5432", 3, 17)}, problem: "m1:5432 runs PostgreSQL 17, and this member 15"},
		"nobody":                 {problem: ""},
		"unreachable":            {answers: []siteAnswer{refused}, problem: "m1:5432: connection refused"},
		"a wrong password":       {answers: []siteAnswer{{address: "m1:5432", err: errors.New(`password authentication failed for user "replication"`)}}, problem: `m1:5432: password authentication failed for user "replication"`},
		"a circle of followers":  {answers: []siteAnswer{standby, standby}, heard: true, problem: "2 of its servers answer as standbys, and none as a primary"},
		"one of each impossible": {answers: []siteAnswer{refused, standby}, heard: true, problem: "m1:5432: connection refused; 1 of its servers answer as standbys, and none as a primary"},
	} {
		t.Run(name, func(t *testing.T) {
			best, heard, problem := primaryOf(c.answers, 15)
			got := ""
			if best != nil {
				got = best.address
			}
			if got != c.primary || heard != c.heard || best == nil && problem == "" && c.problem != "" || !strings.HasPrefix(problem, c.problem) {
				t.Errorf("primary %q, heard %t, problem %q", got, heard, problem)
			}
		})
	}
}

// TestSiteIsOwn: a site whose servers are this cluster's own is not asked anything.
func TestSiteIsOwn(t *testing.T) {
	s := new(site)
	own := []string{"10.0.0.1:5432", "10.0.0.2:5432"}
	for addresses, want := range map[string]string{
		"10.0.0.1:5432":               "10.0.0.1:5432 is this member's own server",
		"10.1.0.1:5432 10.0.0.1:5432": "10.0.0.1:5432 is this member's own server",
		"10.0.0.2:5432":               "10.0.0.2:5432 is the server of another of its members",
		"10.1.0.1:5432":               "",
	} {
		if err := s.servers(t.Context(), &settings.Site{Addresses: strings.Fields(addresses)}); err != nil {
			t.Fatal(err)
		}
		err := s.notOwn(own)
		if want == "" && (err != nil || len(s.known) != 1) || want != "" && (err == nil || !strings.HasSuffix(err.Error(), want) || len(s.known) > 0) {
			t.Errorf("%s: %v; known %v", addresses, err, s.known)
		}
	}
}
