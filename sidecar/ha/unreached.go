package ha

// A primary whose sidecar is heard, while no replica gets through to its server: a firewall
// between, or the server refuses them. Nobody deposes it, as it is heard, and its commits wait or
// are its own alone.

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

func (v *view) unreachedBlock() Block {
	return Block{What: "no replica reaches the primary's server", Missing: "a connection of " + joined(v.waiting()) + " to the server of " + v.o.Self +
		", whose sidecar they do reach: a firewall in front of its port, pg_hba.conf, the replication password or max_wal_senders; postgresql.log of a replica says which",
		Cost: "commits wait, or only " + v.o.Self + " has them"}
}
