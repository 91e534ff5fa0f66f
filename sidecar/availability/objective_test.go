package availability_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/availability"
)

func TestParseObjective(t *testing.T) {
	o, err := availability.ParseObjective("99.99", "1s", "0")
	if err != nil || math.Abs(o.Availability-0.9999) > 1e-12 || o.RTO != 1 || o.RPO == nil || *o.RPO != 0 {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err := availability.ParseObjective("", "", ""); err != nil || o != (availability.Objective{}) {
		t.Errorf("%+v, %v", o, err)
	}
	for _, c := range [][4]string{{"100", "", "", "availability"}, {"0", "", "", "availability"}, {"NaN", "", "", "availability"}, {"four nines", "", "", "availability"},
		{"-1", "", "", "availability"}, {"", "0s", "", "rto"}, {"", "-1s", "", "rto"}, {"", "1", "", "rto"}, {"", "", "-1", "rpo"}, {"", "", "none", "rpo"}} {
		if _, err := availability.ParseObjective(c[0], c[1], c[2]); err == nil || !strings.HasPrefix(err.Error(), c[3]) {
			t.Errorf("%q: %v", c, err)
		}
	}
}

// TestBudget: what is left, and how fast it is spent, of known outages.
func TestBudget(t *testing.T) {
	now := at("2026-11-29T12:00:00Z")
	o, err := availability.ParseObjective("99.9", "5s", "")
	if err != nil {
		t.Fatal(err)
	}
	ago := func(ago, length time.Duration, kind availability.Kind) availability.Outage {
		return availability.Outage{From: now.Add(-ago), To: now.Add(-ago).Add(length), Kind: kind, Planned: kind == availability.Switchover}
	}
	outages := []availability.Outage{
		ago(40*24*time.Hour, time.Hour, availability.Failover), // before the 30 days
		ago(10*24*time.Hour, 100*time.Second, availability.Failover),
		ago(2*time.Hour, 10*time.Second, availability.Switchover),
		ago(10*time.Minute, 36*time.Second, availability.Failover),
		ago(20*24*time.Hour, time.Hour, availability.Unseen), // nobody knows
	}
	b := availability.BudgetOf(o, now.AddDate(-1, 0, 0), now, outages)
	if b == nil || math.Abs(float64(b.Total)-2592) > 0.001 || math.Abs(float64(b.Left)-(2592-146)) > 0.001 || b.TooLong != 2 {
		t.Fatalf("%+v", b)
	}
	for window, want := range map[string]float64{"5m": 0, "30m": 20, "1h": 10, "6h": 46.0 / 21.6} {
		if got := b.Burn[window]; math.Abs(got-want) > 0.001 {
			t.Errorf("%s: burn %v, want %v", window, got, want)
		}
	}
	if b := availability.BudgetOf(o, now.Add(-time.Hour), now, nil); b == nil || b.Left != b.Total || math.Abs(float64(b.Total)-2592) > 0.001 {
		t.Errorf("a new cluster: %+v", b)
	}
	for _, none := range []*availability.Budget{availability.BudgetOf(availability.Objective{}, now.AddDate(-1, 0, 0), now, outages),
		availability.BudgetOf(o, time.Time{}, now, outages), availability.BudgetOf(o, now.Add(time.Hour), now, outages)} {
		if none != nil {
			t.Errorf("%+v", none)
		}
	}
}
