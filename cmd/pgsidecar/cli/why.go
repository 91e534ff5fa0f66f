package cli

import (
	"context"
	"sync"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
)

// othersStatus asks all members but the one that has answered, at once. Each knows only
// its own decision.
func othersStatus(ctx context.Context, c *client.Client, st *api.Status) map[string]screen.Answer {
	var mu sync.Mutex
	var asked sync.WaitGroup
	answers := map[string]screen.Answer{}
	for _, m := range st.Members {
		address, known := client.MemberAPI(st, m.Member)
		if m.Member == st.Member || !known {
			continue
		}
		asked.Go(func() {
			status, err := c.StatusOf(ctx, address)
			mu.Lock()
			defer mu.Unlock()
			answers[m.Member] = screen.Answer{Status: status, Err: err}
		})
	}
	asked.Wait()
	return answers
}
