package cli

import (
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestStatusSoftware: versions that should be the same on all members, and are not, are
// named with their members; what is not known differs from nothing.
func TestStatusSoftware(t *testing.T) {
	same := ha.Software{Postgres: 150018, Libc: "2.36", ICU: "153.112"}
	for _, c := range []struct {
		name   string
		n1, n2 ha.Software
		want   []string // none: no warning at all
	}{
		{"the same", same, same, nil},
		{"one is down", same, ha.Software{}, nil},
		{"no collation but C on one", same, ha.Software{Postgres: 150018, ICU: "153.112"}, nil},
		{"another libc", same, ha.Software{Postgres: 150018, Libc: "2.41", ICU: "153.112"},
			[]string{"WARNING: the members' collations differ (libc n1 2.36, n2 2.41). After a failover", "REINDEX"}},
		{"another libc and ICU", same, ha.Software{Postgres: 150018, Libc: "2.41", ICU: "153.128"},
			[]string{"(libc n1 2.36, n2 2.41; ICU n1 153.112, n2 153.128)"}},
		{"another minor version", same, ha.Software{Postgres: 150017, Libc: "2.36", ICU: "153.112"},
			[]string{"WARNING: the members run different versions of PostgreSQL (n1 15.18, n2 15.17)", "pgsidecar restart --all --upgrade"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n1, n2 := fakeCluster(t)
			n2.status.Members[0].Software, n2.status.Members[1].Software = c.n1, c.n2
			code, got, stderr := command(t, "status", "-api", n1.address())
			if code != ExitOK || stderr != "" {
				t.Fatalf("exit status %d, stderr %q", code, stderr)
			}
			if strings.Contains(got, "WARNING") != (len(c.want) > 0) {
				t.Errorf("want %q in\n%s", c.want, got)
			}
			for _, words := range c.want {
				if !strings.Contains(got, words) {
					t.Errorf("no %q in\n%s", words, got)
				}
			}
		})
	}
}
