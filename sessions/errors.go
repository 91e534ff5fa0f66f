package sessions

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
)

// The ways in which a call fails. Callers tell them apart with errors.Is.
// Besides these, a record that must not be written or acted on is ha.ErrRecord.
var (
	// ErrConflict: Consul answered, and nothing was changed, because the state
	// is no longer the one that the change was made for.
	ErrConflict = errors.New("changed in Consul meanwhile")

	// ErrUnreachable: no address gave an answer, and nothing was changed.
	ErrUnreachable = errors.New("consul does not answer")

	// ErrPermission: Consul refuses the ACL token. The text says which rule the
	// token's policy lacks, in the syntax of a policy.
	ErrPermission = errors.New("consul refuses the ACL token")

	// ErrNoSession: there is no session (yet), or the one named has ended.
	ErrNoSession = errors.New("no such Consul session")

	// ErrUnknownOutcome: a change was sent and not answered. It may have been
	// applied, or may yet be.
	ErrUnknownOutcome = errors.New("sent to Consul and not answered: it may have been applied")
)

// errLockDelay is an ErrConflict that goes away by itself: the key's last
// session ended within its lock delay.
var errLockDelay = fmt.Errorf("%w: the lock's delay has not passed", ErrConflict)

// errForeign: something else than Consul has answered.
var errForeign = fmt.Errorf("%w: the answer is not Consul's", ErrUnreachable)

// exchange is what happened to one HTTP request, beyond what the Consul client
// tells: it returns plain text for most failures.
type exchange struct {
	sent   atomic.Bool  // some of the request may have left this machine
	status atomic.Int64 // of the answer; zero: there was none
	body   atomic.Pointer[string]
}

type exchangeKey struct{}

// traced returns a context under which one request notes what happens to it.
func traced(ctx context.Context) (context.Context, *exchange) {
	ex := new(exchange)
	// The transport repeats a request by itself only when nothing of it had
	// been written, so each attempt begins anew.
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { ex.sent.Store(false) },
		GotConn: func(httptrace.GotConnInfo) { ex.sent.Store(true) },
	})
	return context.WithValue(ctx, exchangeKey{}, ex), ex
}

func (ex *exchange) text() string {
	if body := ex.body.Load(); body != nil {
		return strings.TrimSpace(*body)
	}
	return ""
}

// noLeader is Consul's structs.ErrNoLeader: the server that was asked knew no
// leader, so nothing was proposed and nothing can have changed (rpc.go,
// canRetry: "always safe to retry").
const noLeader = "No cluster leader"

// wrongTTL is how Consul refuses a session's TTL, with a status of 500
// (agent/structs/structs.go, Session's check of its TTL).
const wrongTTL = "Invalid Session TTL"

// explain turns the failure of a request into one of the errors above.
func explain(err error, ex *exchange, req request) error {
	for _, known := range []error{ErrConflict, ErrUnreachable, ErrPermission, ErrNoSession} {
		if errors.Is(err, known) {
			return err // the request itself has read the answer
		}
	}
	status := int(ex.status.Load())
	switch {
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return denied(req.need, ex.text())
	case strings.Contains(ex.text(), wrongTTL):
		return fmt.Errorf("consul refuses the session; set consul.session_ttl to what its servers' session_ttl_min allows: %w", err)
	case status == 0 && !ex.sent.Load(),
		status == http.StatusTooManyRequests, // refused before it was proposed
		strings.Contains(ex.text(), noLeader):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case status == 0, status == http.StatusOK, status == http.StatusNotFound && req.exists, status >= http.StatusInternalServerError:
		// A status of 200 comes here when the body was cut off, or is not Consul's.
		if req.once {
			return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
		}
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	default:
		return fmt.Errorf("consul refuses the request with status %d: %w", status, err)
	}
}

// denied explains a refused token. Consul's own text names the accessor, which
// is no secret, never the token.
func denied(need, text string) error {
	if strings.Contains(text, "ACL not found") {
		return fmt.Errorf("%w: it does not know this token (deleted or expired); one is needed with the rule: %s", ErrPermission, need)
	}
	return fmt.Errorf("%w: its policy lacks the rule: %s (%s)", ErrPermission, need, text)
}

// elsewhere reports whether another address may do better.
func elsewhere(err error) bool { return errors.Is(err, ErrUnreachable) }
