package drill_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
)

// register is what porcupine is told of a register.
var register = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, input, output any) (bool, any) {
		o := input.(drill.Operation)
		if o.Write {
			return true, o.Value
		}
		return o.Value == state.(int64), state
	},
	DescribeOperation: func(input, output any) string { return describe(input.(drill.Operation)) },
}

func describe(o drill.Operation) string {
	what := "read"
	switch {
	case o.Unknown:
		what = "write, not answered,"
	case o.Write:
		what = "write"
	}
	return fmt.Sprintf("%v to %v client %d: %s %d", o.Called.Round(time.Microsecond), o.Returned.Round(time.Microsecond), o.Client, what, o.Value)
}

// disorder names the registers whose operations cannot have happened one at a
// time, each between its call and its answer. The checker is porcupine.
func disorder(operations []drill.Operation) (wrong []string) {
	byKey := map[int64][]porcupine.Operation{}
	for i, o := range operations {
		returned := int64(o.Returned)
		client := o.Client
		if o.Unknown {
			returned, client = math.MaxInt64, 1000+i // its client goes on meanwhile
		}
		byKey[o.Key] = append(byKey[o.Key], porcupine.Operation{ClientId: client, Input: o, Call: int64(o.Called), Return: returned})
	}
	for key, history := range byKey {
		switch porcupine.CheckOperationsTimeout(register, history, time.Minute) {
		case porcupine.Illegal:
			lines := []string{fmt.Sprintf("register %d is not linearizable:", key)}
			for _, o := range history {
				lines = append(lines, describe(o.Input.(drill.Operation)))
			}
			wrong = append(wrong, strings.Join(lines, "\n"))
		case porcupine.Unknown:
			wrong = append(wrong, fmt.Sprintf("register %d: no answer of the checker within a minute (%d operations)", key, len(history)))
		}
	}
	slices.Sort(wrong)
	return wrong
}

// TestRegisters: clients of one server that nothing happens to are linearizable,
// unless what they did is changed.
func TestRegisters(t *testing.T) {
	s := startPostgres(t)
	r := &drill.Registers{Route: s.route(), Run: 1}
	r.Start()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for len(r.Operations()) < 500 {
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-tick.C:
		}
	}
	r.Stop()
	operations := r.Operations()
	if wrong := disorder(operations); len(wrong) > 0 {
		t.Fatal(strings.Join(wrong, "\n"))
	}
	if c := drill.Count(operations); c.Keys < 5 || c.Unknown > 10 { // those that Stop cut short
		t.Errorf("%+v", c)
	}
	// As if all writes had been lost by a failover: a read that began after a
	// write was answered finds none.
	i := slices.IndexFunc(operations, func(read drill.Operation) bool {
		return !read.Write && slices.ContainsFunc(operations, func(o drill.Operation) bool {
			return o.Write && o.Key == read.Key && o.Returned < read.Called
		})
	})
	if i < 0 {
		t.Fatal("no read began after a write")
	}
	operations[i].Value = 0
	if wrong := disorder(operations); len(wrong) != 1 {
		t.Errorf("a lost write is not found: %q", wrong)
	}
}
