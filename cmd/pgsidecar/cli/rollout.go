package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// rollout restarts members one after the other.
type rollout struct {
	*client.Client
	to io.Writer
}

// streamTimeout is how long a restarted member may take to stream again.
const streamTimeout = 5 * time.Minute

// roll restarts several members. The leader comes last, and hands over; who that is may
// change meanwhile, and is looked up before each step. What failed then is tried again
// under the new one, once the old one streams: nobody else is restarted before.
func (f *restartFlags) roll(ctx context.Context, r rollout, leader string, chosen []api.MemberStatus) error {
	for done := 0; len(chosen) > 0; {
		st, err := r.led(ctx)
		if err != nil {
			return err
		}
		if st.Leader != leader {
			fmt.Fprintf(r.to, "%s leads now, and %s did: waiting until that one streams\n", st.Leader, leader)
			if err := r.untilBack(ctx, leader, true); err != nil {
				return err
			}
			leader = st.Leader
			if chosen, err = f.left(ctx, r, leader, chosen); err != nil {
				return err
			}
			continue
		}
		m := chosen[0]
		if m.Member == leader {
			err = r.handOver(ctx, leader)
		} else {
			fmt.Fprintf(r.to, "%s: restarting (%d of %d)\n", m.Member, done+1, done+len(chosen))
			err = f.one(ctx, r, m)
		}
		if err != nil {
			if st, unknown := r.led(ctx); unknown != nil || st.Leader == leader {
				return err
			}
			continue
		}
		chosen, done = chosen[1:], done+1
	}
	return nil
}

// one restarts a replica, and waits for it.
func (f *restartFlags) one(ctx context.Context, r rollout, m api.MemberStatus) error {
	err := r.Change(ctx, r.to, m.API, "/restart", f.body())
	if err != nil && f.pending && !r.waitsForRestart(ctx, m.API) {
		_, err := fmt.Fprintf(r.to, "  no restart is pending there any more; it is left as it is\n")
		return err
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m.Member, err)
	}
	return r.untilBack(ctx, m.Member, true)
}

// left are those of the members that are still to be restarted after another has taken
// over, which restarts a server too.
func (f *restartFlags) left(ctx context.Context, r rollout, leader string, members []api.MemberStatus) (left []api.MemberStatus, err error) {
	for _, m := range members {
		if f.role == "replica" && m.Member == leader || f.pending && !r.waitsForRestart(ctx, m.API) {
			continue
		}
		left = append(left, m)
	}
	if f.upgrade {
		if left, err = upgraded(ctx, r, left); err != nil {
			return nil, err
		}
	}
	leaderLast(left, leader)
	return left, nil
}

// led waits until somebody leads.
func (r rollout) led(ctx context.Context) (*api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for waited := false; ; waited = true {
		st, err := r.Status(ctx)
		if err == nil && leads(st) {
			return st, nil
		}
		if !waited {
			fmt.Fprintln(r.to, "waiting until a member leads")
		}
		select {
		case <-ctx.Done():
			return nil, errNobodyLeads
		case <-tick.C:
		}
	}
}

// leads reports whether there is a leader that takes writes, as far as the member that
// answered knows.
func leads(st *api.Status) bool {
	return st.Leader != "" && st.Phase == ha.PhaseLeading && !screen.Unheard(st, st.Leader) && (st.Member != st.Leader || st.Server == "running")
}

// errNobodyLeads is returned when no member leads in time.
var errNobodyLeads = errors.New("no member leads; the others were not touched; see pgsidecar status")

// primaryFirst restarts the primary, the last of those chosen, where it is, and then the
// replicas: they cannot have less before it has.
func (r rollout) primaryFirst(ctx context.Context, chosen []api.MemberStatus, why string) error {
	last := len(chosen) - 1
	order := append([]api.MemberStatus{chosen[last]}, chosen[:last]...)
	for i, m := range order {
		fmt.Fprintf(r.to, "%s: restarting (%d of %d)\n", m.Member, i+1, len(order))
		if i == 0 {
			fmt.Fprintf(r.to, "  the primary first, where it is: it is to have less of %s\n", why)
		} else if err := r.untilReplayed(ctx, m.Member); err != nil {
			return err
		}
		if err := r.Change(ctx, r.to, m.API, "/restart", map[string]any{}); err != nil {
			return fmt.Errorf("%s: %w", m.Member, err)
		}
		if i > 0 {
			if err := r.untilStreams(ctx, m.Member); err != nil {
				return err
			}
		}
	}
	return nil
}

// untilReplayed waits until a replica has replayed what the primary has now: only then it
// knows that it needs no more than the primary has.
func (r rollout) untilReplayed(ctx context.Context, member string) error {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var goal ha.LSN
	for {
		st, err := r.Status(ctx)
		if err == nil {
			for _, m := range st.Members {
				if m.Member == st.Leader && m.Writable && goal == 0 {
					goal = m.Position.LSN
				}
			}
		}
		if err == nil && slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool {
			return m.Member == member && m.Streaming && m.Lag != nil && goal != 0 && m.Position.LSN >= goal && uint64(m.Position.LSN)-*m.Lag >= uint64(goal)
		}) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", member, errStreams)
		case <-tick.C:
		}
	}
}

// handOver has the primary hand over. Its server is restarted by that.
func (r rollout) handOver(ctx context.Context, leader string) error {
	st, err := r.Status(ctx)
	if err != nil {
		return err
	}
	if st.Leader != leader {
		return fmt.Errorf("%s does not lead any more, %s does; run the command again", leader, st.Leader)
	}
	address, ok := client.MemberAPI(st, leader)
	if !ok {
		return fmt.Errorf("%s, the primary, does not answer", leader)
	}
	fmt.Fprintf(r.to, "%s: handing over\n", leader)
	// The primary may not yet have seen that those just restarted stream.
	waiting, cancel := context.WithTimeout(ctx, handOverPatience)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err := r.Change(ctx, r.to, address, "/switchover", handoverBody{Leader: leader})
		if err == nil {
			return r.untilStreams(ctx, leader)
		}
		if errors.Is(err, client.ErrNotPossible) && waiting.Err() == nil {
			select {
			case <-waiting.Done():
			case <-tick.C:
				continue
			}
		}
		return fmt.Errorf("all but the primary, %s, were restarted: %w", leader, err)
	}
}

// handOverPatience is how long a handover that is not possible is tried again.
const handOverPatience = 30 * time.Second

// errStreams is returned when a member does not stream again in time.
var errStreams = errors.New("it does not stream again; the others were not touched; see pgsidecar status")

// untilStreams waits until the leader sees the member stream. There is no event
// for that, so it asks.
func (r rollout) untilStreams(ctx context.Context, member string) error {
	return r.untilBack(ctx, member, false)
}

// untilBack waits until a member streams, or, where it may, leads.
func (r rollout) untilBack(ctx context.Context, member string, mayLead bool) error {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := r.Status(ctx)
		if err == nil && mayLead && st.Leader == member && leads(st) {
			return nil // the next look says so
		}
		if err == nil && slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool {
			return m.Member == member && m.Streaming && m.Lag != nil && st.Leader != member
		}) {
			_, err := fmt.Fprintf(r.to, "%s: streams\n", member)
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", member, errStreams)
		case <-tick.C:
		}
	}
}
