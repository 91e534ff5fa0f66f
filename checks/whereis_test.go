package checks_test

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
)

// TestWhereIs: a member's server says how far its log is as it would say it by SQL, on
// its first timeline and after a promotion.
func TestWhereIs(t *testing.T) {
	p := primary(t, "n1")
	ask := func(s *server) {
		t.Helper()
		seen, err := s.conn.Read(within(t, 10*time.Second))
		must(t, err)
		at, err := checks.WhereIs(within(t, 10*time.Second), checks.Upstream{Host: "127.0.0.1", Port: s.port, User: "postgres", Self: "n9"},
			func() (string, error) { return "", nil })
		must(t, err)
		survey, err := checks.SurveyOf(within(t, 10*time.Second), checks.Upstream{Host: "127.0.0.1", Port: s.port, User: "postgres", Self: "n9"},
			func() (string, error) { return "", nil })
		must(t, err)
		if survey.Version == 0 || survey.Version != seen.Version || len(survey.Tablespaces) != 0 {
			t.Errorf("%+v of version %d without tablespaces", survey, seen.Version)
		}
		if at.TLI != seen.Position.TLI || !at.Contains(seen.Position) {
			t.Errorf("it says %s, SQL said %s", at, seen.Position)
		}
	}
	ask(p)
	r := p.standby("n2")
	r.exec("select pg_promote()")
	ask(r)
	if _, err := checks.WhereIs(within(t, 10*time.Second), checks.Upstream{Host: "127.0.0.1", Port: 1, User: "postgres"},
		func() (string, error) { return "", nil }); err == nil {
		t.Error("nobody answers, and it is known where it is")
	}
}
