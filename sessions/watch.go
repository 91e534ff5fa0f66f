package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// watch is one blocking query.
type watch struct {
	area area
	need string
	wait time.Duration // for a change; zero: watchWait
	// query asks once, and returns the index of the answer and what to do with
	// it; fresh says that the answer is the first, or a consistent one after
	// Consul's index went backwards, and replaces what is known whatever its
	// own index is.
	query func(ctx context.Context, consul *api.Client, q *api.QueryOptions) (index uint64, apply func(fresh bool), err error)
}

const (
	// watchWait is how long a blocking query waits for a change, where its end says
	// that all is as it was. Consul adds up to a sixteenth of it.
	watchWait = 10 * time.Second
	// longWait is for those whose end says nothing; that Consul is gone is seen by
	// the others. Not for lists: what a token may not read is left out of them, and
	// that another may is seen by the next query.
	longWait = time.Minute
)

// follow asks again and again. The queries have the default consistency: they
// wake this program, and Consul's leader answers them without asking the other
// servers, so that for a moment after a change of leader they may be stale.
func (c *Client) follow(ctx context.Context, w watch) {
	var index uint64
	failures, fresh := 0, true
	for ctx.Err() == nil {
		i, a, moved := c.route.pick()
		asked := index
		if failures > 0 {
			asked = 0 // to be answered at once
		}
		got, apply, err := c.block(ctx, moved, a, w, asked)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && moved.Err() != nil:
			continue // ask the address that the others went to
		case err != nil:
			failures++
			if elsewhere(err) {
				c.route.fail(i)
				if failures < len(c.route.addresses) {
					continue
				}
				c.reached(false)
			}
			c.fault(w.area, err)
			pause(ctx, backoff(failures), nil)
			continue
		}
		if failures > 0 {
			failures = 0
			c.reached(true)
			kick(c.confirmNow)
		}
		if got < index && asked != 0 {
			index, fresh = 0, true // Consul's own advice; the next query is consistent
			continue
		}
		apply(fresh || asked == 0)
		if w.area != areaSession && w.area != areaCluster {
			c.fault(w.area, nil)
		}
		index, fresh = max(got, 1), false
	}
}

// block asks once, at one address, until the answer, its deadline, or the
// moment when the others leave that address.
func (c *Client) block(ctx, moved context.Context, a *address, w watch, index uint64) (uint64, func(bool), error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(moved, cancel)()

	wait := cmp.Or(w.wait, watchWait)
	var got uint64
	var apply func(bool)
	err := c.ask(ctx, a, request{
		need:    w.need,
		timeout: wait + wait/16 + callTimeout,
		run: func(ctx context.Context, consul *api.Client) (err error) {
			q := &api.QueryOptions{WaitIndex: index, WaitTime: wait, RequireConsistent: index == 0}
			got, apply, err = w.query(ctx, consul, q.WithContext(ctx))
			return indexed(got, err)
		},
	})
	return got, apply, err
}

// indexed returns err or, of an answer without an index, that it is not Consul's: a
// proxy's page for what it does not know has the status by which Consul says that a
// key is missing.
func indexed(index uint64, err error) error {
	if err == nil && index == 0 {
		return errForeign
	}
	return err
}

// watches are those that live as long as Run.
func (c *Client) watches() []watch {
	return []watch{
		c.keyWatch("state", watchWait),
		c.keyWatch("leader", longWait),
		c.settingsWatch(),
		c.serviceWatch(),
	}
}

// keyWatch asks for a consistent reading whenever the key has changed, and after each
// quiet wait. One of the two waits for so short a time that SeenAt stays young. Who only
// follows takes a newer record at once.
func (c *Client) keyWatch(name string, wait time.Duration) watch {
	var last uint64
	return watch{
		area: areaCluster,
		need: c.needKeys("read"),
		wait: wait,
		query: func(ctx context.Context, consul *api.Client, q *api.QueryOptions) (uint64, func(bool), error) {
			start := c.opts.Now()
			pair, meta, err := consul.KV().Get(c.keys+name, q)
			if err != nil {
				return 0, nil, err
			}
			return meta.LastIndex, func(fresh bool) {
				index := uint64(0)
				if pair != nil {
					index = pair.ModifyIndex
					if name == "state" {
						c.hear(pair)
					}
				}
				// A query for a missing key returns at any change of any key.
				quiet := c.opts.Now().Sub(start) >= wait
				if fresh || index != last || quiet {
					kick(c.confirmNow)
				}
				last = index
			}, nil
		},
	}
}

// settingsWatch keeps View.Settings.
func (c *Client) settingsWatch() watch {
	return watch{
		area: areaSettings,
		need: c.needKeys("read"),
		wait: longWait,
		query: func(ctx context.Context, consul *api.Client, q *api.QueryOptions) (uint64, func(bool), error) {
			pair, meta, err := consul.KV().Get(c.keys+"config", q)
			if err != nil {
				return 0, nil, err
			}
			return meta.LastIndex, func(fresh bool) {
				var value []byte
				index := uint64(0)
				if pair != nil {
					value, index = pair.Value, pair.ModifyIndex
				}
				c.setSettings(value, index, fresh || meta.LastIndex > c.View().SettingsIndex)
			}, nil
		},
	}
}

// setSettings puts the config key into the view. An answer that does not know
// of what was written meanwhile is left out, unless it is newer.
func (c *Client) setSettings(value []byte, index uint64, newer bool) {
	c.mu.Lock()
	known, read := c.view.SettingsIndex, c.view.SettingsRead
	c.mu.Unlock()
	if read && index == known || index < known && !newer {
		return
	}
	c.update(func() { c.view.Settings, c.view.SettingsIndex, c.view.SettingsRead = value, index, true })
}

func (c *Client) needService(policy string) string {
	return fmt.Sprintf("service %q { policy = %q }", c.opts.Service, policy)
}

// errFiltered: Consul answered with less than there is.
var errFiltered = errors.New("consul left instances out of its answer")

// serviceWatch keeps View.Members, and what is said of other clusters there, and wakes keepRegistered when another
// instance answers as primary.
func (c *Client) serviceWatch() watch {
	need := c.needService("read") + ` and node_prefix "" { policy = "read" }`
	return watch{
		area: areaService,
		need: need,
		query: func(ctx context.Context, consul *api.Client, q *api.QueryOptions) (uint64, func(bool), error) {
			entries, meta, err := consul.Health().Service(c.opts.Service, "", false, q)
			if err != nil {
				return 0, nil, err
			}
			if meta.ResultsFilteredByACLs {
				return 0, nil, denied(need, errFiltered.Error())
			}
			return meta.LastIndex, func(bool) {
				c.setMembers(entries)
				kick(c.mendNow)
			}, nil
		},
	}
}

// member reads one instance of the service from the catalog.
func (c *Client) member(e *api.ServiceEntry) Member {
	s := e.Service
	host := s.Address
	if host == "" {
		host = e.Node.Address
	}
	name := s.Meta["member"]
	if name == "" {
		name = strings.TrimPrefix(s.ID, c.opts.Service+"-")
	}
	return Member{
		Name:      name,
		Postgres:  net.JoinHostPort(host, strconv.Itoa(s.Port)),
		API:       s.Meta["api"],
		Node:      e.Node.Node,
		Address:   host,
		ServiceID: s.ID,
		Tags:      s.Tags,
		Status:    e.Checks.AggregatedStatus(),
		Meta:      s.Meta,
		index:     s.ModifyIndex,
	}
}

// Believed are the members, each once. One that has moved to another node, or whose
// host was replaced, is still registered at the old one, critical, until Consul reaps
// that: the instance that is not critical counts, else the one that was changed last.
// One that the record names, and that the catalog has no more, is where it was: an agent
// that leaves cleanly takes its services out of the catalog, and says nothing of the
// servers, whose votes count on.
func (v View) Believed() []Member {
	var best []Member // Members is sorted by name
	for _, m := range v.Members {
		last := len(best) - 1
		switch {
		case last < 0 || best[last].Name != m.Name:
			best = append(best, m)
		case m.newer(best[last]):
			best[last] = m
		}
	}
	here := len(best)
	for _, m := range v.away {
		if slices.Contains(v.Consul.Record.Members, m.Name) {
			best = append(best, m)
		}
	}
	if len(best) > here {
		sortMembers(best)
	}
	return best
}

// Primary is the member that DNS answers with for the primary, as the catalog was read
// last; the zero Member: none, or more than one.
func (v View) Primary() (primary Member) {
	for _, m := range v.Members {
		switch {
		case m.Status == api.HealthCritical || !slices.Contains(m.Tags, primaryTag):
		case primary.Name != "":
			return Member{}
		default:
			primary = m
		}
	}
	return primary
}

// leftBehind are the members known until now that the catalog has no more, without what
// it said of their state.
func leftBehind(believed, away, now []Member) []Member {
	var left []Member
	for _, m := range slices.Concat(believed, away) {
		same := func(other Member) bool { return other.Name == m.Name }
		if !slices.ContainsFunc(now, same) && !slices.ContainsFunc(left, same) {
			m.Tags, m.Status = nil, api.HealthCritical
			left = append(left, m)
		}
	}
	sortMembers(left)
	return left
}

func (m Member) newer(other Member) bool {
	if dead, otherDead := m.Status == api.HealthCritical, other.Status == api.HealthCritical; dead != otherDead {
		return otherDead
	}
	return m.index > other.index
}

func sortMembers(members []Member) {
	slices.SortFunc(members, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Node, b.Node))
	})
}
