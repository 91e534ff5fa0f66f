package ha_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

func TestClaimed(t *testing.T) {
	r := ha.Record{Timeline: 7, Histories: ha.Histories{Claims: []ha.Claim{{TLI: 3, Term: 2}, {TLI: 5, Term: 4, Parent: 3, Low: 95, High: 95}, {TLI: 7, Term: 6, Parent: 5, Low: 200}}}}
	for _, c := range []struct {
		name string
		at   ha.Position
		want bool
	}{
		{"before the oldest claim", at(2, 50, ha.Fork{TLI: 1, End: 10}), true},
		{"the oldest claim", at(3, 90, ha.Fork{TLI: 2, End: 60}), true},
		{"a claim, where it began", at(5, 150, ha.Fork{TLI: 2, End: 60}, ha.Fork{TLI: 3, End: 95}), true},
		{"its number, begun elsewhere", at(5, 150, ha.Fork{TLI: 3, End: 50}), false},
		{"its number, on another parent", at(5, 150, ha.Fork{TLI: 2, End: 95}), false},
		{"a number that was left out", at(4, 60, ha.Fork{TLI: 3, End: 50}), false},
		{"a number above all", at(8, 300, ha.Fork{TLI: 5, End: 205}), false},
		{"the newest, as its promotion is not recorded", at(7, 300, ha.Fork{TLI: 3, End: 95}, ha.Fork{TLI: 5, End: 205}), true},
		{"the newest, before its candidate had replayed", at(7, 300, ha.Fork{TLI: 3, End: 95}, ha.Fork{TLI: 5, End: 150}), false},
		{"the newest, for which its candidate fetched more", at(7, 300, ha.Fork{TLI: 3, End: 95}, ha.Fork{TLI: 5, End: 260}), true},
		{"through a number that was left out", at(7, 300, ha.Fork{TLI: 4, End: 95}, ha.Fork{TLI: 5, End: 205}), false},
		{"unknown", ha.Position{}, true},
	} {
		if got := r.Claimed(c.at); got != c.want {
			t.Errorf("%s: claimed: %v", c.name, got)
		}
	}
	r.Timeline = 8 // an older program has led, and listed nothing
	if !r.Claimed(at(8, 300, ha.Fork{TLI: 5, End: 205})) {
		t.Error("a list in which a claim is missing judges")
	}
	if r.Claims = nil; !r.Claimed(at(9, 1)) {
		t.Error("a record without claims judges")
	}
}

// TestOlderProgramHasLed: after a term whose leader is of a version that lists no claims,
// the next one begins the list anew, whether it wins an election or takes the older
// program's place beside its server; a list with a gap would disown the whole log.
func TestOlderProgramHasLed(t *testing.T) {
	o := electing()
	o.Consul.Record.Timeline, o.Consul.Record.Claims = 5, []ha.Claim{{TLI: 3, Term: 1}}
	vote(&o, 0, o.Server.Position)
	vote(&o, 1, o.Server.Position)
	_, actions := settled(ha.State{}, o)
	for _, a := range actions {
		if r := &a.Change.Record; a.Kind == ha.Commit && a.Change.What == "claim" {
			if len(r.Claims) != 1 || r.Claims[0].TLI != 6 || r.Timeline != 6 {
				t.Errorf("timeline %d, claims %+v", r.Timeline, r.Claims)
			}
			return
		}
	}
	t.Fatalf("no claim: %+v", actions)
}

// TestPromotedByHand: a log on a timeline that nobody claimed is not ahead, no vote, and
// leads nothing, unless a person says so. Two candidates could be fooled: one of the
// voters, and the old primary itself. (They have seen the term begin: putback.txt has those that have not.)
func TestPromotedByHand(t *testing.T) {
	for _, origin := range []string{"n1", "n2"} {
		o := electing()
		o.Consul.Record.Timeline, o.Consul.Record.Claims, o.Consul.Record.Origin.Leader = 3, []ha.Claim{{TLI: 3, Term: 3}}, origin
		vote(&o, 1, at(4, 60, ha.Fork{TLI: 3, End: 50}))
		o.Peers[1].Report.Eligible = true
		s, actions := settled(ha.State{FirstTerm: 3}, o)
		want := "nothing" // one vote is missing
		if origin == "n2" {
			want = "claim"
		}
		if got := committed(actions); got != want || got == "nothing" && len(s.Blocks) == 0 {
			t.Errorf("origin %s: commits %s, want %s; blocked by %+v", origin, got, want, s.Blocks)
		}
	}
	o := following() // it was n2 that was promoted by hand; nobody leads
	silent(&o, 0)
	o.Consul.Record.Claims = []ha.Claim{{TLI: 3, Term: 3}}
	o.Server.Receiving, o.Server.Upstream, o.Server.Settled, o.Server.Position = ha.No, "", true, at(4, 60, ha.Fork{TLI: 3, End: 50})
	s, actions := settled(ha.State{}, o)
	if committed(actions) != "nothing" || !strings.Contains(s.Blocks[0].Missing, "promoted by hand") {
		t.Errorf("n2 asks for %+v, blocked by %+v", actions, s.Blocks)
	}
	o.Intent.Force = true
	if _, actions = settled(ha.State{}, o); committed(actions) != "ballot" {
		t.Errorf("by a person's decision it commits %s", committed(actions))
	}
}

// TestStrayed: a member whose data was written by hand says so; it neither votes, stands nor
// follows, and is cloned anew, unless its copy of the last commits counts.
func TestStrayed(t *testing.T) {
	o := following()
	o.Server.Strayed = "its server was started as a primary by hand"
	o.Server.Upstream, o.Server.Receiving = "", ha.No
	clone, s := asked(o, ha.Clone)
	if clone != nil || len(s.Blocks) == 0 {
		t.Errorf("a voter: asked for %+v, blocked by %+v", clone, s.Blocks)
	}
	o.Consul.Record.Durability.Voters = []string{"n3"}
	if clone, _ = asked(o, ha.Clone); clone == nil || !strings.Contains(clone.Why, "by hand") {
		t.Errorf("no voter: asked for %+v", clone)
	}
	o.Server.Settled, o.Server.Fenced = true, true
	if r := ha.MakeReport(s, o); r.Voted || r.Eligible || r.Strayed == "" {
		t.Errorf("it reports %+v", r)
	}
	o.Server.Strayed = ""
	if r := ha.MakeReport(s, o); !r.Voted || !r.Eligible {
		t.Errorf("without it, it reports %+v", r)
	}

	// The primary wants no such voter, and nobody hands over to it.
	l := leading()
	l.Peers[0].Report.Strayed = "its server was started as a primary by hand"
	_, actions := ha.Decide(ha.State{}, l)
	if got := committed(actions); got != "narrow" && got != "widen" && got != "nothing" {
		t.Errorf("the primary commits %s", got)
	}
	var set *ha.SyncSetting
	for i := range actions {
		if actions[i].Kind == ha.SetSync {
			set = &actions[i].Sync
		}
	}
	if set == nil || len(set.Names) != 1 || set.Names[0] != "n3" {
		t.Errorf("the primary asks for %+v", actions)
	}
}

// TestMoreThanThePrimary: more log of the primary's timeline than the primary has is proof
// of another history, and is kept in the record for when the primary is gone.
func TestMoreThanThePrimary(t *testing.T) {
	o := leading()
	o.Peers[1].Report.Position.LSN, o.Peers[1].Report.Copy, o.Peers[1].ReceivedAt = 500, "a", now.Add(-time.Second)
	listed := func(o ha.Observation) []ha.Diverged {
		_, actions := ha.Decide(ha.State{}, o)
		for _, a := range actions {
			if a.Kind == ha.Commit && a.Change.What == "diverged" {
				return append([]ha.Diverged{}, a.Change.Record.Diverged...)
			}
		}
		return nil
	}
	if got := listed(o); len(got) != 1 || got[0] != (ha.Diverged{Member: "n3", Copy: "a"}) {
		t.Fatalf("listed: %+v", got)
	}
	late := o
	late.Peers = append([]ha.Peer{}, o.Peers...)
	late.Peers[1].ReceivedAt = now // the primary was looked at before
	if got := listed(late); got != nil {
		t.Errorf("a report that is newer than the look: listed %+v", got)
	}

	o.Consul.Record.Diverged = []ha.Diverged{{Member: "n3", Copy: "a"}}
	o.Peers[1].Report.Copy, o.Peers[1].Report.Position.LSN = "b", 100
	if got := listed(o); got == nil || len(got) != 0 {
		t.Errorf("a new copy is still listed: %+v", got)
	}

	// With the primary gone: no vote.
	e := electing()
	e.Consul.Record.Diverged = []ha.Diverged{{Member: "n3", Copy: "a"}}
	vote(&e, 1, at(3, 500))
	e.Peers[1].Report.Copy, e.Peers[1].Report.Eligible = "a", true
	if s, actions := settled(ha.State{}, e); committed(actions) != "nothing" || len(s.Blocks) == 0 {
		t.Errorf("commits %s, blocked by %+v", committed(actions), s.Blocks)
	}
}

// TestOwes: a copy made of another member than the leader is no vote before it has what the
// leader had when it began.
func TestOwes(t *testing.T) {
	o := following()
	o.Server.Settled, o.Server.Fenced, o.Server.Upstream, o.Server.Receiving = true, true, "", ha.No
	for _, c := range []struct {
		owed ha.LSN
		want bool
	}{{0, true}, {100, true}, {101, false}} {
		o.Server.Owed = ha.Position{}
		if c.owed != 0 {
			o.Server.Owed = at(3, c.owed)
		}
		s, _ := ha.Decide(ha.State{}, o)
		if r := ha.MakeReport(s, o); r.Voted != c.want || r.Eligible != c.want {
			t.Errorf("owes %d: votes %v, may lead %v", c.owed, r.Voted, r.Eligible)
		}
	}
}

// TestWhyStrayed: a member's word counts most, then the record's; what no term has claimed
// counts only by the newest record.
func TestWhyStrayed(t *testing.T) {
	rec := ha.Record{Term: 3, Timeline: 3, Histories: ha.Histories{Claims: []ha.Claim{{TLI: 3, Term: 3}}, Diverged: []ha.Diverged{{Member: "n3", Copy: "c3"}}}}
	for _, c := range []struct {
		member, copy, word string
		tli                ha.TLI
		older              bool
		want               string
	}{
		{member: "n2", tli: 3},
		{member: "n2", tli: 9, want: "no term of this cluster began"},
		{member: "n2", tli: 9, older: true},
		{member: "n3", copy: "c3", tli: 3, older: true, want: "more log of the primary's timeline"},
		{member: "n3", copy: "c4", tli: 3},
		{member: "n3", copy: "c3", word: "run by hand", tli: 9, want: "run by hand"},
	} {
		got := rec.Strayed(ha.Diverged{Member: c.member, Copy: c.copy}, c.word, at(c.tli, 100), func() bool { return !c.older })
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
