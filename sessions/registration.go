package sessions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// Registration is this member's instance of the service.
type Registration struct {
	Tag       string   // the role: primary, replica, or empty for none
	ExtraTags []string // the user's
	Address   string   // host
	Port      int
	Meta      map[string]string // member, api, term, timeline, version …; Register adds whose it is
	Checks    []Check
}

// Check is one TTL check of the service. It turns critical by itself when this
// program has not been heard for a TTL.
type Check struct {
	ID     string // within the member
	Name   string // for people
	Status string // passing, warning or critical
	// Text says why, for people, in the check's notes. Each change of it is a write to
	// Consul's Raft log, so it must say the state, not a measurement. It is not the check's
	// output: see "Never two answers" in the package comment.
	Text string
}

// primaryTag is the tag that DNS answers primary.<service>.service.consul by.
const primaryTag = "primary"

// replicaTag is the one of those that answer reads.
const replicaTag = "replica"

// Register makes this member's instance at the local agent as given, and keeps
// it so: Run compares and mends it, also when Register itself failed. The
// agent tells the catalog in the next milliseconds.
//
// The tag primary is given to the agent only when a consistent read shows the
// lock held by this member's session; else the instance is registered without
// it and ErrConflict returned (an agent that has the tag keeps it until another
// member holds the lock). It also returns ErrUnreachable, ErrNoSession,
// ErrPermission, and ErrOtherCluster if the agent has another cluster's instance of
// this id, which is left as it is.
func (c *Client) Register(ctx context.Context, r Registration) error {
	for _, check := range r.Checks {
		if !slices.Contains([]string{api.HealthPassing, api.HealthWarning, api.HealthCritical}, check.Status) {
			return fmt.Errorf("register: check %s has the status %q", check.ID, check.Status)
		}
	}
	if err := c.takeTurn(ctx); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	defer c.endTurn()
	r.ExtraTags, r.Checks, r.Meta = slices.Clone(r.ExtraTags), slices.Clone(r.Checks), c.identify(r.Meta)
	c.wanted = &r
	err := c.mend(ctx)
	c.fault(areaRegistration, err)
	if err != nil {
		kick(c.mendNow)
	}
	return err
}

// Deregister takes the instance from the local agent. That there is none, or another
// cluster's, is no error.
func (c *Client) Deregister(ctx context.Context) error {
	if err := c.takeTurn(ctx); err != nil {
		return fmt.Errorf("deregister: %w", err)
	}
	defer c.endTurn()
	c.wanted = nil
	info, err := c.atAgent(ctx)
	if err == nil && (info == nil || c.mine(info) != nil) {
		c.fault(areaRegistration, nil)
		return nil
	}
	err = c.atHome(ctx, func(ctx context.Context, consul *api.Client) error {
		err := consul.Agent().ServiceDeregisterOpts(c.service, (&api.QueryOptions{}).WithContext(ctx))
		var status api.StatusError
		if errors.As(err, &status) && status.Code == http.StatusNotFound {
			return nil
		}
		return err
	})
	c.fault(areaRegistration, err)
	return err
}

func (c *Client) takeTurn(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Client) endTurn() { <-c.turn }

// atHome asks the local agent, which alone may answer for this service: what
// is registered at another agent belongs to that one's node.
func (c *Client) atHome(ctx context.Context, run func(context.Context, *api.Client) error) error {
	err := c.ask(ctx, c.route.addresses[0], request{need: c.needService("write"), run: run})
	if err != nil {
		return fmt.Errorf("register service %s: %w", c.service, err)
	}
	return nil
}

const (
	// mendInterval is how often the agent is compared, and its checks are told that this
	// program lives. What changes in the catalog wakes this program at once.
	mendInterval = minTTL / 3
	// answerGood is how old an answer about the lock may be that the agent is told
	// anything by, and how long the catalog may take to show what the agent was told.
	answerGood = 2 * time.Second
)

// keepRegistered compares the registration with the agent, which loses it when
// its data is wiped, and mends it.
func (c *Client) keepRegistered(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		if failures > 0 {
			// Woken by every change of the service, this must not spin.
			pause(ctx, backoff(failures), nil)
		} else {
			pause(ctx, mendInterval, c.mendNow)
		}
		c.began(&c.mendAt, c.opts.Now())
		_, tokenErr := c.token.current()
		c.fault(areaToken, tokenErr)
		if c.takeTurn(ctx) != nil {
			return
		}
		rivals, mending, contested := c.evictRivals(ctx), c.mend(ctx), c.contested()
		c.endTurn()
		c.atHomeSince(mending)
		err := errors.Join(rivals, mending)
		c.fault(areaRegistration, errors.Join(err, contested))
		c.fault(areaAgent, c.balanced())
		if err != nil {
			failures++
			c.began(&c.mendAt, 0) // tried again at its own pace
		} else {
			failures = 0
		}
	}
}

// atHomeSince notes since when the local agent has not answered while others
// may: what DNS says of this node is then beyond this member's reach.
func (c *Client) atHomeSince(err error) {
	c.mu.Lock()
	lost := c.view.Consul.AgentLostAt != 0
	c.mu.Unlock()
	now := c.opts.Now()
	switch gone := errors.Is(err, ErrUnreachable); {
	case gone && !lost:
		c.update(func() { c.view.Consul.AgentLostAt = now })
	case err == nil && lost:
		c.update(func() { c.view.Consul.AgentLostAt = 0 })
	}
}

// mend makes the agent's registration what is wanted. The caller has the turn.
func (c *Client) mend(ctx context.Context) error {
	if c.wanted == nil {
		return nil
	}
	info, err := c.atAgent(ctx)
	if err != nil {
		return err
	}
	if err := c.mine(info); err != nil {
		return err
	}
	token, err := c.token.current()
	if token == "" && err != nil {
		return fmt.Errorf("register service %s: %w", c.service, err)
	}
	r, withheld := c.permitted(ctx, info)
	// The agent's copy of the tag may be older than the catalog's: whatever it is
	// told now that is new to it, it would send together with that copy. Until the
	// lock is known, its check is only kept from its end, or made critical, which
	// hides it from DNS.
	doubtful := withheld != nil && r.Tag == primaryTag
	if doubtful && !c.matches(info, r) {
		return withheld
	}
	if !doubtful && (!c.matches(info, r) || !c.noted(info, r) || token != c.told) {
		taken := c.retagged(info, r)
		if err := c.announce(ctx, r); err != nil {
			return errors.Join(withheld, err)
		}
		if len(taken) > 0 {
			c.noteTaken("tag " + strings.Join(taken, ", "))
		}
		c.told = token
		clear(c.toldAt)
	} else if withheld == nil {
		if err := c.putBack(ctx, r); err != nil {
			return err
		}
	}
	now := c.opts.Now() // the time before they are sent
	for _, check := range r.Checks {
		if c.knows(info, check) || doubtful && !quiet(info, c.checkID(check), check.Status) {
			continue
		}
		err := c.atHome(ctx, func(ctx context.Context, consul *api.Client) error {
			q := (&api.QueryOptions{}).WithContext(ctx)
			return consul.Agent().UpdateTTLOpts(c.checkID(check), c.outputOf(info, check), check.Status, q)
		})
		if err != nil {
			return errors.Join(withheld, err)
		}
		c.toldAt[check.ID] = now
	}
	return withheld
}

// atAgent reads what the local agent has under this member's id; nil: nothing.
func (c *Client) atAgent(ctx context.Context) (info *api.AgentServiceChecksInfo, err error) {
	err = c.atHome(ctx, func(ctx context.Context, consul *api.Client) (err error) {
		_, info, err = consul.Agent().AgentHealthServiceByIDOpts(c.service, (&api.QueryOptions{}).WithContext(ctx))
		return err
	})
	return info, err
}

// mine returns ErrOtherCluster if what the agent has under this member's id says that
// it is another cluster's.
func (c *Client) mine(info *api.AgentServiceChecksInfo) error {
	if info == nil || info.Service == nil || !c.others(info.Service.Meta) {
		return nil
	}
	return fmt.Errorf("register service %s: %w: this host's Consul agent has an instance of that id from %s (service %s); "+
		"give this member, or its service, another name: member, or service { name }", c.service, ErrOtherCluster, c.whose(info.Service.Meta), info.Service.Service)
}

// retagged are the tags that the agent was told of and has no more: it took over what
// somebody had changed in the catalog.
func (c *Client) retagged(info *api.AgentServiceChecksInfo, r Registration) []string {
	if info == nil || info.Service == nil || !slices.Equal(c.announcedTags, r.tags()) {
		return nil
	}
	return slices.DeleteFunc(r.tags(), func(tag string) bool { return slices.Contains(info.Service.Tags, tag) })
}

// knows reports whether the agent says of a check what is wanted, and was told
// so lately that its TTL is far from its end.
func (c *Client) knows(info *api.AgentServiceChecksInfo, check Check) bool {
	if at := c.toldAt[check.ID]; at == 0 || !at.Within(c.opts.TTL/4, c.opts.Now()) {
		return false
	}
	return info != nil && slices.ContainsFunc(info.Checks, func(have *api.HealthCheck) bool {
		return have.CheckID == c.checkID(check) && have.Status == check.Status
	})
}

// outputOf is the output with which the agent is told a status: the one that it has, while
// the status is the same, so that it has nothing to tell the catalog later.
func (c *Client) outputOf(info *api.AgentServiceChecksInfo, check Check) string {
	if info == nil {
		return ""
	}
	for _, have := range info.Checks {
		if have.CheckID == c.checkID(check) && have.Status == check.Status {
			return have.Output
		}
	}
	return ""
}

// quiet reports whether telling an agent this status of a check makes it send
// nothing to the catalog that DNS would answer with.
func quiet(info *api.AgentServiceChecksInfo, id, status string) bool {
	return status == api.HealthCritical || slices.ContainsFunc(info.Checks, func(have *api.HealthCheck) bool {
		return have.CheckID == id && have.Status == status
	})
}

// has reports whether the agent has the registration already, and telling it the
// checks' states would be quiet.
func (c *Client) has(info *api.AgentServiceChecksInfo, r Registration) bool {
	return c.matches(info, r) && c.noted(info, r) && !slices.ContainsFunc(r.Checks, func(check Check) bool {
		return !quiet(info, c.checkID(check), check.Status)
	})
}

// permitted returns what the agent may be told: what is wanted, but without
// the tag primary where the lock forbids it, and why. While nobody else holds
// the lock, or Consul does not say, an agent that has the tag keeps it: a
// primary whose session has ended takes the lock again in place.
func (c *Client) permitted(ctx context.Context, info *api.AgentServiceChecksInfo) (Registration, error) {
	r := *c.wanted
	if r.Tag != primaryTag || c.holdsNow() && c.has(info, r) {
		return r, nil
	}
	err := c.mustHold(ctx)
	if err == nil {
		return r, nil
	}
	lock := c.View().Consul.Lock
	rival := lock.Session != "" && lock.Holder != c.opts.Member && errors.Is(err, ErrConflict)
	if rival || info == nil || info.Service == nil || !slices.Contains(info.Service.Tags, primaryTag) {
		r.Tag = ""
	}
	return r, fmt.Errorf("announce as primary: %w", err)
}

// holdsNow reports whether the lock was seen to be held so lately that asking
// again, for what the agent has already, would only be traffic. For what it has
// not yet that is too long ago: the catalog would get the tag with it.
func (c *Client) holdsNow() bool {
	v := c.View().Consul
	return v.Session != "" && v.Lock.Session == v.Session && v.HeldAt.Within(answerGood, c.opts.Now())
}

// checkID is the check's id at the agent, which may serve several members.
func (c *Client) checkID(check Check) string { return c.service + ":" + check.ID }

// tags returns the service's tags, the role first.
func (r Registration) tags() []string {
	if r.Tag == "" {
		return slices.Clone(r.ExtraTags)
	}
	return append([]string{r.Tag}, r.ExtraTags...)
}

// noted reports whether the agent has the checks' texts.
func (c *Client) noted(info *api.AgentServiceChecksInfo, r Registration) bool {
	return info != nil && !slices.ContainsFunc(info.Checks, func(have *api.HealthCheck) bool {
		return slices.ContainsFunc(r.Checks, func(check Check) bool { return have.CheckID == c.checkID(check) && have.Notes != check.Text })
	})
}

// matches reports whether the agent has the registration, but for the checks'
// states, which it is told every time, and their texts.
func (c *Client) matches(info *api.AgentServiceChecksInfo, r Registration) bool {
	if info == nil || info.Service == nil {
		return false
	}
	var have, want []string
	node := ""
	for _, check := range info.Checks {
		have = append(have, check.CheckID+" "+check.Name)
		node = check.Node
	}
	for _, check := range r.Checks {
		want = append(want, c.checkID(check)+" "+check.Name)
	}
	c.mu.Lock()
	c.noteHome(node)
	c.mu.Unlock()
	slices.Sort(have)
	slices.Sort(want)
	s := info.Service
	return slices.Equal(have, want) && s.Service == c.opts.Service && s.Address == r.Address && s.Port == r.Port &&
		slices.Equal(s.Tags, r.tags()) && maps.Equal(s.Meta, r.Meta) && s.EnableTagOverride
}

// announce gives the agent the whole registration.
func (c *Client) announce(ctx context.Context, r Registration) error {
	var checks api.AgentServiceChecks
	for _, check := range r.Checks {
		checks = append(checks, &api.AgentServiceCheck{
			CheckID: c.checkID(check),
			Name:    check.Name,
			Notes:   check.Text,
			TTL:     c.opts.TTL.String(),
			Status:  check.Status,
		})
	}
	err := c.atHome(ctx, func(ctx context.Context, consul *api.Client) error {
		return consul.Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{
			ID:      c.service,
			Name:    c.opts.Service,
			Tags:    r.tags(),
			Address: r.Address,
			Port:    r.Port,
			Meta:    r.Meta,
			Checks:  checks,
			// See "Never two answers" in the package comment.
			EnableTagOverride: true,
		}, api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx))
	})
	if errors.Is(err, io.EOF) {
		// Tried with Consul 1.22: the catalog refuses the new id of a node whose name
		// it knows, and the agent then answers registrations with nothing at all.
		err = fmt.Errorf("%w (an agent whose data directory was lost answers so: it has a new node id, and Consul knows its node by the old one; "+
			"set node_id in the agent's configuration, or: consul force-leave NODE, with the agent stopped)", err)
	}
	if err == nil {
		c.announcedAt, c.announcedTags = c.opts.Now(), r.tags()
	}
	return err
}

// errLate is returned for an answer about the lock that is too old to act on.
var errLate = errors.New("the answer about the lock came too late")

// mustHold returns ErrConflict unless this member's session holds the lock.
func (c *Client) mustHold(ctx context.Context) error {
	r, err := c.confirm(ctx)
	if err != nil {
		return err
	}
	session := c.View().Consul.Session
	if !r.sent.Within(answerGood, c.opts.Now()) {
		// As when this host stood still between question and answer.
		return errLate
	}
	switch {
	case session == "":
		return ErrNoSession
	case r.lock.Session == "":
		return fmt.Errorf("%w: nobody holds the lock", ErrConflict)
	case r.lock.Session != session:
		return fmt.Errorf("%w: the lock is held by %s", ErrConflict, r.lock.Holder)
	}
	return nil
}
