package ha

import (
	"slices"
)

// What PostgreSQL can wait for is any k of the names in synchronous_standby_names; of zones
// it knows nothing. With Policy.Zones the names are chosen so that any k of them, with the
// primary, are of so many zones: none is of the primary's own zone, and of each other zone
// no more than perZone. A member without the tag zone is of no other zone.
//
// A strict policy rather has commits wait than be held in fewer zones. Else, while too few
// members of other zones stream, the names are all that stream, and status says so.

// ZoneTag is the tag of a member that names its zone.
const ZoneTag = "zone"

// zone is the member's; empty: not known, or it has none.
func (v *view) zone(member string) string {
	if member == v.o.Self {
		return v.o.Policy.Zone
	}
	if p := v.peer(member); p != nil {
		for i := range p.Report.Tags {
			if p.Report.Tags[i].Name == ZoneTag {
				return p.Report.Tags[i].Value
			}
		}
	}
	return ""
}

// perZone is how many members of one zone may be among the names, so that any k of them are
// of the other zones that are needed.
func perZone(k, zones int) int {
	if zones <= 2 {
		return 1 << 16 // any one will do, so there is no bound
	}
	most := k
	for most > 1 && (k+most-1)/most < zones-1 {
		most--
	}
	return most
}

// acrossZones are those of the members, in their order, that hold a commit in another zone.
func (v *view) acrossZones(members []string) []string {
	most, own := perZone(v.o.Policy.Standbys, v.o.Policy.Zones), v.zone(v.o.Self)
	chosen := make([]string, 0, len(members))
	for _, m := range members {
		zone, there := v.zone(m), 0
		if zone == "" || zone == own || slices.Contains(chosen, m) {
			continue
		}
		for _, c := range chosen {
			if v.zone(c) == zone {
				there++
			}
		}
		if there < most {
			chosen = append(chosen, m)
		}
	}
	return chosen
}

// zoned reports whether commits are to be held in more than one zone.
func (v *view) zoned() bool { return v.o.Policy.Zones > 1 && v.o.Policy.Mode == ModeQuorum }

// chooseZones leaves those candidates that hold commits in other zones; where they are too
// few, and the policy is not strict, all.
func (t *turn) chooseZones(candidates []string) []string {
	chosen := t.acrossZones(candidates)
	if len(chosen) >= t.o.Policy.Standbys || t.o.Policy.Strict || len(chosen) == len(candidates) {
		return chosen
	}
	t.fewZones = true
	return candidates
}

// neverHeard reports whether this process has never heard the member: its zone is not known.
func (v *view) neverHeard(member string) bool {
	p := v.peer(member)
	return member != v.o.Self && (p == nil || p.ReceivedAt == 0)
}

// zonesUnknown reports whether members on record have still to be heard by a process that has
// just begun: until then the setting stays what it was.
func (v *view) zonesUnknown() bool {
	return slices.ContainsFunc(v.rec.Members, v.neverHeard) && !v.after(v.s.BegunAt, v.o.Policy.FailureTimeout)
}

// holdsElsewhere reports whether the member beside the names, which are across zones, holds
// commits in another zone than the primary.
func (v *view) holdsElsewhere(names []string, member string) bool {
	return len(v.acrossZones(append(slices.Clone(names), member))) > len(names)
}

// fillZones makes up for too few names that hold commits in other zones, so that commits
// wait. Those that were never heard may be in another zone: all of them must answer, until
// one is heard. Where nobody else is on record it is rather those that are there than nobody.
func (t *turn) fillZones(names []string, k int) ([]string, int) {
	if len(names) >= k {
		return names, k
	}
	for _, m := range t.rec.Members {
		if t.neverHeard(m) && !slices.Contains(names, m) {
			names = append(names, m)
		}
	}
	if len(names) > 0 {
		return names, len(names)
	}
	t.fewZones = true
	names = t.candidates()
	return names[:min(2*k, len(names))], k
}

func (v *view) zonesBlock() Block {
	missing := "standbys that stream in a zone other than " + v.o.Policy.Zone
	if v.o.Policy.Zone == "" {
		missing = "the tag zone of " + v.o.Self
	}
	return Block{What: "commits are held in fewer zones than durability.zones asks for", Missing: missing}
}

// acrossZonesSync is a promotion's setting in place of the set: so many names of other zones,
// the first of the members that hold commits there. Where they do not cover the record (S4),
// it asks for the set's names besides, and for so many of all that some of both are among
// them, until the record is widened after the promotion.
func (v *view) acrossZonesSync(set SyncSetting, members []string) SyncSetting {
	names := v.acrossZones(members)
	if len(names) < set.K {
		names = v.acrossZones(slices.Concat(members, v.others())) // one with the tag nosync too: nobody else is there
	}
	zoned := SyncSetting{K: set.K, Names: union(names[:min(len(names), 2*set.K)], nil)}
	if len(zoned.Names) < set.K {
		// Who was never heard may be of another zone: commits wait for all until it is known.
		unheard := slices.DeleteFunc(v.others(), func(m string) bool { return !v.neverHeard(m) })
		if len(unheard) == 0 {
			return set
		}
		all := union(union(set.Names, zoned.Names), unheard)
		return SyncSetting{K: len(all), Names: all}
	}
	if Covers(zoned, v.o.Self, v.rec.Durability) {
		return zoned
	}
	both := SyncSetting{K: len(set.Names) - len(v.acrossZones(set.Names)) + 1, Names: union(set.Names, zoned.Names)}
	for both.K < len(both.Names) && !Covers(both, v.o.Self, v.rec.Durability) {
		both.K++
	}
	if both.K > len(both.Names) || !Covers(both, v.o.Self, v.rec.Durability) {
		return set
	}
	return both
}

// mayVoteOf leaves those of the members that may be voters.
func (v *view) mayVoteOf(members []string) []string {
	return slices.DeleteFunc(slices.Clone(members), func(m string) bool { return !v.mayVote(m) })
}
