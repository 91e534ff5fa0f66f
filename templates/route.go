package templates

import (
	"fmt"
	"slices"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// routing is the states of HAProxy's servers that a topology asks for. It is
// pure: what is sent is decided here, sending is HAProxy's.
type routing struct {
	service string
	members []string
	primary string   // empty: none, clients wait
	held    bool     // the primary takes no new sessions
	reads   []string // who serves the replica port
	leaving []string // served reads, and are to go on with the sessions they have
}

func route(t Topology, primaryTakesReads bool) routing {
	r := routing{service: t.Service, held: t.Held}
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

func (r routing) server(backend, member string) string {
	return fmt.Sprintf("%s_%s/%s", r.service, backend, member)
}

// commands puts every server into its state. The old primary goes first: at no
// moment are two ready. Between the two, clients wait in the queue (_hold).
func (r routing) commands() []string {
	var c []string
	for _, m := range r.members {
		if m == r.primary {
			continue
		}
		primary, checked := r.server("primary", m), r.server("primary_checked", m)
		c = append(c,
			"set server "+primary+" state maint",
			"shutdown sessions server "+primary,
			// Those that came while the checks decided.
			"shutdown sessions server "+checked)
	}
	c = append(c, r.keepUp()...)
	if r.primary != "" {
		state := "ready"
		if r.held {
			state = "drain"
		}
		c = append(c, "set server "+r.server("primary", r.primary)+" state "+state)
		if !r.held {
			c = append(c, r.letIn())
		}
	}
	for _, m := range r.members {
		server := r.server("replicas", m)
		switch {
		case slices.Contains(r.reads, m):
			c = append(c, "set server "+server+" state ready")
		case slices.Contains(r.leaving, m):
			c = append(c, "set server "+server+" state drain")
		default:
			c = append(c, "set server "+server+" state maint", "shutdown sessions server "+server)
		}
	}
	return c
}

// keepUp makes the primary's check healthy, whatever it last saw: while we know
// who leads, a sidecar that restarts must not cost its server the sessions, and
// a new primary is not to wait for its first check. If we fall silent the
// checks are right again after three failures.
func (r routing) keepUp() []string {
	if r.primary == "" {
		return nil
	}
	return []string{"set server " + r.server("primary_checked", r.primary) + " health up"}
}

// serverMaxConn is each primary server's maxconn: more than the process can
// have, so that it never limits. It has to be there, as setting it again is what
// makes HAProxy look at the queue: when a server leaves drain it does not.
const serverMaxConn = 1 << 20

// letIn sends the clients that wait to the primary.
func (r routing) letIn() string {
	return fmt.Sprintf("set maxconn server %s %d", r.server("primary", r.primary), serverMaxConn)
}

// differences names the first server that is not in its state, or nothing.
func (r routing) differences(o observed) string {
	for _, m := range r.members {
		s, found := o.server(r.service+"_primary", m)
		if !found {
			continue // the file is older than the topology; the agent writes it
		}
		want := adminForcedMaint
		switch {
		case m == r.primary && r.held:
			want = adminForcedDrain
		case m == r.primary:
			want = 0
		}
		if s.state() != want {
			return s.backend + "/" + m
		}
		s, found = o.server(r.service+"_replicas", m)
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
