package ha

// What one site gives up in a planned change of sites, the other must have: not only its
// member that was asked to take the writes, which may crash before it has. Until a primary
// of that site has taken a write its record keeps the final position (Standing.Given), and
// nobody is promoted there without it.

// nothingAcknowledged reports whether this site is to take the writes, and no server of it
// was told to: nobody's vote stands for commits of its own, as there are none.
func (v *view) nothingAcknowledged() bool {
	return v.rec.Phase == PhaseElecting && v.rec.Durability.K == 0 && v.rec.Origin.Leader == "" && v.rec.Epoch > 0
}

// lacksGiven reports whether this member's log lacks what the other site gave up.
func (v *view) lacksGiven() bool {
	given := v.rec.Given
	return given != nil && !v.follower() && !v.o.Server.Position.Contains(*given)
}

// hasAllGiven reports whether this member has all that the other site gave up, on the same timeline,
// and nobody here was told to take the writes yet.
func (v *view) hasAllGiven() bool {
	given, own := v.rec.Given, &v.o.Server.Position
	return given != nil && v.nothingAcknowledged() && own.TLI == given.TLI && own.Contains(*given)
}

// givenInSight reports whether a member that is heard has all of it: it leads, or this one
// fetches it there.
func (v *view) givenInSight() bool {
	for i := range v.o.Peers {
		if p := &v.o.Peers[i]; v.fresh(p) && p.Link == LinkUp && !v.strays(p) && p.Report.Position.Contains(*v.rec.Given) {
			return true
		}
	}
	return false
}

func (v *view) givenBlock() Block {
	return Block{What: "this member is not promoted", Missing: "a member that has all that " + v.o.Policy.StandbyOf + " had when it gave up the writes (" +
		v.rec.Given.String() + "): this one is at " + v.o.Server.Position.String(),
		Override: failoverTo(v.o.Self),
		Cost:     "every commit of " + v.o.Policy.StandbyOf + " that " + v.o.Self + " does not have"}
}
