package haproxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/templates"
)

// routing is the states of HAProxy's servers that a topology asks for. It is
// pure: what is sent is decided here, sending is HAProxy's.
type routing struct {
	primaries, replicas string // the backends
	checks              string // ends the name of those that ask the members' APIs

	members []string
	primary string   // empty: none, clients wait
	held    bool     // the primary takes no new sessions
	open    bool     // clients may be let in to it: they would be made to wait else
	reads   []string // who serves the replica port
	leaving []string // served reads, and are to go on with the sessions they have
}

func route(t templates.Topology, primaryTakesReads bool) routing {
	r := routing{held: t.Held}
	for _, m := range t.Members {
		r.members = append(r.members, m.Name)
		if m.Role == ha.RolePrimary || m.Role == ha.RoleCandidate {
			r.leaving = append(r.leaving, m.Name)
		}
	}
	if t.Primary != nil {
		r.primary = t.Primary.Name
	}
	for _, m := range t.Replicas {
		r.reads = append(r.reads, m.Name)
	}
	if len(r.reads) == 0 && primaryTakesReads && r.primary != "" {
		r.reads = append(r.reads, r.primary)
	}
	return r
}

// commands puts every server into its state, in two lines. At no moment are two
// servers of the primary backend ready: the first line lets the old one take
// nothing more, then makes the new one ready; clients that come in between wait
// in the queue (_hold). The second line ends what the old one still has: that
// is work for HAProxy, which no new client should have to wait for. While there
// is no primary none can be served, and all is one line: 0.3 ms are saved. Closed
// are the members that are known to be in maintenance: they stay there (see
// Proxy.session). Unless open, nobody leaves maintenance in
// the primary's backend.
func (r routing) commands(closed []string) (roles, ends []string) {
	last := &ends
	if r.primary == "" {
		last = &roles
	}
	for _, m := range r.members {
		if m == r.primary {
			continue
		}
		primary := r.primaries + "/" + m
		if r.primary != "" && !slices.Contains(closed, m) {
			roles = append(roles, "set server "+primary+" state drain")
		}
		// Maintenance ends sessions by itself (on-marked-down in haproxy.cfg.tmpl).
		// They are not ended here a second time: HAProxy 2.6 sets a stream's
		// flags from the thread of the command, and may lose one while the
		// stream is at work on its own. What is left over is seen later (stuck).
		*last = append(*last, "set server "+primary+" state maint")
		if !slices.Contains(closed, m) {
			// Those that came while the checks decided.
			*last = append(*last, "shutdown sessions server "+r.checked(m))
		}
	}
	if r.primary != "" {
		server := r.primaries + "/" + r.primary
		roles = append(roles, r.keepUp()...)
		switch {
		case !r.open && slices.Contains(closed, r.primary):
		case r.held:
			roles = append(roles, "set server "+server+" state drain")
		default:
			roles = append(roles, "set server "+server+" state ready", r.letIn())
		}
	}
	for _, m := range r.members {
		server := r.replicas + "/" + m
		switch {
		case slices.Contains(r.reads, m):
			roles = append(roles, "set server "+server+" state ready")
		case slices.Contains(r.leaving, m):
			roles = append(roles, "set server "+server+" state drain")
		default:
			roles = append(roles, "set server "+server+" state maint")
			*last = append(*last, "shutdown sessions server "+server)
		}
	}
	return roles, ends
}

// holdServer is the server of the primary's backend whose only place our connection
// occupies.
const holdServer = "_hold"

// inMaintenance are the members that a look found in maintenance in the primary's
// backend, by a command or by the file.
func (r routing) inMaintenance(o observed) []string {
	closed := []string{}
	for _, m := range r.members {
		if s, found := o.server(r.primaries, m); found && s.state() == adminForcedMaint {
			closed = append(closed, m)
		}
	}
	return closed
}

// checked is the member's server in the backend that uses HAProxy's checks.
func (r routing) checked(m string) string { return r.primaries + templates.CheckedSuffix + "/" + m }

// keepUp makes the primary's check healthy, whatever it last saw: while we know
// who leads, a sidecar that restarts must not cost its server the sessions, and
// a new primary is not to wait for its first check. If we fall silent the
// checks are right again after three failures.
func (r routing) keepUp() []string {
	if r.primary == "" {
		return nil
	}
	return []string{"set server " + r.primaries + r.checks + "/" + r.primary + " health up"}
}

// letIn sends the clients that wait to the primary.
func (r routing) letIn() string {
	return fmt.Sprintf("set maxconn server %s %d", r.primaries+"/"+r.primary, templates.ServerMaxConn)
}

// differences names the first server that is not in its state, or nothing.
func (r routing) differences(o observed) string {
	for _, m := range r.members {
		s, found := o.server(r.primaries, m)
		if !found {
			continue // the file is older than the topology; the agent writes it
		}
		want := adminForcedMaint
		switch {
		case m == r.primary && !r.open:
			want = s.state() // it is made ready when we are connected
		case m == r.primary && r.held:
			want = adminForcedDrain
		case m == r.primary:
			want = 0
		}
		if s.state() != want {
			return s.backend + "/" + m
		}
		s, found = o.server(r.replicas, m)
		want = adminForcedMaint
		switch {
		case slices.Contains(r.reads, m):
			want = 0
		case slices.Contains(r.leaving, m):
			want = adminForcedDrain
		}
		if found && s.state() != want {
			return s.backend + "/" + m
		}
	}
	return ""
}

// missing are the members that the primary's backend does not have, or has with another
// address, each as the file has it: HAProxy runs with an older one. Addresses of hosts'
// names are not compared: HAProxy looks them up.
func (r routing) missing(t templates.Topology, o observed) []string {
	var all []string
	for _, m := range t.Members {
		s, found := o.server(r.primaries, m.Name)
		want, err := netip.ParseAddrPort(m.Address())
		if found && err == nil {
			has, err := netip.ParseAddr(s.address)
			found = err == nil && has.Unmap() == want.Addr().Unmap() && s.port == int(want.Port())
		}
		if !found {
			all = append(all, m.Name+" "+m.Address())
		}
	}
	return all
}

// leftovers are the servers that should have no session, with how many they have, and the
// primary's backend if clients wait there although the primary is to take them, with how many.
func (r routing) leftovers(o observed) map[string]int {
	left := map[string]int{}
	if n := o.waiting[r.primaries]; n > 0 && r.primary != "" && r.open && !r.held {
		left[r.queue()] = n
	}
	for _, m := range r.members {
		if m == r.primary {
			continue
		}
		for _, server := range []string{r.primaries + "/" + m, r.checked(m)} {
			if n := o.sessions[server]; n > 0 {
				left[server] = n
			}
		}
	}
	return left
}

// queue stands for the clients that wait in the primary's backend.
func (r routing) queue() string { return r.primaries + "/" + backendRow }

// stuck are the commands that end leftovers of which none has ended since the look
// before. While they are ending they are left alone: HAProxy 2.6 needs 17 ms for
// 1,000 sessions on two cores. Clients that wait are let in: HAProxy looks at its queue
// when something happens to a server, and leaves who joins it in that very moment there,
// for the whole of `timeout queue`.
func (r routing) stuck(before, now map[string]int) []string {
	var c []string
	for _, server := range slices.Sorted(maps.Keys(now)) {
		switch n, looked := before[server]; {
		case !looked || now[server] < n: // they are ending
		case server == r.queue():
			c = append(c, r.letIn())
		default:
			c = append(c, "shutdown sessions server "+server)
		}
	}
	return c
}

// state is the server's administrative state as commands set it. A server that
// only the file disabled counts as in maintenance while it is stopped: leaving
// maintenance keeps that bit set.
func (s serverState) state() int {
	switch {
	case s.admin&adminForcedMaint != 0:
		return adminForcedMaint
	case s.admin&adminForcedDrain != 0:
		return adminForcedDrain
	}
	return 0
}
