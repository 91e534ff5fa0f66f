package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/hooks"
)

// What a planned stop waits for: holdSettles is how long after the withdrawal
// of the registration proxies need to hold their clients (Consul's catalog,
// HAProxy's and PgBouncer's command); what begins later is of clients that
// nobody holds, or of a proxy that is late. transactionsEnd is how long what began
// before may go on; lullWait, how long a moment is looked for then in which nobody has
// anything open or is logging in; loginsEnd, how long those who were seen to log in
// meanwhile may take, which on a busy machine is more than a moment.
const (
	holdSettles     = 50 * time.Millisecond
	transactionsEnd = 500 * time.Millisecond
	lullWait        = 50 * time.Millisecond
	loginsEnd       = 300 * time.Millisecond
)

// stop stops the server. Before a planned stop it waits, a while, for transactions
// that began before clients were held.
func (s *localServer) stop(ctx context.Context, a ha.Action) error {
	if a.Planned || !a.Immediate && s.lastFacts().InRecovery == ha.Yes { // no failover waits for this stop
		if err := s.before(ctx, hooks.BeforeStop); err != nil {
			return err
		}
	}
	if a.Planned {
		work, cancel := context.WithTimeout(ctx, cmp.Or(a.Drain, transactionsEnd))
		err := s.sql.Drain(work, holdSettles)
		cancel()
		switch {
		case err == nil:
			if err := s.lull(ctx); err != nil {
				s.log.Debug("no lull was looked for", "error", err)
			}
		case a.Yield && errors.Is(err, checks.ErrTransactions):
			return fmt.Errorf("%w, %w", err, sidecar.ErrTransactions)
		default:
			s.log.Warn("transactions are open, and will be cut off", "error", err)
		}
	}
	return s.files.Stop(ctx, a.Immediate)
}

// lull waits, not for long, for a moment in which no client has anything open and nobody
// is logging in: a proxy that is late lets in clients until it holds them. Who comes after
// lullWait comes through no proxy of ours, and is not waited for.
func (s *localServer) lull(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, loginsEnd)
	defer cancel()
	w := loginWatch{until: time.Now().Add(lullWait)}
	return s.sql.WaitQuietFor(ctx, func() bool {
		if !w.ended(s.files.LoggingIn(), time.Now()) {
			return false
		}
		if !time.Now().Before(w.until) {
			cancel() // transactions are not waited for any longer
		}
		return true
	})
}

// loginWatch is who was seen to log in until a time.
type loginWatch struct {
	until time.Time
	seen  []int // process ids
}

// ended reports whether none of them logs in any more; now are those who do.
func (w *loginWatch) ended(now []int, at time.Time) bool {
	if at.Before(w.until) {
		w.seen = append(w.seen, now...)
		return len(now) == 0
	}
	return !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(w.seen, pid) })
}
