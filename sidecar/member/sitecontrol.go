package member

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// maxSiteLag is how many bytes of log the other site may lack when a planned change begins:
// clients wait while it receives them.
const maxSiteLag = 16 << 20

// refuse412 says why a change of sites cannot begin.
func refuse412(format string, args ...any) error {
	return api.Refuse(http.StatusPreconditionFailed, format, args...)
}

// leading returns the newest snapshot of a cluster that has a leader.
func (c control) leading() (*sidecar.Snapshot, error) {
	snap := c.sidecar.Snapshot()
	if snap == nil {
		return nil, api.Refuse(http.StatusServiceUnavailable, "nothing is decided yet; try again in a second")
	}
	if snap.Observation.Consul.Record.Phase != ha.PhaseLeading {
		return nil, refuse412("the cluster has no leader; see pgsidecar status")
	}
	return snap, nil
}

// SwitchSite has the other site take the writes. The primary's member does all of it: it
// sees that the other site could, stops its server cleanly, gives up the writes in the
// record, and asks the other site to take them. Until that was asked it takes them back by
// itself where it fails; from then on the other site may have them at any moment.
func (c control) SwitchSite(ctx context.Context, drain time.Duration) (string, error) {
	snap, err := c.leading()
	if err != nil {
		return "", err
	}
	o := &snap.Observation
	r := &o.Consul.Record
	switch {
	case o.Policy.StandbyOf == "":
		return "", refuse412("there is no other site: the setting standby_of names none")
	case r.StandbyOf != "":
		return "", refuse412("this site follows %s, which takes the writes; ask for the change there", r.StandbyOf)
	case r.Leader != o.Self:
		return c.post(ctx, r.Leader, "/site/switch", map[string]any{"drain": durationText(drain)})
	case o.Policy.Witness != "" && o.Source.Witness.Problem != "":
		return "", refuse412("the witness %s does not answer (%s), and a change of sites needs its word; nothing was begun", o.Policy.Witness, o.Source.Witness.Problem)
	case o.Consul.Reachable == ha.No:
		return "", refuse412("Consul does not answer, and a change of sites needs it; nothing was begun")
	}
	other, err := c.siteLeader(ctx)
	if err != nil {
		return "", err
	}
	defer other.Close()
	began := time.Now()
	c.sidecar.ReleaseSite(drain)
	after, err := c.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool {
		now := &s.Observation.Consul.Record
		return now.StandbyOf != "" || now.Term > r.Term && now.Phase == ha.PhaseLeading || s.State.Refused != ""
	})
	if err != nil {
		c.sidecar.WithdrawSite()
		return "", api.Refuse(http.StatusServiceUnavailable, "timed out; if it had not begun it was cancelled: see pgsidecar status")
	}
	now := &after.Observation.Consul.Record
	switch {
	case after.State.Refused != "":
		c.sidecar.WithdrawSite()
		return "", refuse412("%s", after.State.Refused)
	case now.StandbyOf == "" || now.Released == nil:
		return "", refuse412("the primary was lost before it had stopped, and %s leads: nothing was changed", now.Leader)
	}
	c.log.Info("the writes are given up, and the other site is asked to take them", "site", now.StandbyOf, "position", now.Released, "after", time.Since(began))
	text, err := other.ask(ctx, api.SitePromotion{Final: now.Released})
	var refused *client.Refused
	if errors.As(err, &refused) && refused.Status == http.StatusPreconditionFailed { // any other answer says nothing of what was begun
		return "", errors.Join(refuse412("%s does not take the writes: %s", now.StandbyOf, refused.Text), c.takeBack(ctx, now))
	}
	if err != nil {
		return "", api.Refuse(http.StatusServiceUnavailable, "%s was asked to take the writes, and it is not known whether it does: %v. "+
			"If pgsidecar site says that it does not, type pgsidecar site promote --accept-data-loss; this site has all commits", now.StandbyOf, err)
	}
	c.log.Info("the other site takes the writes", "site", now.StandbyOf, "took", time.Since(began))
	return text, nil
}

// takeBack lets this site take the writes again that it gave up.
func (c control) takeBack(ctx context.Context, r *ha.Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), api.SiteWait) // the client may have gone
	defer cancel()
	c.log.Warn("the writes are taken back, as the other site does not take them", "site", r.StandbyOf)
	_, err := c.PromoteSite(ctx, api.PromoteSite{Final: r.Released})
	return err
}

// siteLeader is the member that leads the other site's cluster. Clients wait for its answer
// over a way that is long, so the connection stays open from the first question on.
type siteLeader struct {
	*client.Client
	address string // of its API, as this site reaches it
}

// siteLeader finds the leader of the other site's cluster, and asks it whether it could
// take the writes. Close ends the connections.
func (c control) siteLeader(ctx context.Context) (*siteLeader, error) {
	addresses := c.site().APIs
	if len(addresses) == 0 {
		addresses = c.other.addresses()
	}
	if len(addresses) == 0 {
		return nil, refuse412("the APIs of the other site's members are not known: set standby_of.apis to their addresses")
	}
	token, err := c.token()
	if err != nil {
		return nil, err
	}
	o := c.asks(token)
	o.Keep = true
	there := &siteLeader{Client: client.New(o)}
	if err := there.find(ctx, addresses); err != nil {
		there.Close()
		return nil, err
	}
	return there, nil
}

func (l *siteLeader) find(ctx context.Context, addresses []string) error {
	var failed error
	for _, a := range addresses { // a leader that is not among them is asked by another member
		st, err := l.StatusOf(ctx, a)
		switch {
		case err != nil:
			failed = err
		case st.Leader == "":
			return refuse412("the other site has no leader")
		case l.address == "" || st.Member == st.Leader:
			l.address = a
		}
	}
	if l.address == "" {
		return refuse412("no member of the other site answers: %v", failed)
	}
	if _, err := l.ask(ctx, api.SitePromotion{Check: true}); err != nil {
		return refuse412("the other site cannot take the writes: %v", err)
	}
	return nil
}

// ask asks it to take the writes, with this site's own token.
func (l *siteLeader) ask(ctx context.Context, body api.SitePromotion) (string, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	answer, err := l.Ask(ctx, http.MethodPost, l.address, "/site/promote", text)
	return strings.TrimSpace(string(answer)), err
}

// PromoteSite lets this standby cluster take the writes.
func (c control) PromoteSite(ctx context.Context, req api.PromoteSite) (string, error) {
	snap, err := c.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool { return s.Observation.Consul.Record.Phase == ha.PhaseLeading })
	if err != nil {
		return "", api.Refuse(http.StatusServiceUnavailable, "the cluster has no leader; see pgsidecar status")
	}
	o := &snap.Observation
	r := &o.Consul.Record
	switch {
	case r.StandbyOf == "":
		return "", api.Refuse(http.StatusConflict, "this site takes the writes already") // who gave them up must not take them back
	case r.Leader != o.Self:
		return c.post(ctx, r.Leader, "/site/promote", api.SitePromotion(req))
	}
	if req.Check {
		return "it can", c.mayPromote(snap)
	}
	asked := c.sidecar.PromoteSite(req.Final)
	refused := func(s *sidecar.Snapshot) bool {
		return s.State.Promotion.Since == asked && s.State.Promotion.Refused != ""
	}
	after, err := c.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool {
		now := &s.Observation.Consul.Record
		return now.StandbyOf == "" && now.Phase == ha.PhaseLeading && now.Term > r.Term || refused(s)
	})
	if err == nil && refused(after) {
		c.sidecar.WithdrawSite()
		return "", refuse412("%s", after.State.Promotion.Refused)
	}
	if err != nil {
		c.sidecar.WithdrawSite()
		return "", api.Refuse(http.StatusServiceUnavailable, "it did not take the writes in time: see pgsidecar status there")
	}
	now := &after.Observation.Consul.Record
	return fmt.Sprintf("%s takes the writes, in epoch %d: %s leads on timeline %d", c.config.Cluster, now.Epoch, now.Leader, now.Timeline), nil
}

// mayPromote says why this standby cluster could not take the writes now.
func (c control) mayPromote(snap *sidecar.Snapshot) error {
	o := &snap.Observation
	src, sv := &o.Source, &o.Server
	switch {
	case sv.Receiving != ha.Yes || sv.Upstream != o.Consul.Record.StandbyOf:
		return refuse412("%s does not stream from %s", o.Self, o.Consul.Record.StandbyOf)
	case !src.Position.Known() || !sv.Position.Known():
		return refuse412("it is not known how far behind %s is", o.Self)
	case src.Position.LSN > sv.Position.LSN+maxSiteLag:
		return refuse412("%s is %d bytes behind, and clients would wait for them; at most 16 MiB", o.Self, src.Position.LSN-sv.Position.LSN)
	case o.Policy.Witness != "" && (src.Witness.AskedAt == 0 || src.Witness.Problem != ""):
		return refuse412("the witness %s does not answer there: %s", o.Policy.Witness, cmp.Or(src.Witness.Problem, "it was not asked yet"))
	case o.Policy.NoFailover:
		return refuse412("%s has the tag nofailover", o.Self)
	}
	return nil
}
