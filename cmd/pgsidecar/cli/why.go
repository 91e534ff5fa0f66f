package cli

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
)

// told is what one member answers to a request for its status.
type told struct {
	status *api.Status
	err    error
}

// othersStatus asks all members but the one that has answered, at once. Each knows only
// its own decision.
func othersStatus(ctx context.Context, c *client.Client, st *api.Status) map[string]told {
	var mu sync.Mutex
	var asked sync.WaitGroup
	answers := map[string]told{}
	for _, m := range st.Members {
		address, known := client.MemberAPI(st, m.Member)
		if m.Member == st.Member || !known {
			continue
		}
		asked.Go(func() {
			status, err := c.StatusOf(ctx, address)
			mu.Lock()
			defer mu.Unlock()
			answers[m.Member] = told{status, err}
		})
	}
	asked.Wait()
	return answers
}

// writeWhy writes which rules held in each member's last decision.
func writeWhy(b *strings.Builder, st *api.Status, others map[string]told) {
	b.WriteString("\nRules that held in the last decision (package sidecar/ha):\n")
	for _, m := range st.Members {
		answer, asked := others[m.Member]
		switch {
		case m.Member == st.Member:
			writeRules(b, st)
		case !asked:
			fmt.Fprintf(b, "  %s: where its API listens is not known\n", m.Member)
		case answer.err != nil:
			fmt.Fprintf(b, "  %s: it does not answer: %v\n", m.Member, answer.err)
		default:
			writeRules(b, answer.status)
		}
	}
}

func writeRules(b *strings.Builder, st *api.Status) {
	switch {
	case len(st.Rules) == 0:
		fmt.Fprintf(b, "  %s: it has decided nothing yet, or is an older version\n", st.Member)
	default:
		fmt.Fprintf(b, "  %s, %s ago: %s\n", st.Member, seconds(st.DecidedAge), strings.Join(st.Rules, ", "))
	}
	for _, block := range st.Blocks {
		if block.Rule != "" {
			fmt.Fprintf(b, "    %s: %s\n", block.Rule, block.What)
		}
	}
}
