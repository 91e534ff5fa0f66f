package drill

import (
	"context"
	"math/rand/v2"
	"time"
)

// Judge is judge, for tests.
func (r *Report) Judge(o Objective) { r.judge(o, false) }

// JudgeCatalog is judge where an earlier catalog was put back.
func (r *Report) JudgeCatalog(o Objective) { r.judge(o, true) }

// Complaints is what a status complains of beside its blocks.
var Complaints = troubles

// InOrder is the order of two acts that are played together.
func InOrder(first, second string) []string {
	var names []string
	for _, p := range inOrder(picked{scenario: Scenario{Name: first}}, picked{scenario: Scenario{Name: second}}) {
		names = append(names, p.scenario.Name)
	}
	return names
}

// Drawn are n draws from what possible makes.
func Drawn(possible func() []Scenario, n int) (drawn [][]Scenario) {
	c := &chaos{draw: rand.New(rand.NewPCG(1, 1)), possible: possible}
	for range n {
		var fault []Scenario
		for _, p := range c.pick() {
			fault = append(fault, p.scenario)
		}
		drawn = append(drawn, fault)
	}
	return drawn
}

// SetRight looks for acts that were done together, and undoes them.
func SetRight(ctx context.Context, acts ...Scenario) error {
	c := &chaos{ChaosOptions: ChaosOptions{Acts: true, Deadline: time.Second}}
	var injected []picked
	for _, s := range acts {
		injected = append(injected, picked{scenario: s})
	}
	return c.setRight(ctx, injected, nil)
}

// Acts are what operators do.
func Acts() []Scenario { return (&operator{}).acts() }
