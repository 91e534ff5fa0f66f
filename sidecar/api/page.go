package api

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/availability"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/page"
)

var _ page.Source = (*pageSource)(nil)

// PageOptions are what the page needs besides the view.
type PageOptions struct {
	// Next is closed with the next decision.
	Next func() <-chan struct{}
	// Clusters lists those of the same Consul.
	Clusters func(ctx context.Context) ([]ClusterInConsul, error)
	// Elsewhere asks the proxies of other hosts, and the members that switch one, where
	// they lead clients.
	Elsewhere func(ctx context.Context) ([]RouteElsewhere, error)
}

// RouteElsewhere is what leads clients to the cluster from another host.
type RouteElsewhere struct {
	Host      string          `json:"host"`                // Consul's node; of a member, its name
	Check     string          `json:"check,omitempty"`     // of Consul: passing, warning or critical; empty for a member
	Templates json.RawMessage `json:"templates,omitempty"` // its own templates.AgentStatus
	Problem   string          `json:"problem,omitempty"`   // why it is not known where it leads
}

// ClusterInConsul is a cluster as Consul's catalog shows it.
type ClusterInConsul struct {
	Cluster string `json:"cluster"`
	Service string `json:"service"`
	Members int    `json:"members"`
	Healthy int    `json:"healthy"`
	Primary string `json:"primary,omitempty"` // the member; empty: there is none
	API     string `json:"api,omitempty"`     // of the primary, else of some member
}

// Registration is one member as Consul's catalog has it: what DNS answers with.
type Registration struct {
	Member  string   `json:"member"`
	Address string   `json:"address"`
	Tags    []string `json:"tags"`
	Status  string   `json:"status"` // passing, warning or critical
}

func isPage(path string) bool { return path == "/ui" || strings.HasPrefix(path, "/ui/") }

// pageSource is what the page shows of this member.
type pageSource struct {
	*Server
	options PageOptions
}

// live is what an open page is told each second.
type live struct {
	Status
	Service    string         `json:"service"`
	Registered []Registration `json:"registered"`
	Heard      time.Time      `json:"at"`
}

// past is what an open page is told when it has changed.
type past struct {
	History []failover.Record     `json:"terms"`
	Config  json.RawMessage       `json:"config"`
	Changes []json.RawMessage     `json:"changes"`
	Whole   availability.Period   `json:"whole"`
	Months  []availability.Period `json:"months"`
	Days    []availability.Period `json:"days"`
	Outages []availability.Outage `json:"outages"`

	Objective *availability.Objective `json:"objective"`
	Budget    *availability.Budget    `json:"budget"`
	Unread    int                     `json:"unread_lines"` // of the journals of outages
}

// pageOutages and pageDays are how many of the newest the page shows.
const (
	pageOutages = 50
	pageDays    = 31
)

// Live is the status, without what Past has.
func (s *pageSource) Live() any {
	f, known := s.facts()
	if !known {
		return nil
	}
	l := live{Status: s.status(f), Service: f.Service, Registered: f.Registered, Heard: time.Now().UTC()}
	l.History = nil
	return &l
}

// Past changes with each term, change and outage, and each minute: what is available is
// counted up to now.
func (s *pageSource) Past() (version string, read func() any) {
	f, known := s.facts()
	if !known {
		return "", nil
	}
	version = fmt.Sprintf("%p %p %d %p %d %d", head(f.History), head(f.Outages), f.UnreadOutages, head(f.Changes), f.ConfigVersion, time.Now().Unix()/60)
	return version, func() any { return pastOf(f) }
}

// head tells apart slices that are only ever replaced as a whole.
func head[T any](all []T) *T {
	if len(all) == 0 {
		return nil
	}
	return &all[0]
}

func pastOf(f facts) past {
	known := f.known()
	p := past{History: f.History, Config: configOf(f.Config), Changes: f.Changes, Outages: last(known.Outages, pageOutages),
		Objective: known.Objective, Budget: known.Budget, Unread: known.Unread}
	if known.Since.IsZero() {
		return p
	}
	q := availability.Question{From: known.Since, To: known.Until, By: availability.Whole, Objective: f.Objective.Availability}
	p.Whole = availability.Compute(q, known.Outages)[0]
	q.By = availability.Monthly
	p.Months = availability.Compute(q, known.Outages)
	q.By = availability.Daily
	if month := known.Until.AddDate(0, 0, -pageDays); month.After(q.From) {
		q.From = month
	}
	p.Days = availability.Compute(q, known.Outages)
	return p
}

// last are the n newest, the oldest of them first.
func last[T any](all []T, n int) []T { return all[max(len(all)-n, 0):] }

// Urgent is who leads, in which term, who serves, and the blocks.
func (s *pageSource) Urgent() string {
	f, known := s.facts()
	if !known {
		return ""
	}
	r := &f.Observation.Consul.Record
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s %s %t %t %s %p", r.Term, r.Leader, r.Phase, f.paused(), f.primary(), f.State.Refused, head(f.History))
	for _, name := range f.members() {
		m, heard := f.reportOf(name)
		fmt.Fprintf(&b, "|%s %s %t %t %t", name, m.Role, m.Writable, m.Streaming, heard)
	}
	for _, block := range f.State.Blocks {
		fmt.Fprintf(&b, "|%s %s", block.What, block.Missing)
	}
	return b.String()
}

// Next is closed with the next decision.
func (s *pageSource) Next() <-chan struct{} {
	if s.options.Next == nil {
		return nil
	}
	return s.options.Next()
}

// seldom is what only Consul knows; what it does not answer is null.
type seldom struct {
	Clusters []ClusterInConsul `json:"clusters"`
	Drill    json.RawMessage   `json:"drill"`
}

// Seldom asks Consul.
func (s *pageSource) Seldom(ctx context.Context) any {
	var found seldom
	var err error
	if s.drills != nil {
		if found.Drill, err = s.drillMemory.get(ctx, s.drills); err != nil {
			s.logger.Debug("the last drill cannot be read", "error", err)
		}
	}
	if s.options.Clusters != nil {
		if found.Clusters, err = s.options.Clusters(ctx); err != nil {
			s.logger.Debug("the clusters of this Consul cannot be listed", "error", err)
		}
	}
	slices.SortFunc(found.Clusters, func(a, b ClusterInConsul) int { return strings.Compare(a.Cluster, b.Cluster) })
	return found
}

// elsewhere is what the page is told of other hosts.
type elsewhere struct {
	Routes  []RouteElsewhere `json:"routes"`
	Problem string           `json:"problem,omitempty"` // why Consul does not say which there are
}

// Elsewhere asks them.
func (s *pageSource) Elsewhere(ctx context.Context) any {
	if s.options.Elsewhere == nil {
		return nil
	}
	var found elsewhere
	var err error
	if found.Routes, err = s.options.Elsewhere(ctx); err != nil {
		found.Problem = err.Error()
	}
	return found
}
