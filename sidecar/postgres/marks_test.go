package postgres

import (
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestMarks: two servers that were promoted from the same log onto timelines of one number
// tell them apart, and who follows one of them has its mark, also after a restart.
func TestMarks(t *testing.T) {
	a := newPrimary(t, "n1")
	b, c, d := a.newStandby("n2"), a.newStandby("n3"), a.newStandby("n4")
	for _, m := range []*member{b, c, d} {
		m.caughtUp(a)
	}
	at := b.fenced(1)
	byHand := c.fenced(1)
	d.fenced(1)
	if at.LSN != byHand.LSN {
		t.Fatalf("they fork at %s and %s", at, byHand)
	}
	a.guard.crash()
	for _, m := range []*member{b, c} {
		must(t, m.ReserveTimeline(at, 2))
		if tli := m.promote(); tli != 2 {
			t.Fatalf("promoted to timeline %d", tli)
		}
		m.sql("insert into t values (1)")
	}
	d.follow(b)
	d.caughtUp(b)
	marked := func(m *member, upto ha.LSN) ha.Position {
		_, err := m.Inspect(soon(t))
		must(t, err)
		history, err := m.History(2)
		must(t, err)
		return m.Mark(ha.Position{History: history, TLI: 2, LSN: upto})
	}
	far := at.LSN + 1000
	pb, pc, pd := marked(b, far), marked(c, far), marked(d, far)
	switch {
	case pb.Mark == 0 || pb.Mark != pd.Mark:
		t.Errorf("the mark is %d, and that of who follows %d", pb.Mark, pd.Mark)
	case pb.Mark == pc.Mark || pb.Contains(pc) || !pb.Contains(pd):
		t.Errorf("the marks are %d and %d", pb.Mark, pc.Mark)
	}
	if p := marked(b, at.LSN+1); p.Mark != pb.Mark {
		t.Errorf("what was seen is forgotten: %d", p.Mark)
	}
	d.forgetMarks()
	if p := marked(d, at.LSN+1); p.Mark != 0 {
		t.Errorf("before it is written the mark is %d", p.Mark)
	}
	must(t, d.Stop(soon(t), false))
	must(t, d.Start(soon(t), StartOptions{}))
	d.up()
	if p := marked(d, far); p.Mark != pb.Mark {
		t.Errorf("after a restart the mark is %d, was %d", p.Mark, pb.Mark)
	}
}
