package drill

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// close reads the rows back, inspects the members, and fills in the report.
func (r *rehearsal) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.Deadline)
	defer cancel()
	p := r.report
	r.Progress("reading the rows back")
	conn, err := r.primary(ctx)
	if err != nil {
		return err
	}
	defer closeNow(conn)
	if p.Rows, err = Verify(ctx, conn, slices.Concat(r.routes, r.direct)...); err != nil {
		return err
	}
	if err := r.closeSites(p.Rows); err != nil {
		return err
	}
	if !r.PauseOnly {
		r.Progress("inspecting the members' data")
		if p.Members, err = r.inspect(ctx, conn); err != nil {
			p.Failures = append(p.Failures, fmt.Sprintf("the members' data could not be inspected: %v", err))
		}
	}
	if _, err := conn.Exec(ctx, "DELETE FROM drill.writes WHERE run IN ($1, $2)", r.run, r.weighed()); err != nil {
		return fmt.Errorf("remove the drill's rows: %w", err)
	}
	r.reportRoutes()
	p.Reigns, p.Overlaps = r.primaries.Reigns(), r.primaries.Overlaps()
	if r.scenario.Split {
		r.closeSplit()
	}
	last := p.Reigns[len(p.Reigns)-1]
	if p.Sites != nil {
		p.Sites.After = r.Lab.SiteOf(last.Member).Name()
	}
	p.Primary, p.Moved = last.Member, last.Timeline != p.Initial.Timeline || last.Member != p.Initial.Primary
	r.reportDNS(last)
	if p.Account, err = r.account(ctx, r.Lab.SiteOf(last.Member)); err != nil {
		return err
	}
	p.Stopped = p.stopped()
	p.Phases = r.phases(last)
	if !p.Whole.IsZero() && p.Moved && p.Primary != p.Initial.Primary {
		streams := cmp.Or(r.returned, p.Whole)
		p.Returned = &Return{Member: p.Initial.Primary, AfterMs: max(0, ms(streams.Sub(p.Undone))), WholeMs: ms(p.Whole.Sub(p.Undone))}
	}
	return nil
}

// reportRoutes fills in what was seen on each route.
func (r *rehearsal) reportRoutes() {
	p := r.report
	end := p.Whole
	if end.IsZero() {
		end = time.Now()
	}
	for _, w := range r.routes {
		pause, quiet := w.Longest(p.Fault, time.Time{}), w.Longest(p.Fault.Add(-quietTime), p.Fault)
		if pause.From.IsZero() { // none that is worth the name
			pause = Pause{From: p.Fault, To: p.Fault}
		}
		p.Routes = append(p.Routes, RouteReport{Name: w.Route.Name, PauseMs: ms(pause.Length()), Pause: pause, QuietMs: ms(quiet.Length()),
			Acked: w.Acked(), Errors: w.Errors(), Curve: w.Curve(p.Fault.Add(-quietTime), end)})
		if !r.unheard(w.Route.Name) {
			p.RTOMs = max(p.RTOMs, ms(pause.Length()))
		}
	}
	for _, reader := range r.readers {
		p.Reads = append(p.Reads, reader.Report(p.Fault))
	}
}

// reportDNS fills in what DNS said. Last is the reign that DNS should name.
func (r *rehearsal) reportDNS(last Reign) {
	d := &r.report.DNS
	d.Asked, d.Failed = r.dns.Asked()
	d.EveryMs = ms(r.dns.Every())
	d.Changes, d.Doubles = r.dns.Answers(), len(r.dns.Doubles())
	if !r.report.Moved {
		return
	}
	d.LateMs = -1
	if seen := r.dnsNamed(last); !seen.IsZero() {
		d.LateMs = ms(seen.Sub(last.First))
	}
}

// dnsNamed returns when DNS named the server of a reign; zero: never.
func (r *rehearsal) dnsNamed(reign Reign) time.Time {
	if r.dns == nil {
		return time.Time{} // nobody asks DNS in a drill of a live cluster
	}
	h, err := r.Lab.SiteOf(reign.Member).Plan().Host(reign.Member)
	if err != nil {
		return time.Time{}
	}
	return r.dns.FirstSeen(h.PostgresAddress(), reign.First)
}

// stopped returns Report.Stopped.
func (p *Report) stopped() time.Time {
	if !p.Moved || len(p.Routes) == 0 || p.Account != nil && p.Account.Planned {
		return p.Fault
	}
	first := p.Routes[0].Pause.From
	for _, route := range p.Routes[1:] {
		if route.Pause.From.Before(first) {
			first = route.Pause.From
		}
	}
	if first.Before(p.Fault) {
		return p.Fault
	}
	return first
}

// phases returns when each step of the failover was done: as the members' own
// account says, and as it was seen from outside.
func (r *rehearsal) phases(last Reign) []Phase {
	p := r.report
	if !p.Moved {
		return nil
	}
	var all []Phase
	add := func(name, seen string, at time.Time) {
		if !at.IsZero() {
			all = append(all, Phase{Name: name, Seen: seen, At: at, Ms: ms(at.Sub(p.Fault))})
		}
	}
	if a := p.Account; a != nil {
		add("detected", SeenByMember, a.Detected)
		add("elected", SeenByMember, a.Elected)
		add("fenced", SeenByMember, a.Fenced)
		add("promoted", SeenByMember, a.Promoted)
		add("writable", SeenByMember, a.Writable)
		add("announced", SeenByMember, a.Announced)
		add("routed", SeenByMember, a.Routed)
	}
	add("DNS", SeenOutside, r.dnsNamed(last))
	for _, w := range r.routes {
		add("routed by "+w.Route.Name, SeenOutside, w.firstOf(last))
	}
	slices.SortStableFunc(all, func(a, b Phase) int { return a.At.Compare(b.At) })
	return all
}

// account reads the newest account of a term from a site's Consul. There is none if no
// term has begun since the fault.
func (r *rehearsal) account(ctx context.Context, site *lab.Lab) (*failover.Record, error) {
	plan := site.Plan()
	client, err := site.ConsulClient(plan.App().Name)
	if err != nil {
		return nil, err
	}
	pairs, err := patientList(ctx, client, plan.Prefix+"/"+plan.Cluster+"/history/")
	if err != nil {
		return nil, fmt.Errorf("read the cluster's history: %w", err)
	}
	if len(pairs) == 0 {
		return nil, nil
	}
	a := new(failover.Record)
	if err := json.Unmarshal(pairs[len(pairs)-1].Value, a); err != nil {
		return nil, fmt.Errorf("read the cluster's history: %w", err)
	}
	if a.Announced.Before(r.report.Fault) {
		return nil, nil
	}
	return a, nil
}

// patientList reads keys from a Consul that may be electing its leader once more, as
// it may have been what the fault was about.
func patientList(ctx context.Context, client *api.Client, prefix string) (api.KVPairs, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	for {
		pairs, _, err := client.KV().List(prefix, new(api.QueryOptions).WithContext(ctx))
		var status api.StatusError
		if err == nil || !errors.As(err, &status) || status.Code < http.StatusInternalServerError {
			return pairs, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}

// Last is what is kept of the last drill in Consul, for the members to show.
type Last struct {
	Scenario string    `json:"scenario"`
	At       time.Time `json:"at"` // of the fault
	Passed   bool      `json:"passed"`
	RTOMs    float64   `json:"rto_ms"`
	RPORows  int64     `json:"rpo_rows"`
	RPOBytes int64     `json:"rpo_bytes"`
	// Objective is what was demanded.
	Objective Demand   `json:"objective"`
	Failures  []string `json:"failures,omitempty"`
	// Before are the ones before it, the newest first; they have none themselves.
	Before []Last `json:"before,omitempty"`
}

// lastsKept is how many drills are kept with the last one.
const lastsKept = 9

// After returns what is kept of the drill in place of what was kept before it; nil: there
// was none.
func (l Last) After(kept []byte) ([]byte, error) {
	var before Last
	if json.Unmarshal(kept, &before) != nil {
		before = Last{} // there was none, or another version wrote it
	}
	older := before.Before
	before.Before, l.Before = nil, nil
	if before.Scenario != "" {
		l.Before = append([]Last{before}, older[:min(len(older), lastsKept-1)]...)
	}
	text, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encode the result of a drill: %w", err)
	}
	return text, nil
}

// Last returns what is kept of a report.
func (r *Report) Last() Last {
	return Last{Scenario: r.Scenario, At: r.Fault.UTC(), Passed: r.Passed(), RTOMs: r.RTOMs, RPORows: r.Rows.Lost, RPOBytes: r.Rows.LostBytes,
		Objective: r.Objective, Failures: r.Failures}
}

// keepLast keeps a drill in Consul with those before it.
func keepLast(ctx context.Context, client *api.Client, key string, last Last) error {
	pair, _, err := client.KV().Get(key, new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return err
	}
	if pair == nil {
		pair = &api.KVPair{Key: key}
	}
	if pair.Value, err = last.After(pair.Value); err != nil {
		return err
	}
	_, err = client.KV().Put(pair, new(api.WriteOptions).WithContext(ctx))
	return err
}

// remember keeps the drill in Consul as the last one. That it cannot is said,
// and no failure of the drill.
func (r *rehearsal) remember(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	plan := r.Lab.Plan()
	client, err := r.Lab.ConsulClient(plan.App().Name)
	if err == nil {
		err = keepLast(ctx, client, plan.Prefix+"/"+plan.Cluster+"/drill/last", r.report.Last())
	}
	if err != nil {
		r.Progress(fmt.Sprintf("the result is not kept in Consul: %v", err))
	}
}
