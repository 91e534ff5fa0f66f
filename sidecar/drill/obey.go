package drill

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// patience is how long an operator waits for the cluster to mend itself before he types
// what its status names.
const patience = 45 * time.Second

// obeying is an operator who knows nothing but what status says.
type obeying struct {
	*chaos
	typed []string             // what he typed
	at    map[string]time.Time // when he typed it last
}

// obey waits until no member's status has anything to complain of. What a status names
// that takes a decision is typed after a while, and what waits for a restart at once;
// nothing else is.
func (o *obeying) obey(ctx context.Context) error {
	begun := time.Now()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		wrong, commands := o.complaints(ctx)
		if len(wrong) == 0 {
			return nil
		}
		if time.Since(begun) < patience {
			commands = slices.DeleteFunc(commands, func(c command) bool { return c.decides })
		}
		for _, c := range commands {
			line := strings.Join(c.args, " ")
			if time.Since(o.at[line]) < patience/3 {
				continue
			}
			o.at[line] = time.Now()
			o.typed = append(o.typed, line)
			o.Progress("typed, as status says: pgsidecar " + line)
			// What came of it, status says.
			if _, err := o.Lab.Pgsidecar(ctx, c.on, "yes", c.args...); err != nil {
				o.Progress(err.Error())
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not healthy, and status names no more than was typed (%s): %s", strings.Join(o.typed, "; "), strings.Join(wrong, "; "))
		case <-tick.C:
		}
	}
}

// command is one that a status names.
type command struct {
	on      string
	args    []string
	decides bool // it has a cost
}

// complaints asks every member what is wrong, and what it names for that.
func (o *obeying) complaints(ctx context.Context) (wrong []string, commands []command) {
	restart := false
	for _, m := range o.Lab.Plan().Members() {
		st, err := o.Lab.StatusOf(ctx, m.Name)
		if err != nil {
			wrong = append(wrong, err.Error())
			continue
		}
		for _, b := range st.Blocks {
			wrong = append(wrong, fmt.Sprintf("%s: %s: waits for %s", m.Name, b.What, b.Missing))
			if args, is := strings.CutPrefix(b.Override, "pgsidecar "); is {
				commands = append(commands, command{m.Name, append(strings.Fields(args), yes(args)...), true})
			}
		}
		wrong = append(wrong, troubles(st)...)
		restart = restart || slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool { return m.Restart })
		if restart && !slices.ContainsFunc(commands, func(c command) bool { return !c.decides }) {
			commands = append(commands, command{m.Name, []string{"restart", "--pending"}, false})
		}
	}
	return wrong, commands
}

// yes is what skips the question of a command that asks one.
func yes(args string) []string {
	for _, asks := range []string{"failover ", "reinit ", "settings set "} {
		if strings.HasPrefix(args, asks) {
			return []string{"--yes"}
		}
	}
	return nil
}

// troubles are what a status complains of beside its blocks.
func troubles(st *api.Status) (wrong []string) {
	say := func(format string, args ...any) {
		wrong = append(wrong, st.Member+": "+fmt.Sprintf(format, args...))
	}
	if st.Problem != "" {
		say("%s", st.Problem)
	}
	if st.ConfigProblem != "" {
		say("%s", st.ConfigProblem)
	}
	if st.Consul.Problem != "" {
		say("Consul: %s", st.Consul.Problem)
	}
	if e := st.InEffect; e != nil && (e.Relaxed != "" || len(e.Weak) > 0) {
		say("commits are acknowledged too early: %s %v", e.Relaxed, e.Weak)
	}
	if st.Paused || len(st.PausedMembers) > 0 {
		say("paused")
	}
	for _, m := range st.Members {
		switch {
		case m.Blocked != "":
			say("%s is blocked: %s", m.Member, m.Blocked)
		case m.Strayed != "":
			say("%s strayed: %s", m.Member, m.Strayed)
		case m.Misled != "":
			say("%s is not reached: %s", m.Member, m.Misled)
		case m.Hidden != "":
			say("%s is not in DNS: %s", m.Member, m.Hidden)
		case m.Paused != "":
			say("%s replays nothing: %s", m.Member, m.Paused)
		case m.Role == ha.RoleReplica && !m.Streaming, m.Role == ha.RoleStopped:
			say("%s does not stream", m.Member)
		case m.Restart:
			say("%s has a restart pending", m.Member)
		case m.Link != "up" && m.Link != "self":
			say("%s is %s", m.Member, m.Link)
		}
	}
	return wrong
}
