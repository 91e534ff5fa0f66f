package gather

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/assess"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/drill"
)

// Sources are where evidence is looked up.
type Sources struct {
	Client *client.Client
	// Prometheus is the base of its API, such as http://127.0.0.1:9090; empty: it is not
	// asked.
	Prometheus string
	HTTP       *http.Client // of Prometheus and the runbook; nil: one with deadlines
	Now        func() time.Time
}

// look is one look at a cluster.
type look struct {
	Sources
	leader  *api.Status
	members []*api.Status // one for each of leader.Members; nil: it did not answer
	errs    []error
}

// Evidence looks everything up. It returns an error only if no member answers.
func Evidence(ctx context.Context, s Sources) (assess.Evidence, error) {
	if s.Now == nil {
		s.Now = time.Now
	}
	if s.HTTP == nil {
		s.HTTP = &http.Client{Timeout: outsideTimeout}
	}
	l := look{Sources: s}
	var err error
	if l.leader, err = s.Client.Status(ctx); err != nil {
		return assess.Evidence{}, err
	}
	l.askMembers(ctx)
	around := l.around(ctx)
	e := assess.Evidence{Cluster: l.leader.Cluster, At: s.Now(), Servers: l.servers(around), Quorum: l.quorum(), Failover: l.failover(),
		Archive: l.archive(), Backup: l.backup(), Continuity: l.continuity(ctx), Scraped: l.scraped(), Alerts: l.alerts(ctx),
		Runbook: l.runbook(ctx), Proxies: l.proxies(around), Consul: l.consul(around), Objective: l.objective(ctx), Site: l.site(), Tracing: l.tracing()}
	e.Drill, e.Restore = l.drill(ctx), l.proof()
	return e, nil
}

// askMembers asks each member for its own status.
func (l *look) askMembers(ctx context.Context) {
	all := l.leader.Members
	l.members, l.errs = make([]*api.Status, len(all)), make([]error, len(all))
	var wait sync.WaitGroup
	for i, m := range all {
		if m.Member == l.leader.Member {
			l.members[i] = l.leader
			continue
		}
		if m.API == "" {
			l.errs[i] = errors.New("the address of its API is unknown")
			continue
		}
		wait.Go(func() { l.members[i], l.errs[i] = l.Client.StatusOf(ctx, m.API) })
	}
	wait.Wait()
}

// silent says which member did not answer; empty: all did.
func (l *look) silent() string {
	for i, err := range l.errs {
		if err != nil {
			return fmt.Sprintf("%s does not answer: %v", l.leader.Members[i].Member, err)
		}
	}
	return ""
}

func (l *look) servers(around client.Surroundings) assess.Fact[[]assess.Server] {
	var all []assess.Server
	for i, m := range l.leader.Members {
		all = append(all, assess.Server{Member: m.Member, Host: l.hostOf(i, around), Zone: m.Zone,
			Leads: m.Member == l.leader.Leader, Primary: m.Writable && m.Member == l.leader.Leader,
			Streams: m.Streaming && (m.Link == "up" || m.Link == "self")})
	}
	return assess.Known(all)
}

// hostName is the host of an address; empty: it is none.
func hostName(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return host
}

// notLeader is why what only the leader knows is unknown.
func (l *look) notLeader() string {
	if l.leader.Member == l.leader.Leader {
		return ""
	}
	return "only the leader knows, and it does not answer"
}

func (l *look) quorum() assess.Fact[assess.Quorum] {
	in := l.leader.InEffect
	switch why := l.notLeader(); {
	case why != "":
		return assess.Unknown[assess.Quorum](why)
	case in == nil:
		return assess.Unknown[assess.Quorum]("the primary's server has not been looked at")
	case in.Unsure:
		return assess.Unknown[assess.Quorum]("it is being changed")
	}
	return assess.Known(assess.Quorum{Standbys: in.K, Of: len(in.Names), Relaxed: in.Relaxed})
}

func (l *look) failover() assess.Fact[assess.Failover] {
	f := assess.Failover{Paused: l.leader.Paused}
	for _, m := range l.leader.Members {
		if m.Eligible && m.Recorded && m.Member != l.leader.Leader && (m.Link == "up" || m.Link == "self") {
			f.Candidates++
		}
	}
	for _, b := range l.leader.Blocks {
		f.Blocked = cmp.Or(f.Blocked, b.What)
	}
	return assess.Known(f)
}

func (l *look) archive() assess.Fact[assess.Archive] {
	a := l.leader.Archive
	switch why := l.notLeader(); {
	case why != "":
		return assess.Unknown[assess.Archive](why)
	case a == nil:
		return assess.Known(assess.Archive{})
	case !a.Leads:
		return assess.Unknown[assess.Archive]("the leader has not taken the archive over yet")
	}
	return assess.Known(assess.Archive{Engine: a.Engine, Waiting: seconds(a.Oldest), Problem: a.Problem, Gaps: len(a.Gaps)})
}

func (l *look) backup() assess.Fact[assess.Backup] {
	if why := l.notLeader(); why != "" {
		return assess.Unknown[assess.Backup](why)
	}
	var best assess.Backup
	for _, b := range l.leader.Backups {
		one := assess.Backup{Engine: b.Engine, Next: b.Next, Overdue: seconds(b.Overdue)}
		if b.Good != nil {
			one.Ended = b.Good.Stop
		}
		if best == (assess.Backup{}) || one.Ended.After(best.Ended) {
			best = one
		}
	}
	return assess.Known(best)
}

func (l *look) continuity(ctx context.Context) assess.Fact[assess.Continuity] {
	if len(l.leader.Backups) == 0 && l.leader.Archive == nil {
		return assess.Known(assess.Continuity{})
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	lists, _, err := l.Client.Backups(ctx)
	if err != nil {
		return assess.Unknown[assess.Continuity](err.Error())
	}
	problem := ""
	for _, list := range lists {
		switch {
		case list.Problem != "":
			problem = list.Name + ": " + list.Problem
		case list.Continuity != nil:
			return assess.Known(newest(list.Continuity))
		}
	}
	if problem != "" {
		return assess.Unknown[assess.Continuity](problem)
	}
	return assess.Known(assess.Continuity{})
}

// newest is the window that ends last, with the gaps behind its beginning.
func newest(c *backup.Continuity) assess.Continuity {
	var found assess.Continuity
	if len(c.Windows) == 0 {
		return assess.Continuity{Gaps: len(c.Gaps)}
	}
	w := c.Windows[len(c.Windows)-1]
	found.From, found.To = w.From, w.To
	for _, g := range c.Gaps {
		if g.Start >= w.Start {
			found.Gaps++
		}
	}
	return found
}

func (l *look) scraped() assess.Fact[assess.Scrape] {
	oldest := assess.Scrape{}
	for i, st := range l.members {
		name := l.leader.Members[i].Member
		switch {
		case st == nil:
			continue
		case st.Scraped == nil:
			return assess.Known(assess.Scrape{Oldest: -1, Member: name})
		case seconds(st.Scraped.Age) >= oldest.Oldest:
			oldest = assess.Scrape{Oldest: seconds(st.Scraped.Age), By: st.Scraped.Program + " at " + st.Scraped.Host, Member: name}
		}
	}
	if why := l.silent(); why != "" {
		return assess.Unknown[assess.Scrape](why)
	}
	return assess.Known(oldest)
}

func (l *look) tracing() assess.Fact[bool] {
	for _, st := range l.members {
		if st != nil && !st.Traces {
			return assess.Known(false)
		}
	}
	if why := l.silent(); why != "" {
		return assess.Unknown[bool](why)
	}
	return assess.Known(true)
}

func (l *look) objective(ctx context.Context) assess.Fact[assess.Objective] {
	var known api.Availability
	if err := l.ask(ctx, "/availability", &known); err != nil {
		return assess.Unknown[assess.Objective](err.Error())
	}
	o := known.Objective
	if o == nil {
		return assess.Known(assess.Objective{})
	}
	found := assess.Objective{Availability: o.Availability, RTO: seconds(float64(o.RTO)), RPO: -1}
	if o.RPO != nil {
		found.RPO = *o.RPO
	}
	if b := known.Budget; b != nil {
		found.Left = seconds(float64(b.Left))
	}
	return assess.Known(found)
}

// ask reads an answer of the member that gave the status.
func (l *look) ask(ctx context.Context, path string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, client.AskTimeout)
	defer cancel()
	text, err := l.Client.Ask(ctx, http.MethodGet, l.Client.Answered(l.leader), path, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func (l *look) site() assess.Fact[assess.Site] {
	s := l.leader.Site
	if s == nil {
		return assess.Known(assess.Site{})
	}
	if why := l.notLeader(); why != "" {
		return assess.Unknown[assess.Site](why)
	}
	found := assess.Site{Name: s.Name, Heard: seconds(s.Answered), Streams: s.Streams, Lag: -1, Switched: s.Epoch > 0}
	if lag := cmp.Or(s.Lag, s.Behind); lag != nil {
		found.Lag = int64(*lag)
	}
	return assess.Known(found)
}

// drill is the last drill. Restores have accounts of their own.
func (l *look) drill(ctx context.Context) assess.Fact[assess.Drill] {
	var last drill.Last
	err := l.ask(ctx, "/drill", &last)
	var refused *client.Refused
	switch {
	case errors.As(err, &refused) && refused.Status == http.StatusNotFound:
		return assess.Known(assess.Drill{})
	case err != nil:
		return assess.Unknown[assess.Drill](err.Error())
	}
	return assess.Known(assess.Drill{Scenario: last.Scenario, At: last.At, Passed: last.Passed, RTO: seconds(last.RTOMs / 1000), LostRows: last.RPORows})
}

// proof is the last backup that was proved by a restore, or the try since that failed.
func (l *look) proof() assess.Fact[assess.Proof] {
	if why := l.notLeader(); why != "" {
		return assess.Unknown[assess.Proof](why)
	}
	var last assess.Proof
	for i := range l.leader.Backups {
		b := &l.leader.Backups[i]
		if b.Verified == nil {
			continue
		}
		for _, v := range []*api.Verification{b.Verified.Good, b.Verified.Failed} {
			if v != nil && v.Ended.After(last.At) {
				last = assess.Proof{At: v.Ended, Passed: v.Error == "", What: "backup " + b.Name + " on " + v.By}
			}
		}
	}
	return assess.Known(last)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
