package screen

import (
	"fmt"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// Answer is what one member answers to a request for its status.
type Answer struct {
	Status *api.Status
	Err    error
}

// WriteWhy writes which rules held in each member's last decision.
func WriteWhy(b *strings.Builder, st *api.Status, others map[string]Answer) {
	b.WriteString("\nRules that held in the last decision (package sidecar/ha):\n")
	for _, m := range st.Members {
		answer, asked := others[m.Member]
		switch {
		case m.Member == st.Member:
			writeRules(b, st)
		case !asked:
			fmt.Fprintf(b, "  %s: where its API listens is not known\n", m.Member)
		case answer.Err != nil:
			fmt.Fprintf(b, "  %s: it does not answer: %v\n", m.Member, answer.Err)
		default:
			writeRules(b, answer.Status)
		}
	}
}

func writeRules(b *strings.Builder, st *api.Status) {
	switch {
	case len(st.Rules) == 0:
		fmt.Fprintf(b, "  %s: it has decided nothing yet, or is an older version\n", st.Member)
	default:
		fmt.Fprintf(b, "  %s, %s ago: %s\n", st.Member, Seconds(st.DecidedAge), strings.Join(st.Rules, ", "))
	}
	for _, block := range st.Blocks {
		if block.Rule != "" {
			fmt.Fprintf(b, "    %s: %s\n", block.Rule, block.What)
		}
	}
}
