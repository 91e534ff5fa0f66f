package availability

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Objective is what a cluster is to reach.
type Objective struct {
	Availability float64 `json:"availability"` // such as 0.9999; zero: none is set
	// RTO is the longest that an outage may take; zero: none is set.
	RTO Seconds `json:"rto_seconds,omitempty"`
	// RPO is how many acknowledged rows a failover may lose; nil: none is set.
	RPO *int64 `json:"rpo_rows,omitempty"`
}

// ParsePercent reads a percentage above 0 and below 100, such as "99.99", as a share.
func ParsePercent(text string) (float64, error) {
	percent, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(text, "%")), 64)
	if err != nil || !(percent > 0 && percent < 100) {
		return 0, fmt.Errorf("%q: expected a percentage above 0 and below 100, such as 99.99", text)
	}
	return percent / 100, nil
}

// ParseObjective reads an objective as the settings have it; an empty text sets none. The
// error names what is wrong.
func ParseObjective(availability, rto, rpo string) (o Objective, err error) {
	if availability != "" {
		if o.Availability, err = ParsePercent(availability); err != nil {
			return Objective{}, fmt.Errorf("availability %w", err)
		}
	}
	if rto != "" {
		d, err := time.ParseDuration(rto)
		if err != nil || d <= 0 {
			return Objective{}, fmt.Errorf(`rto %q: expected a duration above 0, such as "1s"`, rto)
		}
		o.RTO = seconds(d)
	}
	if rpo != "" {
		n, err := strconv.ParseInt(rpo, 10, 64)
		if err != nil || n < 0 {
			return Objective{}, errors.New("rpo " + strconv.Quote(rpo) + `: expected how many acknowledged rows may be lost, such as "0"`)
		}
		o.RPO = &n
	}
	return o, nil
}

// BudgetDays is the time that an error budget is of.
const BudgetDays = 30

// Budget is what is left of an objective's error budget: the time that the cluster may be
// down in the last 30 days, or since its beginning.
type Budget struct {
	Total Seconds `json:"total_seconds"`
	Left  Seconds `json:"left_seconds"` // below zero: more than that is spent
	// Burn is how fast it is spent, by the window that is looked at: 1 spends just all
	// of it in 30 days. Only outages that have ended are known.
	Burn map[string]float64 `json:"burn"`
	// TooLong counts the outages in it that took longer than the objective's RTO, without
	// the planned ones.
	TooLong int `json:"outages_above_rto"`
}

// Windows are those of Budget.Burn, by their names.
var Windows = map[string]time.Duration{"5m": 5 * time.Minute, "30m": 30 * time.Minute, "1h": time.Hour, "6h": 6 * time.Hour, "3d": 72 * time.Hour}

// BudgetOf computes the budget at a moment, of a cluster that is there since then; nil:
// the objective says nothing of availability.
func BudgetOf(o Objective, since, now time.Time, outages []Outage) *Budget {
	if o.Availability == 0 || since.IsZero() || !since.Before(now) {
		return nil
	}
	from := now.AddDate(0, 0, -BudgetDays)
	if from.Before(since) {
		from = since
	}
	// The budget is of 30 whole days, though the cluster may be younger: else a new one's
	// first failover would spend all of it.
	allowed := (1 - o.Availability) * (BudgetDays * 24 * time.Hour).Seconds()
	t := timesOf(outages)
	lost := func(from time.Time) time.Duration { return within(t.down, from, now) + within(t.planned, from, now) }
	b := &Budget{Total: Seconds(allowed), Left: Seconds(allowed) - seconds(lost(from)), Burn: map[string]float64{}}
	for name, window := range Windows {
		b.Burn[name] = lost(now.Add(-window)).Seconds() / window.Seconds() / (1 - o.Availability)
	}
	for _, one := range outages {
		if o.RTO > 0 && one.Kind != Unseen && !one.Planned && !one.From.Before(from) && seconds(one.Took()) > o.RTO {
			b.TooLong++
		}
	}
	return b
}
