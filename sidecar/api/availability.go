package api

import (
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/availability"
)

// Availability is what is known of a cluster's outages; package availability computes
// figures from it.
type Availability struct {
	Cluster string                `json:"cluster"`
	Since   time.Time             `json:"since,omitzero"` // the oldest thing that is known; zero: nothing is
	Until   time.Time             `json:"until"`
	Outages []availability.Outage `json:"outages"`
	// Unread is how many lines of the journals in Consul cannot be read: outages that are in
	// no figure.
	Unread int `json:"unread_lines,omitempty"`
	// Objective is what the settings say; nil: they say none. Budget is what is left of it.
	Objective *availability.Objective `json:"objective,omitempty"`
	Budget    *availability.Budget    `json:"budget,omitempty"`
}

// known is what this member knows of outages.
func (f facts) known() Availability {
	a := Availability{Cluster: f.Cluster, Until: time.Now(), Outages: f.Outages, Unread: f.UnreadOutages}
	earlier := func(at time.Time) {
		if !at.IsZero() && (a.Since.IsZero() || at.Before(a.Since)) {
			a.Since = at
		}
	}
	for _, r := range f.History {
		if r.Kind() == "bootstrap" {
			earlier(r.Writable)
		} else {
			earlier(r.Detected)
		}
	}
	for _, o := range f.Outages {
		earlier(o.From)
	}
	if f.Objective != (availability.Objective{}) {
		a.Objective = &f.Objective
		a.Budget = availability.BudgetOf(f.Objective, a.Since, a.Until, f.Outages)
	}
	return a
}

// objectiveMetrics are those of the objective; without one there are none.
func objectiveMetrics(own func(name, help string, labels []string, read func(f facts, give func(float64, ...string)))) {
	own("objective_availability", "The share of time that the cluster is to be available, as the settings say.", nil, func(f facts, give func(float64, ...string)) {
		if f.Objective.Availability > 0 {
			give(f.Objective.Availability)
		}
	})
	own("error_budget_seconds", "How long the cluster may still be down in 30 days, by its objective; below 0: it was longer.", nil, func(f facts, give func(float64, ...string)) {
		if b := f.known().Budget; b != nil {
			give(float64(b.Left))
		}
	})
	own("error_budget_burn", "How fast the error budget was spent in a window; 1 spends all of it in 30 days.", []string{"window"}, func(f facts, give func(float64, ...string)) {
		if b := f.known().Budget; b != nil {
			for window, burn := range b.Burn {
				give(burn, window)
			}
		}
	})
}
