package drill

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
)

// Where no other primary comes, and all go on to write, nobody is blamed for it but the
// missing move: the routes wait together.
func TestWritesGoOnWithoutAMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rehearsal{Options: Options{Deadline: 2 * time.Minute}, scenario: Scenario{Expect: Moves}, report: new(Report)}
		for _, name := range []string{"haproxy", "dns", "multi-host", "pgbouncer"} {
			w := &Writer{Route: Route{Name: name, Connect: func(context.Context) (*pgx.Conn, error) { return nil, io.ErrUnexpectedEOF }}, Workers: 1}
			w.Start()
			defer w.Stop()
			r.routes = append(r.routes, w)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				for seq := int64(1); ctx.Err() == nil; seq++ {
					now := time.Now()
					w.note(0, seq, Ack{Sent: now, Acked: now, Member: "n2", Timeline: 1})
					sleep(ctx, 100*time.Millisecond)
				}
			}()
		}
		synctest.Wait()
		before := make([]int, len(r.routes))
		for i, w := range r.routes {
			before[i] = w.Reigned()
		}
		begun := time.Now()
		if err := r.waitRecovered(t.Context(), before); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took < moveTimeout || took > 2*moveTimeout {
			t.Errorf("waited for %v, and a move is waited for %v", took, moveTimeout)
		}
	})
}
