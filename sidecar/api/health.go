package api

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// readyLag is how far behind a ready replica may be if the request does not
// say, in bytes: Patroni's default of maximum_lag_on_failover.
const readyLag = 1 << 20

// endpoint answers one health path: whether it is well. An error is a query
// that cannot be read.
type endpoint func(f facts, q url.Values) (bool, error)

// healthEndpoints are the paths that answer 200 or 503, with the status as body.
func healthEndpoints() map[string]endpoint {
	primary := func(f facts, _ url.Values) (bool, error) { return f.primary(), nil }
	standbyLeader := func(f facts, _ url.Values) (bool, error) { return f.standbyLeader(), nil }
	leader := func(f facts, _ url.Values) (bool, error) { return f.primary() || f.standbyLeader(), nil }
	replica := func(is func(standing) bool) endpoint {
		return func(f facts, q url.Values) (bool, error) { return isReplica(f, q, is) }
	}
	anySync := func(standing) bool { return true }
	isSynced := func(s standing) bool { return s == synced }
	isVoter := func(s standing) bool { return s != async }
	isAsync := func(s standing) bool { return s == async }
	readOnly := func(is func(standing) bool) endpoint {
		return func(f facts, q url.Values) (bool, error) {
			ok, err := isReplica(f, q, is)
			return ok || err == nil && (f.primary() || f.standbyLeader()) && f.hasTags(q), err
		}
	}
	return map[string]endpoint{
		"/": primary, "/primary": primary, "/read-write": primary, "/master": primary, "/leader": leader,
		"/standby-leader": standbyLeader, "/standby_leader": standbyLeader,
		"/replica": replica(anySync), "/read-only": readOnly(anySync),
		"/sync": replica(isSynced), "/synchronous": replica(isSynced),
		"/read-only-sync": readOnly(isSynced), "/read-only-synchronous": readOnly(isSynced),
		"/quorum": replica(isVoter), "/read-only-quorum": readOnly(isVoter),
		"/async": replica(isAsync), "/asynchronous": replica(isAsync),
		"/health": func(f facts, q url.Values) (bool, error) { return f.alive() && f.answers() && f.hasTags(q), nil },
	}
}

// isReplica: the server answers reads as a replica and does not lead, depends on commits in the
// way asked for, and satisfies lag, replication_state and tag_ in the query.
// Without a lag the configured limit counts.
func isReplica(f facts, q url.Values, is func(standing) bool) (bool, error) {
	ok := f.replica() && !f.standbyLeader() && !f.noLoadBalance() && is(f.standing()) && f.hasTags(q)
	most, limited, err := lagIn(q)
	switch {
	case err != nil:
		return false, err
	case limited:
		lag, known := f.lag()
		ok = ok && known && lag <= most
	default:
		ok = ok && !f.Lagging
	}
	if state := q.Get("replication_state"); state != "" {
		ok = ok && f.replicationState() == state
	}
	return ok, nil
}

// lagIn is how far behind a replica may be by the query, in bytes; not limited: the
// query does not say.
func lagIn(q url.Values) (most uint64, limited bool, err error) {
	text := q.Get("lag")
	if text == "" {
		return 0, false, nil
	}
	most, err = parseSize(text)
	if err != nil {
		return 0, false, fmt.Errorf("lag: %w", err)
	}
	return most, true, nil
}

// hasTags: the member has each tag that the query asks for, with its value.
func (f facts) hasTags(q url.Values) bool {
	for key, values := range q {
		if tag, is := strings.CutPrefix(key, "tag_"); is {
			if value, has := f.Tags[tag]; !has || value != values[0] {
				return false
			}
		}
	}
	return true
}

// isReady: the primary, or a replica that streams and is not far behind.
func isReady(f facts, q url.Values) (bool, error) {
	at := f.replayed()
	most, limited, err := lagIn(q)
	if err != nil {
		return false, err
	}
	if !limited {
		most = readyLag
	}
	switch q.Get("mode") {
	case "", "apply":
	case "write":
		at = f.Observation.Server.Position.LSN
	default:
		return false, fmt.Errorf("mode: apply or write is expected")
	}
	lag, known := f.lagOf(f.Observation.Server.Position, at)
	return f.primary() || f.streaming() && known && lag <= most, nil
}

// isLive: the loop that decides lives; a paused member need not decide.
func isLive(f facts, _ url.Values) (bool, error) { return f.alive() || f.paused(), nil }

// parseSize reads a number of bytes, with PostgreSQL's units if any.
func parseSize(s string) (uint64, error) {
	digits := strings.TrimRight(s, "kKMGTBb ")
	factor := map[string]float64{"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
	unit, known := factor[strings.ToLower(strings.TrimSpace(s[len(digits):]))]
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || !known || !(n >= 0) || n*unit >= math.MaxUint64 {
		return 0, fmt.Errorf("a number of bytes is expected, like 1048576 or 16MB")
	}
	return uint64(n * unit), nil
}

// health answers a health path: the status line for HEAD and OPTIONS, which
// load balancers send, and the status as body for GET.
func (s *Server) health(w http.ResponseWriter, r *http.Request, is endpoint, body bool) {
	f, known := s.facts()
	ok := false
	if known {
		var err error
		if ok, err = is(f, query(r)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	status := http.StatusServiceUnavailable
	if ok {
		status = http.StatusOK
	}
	if !body || r.Method != http.MethodGet {
		w.WriteHeader(status)
		return
	}
	s.writeJSON(w, r, status, s.patroniStatus(f, known))
}

// query parses the query once, and not at all where there is none.
func query(r *http.Request) url.Values {
	if r.URL.RawQuery == "" {
		return nil
	}
	return r.URL.Query()
}
