package drill

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// siteScenarios are those of two sites. The primary of the cast is the one of the site that
// takes the writes, whichever that is: played twice, a change of sites goes there and back.
func siteScenarios() []Scenario {
	return []Scenario{
		{
			Name: "site-switch", Why: "the other site is asked to take the writes, as pgsidecar site switch does", Sites: true, Expect: Moves,
			Fault: func(ctx context.Context, c Cast) error {
				return types(ctx, c, c.Primary, "site", "switch")
			},
		},
		{
			Name: "site-lost", Why: "the site that takes the writes loses power, the other is promoted without it, and power comes back", Sites: true, Expect: Moves,
			Unheard: func(c Cast) *lab.Lab { return c.Lab },
			Fault:   loseSite,
			Undo:    func(ctx context.Context, c Cast) error { return c.Lab.StartSite(ctx) },
		},
		{
			Name: "site-cut-off", Why: "both sites live, and nothing gets from one to the other", Sites: true, Expect: Stays, Hold: cutHold,
			Unheard: func(c Cast) *lab.Lab { return c.Lab.Other() },
			Fault:   cutSites,
			Check: func(ctx context.Context, c Cast) error {
				if !witnessed(c.Lab.Sites()[0].Plan()) {
					return nil // nobody would keep it from the writes: site-split
				}
				return refusedAt(ctx, c, c.Lab.Other(), "site", "promote", "--accept-data-loss", "--yes")
			},
			Undo: healSites,
		},
		{
			Name: "site-split", Why: "both sites live, nothing gets from one to the other, and without a witness the other is promoted: both take writes",
			Sites: true, Split: true, Expect: Moves, Hold: cutHold,
			Unheard: func(c Cast) *lab.Lab { return c.Lab },
			Fault: func(ctx context.Context, c Cast) error {
				if err := cutSites(ctx, c); err != nil {
					return err
				}
				return promoteOther(ctx, c)
			},
			Undo: healSites,
		},
		{
			Name: "witness-lost", Why: "the third Consul, which both sites name as witness, loses power", Sites: true, Witness: true, Expect: Stays, Hold: 15 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				first, witness, err := witness(c)
				if err != nil {
					return err
				}
				return errors.Join(first.LinkDown(ctx, witness), first.KillHost(ctx, witness))
			},
			Check: func(ctx context.Context, c Cast) error { return refusedAt(ctx, c, c.Lab, "site", "switch") },
			Undo: func(ctx context.Context, c Cast) error {
				first, witness, err := witness(c)
				if err != nil {
					return err
				}
				return errors.Join(first.LinkUp(ctx, witness), first.StartHost(ctx, witness))
			},
		},
	}
}

// cutHold is how long the sites are cut off from each other: longer than the word of the
// witness stays with a site that does not renew it (ha.WitnessPatience), so that the site
// that does is seen to.
const cutHold = 45 * time.Second

func cutSites(ctx context.Context, c Cast) error { return c.Lab.CutSites(ctx) }

func healSites(ctx context.Context, c Cast) error { return c.Lab.HealAll(ctx) }

// witness returns the witness's host, and the lab that has it.
func witness(c Cast) (first *lab.Lab, host string, err error) {
	first = c.Lab.Sites()[0]
	h, ok := first.Plan().Witness()
	if !ok {
		return nil, "", fmt.Errorf("find the witness: %w", lab.ErrNoHost)
	}
	return first, h.Name, nil
}

// refusedAt types a command at a site that must be refused there.
func refusedAt(ctx context.Context, c Cast, site *lab.Lab, args ...string) error {
	said, err := site.Pgsidecar(ctx, site.Plan().Members()[0].Name, "yes", args...)
	command := "pgsidecar " + strings.Join(args, " ")
	if refusal := (*lab.Refusal)(nil); errors.As(err, &refusal) && ctx.Err() == nil {
		c.Sites.Refused = command + " at " + site.Name() + ": " + said
		return nil
	}
	return errors.Join(err, fmt.Errorf("%s at %s was not refused: %s", command, site.Name(), said))
}

// loseSite loses the site that takes the writes, and promotes the other.
func loseSite(ctx context.Context, c Cast) error {
	if err := c.Lab.LoseSite(ctx); err != nil {
		return err
	}
	return promoteOther(ctx, c)
}

// promoteOther promotes the other site as an operator does there: again and again while it is
// refused, as it is until the witness gives its word.
func promoteOther(ctx context.Context, c Cast) error {
	other := c.Lab.Other()
	r, err := other.Record(ctx)
	if err != nil {
		return err
	}
	var last error
	for ctx.Err() == nil {
		asked := time.Now()
		st, err := other.StatusOf(ctx, r.Leader)
		if err != nil {
			return err
		}
		said, refused := other.Pgsidecar(ctx, r.Leader, other.Plan().Cluster, "site", "promote", "--accept-data-loss")
		if refused == nil {
			c.Sites.Announced = announcement(said, st.Site, asked)
			return nil
		}
		last = refused
		sleep(ctx, time.Second)
	}
	return errors.Join(ctx.Err(), last)
}

// announcement is what site promote said before it asked, in figures too.
func announcement(said string, s *api.SiteStatus, asked time.Time) *Announced {
	words, _, _ := strings.Cut(said, "\n")
	a := &Announced{Words: words, LagBytes: -1}
	if s == nil || s.Heard < 0 {
		return a
	}
	// It says whole seconds, and so is right by half of one.
	a.Heard = asked.Add(-time.Duration((math.Round(s.Heard) + 0.5) * float64(time.Second)))
	if s.Lag != nil {
		a.LagBytes = int64(*s.Lag)
	}
	return a
}
