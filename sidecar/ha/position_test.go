package ha_test

import (
	"slices"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

func at(tli ha.TLI, lsn ha.LSN, history ...ha.Fork) ha.Position {
	return ha.Position{TLI: tli, LSN: lsn, History: history}
}

func TestCompare(t *testing.T) {
	fork := ha.Fork{TLI: 1, End: 100}
	for _, c := range []struct {
		name    string
		a, b    ha.Position
		order   int
		aHoldsB bool
		bHoldsA bool
	}{
		{"same timeline, further on", at(1, 200), at(1, 100), 1, true, false},
		{"same place", at(1, 100), at(1, 100), 0, true, true},
		{"new timeline, the old one left at or after", at(2, 150, fork), at(1, 100), 1, true, false},
		{"new timeline at its very beginning", at(2, 100, fork), at(1, 100), 1, true, false},
		{"new timeline, the old one went further: diverged, the later term wins", at(2, 150, fork), at(1, 180), 1, false, false},
		{"new timeline ahead in numbers, behind in bytes", at(2, 110, fork), at(1, 5000), 1, false, false},
		{"two forks of one timeline", at(3, 400, fork), at(2, 900, ha.Fork{TLI: 1, End: 300}), 1, false, false},
		{"grandchild", at(3, 400, fork, ha.Fork{TLI: 2, End: 300}), at(2, 250, fork), 1, true, false},
		{"grandchild that left before", at(3, 400, fork, ha.Fork{TLI: 2, End: 200}), at(2, 250, fork), 1, false, false},
		{"unknown is behind", ha.Position{}, at(1, 1), -1, false, false},
		{"unknown beside unknown", ha.Position{}, ha.Position{}, 0, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.a.Compare(c.b); got != c.order {
				t.Errorf("Compare: got %d, want %d", got, c.order)
			}
			if got := c.b.Compare(c.a); got != -c.order {
				t.Errorf("Compare, turned round: got %d, want %d", got, -c.order)
			}
			if got := c.a.Contains(c.b); got != c.aHoldsB {
				t.Errorf("Contains: got %v, want %v", got, c.aHoldsB)
			}
			if got := c.b.Contains(c.a); got != c.bHoldsA {
				t.Errorf("Contains, turned round: got %v, want %v", got, c.bHoldsA)
			}
		})
	}
}

func TestParseLSN(t *testing.T) {
	for _, text := range []string{"0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"} {
		l, err := ha.ParseLSN(text)
		if err != nil || l.String() != text {
			t.Errorf("ParseLSN(%q) = %v, %v", text, l, err)
		}
	}
	for _, text := range []string{"", "/", "0", "0/", "/0", "1/2/3", "G/0", "0/100000000", "-1/0", " 0/0"} {
		if l, err := ha.ParseLSN(text); err == nil {
			t.Errorf("ParseLSN(%q) = %v, want an error", text, l)
		}
	}
}

// TestMark: what two timelines of one number begin with tells them apart, in their own logs
// and in those that go on from them; what is not known tells nothing.
func TestMark(t *testing.T) {
	marked := func(p ha.Position, own ha.Mark) ha.Position {
		p.Mark = own
		return p
	}
	fork := ha.Fork{TLI: 1, End: 100}
	claimed, byHand, unknown := marked(at(2, 300, fork), 7), marked(at(2, 200, fork), 8), at(2, 200, fork)
	after := at(3, 400, fork, ha.Fork{TLI: 2, End: 300, Mark: 7})
	for _, c := range []struct {
		name     string
		p, q     ha.Position
		contains bool
	}{
		{"its own beginning", claimed, marked(unknown, 7), true},
		{"another's", claimed, byHand, false},
		{"one that is not known", claimed, unknown, true},
		{"in one that is not known", marked(claimed, 0), byHand, true},
		{"in a descendant", after, marked(unknown, 7), true},
		{"another's in a descendant", after, byHand, false},
		{"the parent's log", byHand, at(1, 90), true},
	} {
		if got := c.p.Contains(c.q); got != c.contains {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	r := ha.Record{Timeline: 2, Histories: ha.Histories{Claims: []ha.Claim{{TLI: 2, Term: 2, Parent: 1, Low: 100, High: 100, Mark: 7}}}}
	if !r.Claimed(claimed) || !r.Claimed(unknown) || r.Claimed(byHand) {
		t.Error("a claim tells its timeline from none of its number")
	}
}

// TestStraight: a recovery that was to follow timeline 3 may end before timeline 3, or even
// 2, began. What others wrote on timeline 1 after that is no part of it.
func TestStraight(t *testing.T) {
	for _, c := range []struct {
		name       string
		file, want []ha.Fork
	}{
		{"none", nil, nil},
		{"as it should be", []ha.Fork{{TLI: 1, End: 100}, {TLI: 2, End: 200}}, []ha.Fork{{TLI: 1, End: 100}, {TLI: 2, End: 200}}},
		{"left where it began", []ha.Fork{{TLI: 1, End: 100}, {TLI: 2, End: 100}}, []ha.Fork{{TLI: 1, End: 100}, {TLI: 2, End: 100}}},
		{"ended on 2", []ha.Fork{{TLI: 1, End: 100}, {TLI: 2, End: 200}, {TLI: 3, End: 150}}, []ha.Fork{{TLI: 1, End: 100}, {TLI: 2, End: 150}}},
		{"ended on 1", []ha.Fork{{TLI: 1, End: 100}, {TLI: 2, End: 200}, {TLI: 3, End: 50}}, []ha.Fork{{TLI: 1, End: 50}}},
		{"a child of such a one", []ha.Fork{{TLI: 1, End: 100}, {TLI: 2, End: 200}, {TLI: 3, End: 50}, {TLI: 4, End: 70}}, []ha.Fork{{TLI: 1, End: 50}, {TLI: 4, End: 70}}},
		{"again", []ha.Fork{{TLI: 1, End: 100}, {TLI: 2, End: 50}, {TLI: 3, End: 40}}, []ha.Fork{{TLI: 1, End: 40}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			told := slices.Clone(c.file)
			if got := ha.Straight(c.file); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if !slices.Equal(told, c.file) {
				t.Errorf("it has changed what it was told: %v", c.file)
			}
		})
	}
	restored := at(4, 60, ha.Straight([]ha.Fork{{TLI: 1, End: 100}, {TLI: 2, End: 200}, {TLI: 3, End: 50}})...)
	for lsn, want := range map[ha.LSN]bool{40: true, 50: true, 51: false, 90: false} {
		if got := restored.Contains(at(1, lsn)); got != want {
			t.Errorf("contains %s on timeline 1: %t", lsn, got)
		}
	}
	if restored.Passed(3) {
		t.Error("it was never on timeline 3")
	}
}
