package settings

import (
	"net/url"

	"github.com/pgsidecar/pgsidecar/sidecar/availability"
)

// ObjectiveSettings are what the cluster is to reach. Nothing is decided by them: they are
// what its outages and drills are compared with.
type ObjectiveSettings struct {
	Availability string `json:"availability,omitempty"` // percent, such as "99.99"
	RTO          string `json:"rto,omitempty"`          // the longest outage, such as "1s"
	RPO          string `json:"rpo,omitempty"`          // acknowledged rows that may be lost, such as "0"
}

func (o *ObjectiveSettings) check() error {
	if o == nil {
		return nil
	}
	if _, err := availability.ParseObjective(o.Availability, o.RTO, o.RPO); err != nil {
		return wrong("objective.%w", err)
	}
	return nil
}

// Objective is what the settings say; what they do not say is zero.
func (o *ObjectiveSettings) Objective() availability.Objective {
	if o == nil {
		return availability.Objective{}
	}
	parsed, _ := availability.ParseObjective(o.Availability, o.RTO, o.RPO) // checked when they were read
	return parsed
}

func checkRunbook(address string) error {
	if address == "" {
		return nil
	}
	if u, err := url.Parse(address); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return wrong(`runbook %q: expected an address such as "https://wiki.example.com/postgresql"`, address)
	}
	return nil
}
