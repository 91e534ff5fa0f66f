package sim

import (
	"slices"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Zoned says whether the members are in zones: the first two in a, the next two in b, and the
// fifth and all after it in c.
type Zoned uint8

// How commits are held across zones.
const (
	Unzoned    Zoned = iota
	InZones          // each is to be in two
	ZonesBlind       // the rule is broken: a member takes its own zone for another one
)

const zoneNames = "abc"

var zoneTags = func() (all [len(zoneNames)][1]ha.Tag) {
	for i := range all {
		all[i][0] = ha.Tag{Name: "zone", Value: zoneNames[i : i+1]}
	}
	return all
}()

func zoneOf(m int) int { return min(m/2, len(zoneNames)-1) }

// ownZone is what m's policy says of its zone.
func (w *World) ownZone(m int) string {
	if w.opt.Zoned == ZonesBlind {
		return "d"
	}
	return zoneTags[zoneOf(m)][0].Value
}

// inZones: a commit that m acknowledges under a strict policy is in another zone too, if any
// standby had to answer for it.
func (w *World) inZones(m, n int) {
	if w.opt.Zoned == Unzoned {
		return
	}
	s, policy := &w.members[m].server, &w.policies[w.members[m].sidecar.policy]
	if !policy.Strict || policy.Mode != ha.ModeQuorum || !s.defined || s.config.K == 0 {
		return
	}
	if !slices.ContainsFunc(w.consul.record.Members, func(name string) bool { return zoneOf(w.index(name)) != zoneOf(m) }) {
		return // it is all there is
	}
	for p := range w.n {
		v := &w.members[p].server
		if zoneOf(p) != zoneOf(m) && v.data == ha.DataPresent && v.flushed >= n && v.log[n-1] == s.log[n-1] {
			return
		}
	}
	w.fail("zones", m, "commit %d, acknowledged by %s, is in its zone only: its setting is %d of %v", n, names[m], s.config.K, s.config.Names)
}
