package ha

import "slices"

// A primary whose sidecar is heard, while no replica gets through to its server: a firewall
// between, or the server refuses them. Nobody deposes it, as it is heard, and its commits wait or
// are its own alone. Where nothing answers at its port it gives the lead up by itself.

// portSilent reports whether nothing answers at the port of a member's server, while its sidecar
// is heard.
func (o *Observation) portSilent(member string) bool {
	return slices.ContainsFunc(o.Peers, func(p Peer) bool { return p.Member == member && p.Link == LinkUp && p.PortSilent })
}

// waiting are the replicas that follow this primary, are heard, and receive nothing from it.
func (v *view) waiting() []string {
	var names []string
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		r := &p.Report
		if p.Link == LinkUp && v.fresh(p) && r.Role == RoleReplica && r.Term == v.rec.Term && r.Leader == v.o.Self && !r.Streaming {
			names = append(names, p.Member)
		}
	}
	return names
}

// noteUnreached dates since when no replica gets through.
func (t *turn) noteUnreached() {
	s, sv := &t.s, &t.o.Server
	switch {
	case t.rec.Leader != t.o.Self || !t.serving() || sv.Hidden || t.streaming(t.others()) > 0 || len(t.waiting()) == 0:
		s.UnreachedAt = 0
	case s.UnreachedAt == 0:
		s.UnreachedAt = t.o.Now
	}
}

// unreached reports whether that has been so for long.
func (v *view) unreached() bool {
	return v.s.UnreachedAt != 0 && v.after(v.s.UnreachedAt, standstillTime)
}

// portSilent reports whether another should lead because of that: each replica that follows and
// is heard says that the port answers nobody, so that it is no password, no rule of access and
// no limit, which the next primary would have as well. The fault must last for the failure
// time-out, and another must be able to take over.
func (v *view) portSilent() bool {
	return v.s.UnreachedAt != 0 && v.after(v.s.UnreachedAt, v.o.Policy.FailureTimeout) && v.guessIsCheap() && v.o.Policy.Automatic && !v.paused() &&
		!slices.ContainsFunc(v.waiting(), func(m string) bool { return !v.peer(m).Report.Unanswered }) && v.chosenSuccessor(false) != nil
}

func (v *view) unreachedBlock() Block {
	return Block{What: "no replica reaches the primary's server", Missing: "a connection of " + joined(v.waiting()) + " to the server of " + v.o.Self +
		", whose sidecar they do reach: a firewall in front of its port, pg_hba.conf, the replication password or max_wal_senders; postgresql.log of a replica says which",
		Cost: "commits wait, or only " + v.o.Self + " has them"}
}
