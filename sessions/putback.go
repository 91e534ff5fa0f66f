package sessions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// contestedFor is how long it is said that somebody takes this member's tags from the
// catalog, after the last time.
const contestedFor = time.Minute

// wholeEntry is what missing says if the catalog shows nothing of this member.
const wholeEntry = "the whole entry"

// putBack announces the registration again if the catalog lacks what the agent has:
// somebody else changed it there, and the agent would compare the two only once a
// minute, and then believe the catalog's tags. The caller has the turn, and knows that
// the agent has the registration.
func (c *Client) putBack(ctx context.Context, r Registration) error {
	known := c.missing(c.View().Members, r)
	if slices.ContainsFunc(c.View().Members, c.isOwn) {
		c.shown, c.lost = true, false
	}
	if known == "" || c.announcedAt.Within(answerGood, c.opts.Now()) {
		return nil // or the catalog's answer is on its way
	}
	entries, err := c.instances(ctx, c.opts.Service, "")
	if err != nil {
		return err
	}
	own, _ := c.divide(entries)
	what := c.missing(own, r)
	if what != wholeEntry {
		c.shown, c.lost = true, false
	}
	switch {
	case what == "":
		return nil
	case what == wholeEntry && (!c.shown || c.lost):
		// Before 1.11 Consul does not say that it leaves out what a token may not read.
		return denied(`node_prefix "" { policy = "read" }`, "or its agent has not reached the servers: the catalog does not show this member's own entry")
	}
	c.lost = what == wholeEntry
	if r.Tag == primaryTag {
		if err := c.mustHold(ctx); err != nil {
			return fmt.Errorf("announce as primary: %w", err)
		}
	}
	// An agent tells the catalog only of what is new to it (measured: the same
	// registration once more is "in sync", and nothing is sent).
	other := r
	other.Meta = maps.Clone(r.Meta)
	other.Meta["restored"] = "true"
	if err := errors.Join(c.announce(ctx, other), c.announce(ctx, r)); err != nil {
		return err
	}
	c.noteTaken(what)
	return nil
}

// noteTaken says that somebody had taken a part of the registration, which was put back.
func (c *Client) noteTaken(what string) {
	c.log.Warn("another program took a part of this member's entry from Consul's catalog; it was put back", "service_id", c.service, "missing", what)
	c.takenAt[0], c.takenAt[1] = c.takenAt[1], c.opts.Now()
}

// missing says what the catalog lacks of the registration, in the words of an
// operator; empty: nothing, or it is not known which node is this member's.
func (c *Client) missing(members []Member, r Registration) string {
	c.mu.Lock()
	home := c.homeNode
	c.mu.Unlock()
	if home == "" || members == nil {
		return ""
	}
	i := slices.IndexFunc(members, c.isOwn)
	if i < 0 {
		return wholeEntry
	}
	lacks := slices.DeleteFunc(r.tags(), func(tag string) bool { return slices.Contains(members[i].Tags, tag) })
	if len(lacks) == 0 {
		return ""
	}
	return "tag " + strings.Join(lacks, ", ")
}

// contested returns an error for an operator while somebody takes this member's tags
// again and again. The caller has the turn.
func (c *Client) contested() error {
	if c.takenAt[0] == 0 || !c.takenAt[0].Within(contestedFor, c.opts.Now()) {
		return nil
	}
	return errors.New("another program takes the tags of " + c.service + " from Consul's catalog again and again; they are put back each time. " +
		"Look for what else writes the service " + c.opts.Service + ": another cluster's former version of pgsidecar does so")
}
