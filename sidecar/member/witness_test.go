package member

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// aWord is a witness in memory.
type aWord struct {
	word  sessions.Word
	index uint64
	away  bool
}

func (a *aWord) Read(context.Context, uint64) (sessions.Word, uint64, error) {
	if a.away {
		return sessions.Word{}, 0, errors.New("no answer")
	}
	return a.word, a.index, nil
}

func (a *aWord) Write(_ context.Context, word sessions.Word, index uint64) (bool, error) {
	if index != a.index {
		return false, nil
	}
	a.word, a.index = word, a.index+1
	return true, nil
}

// TestWord: who is given the word of a witness, and when.
func TestWord(t *testing.T) {
	const patience = 35 * time.Second
	first, second := sessions.Word{Half: 0, Cluster: "pg", Member: "n1"}, sessions.Word{Half: 1, Cluster: "pg2", Member: "m1"}
	hold := ha.WitnessWish{Hold: true, Half: 1}
	free := second
	free.Free = true
	later := second
	later.Term = 5
	for name, c := range map[string]struct {
		at      aWord
		wish    ha.WitnessWish
		still   time.Duration // since the word was first read
		held    bool
		others  bool // the other site is known to have it
		after   bool // the word is this site's afterwards, and not free
		problem string
	}{
		"nobody had it, and this site is not the primary": {wish: hold, problem: "no site has had its word"},
		"nobody had it, and this site is the primary":     {wish: ha.WitnessWish{Hold: true, First: true, Half: 1}, held: true, after: true},
		"nobody had it for long":                          {wish: ha.WitnessWish{Hold: true, Patient: true, Half: 1}, still: patience, held: true, after: true},
		"it is this site's":                               {at: aWord{word: second, index: 3}, wish: hold, held: true, after: true},
		"the other has it":                                {at: aWord{word: first, index: 3}, wish: hold, others: true, problem: "cluster pg has its word"},
		"the other has it, and was silent":                {at: aWord{word: first, index: 3}, wish: ha.WitnessWish{Hold: true, Patient: true, Half: 1}, still: patience, held: true, after: true},
		"the other has it, and is heard":                  {at: aWord{word: first, index: 3}, wish: hold, others: true, still: time.Hour, problem: "cluster pg has its word"},
		"the other renewed it lately":                     {at: aWord{word: first, index: 3}, wish: ha.WitnessWish{Hold: true, Patient: true, Half: 1}, still: patience - 5*time.Second, others: true, problem: "cluster pg has its word"},
		"it was given back":                               {at: aWord{word: free, index: 3}, wish: hold, held: true, after: true},
		"this site does not take writes any more":         {at: aWord{word: second, index: 3}, wish: ha.WitnessWish{Free: true, Half: 1}},
		"a later leader of this site has it":              {at: aWord{word: later, index: 3}, wish: hold, after: true, problem: "cluster pg2 has its word"},
		"who was deposed gives back nothing":              {at: aWord{word: later, index: 3}, wish: ha.WitnessWish{Free: true, Half: 1}, after: true},
		"an earlier leader of this site had it":           {at: aWord{word: later, index: 3}, wish: ha.WitnessWish{Hold: true, Half: 1, Term: 6}, held: true, after: true},
		"an earlier leader's word is given back":          {at: aWord{word: later, index: 3}, wish: ha.WitnessWish{Free: true, Half: 1, Term: 6}},
		"another member only looks":                       {at: aWord{word: second, index: 3}, wish: ha.WitnessWish{}, after: true},
		"it is away":                                      {at: aWord{away: true}, wish: hold, problem: "no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			k := witness{consul: &c.at, index: c.at.index}
			if c.still > 0 {
				k.since = guard.Now().Add(-c.still)
			}
			said := k.settle(t.Context(), sessions.Word{Cluster: "pg2", Member: "m2"}, &c.wish, patience)
			if k.held != c.held || !strings.Contains(said, c.problem) || c.problem == "" && said != "" {
				t.Errorf("held=%t, %q", k.held, said)
			}
			if k.others != c.others {
				t.Errorf("the other has it: %t", k.others)
			}
			k.consul = &aWord{away: true} // it is not forgotten where it does not answer any more
			if k.settle(t.Context(), sessions.Word{}, &c.wish, patience); k.others != c.others {
				t.Errorf("when the witness is away, the other has it: %t", k.others)
			}
			if mine := c.at.index > 0 && c.at.word.Half == 1 && !c.at.word.Free; mine != c.after {
				t.Errorf("afterwards it is %+v", c.at.word)
			}
		})
	}
}
